"""Options that several commands share, and how a command's group hands its defaults down."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from massact.asking import find_experiment_file, resolve_tracking_uri

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_EXPERIMENT = "experiments/toy.yaml"


def resolve_experiment(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """A file as given, or a bare name (as the plan writes it) as `experiments/NAME.yaml`."""
    return str(find_experiment_file(value))


def _resolve_tracking_uri(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    return resolve_tracking_uri(value)


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


def asked_experiment_option(command: F) -> F:
    """`--experiment` of a question: the experiment may also be one that only the store knows."""
    return click.option(
        "--experiment",
        default=DEFAULT_EXPERIMENT,
        show_default=True,
        envvar="MASSACT_EXPERIMENT",
        help="Experiment file, or its bare name under experiments/; without such a file, an experiment's "
        "name in the store.",
    )(command)


def tracking_uri_option(command: F) -> F:
    """`--tracking-uri`, as the parameter `tracking_uri`, resolved."""
    return click.option(
        "--tracking-uri",
        "tracking_uri",
        default=None,
        callback=_resolve_tracking_uri,
        help="Run store; default: MLFLOW_TRACKING_URI, else SQLite mlflow.db in the working directory.",
    )(command)
