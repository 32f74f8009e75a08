"""The commands that answer questions from the run store: they read, and never run a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from massact._gc import collector_paused
from massact.cli.options import (
    FILTER_OPTIONS,
    Number,
    asked_experiment,
    asked_experiment_option,
    parse_floors,
    parse_pairs,
    tracking_uri_option,
)
from massact.cli.output import FORMATS, Format, render, write
from massact.domain import METHODS, Scope, When
from massact.errors import UsageError
from massact.names import visible
from massact.query import Answer, Filters, SortBy
from massact.query.load import Asked, ask
from massact.query.registry import (
    pose_best,
    pose_coefficients,
    pose_compare,
    pose_compare_published,
    pose_confirmations,
    pose_curve,
    pose_gaps,
    pose_judges,
    pose_runs,
    pose_sensitivity,
)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the shared options of a question say."""

    asked: Asked
    output_format: Format
    output: Path | None


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    asked_experiment_option,
    tracking_uri_option,
    *FILTER_OPTIONS,
    click.option(
        "--judge", "judges", help="Only what this judge scored (repeatable).", multiple=True, metavar="NAME"
    ),
    click.option(
        "--floor",
        type=Number(0, 100),
        help="Least mean coherence that counts; default: the experiment file's.",
    ),
    click.option(
        "--least-scored",
        type=Number(0, 1),
        metavar="SHARE",
        help="Share of its responses that an evaluation must have scores of to count; default: the experiment file's.",
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


_FILTERS = ("models", "traits", "positions", "labels", "layers", "judges")


def question_options(command: F) -> F:
    """The options that every question has; the command gets them as one `wanted`."""

    @wraps(command)  # options that stand below this decorator are kept on the function
    def gathered(*args: Any, **options: Any) -> Any:
        only = Filters(**{name: options.pop(name) for name in _FILTERS})
        names = ("tracking_uri", "floor", "least_scored")
        given = {name: options.pop(name) for name in names}
        name = asked_experiment(options.pop("experiment"), given["tracking_uri"])
        asked = Asked(experiment=name, only=only, **given)
        wanted = Wanted(asked, options.pop("output_format"), options.pop("output"))
        with collector_paused():  # a question loads SQLAlchemy and answers; the process ends with it
            return command(*args, wanted=wanted, **options)

    decorated: Any = gathered
    for decorate in reversed(_OPTIONS):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]  # click reads the options off the function


def _show(wanted: Wanted, answer: Answer[Any]) -> None:
    """Print an answer, and say on stderr what has to be said about it."""
    click.echo(f"experiment {visible(answer.experiment)}, store {answer.store}", err=True)
    write(render(answer, wanted.output_format), wanted.output)
    for note in answer.notes:
        click.echo(f"note: {visible(note)}", err=True)


@click.command()
@question_options
@click.option("--phase", help="Only the groups that this phase declares.")
@click.pass_context
def gaps(ctx: click.Context, wanted: Wanted, phase: str | None) -> None:
    """Which groups have no result at or above the coherence floor, and what to try next.

    Exits with 1 while gaps remain.

    \b
    Example:
      massact gaps --experiment experiments/toy.yaml --phase phase1 --floor 68
    """
    answer = ask(pose_gaps(replace(wanted.asked, phase=phase)))
    _show(wanted, answer)
    n_remaining = len(answer.remaining)
    n_groups = sum(row.is_current for row in answer.rows)
    if n_remaining:
        are = "is a gap" if n_remaining == 1 else "are gaps"
        click.echo(f"{n_remaining} of {n_groups} groups {are} at coherence {answer.floor:g}", err=True)
        ctx.exit(1)
    groups = "the 1 group reaches" if n_groups == 1 else f"all {n_groups} groups reach"
    click.echo(f"no gaps: {groups} coherence {answer.floor:g}", err=True)


@click.command()
@question_options
@click.option(
    "--intervals/--no-intervals",
    default=True,
    show_default=True,
    help="Whether each best gets its interval and its standing; a large store answers faster without.",
)
def best(wanted: Wanted, *, intervals: bool) -> None:
    """The best result of each group at or above the coherence floor.

    A group without one says so and shows its nearest miss. The interval allows for the picking of the best
    among many; labels that cannot be told from the winner are called tied.

    \b
    Example:
      massact best --experiment experiments/toy.yaml --label probe --label mean_diff --format json
    """
    _show(wanted, ask(pose_best(wanted.asked, intervals=intervals)))


@click.command()
@question_options
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    metavar="A:B",
    callback=parse_pairs,
    help="Two labels to compare (repeatable); default: each label cleaned before extraction with its "
    "counterpart cleaned after.",
)
@click.option(
    "--published",
    is_flag=True,
    help="Set our bests beside the published figures that `massact import --published` read.",
)
def compare(wanted: Wanted, pairs: tuple[tuple[str, str], ...], published: bool) -> None:
    """Two labels side by side: the best of each, and whether they are one vector.

    Differences are tested question by question, and read once more where both labels are as coherent as
    the more coherent best.

    With --published, every published figure beside our best of its group, and a flag where its
    arithmetic does not add up.

    \b
    Examples:
      massact compare --pair probe_preclean:probe_cleaned --pair mean_diff:probe
      massact compare --published --experiment experiments/massive-activations.yaml
    """
    if published and pairs:
        raise UsageError("--published sets figures beside ours, --pair two labels: ask for one of the two")
    if published:
        _show(wanted, ask(pose_compare_published(wanted.asked)))
    else:
        _show(wanted, ask(pose_compare(wanted.asked, pairs=pairs or None)))


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
def curve(wanted: Wanted, method: str, when: When, scope: Scope) -> None:
    """The best delta against the number of cleaned dims: 0, 1, 2, 3, 5, 10 and all.

    \b
    Example:
      massact curve --method mean_diff --position 'response[:5]' --format markdown
    """
    _show(wanted, ask(pose_curve(wanted.asked, method=method, when=when, scope=scope)))


@click.command()
@question_options
def coefficients(wanted: Wanted) -> None:
    """Where the best coefficients lie, how methods and cleaning shift them, and where to start.

    \b
    Example:
      massact coefficients --experiment experiments/toy.yaml
    """
    _show(wanted, ask(pose_coefficients(wanted.asked)))


@click.command()
@question_options
@click.option(
    "--floors",
    default="60-80",
    show_default=True,
    callback=parse_floors,
    metavar="FIRST-LAST",
    help="Coherence floors to ask at, every whole number of the range.",
)
def sensitivity(wanted: Wanted, floors: tuple[float, ...]) -> None:
    """Which label wins at every coherence floor, and where the winner flips.

    A conclusion that holds at 68 and not at 70 is none; nor one that holds for one half of the questions and
    not for the other, which is looked at at the experiment file's floor. --floor is not used here.

    \b
    Example:
      massact sensitivity --floors 60-80 --position 'response[:5]'
    """
    if wanted.asked.floor is not None:
        raise UsageError("sensitivity asks at many floors: give --floors FIRST-LAST instead of --floor")
    _show(wanted, ask(pose_sensitivity(wanted.asked, floors=floors)))


@click.command()
@question_options
def judges(wanted: Wanted) -> None:
    """The winners under two judges of the same responses, and which of them flip.

    Only evaluations that both judges scored count, so that neither has the larger choice. Another judge's
    scores come from `massact rejudge`.

    \b
    Example:
      massact judges --judge openai:gpt-4.1-mini --judge hf:./judge
    """
    _show(wanted, ask(pose_judges(wanted.asked)))


@click.command()
@question_options
def confirmations(wanted: Wanted) -> None:
    """Winners on questions that took no part in choosing them, and how much of each delta remains.

    \b
    Example:
      massact confirmations --experiment my-experiment.yaml --position 'response[:5]'
    """
    _show(wanted, ask(pose_confirmations(wanted.asked)))


@click.command()
@question_options
@click.option(
    "--sort",
    type=click.Choice(get_args(SortBy)),
    default="finished",
    show_default=True,
    help="What comes first: the newest, the best delta, the most coherent, the lowest coefficient or layer.",
)
@click.option("--limit", type=click.IntRange(1), help="Rows at most; default: all.")
def runs(wanted: Wanted, sort: SortBy, limit: int | None) -> None:
    """The evaluations one by one, with their runs.

    Each key counts once: superseded, deleted and unfinished runs are not listed.

    \b
    Example:
      massact runs --label probe --sort delta --limit 10
    """
    _show(wanted, ask(pose_runs(wanted.asked, sort=sort, limit=limit)))
