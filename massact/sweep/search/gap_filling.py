"""Searching bests and filling gaps: which ladders are wanted, and what came of them in words."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from massact.config import ModelConfig, PhaseConfig, TraitConfig
from massact.domain import (
    DEFAULT_BUDGET,
    DEFAULT_CONFIDENCE,
    DEFAULT_SCREEN,
    DEFAULT_TOLERANCE,
    Coefficients,
    Group,
    SearchMode,
    SearchStart,
)
from massact.errors import UsageError
from massact.evaluation import Screening
from massact.floors import Floor, as_floor
from massact.labels import parse_label, parse_layers
from massact.query import Filters
from massact.report.summary import limited, wrapped
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session
from massact.sweep.driver import Evaluator, Tally
from massact.sweep.planner import GridRequest, declared_requests, phase_gaps
from massact.sweep.search import Settings
from massact.sweep.search.rounds import Ending, LadderSearch, stored_prior
from massact.words import counted

Endings = Sequence[tuple[str, str, Ending]]  # model, trait and how a ladder ended
_Place = tuple[str, str]  # position and label
Places = dict[tuple[str, str], list[_Place]]  # by model and trait


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What is searched for, and how far."""

    budget: int = DEFAULT_BUDGET
    tolerance: float = DEFAULT_TOLERANCE
    mode: SearchMode = "search"
    screen: int = DEFAULT_SCREEN
    confidence: float = DEFAULT_CONFIDENCE
    start: SearchStart = "prior"
    drop_layers: float | None = None
    """Only the best layer of a label is looked for: one is given up that is it with a smaller chance than this; `None`:
    every layer is searched to its end."""
    only: Filters = field(default_factory=Filters)  # groups; its layers and judges are not looked at
    layers: str | None = None
    phase: str | None = None  # whose gaps are filled, at the layers that it declares; `None`: those of all phases


@dataclass(slots=True)
class Searched:
    """What searches came to."""

    tally: Tally = field(default_factory=Tally)
    endings: list[tuple[str, str, Ending]] = field(default_factory=list)


def search_bests(session: Session, run: OpenRun, plan: SearchPlan) -> Searched:
    """Search the best coefficient of every label asked for, at each of its layers. Labels and positions that the phases
    do not declare are searched too where both are named."""
    return _search(session, run, plan, wanted_places(session, plan))


def wanted_places(session: Session, plan: SearchPlan) -> Places:
    """What is declared of each model and trait, or named whole, and asked for; UsageError where there is nothing."""

    def places(model: ModelConfig, trait: TraitConfig) -> list[_Place]:
        declared = (
            place
            for phase in session.experiment.phases
            if model.name in phase.models
            for place in product(phase.positions, phase.labels)
        )
        named = product(plan.only.positions, plan.only.labels)
        every = dict.fromkeys([*declared, *named])
        return [place for place in every if plan.only.admits_group(Group(model.name, trait.name, *place))]

    experiment = session.experiment
    found = {
        (model.name, trait.name): places(model, trait) for model in experiment.models for trait in experiment.traits
    }
    if not any(found.values()):
        raise UsageError(
            "no phase declares what is asked for: name both --method and --position to search what none declares, or "
            "see massact gaps for what there is"
        )
    return {pair: some for pair, some in found.items() if some}


def fill_gaps(session: Session, run: OpenRun, plan: SearchPlan) -> Searched:
    """Search exactly the groups that `gaps` reports, of one phase or of the experiment."""
    places = gap_places(session, plan)
    for (model, trait), mine in places.items():
        session.say(f"{model}, {trait}: {counted(len(mine), 'gap')}")
    return _search(session, run, plan, places)


def gap_places(session: Session, plan: SearchPlan) -> Places:
    """The gaps that are asked for, of one phase or of the experiment."""
    places: Places = {}
    for row in phase_gaps(session, plan.phase).remaining:
        if plan.only.admits_group(Group(row.model, row.trait, row.position, row.label)):
            places.setdefault((row.model, row.trait), []).append((row.position, row.label))
    return places


def fill_phase(session: Session, run: OpenRun, phase: PhaseConfig) -> Tally:
    """Evaluate a phase's declared grid, then search where a gap is left of it."""
    tally = Tally()
    for trait, name in product(session.experiment.traits, phase.models):
        model = session.experiment.model(name)
        evaluator = Evaluator(session, run, model, trait)
        tally.add(evaluator.run(declared_requests(phase, model, evaluator.planner.n_layers)))
    if session.workload.max_rounds:
        searched = fill_gaps(session, run, SearchPlan(budget=session.workload.max_rounds, phase=phase.name))
        tally.add(searched.tally)
        reasons = reason_lines(searched.endings)
        for line in reasons if session.verbose else limited(reasons, "-v"):
            session.say(line)
    return tally


def _search(session: Session, run: OpenRun, plan: SearchPlan, places: Places) -> Searched:
    """Search the places of each model and trait, at the layers that one phase or any declares for them."""
    searched, floor = Searched(), session.experiment.coherence_floor
    settings = Settings(floor, plan.budget, plan.tolerance, plan.drop_layers)
    screening = Screening(plan.screen, floor, plan.confidence) if plan.screen else None
    for trait, model in product(session.experiment.traits, session.experiment.models):
        if not (chosen := places.get((model.name, trait.name))):
            continue
        evaluator = Evaluator(session, run, model, trait)
        wanted = search_requests(session, model, evaluator.planner.n_layers, plan, chosen)
        if plan.mode == "scan":
            searched.tally.add(evaluator.run(wanted))
        search = LadderSearch(
            session, evaluator, settings, stored_prior(session), screening, probes=plan.start == "probe"
        )
        tally, endings = search.run(wanted)
        searched.tally.add(tally)
        searched.endings += [(model.name, trait.name, ending) for ending in endings]
    return searched


def search_requests(
    session: Session, model: ModelConfig, n_layers: int, plan: SearchPlan, places: Iterable[_Place]
) -> list[GridRequest]:
    """The ladders of a model of so many layers: every place with the coefficients, and at the layers, that the phases
    declare for it. Where none does they are the model's; layers may be the plan's."""
    declared: dict[_Place, dict[Coefficients, set[int]]] = defaultdict(lambda: defaultdict(set))
    experiment = session.experiment
    for phase in experiment.phases if plan.phase is None else [experiment.phase(plan.phase)]:
        grid = phase.grid(model)
        for place in product(phase.positions, phase.labels) if model.name in phase.models else ():
            declared[place][grid.coefficients].update(parse_layers(plan.layers or grid.layers, n_layers))
    undeclared = {model.grid.coefficients: {*parse_layers(plan.layers or model.grid.layers, n_layers)}}
    return [
        GridRequest(place[0], parse_label(place[1]), tuple(sorted(layers)), coefficients)
        for place in places
        for coefficients, layers in declared.get(place, undeclared).items()
    ]


def search_texts(endings: Endings, tally: Tally, mode: SearchMode, n_gaps: int, floor: float) -> tuple[str, str]:
    """What a search came to: the table, the reasons, the count and the gaps that the experiment is left with; and the
    same for a screen of a terminal."""
    how = "the declared grid first, then a search" if mode == "scan" else "a search, no grid"
    remain = counted(n_gaps, "gap remains", "gaps remain")
    gaps = f"{remain} in the experiment: see massact gaps" if n_gaps else "no gap remains"
    end, nothing = f"Mode {mode} ({how}): {tally}; {gaps}.", "Nothing to search: no gap among what is asked for."
    reasons = reason_lines(endings)
    parts = [result_table(endings, as_floor(floor)) if endings else nothing, "\n".join(f"- {line}" for line in reasons)]
    found = [_best_line(names, best, as_floor(floor)) for names, best in _bests(endings) if best.is_of_use]
    brief = wrapped([*([] if endings else [nothing]), end, *limited(found, "-v"), *limited(reasons, "-v")])
    return "\n\n".join(filter(None, [*parts, end])), brief


def _bests(endings: Endings) -> Iterator[tuple[tuple[str, str, str, str], Ending]]:
    for names, ladders in _by_group(endings).items():
        yield names, max(ladders, key=lambda ladder: -1.0 if ladder.gain is None else ladder.gain)


def _best_line(names: Iterable[str], best: Ending, floor: Floor) -> str:
    at = f"layer {best.key.layer}, {best.coefficient:g}, {floor.metric} {floor.shown(best.coherence)}"
    return f"{', '.join(names)}: {best.delta:+.1f} at {at}"


def result_table(endings: Endings, floor: Floor) -> str:
    """The best of each label over its layers, and what the search spent on it."""
    lines = [
        f"| model | trait | position | label | layer | coefficient | delta | {floor.metric} | evaluations |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    by_group = _by_group(endings)
    for names, best in _bests(endings):
        spent = sum(ladder.spent for ladder in by_group[names])
        figures = " | | | |"
        if best.coefficient is not None and best.delta is not None and best.coherence is not None:
            figures = f" {best.key.layer} | {best.coefficient:g} | {best.delta:.1f} | {floor.shown(best.coherence)} |"
        lines.append(f"| {' | '.join(names)} |{figures} {spent} |")
    return "\n".join(lines)


def reason_lines(endings: Endings) -> list[str]:
    """Why groups have no coherent result, or one that does nothing: a line for each, layer by layer."""
    lines = []
    for names, ladders in _by_group(endings).items():
        if any(member.is_of_use for member in ladders):
            continue
        by_reason: dict[str, dict[str, None]] = defaultdict(dict)
        for ladder in ladders:
            by_reason[ladder.reason][str(ladder.key.layer)] = None
        reasons = "; ".join(f"layer {', '.join(layers)}: {reason}" for reason, layers in by_reason.items())
        is_open = all(member.coefficient is None for member in ladders)
        what = "no coherent result" if is_open else "coherent, but of little use"
        lines.append(f"{', '.join(names)}: {what}. {reasons[0].upper()}{reasons[1:]}")
    return lines


def _by_group(endings: Endings) -> dict[tuple[str, str, str, str], list[Ending]]:
    groups: dict[tuple[str, str, str, str], list[Ending]] = defaultdict(list)
    for model, trait, ending in endings:
        groups[model, trait, ending.key.position, ending.key.label].append(ending)
    return groups
