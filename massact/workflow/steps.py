"""The entry points: calibrate, extract, evaluate, search, the four phases, and main, which runs them all."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from massact.config import BaselinesConfig, ModelConfig, TraitConfig
from massact.config.parse import parse_coefficients
from massact.domain import Coefficients, Recipe
from massact.errors import NothingToConfirmError
from massact.labels import check_layers, format_label, parse_label, parse_layers
from massact.report.phase_notes import PhaseName
from massact.store.schema import MlflowTag, StoredPoint
from massact.store.write.tracker import PROJECT_RUN, OpenRun
from massact.sweep.context import Session, load_answers, open_phase
from massact.sweep.driver import Evaluator, Tally
from massact.sweep.planner import (
    GridRequest,
    Overrides,
    check_cells,
    check_dims,
    check_experiment,
    check_length,
    phase_gaps,
)
from massact.sweep.rejudge import run_side_effects
from massact.sweep.search.gap_filling import SearchPlan, fill_gaps, fill_phase, search_bests, search_texts
from massact.sweep.vectors import StoredVectors, pair_cosines
from massact.sweep.winners import run_baselines, run_confirm
from massact.vectors.positions import parse_position
from massact.words import counted
from massact.workflow.extract import calibrate_model, extract_model, tell_sink
from massact.workflow.outcome import log_outcome, phase_evidence, require_steps, run_patterns
from massact.workflow.report import run_report

_MOST_ROWS = 30  # of the table that an evaluation ends with
GRID_PHASES: tuple[PhaseName, ...] = ("phase1", "phase2", "phase3")
LIMITS = ("mode", "budget", "tolerance", "screen", "confidence", "start", "drop_layers")  # of a search


@dataclass(frozen=True, slots=True)
class Request:
    model: ModelConfig
    trait: TraitConfig
    recipes: tuple[Recipe, ...]
    position: str
    layers: str  # layer specification; `massact.labels` reads it
    coefficients: Coefficients
    overrides: Overrides

    @classmethod
    def of(
        cls,
        place: tuple[ModelConfig, TraitConfig],
        labels: Iterable[str],
        position: str,
        layers: str | None,
        coefficients: str | None,
        overrides: Overrides,
    ) -> "Request":
        """As a person writes it; `None` is the model's own grid. Raises UsageError: one of the texts is not what it
        should be."""
        model, trait = place
        return cls(
            model=model,
            trait=trait,
            recipes=tuple(dict.fromkeys(map(parse_label, labels))),
            position=str(parse_position(position)),
            layers=check_layers(layers or model.grid.layers),
            coefficients=model.grid.coefficients if coefficients is None else parse_coefficients(coefficients),
            overrides=overrides,
        )

    def grids(self, layers: tuple[int, ...]) -> list[GridRequest]:
        """A grid for each label."""
        return [GridRequest(self.position, recipe, layers, self.coefficients) for recipe in self.recipes]


def run_calibrate(session: Session, parent: OpenRun | None = None) -> None:
    """Calibrate every model that is not calibrated yet."""
    check_experiment(session)
    with open_phase(session, "calibrate", parent) as run:
        lines = [
            "| model | massive dims, at every token | largest abs(mean) / median abs(mean) | largest max abs(h) / "
            "median abs(h) | massive at the first token alone |",
            "|---|---|---|---|---|",
        ]
        for model in session.experiment.models:
            calibration = calibrate_model(session, run, model).calibration
            top = max(layer.ratio_to_median[0] for layer in calibration.layers)
            dims = ", ".join(map(str, calibration.uniform_dims)) or "none"
            known = [layer.response.max_to_median for layer in calibration.layers if layer.response]
            ratio = f"{max(known):,.0f}" if known else "not measured"
            sink = calibration.sink or ("none" if known else "not measured")
            lines.append(f"| {model.name} | {dims} | {top:,.0f} | {ratio} | {sink} |")
            session.say(f"{model.name}: massive dims at every token: {dims}; at the first token alone: {sink}")
        _note(session, run, "\n".join(lines), "")


def run_extract(session: Session, parent: OpenRun | None = None) -> None:
    """Extract activations and vectors at every window that the store does not hold yet."""
    check_experiment(session, judges=session.experiment.extraction.vetting is not None)
    require_steps(session, "extract")
    with open_phase(session, "extract", parent) as run:
        lines, n_new = ["| model | trait | windows extracted now |", "|---|---|---|"], 0
        for model in session.experiment.models:
            calibrated = calibrate_model(session, run, model)
            check_dims(session.experiment, model, len(calibrated.calibration.uniform_dims))
            tell_sink(session, model, calibrated.calibration)
            for trait in session.experiment.traits:
                count = extract_model(session, run, model, trait, calibrated)
                lines.append(f"| {model.name} | {trait.name} | {count} |")
                n_new += count
        brief = f"{counted(n_new, 'window')} extracted now" if n_new else "every window was extracted already"
        _note(session, run, "\n".join(lines), "" if parent else brief)


def request_layers(session: Session, request: Request) -> tuple[int, ...]:
    """The layers that a command line asks for, once all that models and datasets can tell of it is checked."""
    shape = check_experiment(session, judges=True)[request.model.name]
    session.datasets.questions(request.trait, request.overrides.subset)
    layers = parse_layers(request.layers, shape.n_layers)
    check_cells(len(request.recipes) * len(layers) * len(request.coefficients), "massact evaluate")
    check_length(request.overrides.max_new_tokens or 1, shape, f"--max-new-tokens: {request.model.name}")
    return layers


def run_evaluate(session: Session, request: Request) -> tuple[Tally, frozenset[str]]:
    """Evaluate the cells of a command line that the store does not hold yet; returns all their keys too."""
    layers = request_layers(session, request)
    vectors = StoredVectors(session, request.model, request.trait)
    # where there is a project's run already, that is to say why it failed
    if PROJECT_RUN not in os.environ and not all(recipe.is_imported for recipe in request.recipes):
        vectors.extraction(request.position)
    params = {
        "model": request.model.name,
        "trait": request.trait.name,
        "methods": ",".join(format_label(recipe) for recipe in request.recipes),
        "positions": request.position,
        "layers": request.layers,
        "coefficients": str(request.coefficients),
    }
    with open_phase(session, "evaluate", None, params) as run:
        evaluator = Evaluator(session, run, request.model, request.trait, request.overrides)
        requests = request.grids(layers)
        tally = evaluator.run(requests)
        note = f"{request.model.name}, {request.trait.name}: {tally}"
        session.stores.tracker.set_tag(run, MlflowTag.NOTE, note)
        with session.stores.read() as store:
            points = store.points(session.experiment.name)
        wanted = evaluator.planner.cells(requests)
        session.show(_result_table([points.at(i) for i, key in enumerate(points.keys) if key in wanted]))
    return tally, frozenset(wanted)


def _result_table(points: Sequence[StoredPoint]) -> str:
    """What came of each cell that a command line asked for, by label, layer and coefficient."""
    rows = sorted(points, key=lambda point: (point.position, point.label, point.layer, point.coefficient))
    lines = ["| position | label | layer | coefficient | delta | coherence | scored |", "|---|---|---|---|---|---|---|"]
    for row in rows[:_MOST_ROWS]:
        delta = "" if row.delta is None else f"{row.delta:+.1f}"
        coherence = "" if row.coherence_mean is None else f"{row.coherence_mean:.1f}"
        cells = (row.position, row.label, row.layer, f"{row.coefficient:g}", delta, coherence)
        lines.append(f"| {' | '.join(map(str, cells))} | {row.n_scored} of {row.n_scored + row.n_unscored} |")
    if len(rows) > _MOST_ROWS:
        lines.append(f"\n{len(rows) - _MOST_ROWS} more: massact runs")
    return "\n".join(lines)


def run_grid_phase(session: Session, name: PhaseName, parent: OpenRun | None = None) -> Tally:
    """Phase 1, 2 or 3: evaluate its labels, fill the gaps, and answer its question from the store."""
    phase = session.experiment.phase(name)
    check_experiment(session, judges=True)
    require_steps(session, name)
    with open_phase(session, name, parent) as run:
        tally = fill_phase(session, run, phase)
        cosines = pair_cosines(session, load_answers(session, name)) if name == "phase2" else {}
        log_outcome(session, run, name, phase_evidence(session, name, cosines), is_last=parent is None)
    session.say(f"{name}: {tally}")
    return tally


def run_search(session: Session, name: Literal["search", "fill-gaps"], plan: SearchPlan) -> Tally:
    """Search the best coefficient of every label asked for, at each of its layers. `name`: the command; `fill-gaps`
    searches only the groups that have no result at or above the floor, until each has one or it is known why not."""
    search = search_bests if name == "search" else fill_gaps
    check_experiment(session, judges=True)
    require_steps(session, "phase1")
    told = {limit: value for limit in LIMITS if (value := getattr(plan, limit)) is not None}
    with open_phase(session, name, None, told) as run:
        searched = search(session, run, plan)
        session.stores.settle()
        n_gaps = len(phase_gaps(session).remaining)
        texts = search_texts(searched.endings, searched.tally, plan.mode, n_gaps, session.experiment.coherence_floor)
        _note(session, run, *texts)
    return searched.tally


def run_phases(session: Session, parent: OpenRun) -> Tally:
    """Everything up to the report, in the plan's order."""
    run_calibrate(session, parent)
    run_extract(session, parent)
    tally, declared = Tally(), {phase.name for phase in session.experiment.phases}
    if not declared:
        session.say("no phase is declared: massact evaluate and massact search evaluate what they are told")
    for name in (phase for phase in GRID_PHASES if phase in declared):
        tally.add(run_grid_phase(session, name, parent))
    run_patterns(session, parent)
    return tally


def _note(session: Session, run: OpenRun, text: str, brief: str) -> None:
    session.stores.tracker.set_tag(run, MlflowTag.NOTE, text or brief)
    session.tell(text, brief)


def run_main(session: Session, output: Path) -> Tally:
    """Run what the store does not hold yet and write the report. Returns the count."""
    check_experiment(session, judges=True)
    with open_phase(session, "main", say=False) as run:
        tally = run_phases(session, run)
        if session.experiment.baselines != BaselinesConfig():
            tally.add(run_baselines(session, run))
        if len(session.experiment.traits) > 1:
            run_side_effects(session, run)
        if session.experiment.confirm_share is not None:
            try:
                tally.add(run_confirm(session, run))
            except NothingToConfirmError as error:  # no failure of the plan
                session.say(f"confirm: {error}")
        report = run_report(session, output, run)
    again = "; nothing was evaluated again" if tally.evaluated == 0 and tally.failed == 0 else ""
    session.tell(report.checklist, f"{report.summary}\n\n{tally}{again}")
    return tally
