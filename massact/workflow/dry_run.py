"""What `--dry-run` shows: what there is to do, how long it may take and what the judge is asked. Writes nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from massact.config import BaselinesConfig, JudgeConfig
from massact.errors import MissingPrerequisiteError, NothingToConfirmError
from massact.evaluation import PlannedCell
from massact.keys import cell_key
from massact.labels import format_label
from massact.store.databases import is_absent
from massact.store.schema import EvaluationRow, Points
from massact.sweep.context import Session
from massact.sweep.planner import NO_OVERRIDES, GridRequest, Overrides, Planner, check_experiment, declared_requests
from massact.sweep.reuse import Alikeness, Known, is_baseline
from massact.sweep.search.gap_filling import SearchPlan, gap_places, search_requests, wanted_places
from massact.sweep.search.probing import HALVINGS, TOKENS
from massact.sweep.stored import Moved, Subject
from massact.sweep.winners import (
    BASELINES,
    ConfirmPlan,
    baseline_cells,
    controls_source,
    n_prompted,
    plan_baselines,
    plan_confirm,
)
from massact.words import counted
from massact.workflow.steps import Request, request_layers

Spot = tuple[object, ...]
"""Model, trait, position, label, layer and coefficient: what a cell is called before it has a vector and a key."""
_PROMPTED = ("openai", "hf", "self")
"""Judges that are asked for the trait and for coherence, each by itself; others score both at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What one phase has to do for one model and trait."""

    phase: str
    model: str
    trait: str
    cells: int
    finished: int
    earlier: int = 0  # cells that an earlier phase of the same command will have evaluated
    same: int = 0  # cells that take over the result of another label, whose vector is alike
    judge_calls: int  # at most: equal responses are judged once
    seconds: float | None  # `None` where nothing was measured yet
    n_measured: int  # evaluations that the time was estimated from
    note: str = ""
    is_least: bool = False  # whether there may be more to do, which only earlier phases will tell

    @property
    def todo(self) -> int:
        return self.cells - self.finished - self.earlier - self.same


def show_phase(session: Session, name: str) -> None:
    session.show(forecast_text(session, forecast_phases(session, [name])))


def show_request(session: Session, request: Request) -> None:
    """Show what an `evaluate` command line would do."""
    session.stores.is_dry = True
    layers = request_layers(session, request)
    session.models.tell_way(request.model)
    subject = Subject(request.model, request.trait)
    forecast = _Foresight(session).grid("evaluate", subject, request.grids(layers), request.overrides)
    session.show(forecast_text(session, [forecast]))


def show_search(session: Session, name: str, plan: SearchPlan) -> None:
    """Show what `search` or `fill-gaps` would look for, and how much that may take at most."""
    session.stores.is_dry = True
    shapes = check_experiment(session, judges=True)
    places = (wanted_places if name == "search" else gap_places)(session, plan)
    if not places:
        session.show("Nothing to search: no gap among what is asked for.")
        return
    lines = ["| model | trait | labels and windows | layers | evaluations at most | judge calls at most |"]
    lines.append("|---|---|---|---|---|---|")
    n_probes = 0
    for (model, trait), chosen in places.items():
        config, of_trait = session.experiment.model(model), session.experiment.trait(trait)
        requests = search_requests(session, config, shapes[model].n_layers, plan, chosen)
        grid = len(config.grid.coefficients) if plan.mode == "scan" else 0
        n_ladders = sum(len(request.layers) for request in requests)
        most, n_probes = n_ladders * (plan.budget + grid), n_probes + n_ladders * HALVINGS
        n_questions = len(session.datasets.questions(of_trait).questions)
        calls = (most + 1) * n_questions * calls_per_exchange(session.experiment.judge)
        layers = ", ".join(map(str, sorted({layer for request in requests for layer in request.layers})))
        lines.append(f"| {model} | {trait} | {len(chosen)} | {layers} | {most} | {calls} |")
    grids = "the declared grid first, then " if plan.mode == "scan" else ""
    told = "evaluations of each label at each layer at most; stored ones are used as they are."
    lines += ["", f"{grids}{plan.budget} {told}"]
    if plan.start == "probe":
        lines.append(
            f"Before them at most {n_probes} cells of short texts ({TOKENS} tokens) that no judge is asked about."
        )
    session.show("\n".join(lines))


def show_main(session: Session) -> None:
    grid = forecast_phases(session, [phase.name for phase in session.experiment.phases])
    confirm = forecast_confirm(session, grid) if session.experiment.confirm_share is not None else []
    baselines = forecast_baselines(session, grid) if session.experiment.baselines != BaselinesConfig() else []
    session.show(forecast_text(session, [*grid, *baselines, *confirm]))


def show_confirm(session: Session) -> None:
    """Show what confirming would do now."""
    session.stores.is_dry = True
    for trait in session.experiment.traits:
        session.datasets.confirming(trait)
    check_experiment(session, judges=True)
    try:
        plan = plan_confirm(session)
    except MissingPrerequisiteError as error:
        session.show(f"What there is to confirm cannot be foreseen: {error}.")
        return
    if plan.left_out:
        session.say(f"confirm: {plan.why_left_out}")
    foresight = _Foresight(session)
    session.show(forecast_text(session, [foresight.confirmed(subject, plan) for subject in plan.by_subject]))


def forecast_phases(session: Session, names: Sequence[str]) -> list[Forecast]:
    """What each phase has to do, model by model; a cell that several phases want counts in the first."""
    session.stores.is_dry = True
    shapes, foresight, forecasts = check_experiment(session, judges=True), _Foresight(session), []
    for name in shapes:
        session.models.tell_way(session.experiment.model(name))
    for name in names:
        phase = session.experiment.phase(name)
        for trait, model_name in product(session.experiment.traits, phase.models):
            model = session.experiment.model(model_name)
            requests = declared_requests(phase, model, shapes[model_name].n_layers)
            forecasts.append(foresight.grid(name, Subject(model, trait), requests))
    return forecasts


def forecast_confirm(session: Session, grid: Sequence[Forecast]) -> list[Forecast]:
    """What confirming has to do after grid phases, model by model: exact once the grid is finished, else the least."""
    foresight, plan, note = _Foresight(session), ConfirmPlan(), ""
    try:
        plan = plan_confirm(session)
    except NothingToConfirmError:
        pass
    except MissingPrerequisiteError as error:
        note = f"what is confirmed is not known ({error})"
    forecasts = []
    for subject in (Subject(*each) for each in product(session.experiment.models, session.experiment.traits)):
        names = (subject.model.name, subject.trait.name)
        if note or any(forecast.todo for forecast in grid if (forecast.model, forecast.trait) == names):
            forecasts.append(foresight.least_confirmed(subject, plan, note))
        elif subject in plan.by_subject:
            forecasts.append(foresight.confirmed(subject, plan))
    return forecasts


def show_baselines(session: Session) -> None:
    """Show what evaluating baselines would do now."""
    session.stores.is_dry = True
    check_experiment(session, judges=True)
    session.show(forecast_text(session, forecast_baselines(session)))


def forecast_baselines(session: Session, grid: Sequence[Forecast] = ()) -> list[Forecast]:
    """What there is to do of baselines, model by model: the least where winners are still to be found."""
    foresight, (by_subject, left_out), forecasts = _Foresight(session), plan_baselines(session), []
    for subject, best in by_subject.items():
        names, note, n_finished, needs_baseline = (subject.model.name, subject.trait.name), "", 0, False
        try:
            source = controls_source(session, subject, partial(baseline_cells, session, subject, best, left_out))
            held = source.plan()
            n_cells, n_finished, stored = held.n_wanted, held.n_wanted - len(held.cells), source.stored_baseline()
            needs_baseline = bool(held.cells) and not (stored and is_baseline(session, stored.row))
        except MissingPrerequisiteError as error:
            n_cells = n_prompted(session, subject)
            note = f"random directions at the places of winners are not known ({error})"
        if any(forecast.todo for forecast in grid if (forecast.model, forecast.trait) == names):
            note = note or "random directions at the places of winners that are still to be found"
            needs_baseline = False  # the grid's
        n_questions = len(session.datasets.questions(subject.trait).questions)
        n_responses = (n_cells - n_finished + needs_baseline) * n_questions
        told: dict[str, Any] = {"cells": n_cells, "finished": n_finished, "note": note, "is_least": bool(note)}
        forecasts.append(foresight.forecast(subject, n_responses, phase=BASELINES, **told))
    for reason in () if grid else left_out:
        session.say(f"{BASELINES}: {reason}")
    return forecasts


class _Foresight:
    """What the store holds, and what earlier phases of the same command will have evaluated."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._points: Points | None = None
        self._baselines: dict[str, EvaluationRow] = {}
        self._measured: list[EvaluationRow] = []
        self._planned: set[Spot] = set()
        self._ahead: dict[tuple[str, str], Known] = {}  # what will be evaluated, by model and trait
        if is_absent(session.stores.tracking_uri):
            return
        with session.stores.read() as store:
            name = session.experiment.name
            self._points = store.points(name)
            self._baselines = {baseline.row.key: baseline.row for baseline in store.baselines(name)}
            self._measured = [evaluation.row for evaluation in store.evaluations(name)]

    def grid(
        self, phase: str, subject: Subject, requests: Sequence[GridRequest], overrides: Overrides = NO_OVERRIDES
    ) -> Forecast:
        """What is to do of a grid; it is planned from then on."""
        names = (subject.model.name, subject.trait.name)
        wanted, done, same, needs_baseline, note = self._foresee(subject, requests, overrides)
        earlier = (wanted & self._planned) - done
        todo = wanted - done - earlier - same
        baseline = ("baseline", *names)
        n_cells = len(todo) + (bool(todo) and needs_baseline and baseline not in self._planned)
        self._planned |= wanted | ({baseline} if todo else set())
        n_questions = len(self._session.datasets.questions(subject.trait, overrides.subset).questions)
        return self.forecast(
            subject, n_cells * n_questions, overrides, phase=phase, cells=len(wanted), finished=len(done),
            earlier=len(earlier), same=len(same), note=note,
        )  # fmt: skip

    def confirmed(self, subject: Subject, plan: ConfirmPlan) -> Forecast:
        """Exactly what is to be confirmed."""
        cells, todo = plan.by_subject[subject], plan.todo(subject)
        needs_baseline = bool(todo) and not _has_baseline(plan, cells)
        return self._confirm(subject, len(cells), len(cells) - len(todo), needs_baseline)

    def least_confirmed(self, subject: Subject, plan: ConfirmPlan, note: str) -> Forecast:
        """One winner at every declared window; a window whose winner is confirmed may keep it."""
        names = (subject.model.name, subject.trait.name)
        groups = self._session.experiment.groups()
        windows = {group.position for group in groups if (group.model, group.trait) == names}
        cells = plan.by_subject.get(subject, [])
        confirmed = [cell.cell.steering for cell in cells if cell.key in plan.confirmed]
        n_done = len({steering.position for steering in confirmed if steering} & windows)
        needs_baseline = n_done < len(windows) and not _has_baseline(plan, cells)
        note = note or (
            "confirms one winner at each window where something reaches the floor, and all labels tied with it"
        )
        return self._confirm(subject, len(windows), n_done, needs_baseline, note)

    def _confirm(self, subject: Subject, n_cells: int, n_done: int, needs_baseline: bool, note: str = "") -> Forecast:
        """So many cells, so many of them finished; with a note it is the least."""
        n_questions = len(self._session.datasets.confirming(subject.trait).questions)
        counted: dict[str, Any] = {"cells": n_cells, "finished": n_done, "note": note, "is_least": bool(note)}
        return self.forecast(subject, (n_cells - n_done + needs_baseline) * n_questions, phase="confirm", **counted)

    def forecast(
        self, subject: Subject, n_responses: int, overrides: Overrides = NO_OVERRIDES, **counted: Any
    ) -> Forecast:
        """With what so many responses take: by the model's evaluations, of responses as long where there are any."""
        name = subject.model.name
        mine = [row for row in self._measured if row.model == name and row.generation_seconds is not None]
        length = overrides.max_new_tokens or self._session.experiment.generation.max_new_tokens
        mine = [row for row in mine if row.max_new_tokens == length] or mine
        n_before = sum(row.n_questions or 0 for row in mine)
        seconds = sum((row.generation_seconds or 0.0) + (row.judge_seconds or 0.0) for row in mine)
        return Forecast(
            model=name,
            trait=subject.trait.name,
            judge_calls=n_responses * calls_per_exchange(self._session.experiment.judge),
            seconds=n_responses * (seconds / n_before) if n_before else None,
            n_measured=len(mine) if n_before else 0,
            **counted,
        )

    def _foresee(
        self, subject: Subject, requests: Sequence[GridRequest], overrides: Overrides
    ) -> tuple[set[Spot], set[Spot], set[Spot], bool, str]:
        """What is wanted, finished, takes over another's result, whether the baseline lacks, and what is not known."""
        names = (subject.model.name, subject.trait.name)
        wanted = {spot for request in requests for spot in _unplanned(names, request)}
        if self._points is None:
            return wanted, set(), set(), True, "the run store does not exist yet, so nothing is finished"
        try:
            planner = Planner(self._session, subject.model, subject.trait, overrides)
            baseline = self._baselines.get(cell_key(planner.baseline().cell))
        except MissingPrerequisiteError as error:
            return wanted, set(), set(), True, f"all to do, since cells have no vectors yet ({error})"
        cells, without, note = _cells(planner, requests)
        wanted = {spot for request in without for spot in _unplanned(names, request)}
        wanted |= {_spot(names, cell) for cell in cells.values()}
        reuse = Alikeness(planner, self._session)
        held = reuse.known(self._points, subject, baseline)
        ahead = self._ahead.setdefault(names, Known())
        todo = {key: cell for key, cell in cells.items() if not held.has(key) and not ahead.has(key)}
        both = Known(held.evaluated | ahead.evaluated, labels=held.labels | ahead.labels)
        same = reuse.of(todo, both)
        ahead.evaluated.update(todo.keys() - same.keys())
        ahead.taken.update(same)
        ahead.labels.update(_place(todo[key]) for key in todo.keys() - same.keys())
        done = {_spot(names, cell) for key, cell in cells.items() if held.has(key)}
        needs_baseline = baseline is None or not is_baseline(self._session, baseline)
        return wanted, done, {_spot(names, todo[key]) for key in same}, needs_baseline, note


def _has_baseline(plan: ConfirmPlan, cells: Sequence[Moved]) -> bool:
    return any(cell.baseline_key in plan.confirmed for cell in cells)


def _cells(planner: Planner, requests: Iterable[GridRequest]) -> tuple[dict[str, PlannedCell], list[GridRequest], str]:
    """The cells that have vectors, the requests that have none, and why."""
    cells: dict[str, PlannedCell] = {}
    without: list[GridRequest] = []
    notes: dict[str, None] = {}
    for request in requests:
        try:
            cells |= planner.cells([request])
        except MissingPrerequisiteError as error:
            without.append(request)
            notes[str(error)] = None
    return cells, without, f"cells without vectors count as to do ({'; '.join(notes)})" if notes else ""


def _unplanned(names: tuple[str, str], request: GridRequest) -> Iterator[Spot]:
    """The spots of a request whose vectors are not known; relative strengths stand for their coefficients."""
    place = (*names, request.position, format_label(request.recipe))
    return ((*place, *at) for at in product(request.layers, request.coefficients.values))


def _place(planned: PlannedCell) -> tuple[str, str, int]:
    steering = planned.cell.steering
    assert steering is not None  # a baseline is no cell of the grid
    return steering.position, format_label(steering.recipe), steering.layer


def _spot(names: tuple[str, str], planned: PlannedCell) -> Spot:
    assert planned.cell.steering is not None
    return (*names, *_place(planned), float(planned.cell.steering.coefficient))


def forecast_text(session: Session, forecasts: Sequence[Forecast]) -> str:
    """The forecasts as a table with its total, and what cannot be foreseen."""
    lines = [
        "| phase | model | trait | cells | finished | in an earlier phase | the same as another | to do | time "
        "| judge calls |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {forecast.phase} | {forecast.model} | {forecast.trait} | {forecast.cells} | {forecast.finished} "
        f"| {forecast.earlier} | {forecast.same} | {'at least ' if forecast.is_least else ''}{forecast.todo} "
        f"| {_time(forecast)} | {forecast.judge_calls} |"
        for forecast in forecasts
    ]
    lines += ["", *_totals(session, forecasts)]
    lines += dict.fromkeys(
        f"{forecast.model}, {forecast.trait}: {forecast.note}" for forecast in forecasts if forecast.note
    )
    if session.workload.alike is not None and any(forecast.note for forecast in forecasts):
        lines.append("Labels whose vectors turn out to be alike are evaluated once (--alike): it may be less.")
    if len({forecast.phase for forecast in forecasts}) > 1 and session.experiment.extraction.vetting is not None:
        experiment = session.experiment
        n_prompts = sum(len(session.datasets.of(trait).prompts) for trait in experiment.traits)
        calls = n_prompts * len(experiment.models) * calls_per_exchange(experiment.judge)
        lines.append(f"Vetting an extraction comes on top, where it is not made yet: {calls} judge calls at most.")
    if any(forecast.phase not in ("evaluate", "confirm", BASELINES) for forecast in forecasts):
        lines.append("The search that fills the gaps which remain comes on top (--max-rounds).")
    return "\n".join(lines)


def _totals(session: Session, forecasts: Sequence[Forecast]) -> list[str]:
    todo, calls = sum(forecast.todo for forecast in forecasts), sum(forecast.judge_calls for forecast in forecasts)
    known = [forecast.seconds for forecast in forecasts if forecast.todo and forecast.seconds is not None]
    is_whole = len(known) == sum(forecast.todo > 0 for forecast in forecasts)
    time = f", {_span(sum(known))}" if known and is_whole else ""
    is_least, asking = any(forecast.is_least for forecast in forecasts), counted(calls, "judge call")
    asked = f"about {asking}" if is_least else f"{asking} at most"
    judge = session.experiment.judge
    is_paid = any(part.kind == "openai" for part in judge.parts)
    cost = "" if is_paid else f" (the judge {judge.name} runs here: they cost nothing)"
    lines = [f"{'at least ' if is_least else ''}{counted(todo, 'cell')} to do{time}, {asked}{cost}."]
    if session.workload.ray is not None and time:
        n = session.workload.ray.workers
        take = counted(n, "worker of that kind takes", "workers of that kind take")
        shared = f"{take} {_span(sum(known) / n)}" if n else "n workers an n-th of it"
        lines.append(f"The time is of one worker like those that the figures come from: {shared}.")
    return lines


def _time(forecast: Forecast) -> str:
    if not forecast.todo:
        return "none"
    if forecast.seconds is None:
        return "nothing measured yet"
    return f"{_span(forecast.seconds)} (from {counted(forecast.n_measured, 'evaluation')})"


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {max(seconds, 1):.0f} s"


def calls_per_exchange(judge: JudgeConfig) -> int:
    """How often the judge is asked about one exchange."""
    if judge.coherence:
        return 2 + judge.coherence.relevance
    return 2 + judge.relevance if judge.kind in _PROMPTED else 1
