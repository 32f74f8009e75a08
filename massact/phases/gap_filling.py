"""Filling gaps and finding bests with the search: which ladders are wanted, and what came of them in words."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from massact.config import ModelConfig, PhaseConfig, TraitConfig
from massact.domain import (
    DEFAULT_BUDGET,
    DEFAULT_CONFIDENCE,
    DEFAULT_SCREEN,
    DEFAULT_TOLERANCE,
    Recipe,
    SearchMode,
)
from massact.errors import UsageError
from massact.labels import parse_label
from massact.layers import parse_layers
from massact.phases.evaluate import Evaluator, GridRequest
from massact.phases.grid import declared_requests, phase_gaps
from massact.phases.priors import stored_prior
from massact.phases.search import Ending, LadderSearch, Wanted
from massact.phases.search_text import reason_lines
from massact.phases.session import Session
from massact.phases.sweeping import Tally
from massact.pipeline.screening import Screening
from massact.pipeline.search import Settings
from massact.query import GapRow
from massact.tracking.tracker import OpenRun

Subject = tuple[ModelConfig, TraitConfig]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What is searched for, and how far."""

    budget: int = DEFAULT_BUDGET
    """Evaluations of one layer of one label at most."""
    tolerance: float = DEFAULT_TOLERANCE
    """A coefficient that is expected to gain fewer points than this is not tried."""
    mode: SearchMode = "search"
    screen: int = DEFAULT_SCREEN
    """Questions after which a hopeless cell is given up; 0: none is."""
    confidence: float = DEFAULT_CONFIDENCE
    """Chance that a cell which could still win is not given up."""
    models: tuple[str, ...] = ()
    """Empty: all."""
    traits: tuple[str, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    positions: tuple[str, ...] = ()
    layers: str | None = None
    """Layer specification in place of the declared one."""

    def admits(self, model: str, trait: str, position: str, recipe: Recipe) -> bool:
        """Whether a group is asked for."""
        return (
            model in (self.models or (model,))
            and trait in (self.traits or (trait,))
            and position in (self.positions or (position,))
            and recipe in (self.recipes or (recipe,))
        )


@dataclass(slots=True)
class Found:
    """What searches came to."""

    tally: Tally = field(default_factory=Tally)
    endings: list[tuple[str, str, Ending]] = field(default_factory=list)
    """Model, trait and how each of their ladders ended."""

    def add(self, subject: Subject, tally: Tally, endings: Iterable[Ending]) -> None:
        model, trait = subject
        self.tally.add(tally)
        self.endings += [(model.name, trait.name, one) for one in endings]


def search_bests(session: Session, run: OpenRun, plan: SearchPlan) -> Found:
    """Search the best coefficient of every label asked for, at each of its layers.

    Labels and positions that the phases do not declare are searched too where both are named.

    Raises:
        UsageError: nothing that is declared is asked for.
    """
    found = Found()
    for subject in _subjects(session, plan):
        evaluator = Evaluator(session, run, *subject)
        wanted = [
            Wanted(position, recipe, layers)
            for (position, recipe), layers in _asked(session, subject, evaluator.n_layers, plan).items()
        ]
        _search(session, evaluator, subject, wanted, plan, found)
    if not found.endings:
        raise UsageError(
            "no phase declares what is asked for: name both --method and --position to search what none declares, or "
            "see massact gaps for what there is"
        )
    return found


def fill_gaps(session: Session, run: OpenRun, plan: SearchPlan, phase: str | None = None) -> Found:
    """Search exactly the groups that `gaps` reports, of one phase or of the experiment."""
    found = Found()
    by_subject: dict[tuple[str, str], list[GapRow]] = defaultdict(list)
    for row in phase_gaps(session, phase).remaining:
        if plan.admits(row.model, row.trait, row.position, parse_label(row.label)):
            by_subject[row.model, row.trait].append(row)
    for subject in _subjects(session, plan):
        model, trait = subject
        rows = by_subject[model.name, trait.name]
        if not rows:
            continue
        session.say(f"{model.name}, {trait.name}: {len(rows)} gaps")
        evaluator = Evaluator(session, run, model, trait)
        layers = _declared(session, model, evaluator.n_layers, phase)
        if plan.layers is not None:
            layers = dict.fromkeys(layers, parse_layers(plan.layers, evaluator.n_layers))
        wanted = [
            Wanted(row.position, parse_label(row.label), layers[row.position, parse_label(row.label)])
            for row in rows
        ]
        _search(session, evaluator, subject, wanted, plan, found)
    return found


def fill_phase(session: Session, run: OpenRun, phase: PhaseConfig) -> Tally:
    """Evaluate a phase's declared grid, then search where a gap is left of it."""
    tally = Tally()
    for trait, name in product(session.experiment.traits, phase.models):
        model = session.experiment.model(name)
        evaluator = Evaluator(session, run, model, trait)
        tally.add(evaluator.run(declared_requests(phase, model, evaluator.n_layers)))
    if session.workload.max_rounds:
        plan = SearchPlan(budget=session.workload.max_rounds)
        found = fill_gaps(session, run, plan, phase.name)
        tally.add(found.tally)
        for line in reason_lines(found.endings):
            session.say(line)
    return tally


def _search(
    session: Session,
    evaluator: Evaluator,
    subject: Subject,
    wanted: Sequence[Wanted],
    plan: SearchPlan,
    found: Found,
) -> None:
    coefficients = subject[0].grid.coefficients
    if plan.mode == "scan" and wanted:
        grid = [GridRequest(one.position, one.recipe, one.layers, coefficients) for one in wanted]
        found.tally.add(evaluator.run(grid))
    # a trait that is steered away from has coefficients below 0 in its file: the search keeps to their signs
    signs = sorted({1 if c > 0 else -1 for c in coefficients if c}, reverse=True)
    settings = Settings(session.experiment.coherence_floor, plan.budget, plan.tolerance)
    screening = Screening(plan.screen, settings.floor, plan.confidence) if plan.screen else None
    search = LadderSearch(session, evaluator, settings, stored_prior(session), screening)
    found.add(subject, *search.run(wanted, signs))


def _subjects(session: Session, plan: SearchPlan) -> list[Subject]:
    experiment = session.experiment
    return [
        (model, trait)
        for trait, model in product(experiment.traits, experiment.models)
        if model.name in (plan.models or (model.name,)) and trait.name in (plan.traits or (trait.name,))
    ]


def _asked(
    session: Session, subject: Subject, n_layers: int, plan: SearchPlan
) -> dict[tuple[str, Recipe], tuple[int, ...]]:
    model, trait = subject
    declared = _declared(session, model, n_layers, None)
    asked = {
        place: layers for place, layers in declared.items() if plan.admits(model.name, trait.name, *place)
    }
    own = parse_layers(plan.layers or model.grid.layers, n_layers)
    positions = plan.positions or tuple(dict.fromkeys(position for position, _ in declared))
    recipes = plan.recipes or tuple(dict.fromkeys(recipe for _, recipe in declared))
    if plan.positions and plan.recipes:
        asked |= {place: own for place in product(positions, recipes) if place not in asked}
    return {place: own if plan.layers is not None else layers for place, layers in asked.items()}


def _declared(
    session: Session, model: ModelConfig, n_layers: int, phase: str | None
) -> dict[tuple[str, Recipe], tuple[int, ...]]:
    """Layers of every (position, recipe) that one phase or any declares for a model."""
    experiment = session.experiment
    found: dict[tuple[str, Recipe], set[int]] = defaultdict(set)
    for one in experiment.phases if phase is None else [experiment.phase(phase)]:
        if model.name not in one.models:
            continue
        layers = parse_layers(one.grid(model).layers, n_layers)
        for position, label in product(one.positions, one.labels):
            found[position, parse_label(label)].update(layers)
    return {place: tuple(sorted(layers)) for place, layers in found.items()}
