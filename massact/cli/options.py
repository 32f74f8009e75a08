"""Options that several commands share, and which experiment a command is about."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from massact.addresses import resolve_tracking_uri, shown_uri
from massact.errors import StoreError, UsageError
from massact.names import shown
from massact.query.answers import Filters
from massact.query.load import find_experiment_file, normalised
from massact.query.question import ANY_TEXT, FILTERS, Parameter

F = TypeVar("F", bound=Callable[..., Any])
_TO_SAY = "write --experiment FILE, or set MASSACT_EXPERIMENT"
_SECTIONS = [re.compile(rf"^{key}[ ]*:", re.MULTILINE) for key in ("name", "models", "traits")]
_NAME = re.compile(r"^name[ ]*:[ ]*(?P<name>.*?)[ ]*(?:[ ]#.*)?$", re.MULTILINE)
_LOOKED_AT = 256 * 1024  # characters of a file that may be an experiment's


def resolve_experiment(ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    """A file as given, or a bare name, see `find_experiment_file`; else the only file here."""
    if value is not None:
        return str(find_experiment_file(_not_empty(value)))
    if ctx.resilient_parsing:
        return ""
    files = experiment_files()
    if file := _only_file(files):
        return file
    raise UsageError(f"which experiment? {_TO_SAY}; {_listed('experiment files here', list(files))}")


def _only_file(files: Mapping[str, str]) -> str | None:
    if len(files) != 1:
        return None
    (file,) = files
    click.echo(f"experiment {file}: the only experiment file here", err=True)
    return file


def asked_experiment(value: str | None, tracking_uri: str) -> str:
    """The experiment that a question is about: as given, else the only one in the store, else the only file here."""
    if value is not None:
        return _not_empty(value)
    files, held = experiment_files(), experiments_in(tracking_uri)
    if len(held) == 1:
        declaring = [file for file, name in files.items() if name == held[0]]
        chosen = declaring[0] if len(declaring) == 1 else held[0]
        why = f"{shown(held[0])} is the only experiment in {shown_uri(tracking_uri)}"
        click.echo(f"experiment {chosen}: {why}", err=True)
        return chosen
    if file := _only_file(files):
        return file
    raise UsageError(
        f"which experiment? {_TO_SAY}, or the name of one in the store; "
        f"{_listed(f'experiments in {shown_uri(tracking_uri)}', held)}; {_listed('experiment files here', list(files))}"
    )


def experiment_files() -> dict[str, str]:
    """Experiment files of the working directory and of experiments/, with the name that each declares."""
    found = {}
    for path in sorted(file for folder in (Path(), Path("experiments")) for file in folder.glob("*.y*ml")):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_LOOKED_AT)
        except OSError:
            continue
        if path.suffix in (".yaml", ".yml") and all(key.search(text) for key in _SECTIONS):
            name = _NAME.search(text)
            found[str(path)] = name["name"].strip("'\"") if name else ""
    return found


def experiments_in(tracking_uri: str) -> list[str]:
    """The names of the experiments that a store holds; none where it cannot be read."""
    from massact.store.read import open_store

    try:
        store = open_store(tracking_uri)
    except StoreError:
        return []  # whoever asks it says why it cannot be read
    with closing(store):
        return store.experiments()


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{what}: {', '.join(map(str, names)) or 'none'}"


def _not_empty(value: str) -> str:
    if not value.strip():
        raise UsageError(f"--experiment is empty: {_TO_SAY}")
    return value


def split_names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(filter(None, map(str.strip, (value or "").split(","))))


class Number(click.FloatRange):
    """A number in a range: neither NaN, which is in every range, nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def _resolve_tracking_uri(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    uri = resolve_tracking_uri(value)
    is_typed = ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    if is_typed and not uri.startswith(("http://", "https://")) and shown_uri(uri) != uri:
        raise UsageError(
            "--tracking-uri holds a password, which everybody on this machine can read on a command line: "
            "set MLFLOW_TRACKING_URI instead, or leave it out and use PGPASSWORD or ~/.pgpass (docs/access.md)"
        )
    return uri


def stacked(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which a help lists them."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


experiment_option = click.option(
    "--experiment",
    "experiment_file",
    default=None,
    envvar="MASSACT_EXPERIMENT",
    callback=resolve_experiment,
    help="Experiment file, or its bare name under experiments/ or here; default: MASSACT_EXPERIMENT, else the only "
    "experiment file in the working directory or in experiments/.",
)


class _Whole(click.types.StringParamType):
    """A text that no environment variable splits."""

    envvar_list_splitter = "\0"


_ASKED = (
    "Experiment file, or its bare name under experiments/ or here; without such a file, an experiment's name in the "
    "store{}; default: MASSACT_EXPERIMENT, else the only experiment in the store, else the only file."
)
asked_experiment_option = click.option(
    "--experiment", default=None, envvar="MASSACT_EXPERIMENT", help=_ASKED.format("")
)
asked_experiments_option = click.option(
    "--experiment",
    type=_Whole(),
    multiple=True,
    envvar="MASSACT_EXPERIMENT",
    help=_ASKED.format(" (repeatable: one answer over all)"),
)


tracking_uri_option = click.option(
    "--tracking-uri",
    "tracking_uri",
    default=None,
    callback=_resolve_tracking_uri,
    help="Run store; default: MLFLOW_TRACKING_URI, else SQLite mlflow.db in the working directory.",
)


def table_or_json_option(help_text: str) -> Callable[[F], F]:
    """How a command prints what is no answer of a question."""
    choice = click.Choice(("table", "json"))
    return click.option("--format", "output_format", type=choice, default="table", help=help_text)


def option_of(parameter: Parameter, default: str | None = None) -> Callable[[F], F]:
    """The option that a question's parameter is on the command line. `default`: its text; `None`: it has none."""
    name, schema = parameter.name.replace("_", "-"), parameter.schema
    meaning = parameter.meaning[0].upper() + parameter.meaning[1:]
    help_text = f"{meaning}{' (repeatable)' if parameter.is_repeated else ''}."
    if schema["type"] == "boolean":
        return click.option(f"--{name}/--no-{name}", parameter.key, default=default == "true", help=help_text)
    return click.option(
        f"--{name}",
        parameter.key,
        type=_option_type(parameter),
        default=default,
        multiple=parameter.is_repeated,
        metavar=parameter.metavar,
        help=help_text,
    )


def _option_type(parameter: Parameter) -> Any:
    match parameter.schema:
        case {"enum": values}:
            return click.Choice(values)
        case {"type": "integer", "minimum": least}:
            return click.IntRange(least)
        case {"type": "number", "minimum": least, "maximum": most}:
            return Number(least, most)
    return Written(parameter) if parameter.schema is not ANY_TEXT else str


class Written(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A value that is written in a certain way."""

    def __init__(self, parameter: Parameter) -> None:
        self._parameter = parameter
        self.name = parameter.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        if not isinstance(value, str):
            return value
        try:
            return self._parameter.read(value)
        except ValueError as error:
            raise UsageError(f"{self.name} {value!r} {error}") from error


FILTER_OPTIONS: tuple[Callable[[Any], Any], ...] = tuple(
    option_of(parameter) for parameter in FILTERS if parameter.name != "judge"
)
"""Which part of an experiment is meant; as parameters the fields of `massact.query.Filters`."""


run_option = click.option(
    "--run", "run_id", metavar="ID", help="The evaluation with that run id; default: the best one."
)
run_argument = stacked(
    click.argument("run_id", metavar="[RUN]", required=False),
    click.option("--best", is_flag=True, help="The best evaluation at the floor of what the filters admit."),
)


def run_or_best(
    run_id: str | None, experiment: str | None, tracking_uri: str, only: Mapping[str, Any], *, best: bool | None = None
) -> str:
    """The run that is named, else the best one of what the filters admit. Raises UsageError: there are both, or
    neither where `best` has to be asked for."""
    from massact.workflow.vectors import best_run

    if best is not None and best == (run_id is not None):
        raise UsageError("name a run, as massact runs and best --format json do, or write --best: one of the two")
    filters = normalised(Filters(**only))
    if run_id is None:
        return best_run(asked_experiment(experiment, tracking_uri), tracking_uri, filters)
    if filters != Filters():
        raise UsageError("a run is one evaluation: leave out --model, --trait, --position, --label and --layer")
    return run_id


class OrFile(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A type whose empty value stands for the experiment file's, as an MLproject's defaults need it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "" else self._inner.convert(value, param, ctx)


val_split_option = click.option(
    "--val-split",
    type=OrFile(Number(0, 0.5)),
    metavar="SHARE",
    help="Share of each side of the contrastive prompts that is kept for validation; default: the file's. "
    "Commands that use an extraction want the one made with it.",
)
