"""Options that several commands share, and how a command's group hands its defaults down."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from massact.asked import find_experiment_file, resolve_tracking_uri
from massact.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_EXPERIMENT = "experiments/toy.yaml"


def resolve_experiment(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """A file as given, or a bare name (as the plan writes it) as `experiments/NAME.yaml`."""
    return str(find_experiment_file(value))


_PASSWORD = re.compile(r"://[^:@/]*:[^@]+@|[?&][a-z]*password=", re.IGNORECASE)
"""In a database's URI: before its host, or in its query."""


def _resolve_tracking_uri(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    uri = resolve_tracking_uri(value)
    is_typed = ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    if is_typed and not uri.startswith(("http://", "https://")) and _PASSWORD.search(uri):
        raise UsageError(
            "--tracking-uri holds a password, which everybody on this machine can read on a command line: "
            "set MLFLOW_TRACKING_URI instead, or leave it out and use PGPASSWORD or ~/.pgpass (docs/access.md)"
        )
    return uri


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


FILTER_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--model", "models", help="Only this model (repeatable).", multiple=True, metavar="NAME"),
    click.option("--trait", "traits", help="Only this trait (repeatable).", multiple=True, metavar="NAME"),
    click.option(
        "--position",
        "positions",
        multiple=True,
        metavar="WINDOW",
        help="Only this position window, such as 'response[:5]' (repeatable).",
    ),
    click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="LABEL",
        help="Only this method label, such as mean_diff_top1 (repeatable).",
    ),
    click.option(
        "--layer", "layers", multiple=True, type=click.IntRange(0), help="Only this layer (repeatable)."
    ),
)
"""Which part of an experiment is meant; as parameters the fields of `massact.query.Filters`."""


class OrFile(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A type whose empty value stands for the experiment file's, as an MLproject's defaults need it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "" else self._inner.convert(value, param, ctx)


def val_split_option(command: F) -> F:
    """`--val-split`, of every command that makes an extraction or has to find it again."""
    return click.option(
        "--val-split",
        type=OrFile(click.FloatRange(0, 0.5)),
        metavar="SHARE",
        help="Share of each side of the contrastive prompts that is kept for validation; default: the file's. "
        "Commands that use an extraction want the one made with it.",
    )(command)


def parse_pairs(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Pairs of labels, each written A:B."""
    found = []
    for text in value:
        a, colon, b = text.partition(":")
        if not colon:
            raise UsageError(
                f"pair {text!r} is not two labels: write A:B, such as probe_preclean:probe_cleaned"
            )
        found.append((a, b))
    return tuple(found)


def parse_floors(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[float, ...]:
    """Every whole number of a range written FIRST-LAST."""
    first, dash, last = value.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and int(first) <= int(last) <= 100):
        raise UsageError(
            f"floors {value!r}: write two whole numbers of 0 to 100, the lower first, such as 60-80"
        )
    return tuple(float(floor) for floor in range(int(first), int(last) + 1))
