"""`massact search` and `massact fill-gaps`: the best coefficients with few evaluations."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from massact.cli.options import Number, OrFile, experiment_option, tracking_uri_option, val_split_option
from massact.cli.session import open_session, working, workload_options
from massact.config import Experiment
from massact.domain import (
    DEFAULT_BUDGET,
    DEFAULT_CONFIDENCE,
    DEFAULT_SCREEN,
    DEFAULT_TOLERANCE,
    SEARCH_MODES,
)
from massact.labels import parse_label
from massact.layers import check_layers
from massact.vectors.positions import parse_position

if TYPE_CHECKING:
    from massact.sweep.driver import Tally
    from massact.sweep.search.gap_filling import SearchPlan

F = TypeVar("F", bound=Callable[..., Any])
TEXT = OrFile(click.STRING)


def search_options(command: F) -> F:
    """What is searched for, and how far."""
    options = (
        click.option("--model", type=TEXT, help="Model of the experiment file; default: all."),
        click.option("--trait", type=TEXT, help="Trait of the experiment file; default: all."),
        click.option("--method", type=TEXT, help="Method labels, comma-separated; default: those of the phases."),
        click.option("--position", type=TEXT, help="Position window; default: those of the phases."),
        click.option("--layers", type=TEXT, help="all, 15, 5-20, 5,10 or 30%-60%; default: those of the phases."),
        click.option(
            "--mode", type=click.Choice(SEARCH_MODES), default="search", show_default=True,
            help="scan: the file's coefficients first, which finds a small one that works where larger ones do not.",
        ),
        click.option(
            "--budget", type=click.IntRange(1), default=DEFAULT_BUDGET, show_default=True,
            help="Evaluations of one label at one layer at most.",
        ),
        click.option(
            "--tolerance", type=Number(0, min_open=True), default=DEFAULT_TOLERANCE, show_default=True,
            help="A coefficient that is expected to gain fewer points of delta than this is not tried.",
        ),
        click.option(
            "--screen", type=click.IntRange(0), default=DEFAULT_SCREEN, show_default=True,
            help="A doubtful cell is asked so many questions first and given up where it is hopeless; 0: all at once.",
        ),
        click.option(
            "--confidence", type=Number(0.5, 1, max_open=True), default=DEFAULT_CONFIDENCE, show_default=True,
            help="Chance that a cell which could still reach the floor is not given up.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@experiment_option
@tracking_uri_option
@search_options
@val_split_option
@workload_options
def search(experiment_file: str, tracking_uri: str, **options: Any) -> None:
    """Search the best coefficient of labels at every layer, with few evaluations. Finished cells are used as they are.

    \b
    Example:
      massact search --experiment my.yaml --method probe,mean_diff_cleaned --position "response[:5]" --layers 1-5
    """
    from massact.workflow.steps import run_search

    _run(experiment_file, tracking_uri, options, run_search)


@click.command("fill-gaps")
@experiment_option
@tracking_uri_option
@search_options
@val_split_option
@workload_options
def fill_gaps(experiment_file: str, tracking_uri: str, **options: Any) -> None:
    """Search what gaps reports, until no gap remains or it is said why one cannot be closed.

    \b
    Example:
      massact fill-gaps --experiment experiments/toy.yaml --model toy-gemma-3 --budget 12
    """
    from massact.workflow.steps import run_fill_gaps

    _run(experiment_file, tracking_uri, options, run_fill_gaps)


def _run(
    experiment_file: str, tracking_uri: str, options: dict[str, Any], run: Callable[..., "Tally"]
) -> None:
    searched = {name: options.pop(name) for name in _SEARCHED}
    session = open_session(experiment_file, tracking_uri, **options)
    plan = _plan(session.experiment, searched)
    with working(session):
        tally = run(session, plan)
    if tally.failed:
        raise click.exceptions.Exit(1)


_SEARCHED = (
    "model",
    "trait",
    "method",
    "position",
    "layers",
    "mode",
    "budget",
    "tolerance",
    "screen",
    "confidence",
)


def _plan(experiment: Experiment, options: dict[str, Any]) -> "SearchPlan":
    from massact.sweep.search.gap_filling import SearchPlan

    model, trait, labels = options["model"], options["trait"], options["method"]
    return SearchPlan(
        budget=options["budget"],
        tolerance=options["tolerance"],
        mode=options["mode"],
        screen=options["screen"],
        confidence=options["confidence"],
        models=() if model is None else (experiment.model(model).name,),
        traits=() if trait is None else (experiment.trait(trait).name,),
        recipes=() if labels is None else tuple(dict.fromkeys(map(parse_label, labels.split(",")))),
        positions=() if options["position"] is None else (str(parse_position(options["position"])),),
        layers=None if options["layers"] is None else check_layers(options["layers"]),
    )
