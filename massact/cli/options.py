"""Options that several commands share, and how a command's group hands its defaults down."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from massact.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_EXPERIMENT = "experiments/toy.yaml"
DEFAULT_STORE = "mlflow.db"


def resolve_experiment(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """A file as given, or a bare name (as the plan writes it) as `experiments/NAME.yaml`."""
    if not Path(value).suffix and not Path(value).is_file():
        return f"experiments/{value}.yaml"
    return value


def resolve_tracking_uri(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    """The flag, else MLFLOW_TRACKING_URI, else SQLite in the working directory."""
    value = value or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / DEFAULT_STORE}"
    if "://" not in value:
        raise ConfigError(
            f"tracking URI {value!r} has no scheme: write sqlite:///FILE, postgresql://… or http(s)://…"
        )
    return value


def experiment_option(command: F) -> F:
    """`--experiment`, as the parameter `experiment_file`."""
    return click.option(
        "--experiment",
        "experiment_file",
        default=DEFAULT_EXPERIMENT,
        show_default=True,
        envvar="MASSACT_EXPERIMENT",
        callback=resolve_experiment,
        help="Experiment file, or its bare name under experiments/.",
    )(command)


def tracking_uri_option(command: F) -> F:
    """`--tracking-uri`, as the parameter `tracking_uri`, resolved."""
    return click.option(
        "--tracking-uri",
        "tracking_uri",
        default=None,
        callback=resolve_tracking_uri,
        help="Run store; default: MLFLOW_TRACKING_URI, else SQLite mlflow.db in the working directory.",
    )(command)
