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
from massact.query import GapRow
from massact.screening import Screening
from massact.store.write.tracker import OpenRun
from massact.sweep.driver import Evaluator, GridRequest, Tally
from massact.sweep.planner import declared_requests, phase_gaps
from massact.sweep.search import Settings
from massact.sweep.search.rounds import Ending, LadderSearch, Wanted, stored_prior
from massact.workflow.context import Session

# What a search came to, in words: the best of each label, and why the others have none.

Endings = Sequence[tuple[str, str, Ending]]
"""Model, trait and how a ladder ended."""


def search_text(endings: Endings, tally: Tally, mode: SearchMode, n_gaps: int) -> str:
    """All of it: the table, the reasons, the count and the gaps that the experiment is left with."""
    how = "the declared grid first, then a search" if mode == "scan" else "a search, no grid"
    parts = [result_table(endings)] if endings else ["Nothing to search: no gap among what is asked for."]
    reasons = reason_lines(endings)
    if reasons:
        parts.append("\n".join(f"- {line}" for line in reasons))
    gaps = "no gap remains" if not n_gaps else f"{n_gaps} gaps remain in the experiment: see massact gaps"
    parts.append(f"Mode {mode} ({how}): {tally}; {gaps}.")
    return "\n\n".join(parts)


def result_table(endings: Endings) -> str:
    """The best of each label over its layers, and what the search spent on it."""
    lines = [
        "| model | trait | position | label | layer | coefficient | delta | coherence | evaluations |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, trait, position, label), own in _groups(endings).items():
        spent = sum(one.spent for one in own)
        best = max(own, key=lambda one: -1.0 if one.gain is None else one.gain)
        figures = " | | | |"
        if best.coefficient is not None and best.delta is not None and best.coherence is not None:
            figures = f" {best.key.layer} | {best.coefficient:g} | {best.delta:.1f} | {best.coherence:.1f} |"
        lines.append(f"| {model} | {trait} | {position} | {label} |{figures} {spent} |")
    return "\n".join(lines)


def reason_lines(endings: Endings) -> list[str]:
    """Why groups have no coherent result, or one that does nothing: a line for each, layer by layer."""
    lines = []
    for (model, trait, position, label), own in _groups(endings).items():
        if any(one.is_of_use for one in own):
            continue
        is_open = all(one.coefficient is None for one in own)
        by_reason: dict[str, dict[int, None]] = defaultdict(dict)
        for one in own:
            by_reason[one.reason][one.key.layer] = None
        reasons = "; ".join(f"layer {_list(layers)}: {reason}" for reason, layers in by_reason.items())
        what = "no coherent result" if is_open else "coherent, but of little use"
        lines.append(f"{model}, {trait}, {position}, {label}: {what}. {reasons[0].upper()}{reasons[1:]}")
    return lines


def _groups(endings: Endings) -> dict[tuple[str, str, str, str], list[Ending]]:
    groups: dict[tuple[str, str, str, str], list[Ending]] = defaultdict(list)
    for model, trait, one in endings:
        groups[model, trait, one.key.position, one.key.label].append(one)
    return groups


def _list(layers: Iterable[int]) -> str:
    return ", ".join(str(layer) for layer in layers)


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
