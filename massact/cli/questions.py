"""The commands that answer questions from the run store: they read, and never run a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from massact.cli.options import experiment_option, tracking_uri_option
from massact.cli.output import FORMATS, Format, render, write
from massact.domain import METHODS, Scope, When
from massact.errors import UsageError
from massact.labels import normalise_label
from massact.query import Answer, Answers, Filters
from massact.store import RunStore, open_store
from massact.vectors.positions import parse_position

if TYPE_CHECKING:
    from massact.config import Experiment

F = TypeVar("F", bound=Callable[..., Any])
AnswerT = TypeVar("AnswerT", bound=Answer[Any])


@dataclass(frozen=True, slots=True)
class Asked:
    """What the shared options of a question say."""

    experiment_file: str
    tracking_uri: str
    filters: Filters
    floor: float | None
    """`None`: the experiment file's."""
    output_format: Format
    output: Path | None


def _positions(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(parse_position(text)) for text in value)


def _labels(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(normalise_label(text) for text in value)


_MANY: dict[str, Any] = {"multiple": True, "metavar": "NAME"}
_OPTIONS = (
    experiment_option,
    tracking_uri_option,
    click.option("--model", "models", help="Only this model (repeatable).", **_MANY),
    click.option("--trait", "traits", help="Only this trait (repeatable).", **_MANY),
    click.option(
        "--position",
        "positions",
        multiple=True,
        metavar="WINDOW",
        callback=_positions,
        help="Only this position window, such as 'response[:5]' (repeatable).",
    ),
    click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="LABEL",
        callback=_labels,
        help="Only this method label, such as mean_diff_top1 (repeatable).",
    ),
    click.option(
        "--layer", "layers", multiple=True, type=click.IntRange(0), help="Only this layer (repeatable)."
    ),
    click.option(
        "--floor",
        type=click.FloatRange(0, 100),
        help="Least mean coherence that counts; default: the experiment file's.",
    ),
    click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How the answer is written.",
    ),
    click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File to write instead of standard output.",
    ),
)


def question_options(command: F) -> F:
    """The options that every question has; the command gets them as one `asked`."""

    @wraps(command)  # options that stand below this decorator are kept on the function
    def gathered(*args: Any, **options: Any) -> Any:
        names = ("experiment_file", "tracking_uri", "floor", "output_format", "output")
        filters = Filters(
            *(options.pop(name) for name in ("models", "traits", "positions", "labels", "layers"))
        )
        return command(
            *args, asked=Asked(filters=filters, **{name: options.pop(name) for name in names}), **options
        )

    decorated: Any = gathered
    for decorate in reversed(_OPTIONS):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]  # click reads the options off the function


def _pairs(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    found = []
    for text in value:
        a, colon, b = text.partition(":")
        if not colon:
            raise UsageError(
                f"pair {text!r} is not two labels: write A:B, such as probe_preclean:probe_cleaned"
            )
        found.append((normalise_label(a), normalise_label(b)))
    return tuple(found)


def _ask(asked: Asked, question: Callable[[Answers, float], AnswerT], *, phase: str | None = None) -> AnswerT:
    """Load the store once, ask, print the answer, and say on stderr what has to be said."""
    from massact.config import load_experiment

    experiment = load_experiment(asked.experiment_file)
    store = open_store(asked.tracking_uri)
    try:
        answers = _load(store, experiment, phase)
        if not answers.rows and not answers.failures:
            click.echo(f"note: the run store holds no evaluation of experiment {experiment.name!r}", err=True)
        answers = answers.only(asked.filters)
        answer = question(answers, experiment.coherence_floor if asked.floor is None else asked.floor)
        answer = replace(answer, notes=(*answer.notes, *store.warnings))
    finally:
        store.close()
    write(render(answer, asked.output_format), asked.output)
    if not answer.rows:
        click.echo(
            "note: neither the experiment file nor the run store has anything to answer this with", err=True
        )
    for note in answer.notes:
        click.echo(f"note: {note}", err=True)
    return answer


def _load(store: RunStore, experiment: "Experiment", phase: str | None) -> Answers:
    ranges = {
        model.name: model.coefficient_range
        for model in experiment.models
        if model.coefficient_range is not None
    }
    return Answers.from_store(
        store, experiment.name, groups=experiment.groups(phase), coefficient_ranges=ranges
    )


@click.command()
@question_options
@click.option("--phase", help="Only the groups that this phase declares.")
@click.pass_context
def gaps(ctx: click.Context, asked: Asked, phase: str | None) -> None:
    """Which groups have no result at or above the coherence floor, and what to try next.

    Exits with 1 while gaps remain.

    \b
    Example:
      massact gaps --experiment experiments/toy.yaml --phase phase1 --floor 68
    """
    answer = _ask(asked, lambda answers, floor: answers.gaps(floor), phase=phase)
    n_remaining = len(answer.remaining)
    n_groups = sum(row.is_current for row in answer.rows)
    if n_remaining:
        click.echo(f"{n_remaining} of {n_groups} groups are gaps at coherence {answer.floor:g}", err=True)
        ctx.exit(1)
    click.echo(f"no gaps: all {n_groups} groups reach coherence {answer.floor:g}", err=True)


@click.command()
@question_options
def best(asked: Asked) -> None:
    """The best result of each group at or above the coherence floor.

    A group without one says so and shows its nearest miss.

    \b
    Example:
      massact best --experiment experiments/toy.yaml --label probe --label mean_diff --format json
    """
    _ask(asked, lambda answers, floor: answers.best(floor))


@click.command()
@question_options
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    metavar="A:B",
    callback=_pairs,
    help="Two labels to compare (repeatable); default: each label cleaned before extraction with its "
    "counterpart cleaned after.",
)
def compare(asked: Asked, pairs: tuple[tuple[str, str], ...]) -> None:
    """Two labels side by side: the best of each, and whether they are one vector.

    \b
    Example:
      massact compare --pair probe_preclean:probe_cleaned --pair mean_diff:probe
    """
    _ask(asked, lambda answers, floor: answers.compare(floor, pairs=pairs or None))


@click.command()
@question_options
@click.option(
    "--method", type=click.Choice(METHODS), default="mean_diff", show_default=True, help="Vector method."
)
@click.option(
    "--when",
    type=click.Choice(("after", "before")),
    default="after",
    show_default=True,
    help="Dims zeroed in the vector, or in the activations before extraction.",
)
@click.option(
    "--scope",
    type=click.Choice(("uniform", "layer")),
    default="uniform",
    show_default=True,
    help="One list of massive dims for all layers, or each layer's own.",
)
def curve(asked: Asked, method: str, when: When, scope: Scope) -> None:
    """The best delta against the number of cleaned dims: 0, 1, 2, 3, 5, 10 and all.

    \b
    Example:
      massact curve --method mean_diff --position 'response[:5]' --format markdown
    """
    _ask(asked, lambda answers, floor: answers.curve(floor, method=method, when=when, scope=scope))


@click.command()
@question_options
def coefficients(asked: Asked) -> None:
    """Where the best coefficients lie, how methods and cleaning shift them, and where to start.

    \b
    Example:
      massact coefficients --experiment experiments/toy.yaml
    """
    _ask(asked, lambda answers, floor: answers.coefficients(floor))
