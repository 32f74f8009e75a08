"""`massact evaluate`, `search` and `fill-gaps`: a grid of cells, or the best coefficients with few evaluations."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from massact import domain
from massact.cli.app import described
from massact.cli.options import Number, OrFile, experiment_option, stacked, tracking_uri_option, val_split_option
from massact.cli.session import WORKLOAD, dry_run_option, open_session, verbose_option, working, workload_options
from massact.config import Experiment, ModelConfig, TraitConfig
from massact.errors import UsageError
from massact.labels import check_layers, normalise_label
from massact.query import Filters
from massact.vectors.positions import parse_position

if TYPE_CHECKING:
    from massact.sweep.search.gap_filling import SearchPlan

TEXT = OrFile(click.STRING)


@click.command()
@experiment_option
@tracking_uri_option
@click.option("--model", type=TEXT, help="Model of the experiment file; default: the first.")
@click.option("--model-variant", type=TEXT, help="The same by the name of the variant that is steered.")
@click.option("--extraction-variant", type=TEXT, help="The same by the variant that vectors come from.")
@click.option("--trait", type=TEXT, help="Trait of the experiment file; default: the first.")
@click.option("--vector-from-trait", type=TEXT, help="The same as the plan writes it: EXPERIMENT/…/TRAIT.")
@click.option("--method", required=True, help="Method labels, comma-separated, such as probe_preclean.")
@click.option("--position", required=True, help='Position window, such as "response[:5]".')
@click.option("--layers", type=TEXT, help="all, 15, 5-20, 5,10 or 30%-60%; default: the model's in the file.")
@click.option(
    "--coefficients",
    type=TEXT,
    help="Comma-separated, or relative:0.4,0.6 (strengths); default: the model's in the file.",
)
@click.option("--max-new-tokens", type=OrFile(click.IntRange(1)), help="Default: the file's.")
@click.option("--direction", type=OrFile(click.Choice(["positive", "negative"])), help="Default: the trait's.")
@click.option("--subset", type=OrFile(click.IntRange(0)), help="First N questions, 0 all; default: the file's.")
@val_split_option
@workload_options
@dry_run_option
def evaluate(experiment_file: str, tracking_uri: str, *, dry_run: bool, **options: Any) -> None:
    """Evaluate a grid of cells: labels x layers x coefficients at one window. Finished cells are skipped.

    \b
    Example:
      massact evaluate --experiment experiments/toy.yaml --method probe_preclean --position "response[:5]" \\
        --layers "30%-60%" --coefficients 8,10 --max-new-tokens 64 --direction positive --subset 0 --save-responses best
    """
    workload = {name: options[name] for name in WORKLOAD}
    session = open_session(experiment_file, tracking_uri, val_split=options["val_split"], **workload)
    from massact.sweep.planner import Overrides
    from massact.workflow.dry_run import show_request
    from massact.workflow.steps import Request, run_evaluate

    place = _model(session.experiment, options), _trait(session.experiment, options)
    position, layers, coefficients = (options[name] for name in ("position", "layers", "coefficients"))
    overrides = Overrides(options["max_new_tokens"], options["subset"], options["direction"])
    request = Request.of(place, options["method"].split(","), position, layers, coefficients, overrides)
    with working(session):
        if dry_run:
            show_request(session, request)
            return
        tally, _ = run_evaluate(session, request)
    if tally.failed:
        raise click.exceptions.Exit(1)


_MODEL_OPTIONS: dict[str, Callable[[ModelConfig], str]] = {
    "model": lambda model: model.name,
    "model_variant": lambda model: model.instruct.name,
    "extraction_variant": lambda model: model.base.name,
}


def _model(experiment: Experiment, options: dict[str, Any]) -> ModelConfig:
    chosen = experiment.models
    for option, name_of in _MODEL_OPTIONS.items():
        wanted = options[option]
        if wanted is None:
            continue
        known = [name_of(model) for model in experiment.models]
        if wanted not in known:
            flag = option.replace("_", "-")
            raise UsageError(f"--{flag} {wanted!r} is not in {experiment.file}; there is {', '.join(known)}")
        chosen = tuple(model for model in chosen if name_of(model) == wanted)
    if not chosen:
        raise UsageError(
            "--model, --model-variant and --extraction-variant name different models: "
            "vectors of one cannot steer another"
        )
    return chosen[0]


def _trait(experiment: Experiment, options: dict[str, Any]) -> TraitConfig:
    name, source = options["trait"], options["vector_from_trait"]
    if source is not None:
        *place, of_source = source.split("/")
        if place and place[0] not in (experiment.name, experiment.file.stem):
            raise UsageError(
                f"--vector-from-trait {source!r}: vectors come from the experiment's own extraction, "
                f"{experiment.name}, not from {place[0]!r}"
            )
        if name not in (None, of_source):
            raise UsageError(f"--trait {name!r} and --vector-from-trait {source!r} name two traits")
        name = of_source
    return experiment.traits[0] if name is None else experiment.trait(name)


search_options = stacked(
    experiment_option,
    tracking_uri_option,
    click.option("--model", type=TEXT, help="Model of the experiment file; default: all."),
    click.option("--trait", type=TEXT, help="Trait of the experiment file; default: all."),
    click.option("--method", type=TEXT, help="Method labels, comma-separated; default: those of the phases."),
    click.option("--position", type=TEXT, help="Position window; default: those of the phases."),
    click.option("--layers", type=TEXT, help="all, 15, 5-20, 5,10 or 30%-60%; default: those of the phases."),
    click.option(
        "--mode", type=click.Choice(domain.SEARCH_MODES), default="search",
        help="scan: the file's coefficients first, which finds a small one that works where larger ones do not.",
    ),
    click.option(
        "--budget", type=click.IntRange(1), default=domain.DEFAULT_BUDGET,
        help="Evaluations of one label at one layer at most.",
    ),
    click.option(
        "--tolerance", type=Number(0, min_open=True), default=domain.DEFAULT_TOLERANCE,
        help="A coefficient that is expected to gain fewer points of delta than this is not tried.",
    ),
    click.option(
        "--screen", type=click.IntRange(0), default=domain.DEFAULT_SCREEN,
        help="A doubtful cell is asked so many questions first and given up where it is hopeless; 0: all at once.",
    ),
    click.option(
        "--confidence", type=Number(0.5, 1, max_open=True), default=domain.DEFAULT_CONFIDENCE,
        help="Chance that a cell which could still reach the floor is not given up.",
    ),
    click.option(
        "--start", type=click.Choice(domain.SEARCH_STARTS), default="prior",
        help="Where first coefficients come from. probe: where short texts break, which the unsteered model reads; "
        "nothing is judged for it.",
    ),
    click.option(
        "--drop-layers", type=Number(0, 1, max_open=True),
        help="Look for the best layer of each label alone: one is given up whose chance to be better than the best by "
        "a twentieth is smaller than this, such as 0.2. Default: every layer to its end.",
    ),
    val_split_option,
    workload_options,
    dry_run_option,
    verbose_option,
)  # fmt: skip
"""What is searched for, and how far."""


def _search(name: Literal["search", "fill-gaps"], experiment_file: str, tracking_uri: str, **options: Any) -> None:
    wanted, is_dry = {name: options.pop(name) for name in _PLACES}, options.pop("dry_run")
    session = open_session(
        experiment_file, tracking_uri, **{option: options.pop(option) for option in ("val_split", "verbose", *WORKLOAD)}
    )
    from massact.workflow.dry_run import show_search
    from massact.workflow.steps import run_search

    plan = _plan(session.experiment, wanted, options)
    with working(session):
        if is_dry:
            show_search(session, name, plan)
            return
        tally = run_search(session, name, plan)
    if tally.failed:
        raise click.exceptions.Exit(1)


search = click.command(
    "search",
    help=described(
        "search", " Finished cells are used as they are.",
        '--experiment my.yaml --method probe,mean_diff_cleaned --position "response[:5]" --layers 1-5',
    ),
)(search_options(partial(_search, "search")))  # fmt: skip
fill_gaps = click.command(
    "fill-gaps", help=described("fill-gaps", "", "--experiment experiments/toy.yaml --model toy-gemma-3 --budget 12")
)(search_options(partial(_search, "fill-gaps")))
_PLACES = ("model", "trait", "method", "position", "layers")


def _plan(experiment: Experiment, wanted: dict[str, Any], limits: dict[str, Any]) -> "SearchPlan":
    from massact.sweep.search.gap_filling import SearchPlan

    model, trait, labels, position, layers = (wanted[name] for name in _PLACES)
    only = Filters(
        models=() if model is None else (experiment.model(model).name,),
        traits=() if trait is None else (experiment.trait(trait).name,),
        positions=() if position is None else (str(parse_position(position)),),
        labels=() if labels is None else tuple(dict.fromkeys(map(normalise_label, labels.split(",")))),
    )
    return SearchPlan(**limits, only=only, layers=None if layers is None else check_layers(layers))
