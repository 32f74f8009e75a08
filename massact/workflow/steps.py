"""The entry points: calibrate, extract, evaluate, the four phases, and main, which runs them all."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from massact.config import ModelConfig, TraitConfig
from massact.domain import Recipe
from massact.labels import format_label
from massact.layers import parse_layers
from massact.report.phase_notes import PhaseName
from massact.store.schema import MlflowTag
from massact.store.write.tracker import PROJECT_RUN, OpenRun
from massact.sweep.driver import Evaluator, GridRequest, Overrides, Tally
from massact.sweep.planner import load_answers, phase_gaps
from massact.sweep.search.gap_filling import (
    Found,
    SearchPlan,
    fill_gaps,
    fill_phase,
    search_bests,
    search_text,
)
from massact.workflow.accounting import counted_work
from massact.workflow.calibrate import calibrate_model
from massact.workflow.context import Session
from massact.workflow.extract import extract_model
from massact.workflow.outcome import log_outcome
from massact.workflow.status import require
from massact.workflow.validate import check_cells, check_dims, check_experiment, check_length
from massact.workflow.vectors import StoredVectors, pair_cosines

GRID_PHASES: tuple[PhaseName, ...] = ("phase1", "phase2", "phase3")


@dataclass(frozen=True, slots=True)
class Request:
    """What an `evaluate` command line asks for."""

    model: ModelConfig
    trait: TraitConfig
    recipes: tuple[Recipe, ...]
    positions: tuple[str, ...]
    layers: str
    """Layer specification; `massact.layers` reads it."""
    coefficients: tuple[float, ...]
    overrides: Overrides


def run_calibrate(session: Session, parent: OpenRun | None = None) -> None:
    """Calibrate every model that is not calibrated yet."""
    check_experiment(session)
    with session.tracker.phase("calibrate", parent=parent, params=phase_params(session)) as run:
        lines = ["| model | uniform massive dims | largest ratio to the median |", "|---|---|---|"]
        for model in session.experiment.models:
            found = calibrate_model(session, run, model).calibration
            top = max(layer.ratio_to_median[0] for layer in found.layers)
            dims = ", ".join(str(dim) for dim in found.uniform_dims) or "none"
            lines.append(f"| {model.name} | {dims} | {top:,.0f} |")
        _note(session, run, "\n".join(lines))


def run_extract(session: Session, parent: OpenRun | None = None) -> None:
    """Extract activations and vectors at every window that the store does not hold yet.

    Raises:
        MissingPrerequisiteError: a model is not calibrated, so nothing could be cleaned.
    """
    check_experiment(session, judges=session.experiment.extraction.vetting is not None)
    _require(session, "extract")
    phase_run = session.tracker.phase("extract", parent=parent, params=phase_params(session))
    with phase_run as run, counted_work(session, run):
        lines = ["| model | trait | windows extracted now |", "|---|---|---|"]
        for model in session.experiment.models:
            calibrated = calibrate_model(session, run, model)
            check_dims(session.experiment, model, len(calibrated.calibration.uniform_dims))
            for trait in session.experiment.traits:
                count = extract_model(session, run, model, trait, calibrated)
                lines.append(f"| {model.name} | {trait.name} | {count} |")
        _note(session, run, "\n".join(lines))


def request_layers(session: Session, request: Request) -> tuple[int, ...]:
    """The layers that a command line asks for, once all that models and datasets can tell of it is checked.

    Raises:
        UsageError: something is wrong; nothing was written.
    """
    shape = check_experiment(session, judges=True)[request.model.name]
    session.questions(request.trait, request.overrides.subset)
    layers = parse_layers(request.layers, shape.n_layers)
    n_grids = len(request.positions) * len(request.recipes)
    check_cells(n_grids * len(layers) * len(request.coefficients), "massact evaluate")
    check_length(request.overrides.max_new_tokens or 1, shape, f"--max-new-tokens: {request.model.name}")
    return layers


def run_evaluate(session: Session, request: Request, parent: OpenRun | None = None) -> Tally:
    """Evaluate the cells of a command line that the store does not hold yet."""
    layers = request_layers(session, request)
    vectors = StoredVectors(session, request.model, request.trait)
    if PROJECT_RUN not in os.environ:  # which is there already, and is to say why it failed
        for position in request.positions:
            vectors.check(position)
    params = {
        **phase_params(session),
        "model": request.model.name,
        "trait": request.trait.name,
        "methods": ",".join(format_label(recipe) for recipe in request.recipes),
        "positions": ",".join(request.positions),
        "layers": request.layers,
        "coefficients": ",".join(f"{c:g}" for c in request.coefficients),
    }
    with (
        session.tracker.phase("evaluate", parent=parent, params=params) as run,
        counted_work(session, run),
    ):
        evaluator = Evaluator(session, run, request.model, request.trait, request.overrides)
        tally = evaluator.run(
            GridRequest(position, recipe, layers, request.coefficients)
            for position in request.positions
            for recipe in request.recipes
        )
        session.settle()
        _note(session, run, f"{request.model.name}, {request.trait.name}: {tally}")
    return tally


def run_grid_phase(session: Session, name: PhaseName, parent: OpenRun | None = None) -> Tally:
    """Phase 1, 2 or 3: evaluate its labels, fill the gaps, and answer its question from the store.

    Raises:
        MissingPrerequisiteError: calibration or extraction is missing; says which and how to get it.
    """
    check_experiment(session, judges=True)
    _require(session, name)
    phase = session.experiment.phase(name)
    phase_run = session.tracker.phase(name, parent=parent, params=phase_params(session))
    with phase_run as run, counted_work(session, run):
        tally = fill_phase(session, run, phase)
        cosines = pair_cosines(session, load_answers(session, name)) if name == "phase2" else {}
        log_outcome(session, run, name, cosines)
    session.say(f"{name}: {tally}")
    return tally


def run_search(session: Session, plan: SearchPlan, parent: OpenRun | None = None) -> Tally:
    """Search the best coefficient of every label asked for, at each of its layers."""
    return _run_search(session, "search", plan, search_bests, parent)


def run_fill_gaps(session: Session, plan: SearchPlan, parent: OpenRun | None = None) -> Tally:
    """Search every group that has no result at or above the floor, until it has one or it is known why not."""
    return _run_search(session, "fill-gaps", plan, fill_gaps, parent)


def _run_search(
    session: Session,
    name: str,
    plan: SearchPlan,
    search: Callable[[Session, OpenRun, SearchPlan], Found],
    parent: OpenRun | None,
) -> Tally:
    check_experiment(session, judges=True)
    _require(session, "phase1")
    own = ("mode", "budget", "tolerance", "screen", "confidence")
    params = {**phase_params(session), **{name: getattr(plan, name) for name in own}}
    with session.tracker.phase(name, parent=parent, params=params) as run, counted_work(session, run):
        found = search(session, run, plan)
        session.settle()
        n_gaps = len(phase_gaps(session).remaining)
        _note(session, run, search_text(found.endings, found.tally, plan.mode, n_gaps))
    return found.tally


def run_patterns(session: Session, parent: OpenRun | None = None) -> None:
    """Phase 4: coefficient patterns and recommendations, from the store alone."""
    _require(session, "phase4")
    with session.tracker.phase("phase4", parent=parent, params=phase_params(session)) as run:
        log_outcome(session, run, "phase4", {})


def run_phases(session: Session, parent: OpenRun) -> Tally:
    """Everything up to the report, in the plan's order."""
    run_calibrate(session, parent)
    run_extract(session, parent)
    tally = Tally()
    for name in GRID_PHASES:
        tally.add(run_grid_phase(session, name, parent))
    run_patterns(session, parent)
    return tally


def _require(session: Session, step: str) -> None:
    with session.store() as store:
        require(session.experiment, store, step)


def phase_params(session: Session) -> dict[str, object]:
    """Params of every entry point's run: what its answers rest on."""
    experiment = session.experiment
    return {
        "experiment": experiment.name,
        "experiment_file": experiment.file,
        "judge": experiment.judge.name,
        "coherence_floor": f"{experiment.coherence_floor:g}",
        "max_new_tokens": experiment.generation.max_new_tokens,
    }


def _note(session: Session, run: OpenRun, text: str) -> None:
    session.tracker.set_tag(run, MlflowTag.NOTE, text)
    session.show(text)
