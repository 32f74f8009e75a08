"""What `--dry-run` shows: what there is to do, how long it may take and what the judge is asked. Writes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from massact.config import JudgeConfig, ModelConfig, TraitConfig
from massact.errors import MissingPrerequisiteError, NothingToConfirmError
from massact.evaluation import PlannedCell
from massact.keys import cell_key
from massact.labels import format_label
from massact.store.read.database import is_absent
from massact.store.schema import EvaluationRow, Points, is_scored
from massact.sweep.confirm import Chosen, ConfirmPlan, plan_confirm
from massact.sweep.planner import NO_OVERRIDES, GridRequest, Overrides, Planner, declared_requests
from massact.sweep.recast import Subject
from massact.sweep.reuse import Alikeness, Known, known_results
from massact.workflow.context import Session
from massact.workflow.steps import GRID_PHASES, Request, request_layers
from massact.workflow.validate import check_experiment

# What of a set of requests is finished or need not be evaluated, as far as vectors are known: for `--dry-run`.

Spot = tuple[object, ...]
"""Model, trait, position, label, layer and coefficient."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is known of some requests before anything is done."""

    done: set[Spot]
    """Finished."""
    same: set[Spot]
    """To take over the result of another label."""
    needs_baseline: bool
    note: str
    """What is not known, and why."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the store holds, and what earlier phases of one command will have evaluated, by model and trait."""

    points: Points
    baselines: Mapping[str, EvaluationRow]
    """By key."""
    planned: dict[tuple[str, str], Known] = field(default_factory=dict)

    def foresee(
        self,
        session: Session,
        subject: tuple[ModelConfig, TraitConfig],
        requests: Sequence[GridRequest],
        overrides: Overrides,
    ) -> Foreseen:
        """What of the requests is finished, and what takes over another's result; they are planned from then on."""
        try:
            planner = Planner(session, *subject, overrides)
            baseline = self.baselines.get(cell_key(planner.baseline().cell))
        except MissingPrerequisiteError as error:
            return Foreseen(set(), set(), True, f"all to do, since cells have no vectors yet ({error})")
        cells, notes = _cells(planner, requests)
        names = (subject[0].name, subject[1].name)
        least = session.experiment.least_scored
        held = known_results(
            self.points,
            session.workload.alike,
            model=names[0],
            trait=names[1],
            least_scored=least,
            baseline=baseline,
        )
        planned = self.planned.setdefault(names, Known())
        todo = {key: one for key, one in cells.items() if not held.has(key) and not planned.has(key)}
        both = Known(held.evaluated | planned.evaluated, labels=held.labels | planned.labels)
        same = Alikeness(planner, session).of(todo, both)
        planned.evaluated.update(todo.keys() - same.keys())
        planned.taken.update(same)
        planned.labels.update(_place(todo[key]) for key in todo.keys() - same.keys())
        note = "; ".join(notes)
        return Foreseen(
            done={_spot(names, one) for key, one in cells.items() if held.has(key)},
            same={_spot(names, todo[key]) for key in same},
            needs_baseline=baseline is None or not is_scored(baseline, least),
            note=f"cells without vectors count as to do ({note})" if note else "",
        )


def _cells(
    planner: Planner, requests: Iterable[GridRequest]
) -> tuple[Mapping[str, PlannedCell], Iterable[str]]:
    """The cells that have vectors, and why the others have none."""
    cells: dict[str, PlannedCell] = {}
    notes: dict[str, None] = {}
    for request in requests:
        try:
            cells |= planner.cells([request])
        except MissingPrerequisiteError as error:
            notes[str(error)] = None
    return cells, notes


def _place(planned: PlannedCell) -> tuple[str, str]:
    steering = planned.cell.steering
    return (steering.position, format_label(steering.recipe)) if steering else ("", "")


def _spot(names: tuple[str, str], planned: PlannedCell) -> Spot:
    steering = planned.cell.steering
    if steering is None:
        raise ValueError("a baseline is no cell of the grid")
    return (*names, *_place(planned), steering.layer, float(steering.coefficient))


_PROMPTED = ("openai", "hf", "self")
"""Judges that are asked for the trait and for coherence, each by itself; others score both at once."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one phase has to do for one model and trait."""

    phase: str
    model: str
    trait: str
    cells: int
    finished: int
    earlier: int
    """Cells that an earlier phase of the same command will have evaluated."""
    same: int
    """Cells that take over the result of another label, whose vector is alike."""
    judge_calls: int
    """At most: equal responses are judged once."""
    seconds: float | None
    """`None` where nothing was measured yet."""
    n_measured: int
    """Evaluations that the time was estimated from."""
    note: str = ""
    is_least: bool = False
    """Whether there may be more to do, which only earlier phases will tell."""

    @property
    def todo(self) -> int:
        return self.cells - self.finished - self.earlier - self.same


@dataclass(slots=True)
class KnownCells:
    """What the store holds, and what was planned so far."""

    ahead: Ahead | None = None
    """`None` where there is no store."""
    measured: Sequence[EvaluationRow] = ()
    planned: set[Spot] = field(default_factory=set)


def show_phases(session: Session, names: Sequence[str]) -> None:
    """Show what grid phases would do."""
    session.show(forecast_text(session, forecast_phases(session, names)))


def show_request(session: Session, request: Request) -> None:
    """Show what an `evaluate` command line would do."""
    session.show(forecast_text(session, [forecast_request(session, request)]))


def forecast_phases(session: Session, names: Sequence[str]) -> list[Forecast]:
    """What each phase has to do, model by model; a cell that several phases want counts in the first.

    Raises:
        UsageError: the experiment cannot be run as it is, or the store cannot be read.
    """
    session.is_dry = True
    shapes, known, found = check_experiment(session, judges=True), read_known(session), []
    for name in names:
        phase = session.experiment.phase(name)
        for trait, model_name in product(session.experiment.traits, phase.models):
            model = session.experiment.model(model_name)
            requests = declared_requests(phase, model, shapes[model_name].n_layers)
            found.append(_forecast(session, known, name, (model, trait), requests))
    return found


def forecast_request(session: Session, request: Request) -> Forecast:
    """What an `evaluate` command line has to do.

    Raises:
        UsageError: the request cannot be run as it is, or the store cannot be read.
    """
    session.is_dry = True
    layers = request_layers(session, request)
    requests = [
        GridRequest(position, recipe, layers, request.coefficients)
        for position, recipe in product(request.positions, request.recipes)
    ]
    subject = (request.model, request.trait)
    return _forecast(session, read_known(session), "evaluate", subject, requests, request.overrides)


def forecast_text(session: Session, forecasts: Sequence[Forecast]) -> str:
    """The forecasts as a table with its total, and what cannot be foreseen."""
    lines = [
        "| phase | model | trait | cells | finished | in an earlier phase | the same as another | to do | time "
        "| judge calls |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.phase} | {one.model} | {one.trait} | {one.cells} | {one.finished} | {one.earlier} | {one.same} "
        f"| {_least(one)}{one.todo} | {_time(one)} | {one.judge_calls} |"
        for one in forecasts
    ]
    todo, calls = sum(one.todo for one in forecasts), sum(one.judge_calls for one in forecasts)
    known = [one.seconds for one in forecasts if one.todo and one.seconds is not None]
    is_whole = len(known) == sum(one.todo > 0 for one in forecasts)
    time = f", {_span(sum(known))}" if known and is_whole else ""
    is_least = any(one.is_least for one in forecasts)
    at_least, about = (
        ("at least ", f"about {calls} judge calls") if is_least else ("", f"{calls} judge calls at most")
    )
    lines += ["", f"{at_least}{todo} cells to do{time}, {about}{_cost(session)}."]
    ray = session.workload.ray
    if ray is not None and time:
        n = ray.workers
        shared = f"{n} workers of that kind take {_span(sum(known) / n)}" if n else "n workers an n-th of it"
        lines.append(f"The time is of one worker like those that the figures come from: {shared}.")
    lines += dict.fromkeys(f"{one.model}, {one.trait}: {one.note}" for one in forecasts if one.note)
    if session.workload.alike is not None and any(one.note for one in forecasts):
        lines.append(
            "Labels whose vectors turn out to be alike are evaluated once (--alike): it may be less."
        )
    if len({one.phase for one in forecasts}) > 1 and session.experiment.extraction.vetting is not None:
        lines.append(_vetting_line(session))
    if any(one.phase not in ("evaluate", "confirm") for one in forecasts):
        lines.append("The search that fills the gaps which remain comes on top (--max-rounds).")
    return "\n".join(lines)


def _vetting_line(session: Session) -> str:
    """What a whole plan asks the judge before its first phase."""
    experiment = session.experiment
    n_prompts = sum(len(session.dataset(trait).prompts) for trait in experiment.traits)
    calls = n_prompts * len(experiment.models) * calls_per_exchange(experiment.judge)
    return f"Vetting an extraction comes on top, where it is not made yet: {calls} judge calls at most."


def read_known(session: Session) -> KnownCells:
    """What the store holds; nothing where there is none."""
    if is_absent(session.tracking_uri):
        return KnownCells()
    with session.store() as store:
        name = session.experiment.name
        ahead = Ahead(store.points(name), {one.row.key: one.row for one in store.baselines(name)})
        rows = [one.row for one in store.evaluations(name)]
    return KnownCells(ahead, rows)


def _forecast(
    session: Session,
    known: KnownCells,
    phase: str,
    subject: tuple[ModelConfig, TraitConfig],
    requests: Sequence[GridRequest],
    overrides: Overrides = NO_OVERRIDES,
) -> Forecast:
    model, trait = subject
    n_questions = len(session.questions(trait, overrides.subset).questions)
    seen = Foreseen(set(), set(), True, "the run store does not exist yet, so nothing is finished")
    if known.ahead is not None:
        seen = known.ahead.foresee(session, subject, requests, overrides)
    wanted = _spots(subject, requests)
    earlier = (wanted & known.planned) - seen.done
    todo = wanted - seen.done - earlier - seen.same
    baseline = ("baseline", model.name, trait.name)
    n_cells = len(todo) + (bool(todo) and seen.needs_baseline and baseline not in known.planned)
    known.planned |= wanted | ({baseline} if todo else set())
    rate, n_measured = seconds_per_response(known, model, session, overrides)
    return Forecast(
        phase=phase,
        model=model.name,
        trait=trait.name,
        cells=len(wanted),
        finished=len(seen.done),
        earlier=len(earlier),
        same=len(seen.same),
        judge_calls=n_cells * n_questions * calls_per_exchange(session.experiment.judge),
        seconds=None if rate is None else n_cells * n_questions * rate,
        n_measured=n_measured,
        note=seen.note,
    )


def _spots(subject: tuple[ModelConfig, TraitConfig], requests: Iterable[GridRequest]) -> set[Spot]:
    return {
        (subject[0].name, subject[1].name, one.position, format_label(one.recipe), layer, float(coefficient))
        for one in requests
        for layer, coefficient in product(one.layers, one.coefficients)
    }


def seconds_per_response(
    known: KnownCells, model: ModelConfig, session: Session, overrides: Overrides = NO_OVERRIDES
) -> tuple[float | None, int]:
    """From the evaluations of the model, those with responses as long where there are any, and from how many."""
    mine = [row for row in known.measured if row.model == model.name and row.generation_seconds is not None]
    length = overrides.max_new_tokens or session.experiment.generation.max_new_tokens
    mine = [row for row in mine if row.max_new_tokens == length] or mine
    n_responses = sum(row.n_questions or 0 for row in mine)
    if not n_responses:
        return None, 0
    seconds = sum((row.generation_seconds or 0.0) + (row.judge_seconds or 0.0) for row in mine)
    return seconds / n_responses, len(mine)


def _least(one: Forecast) -> str:
    return "at least " if one.is_least else ""


def _time(one: Forecast) -> str:
    if not one.todo:
        return "none"
    if one.seconds is None:
        return "nothing measured yet"
    return f"{_span(one.seconds)} (from {one.n_measured} evaluations)"


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {max(seconds, 1):.0f} s"


def calls_per_exchange(judge: JudgeConfig) -> int:
    """How often the judge is asked about one exchange."""
    return 2 + judge.relevance if judge.kind in _PROMPTED else 1


def _cost(session: Session) -> str:
    judge = session.experiment.judge
    return "" if judge.kind == "openai" else f" (the judge {judge.name} runs here: they cost nothing)"


# What `--dry-run` shows of confirming: exact once the grid is finished, else the least that it can come to.

PHASE = "confirm"


def show_main(session: Session) -> None:
    """Show what the whole plan would do."""
    grid = forecast_phases(session, GRID_PHASES)
    confirm = forecast_confirm(session, grid) if session.experiment.confirm_share is not None else []
    session.show(forecast_text(session, [*grid, *confirm]))


def show_confirm(session: Session) -> None:
    """Show what confirming would do now.

    Raises:
        NothingToConfirmError: no questions are kept for it, or no winner can be confirmed.
    """
    session.is_dry = True
    for trait in session.experiment.traits:
        session.confirming_questions(trait)
    check_experiment(session, judges=True)
    try:
        plan = plan_confirm(session)
    except MissingPrerequisiteError as error:
        session.show(f"What there is to confirm cannot be foreseen: {error}.")
        return
    if plan.left_out:
        session.say(f"confirm: {plan.why_left_out}")
    known = read_known(session)
    found = [_exact(session, known, subject, plan) for subject in plan.by_subject]
    session.show(forecast_text(session, found))


def forecast_confirm(session: Session, grid: Sequence[Forecast]) -> list[Forecast]:
    """What confirming has to do after grid phases, model by model."""
    known, note = read_known(session), ""
    try:
        plan = plan_confirm(session)
    except NothingToConfirmError:
        plan = ConfirmPlan()
    except MissingPrerequisiteError as error:
        plan, note = ConfirmPlan(), f"what is confirmed is not known ({error})"
    found = []
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            mine = [one for one in grid if (one.model, one.trait) == (model.name, trait.name)]
            if any(one.todo for one in mine) or note:
                found.append(_least_confirmed(session, known, Subject(model, trait), plan, note))
            elif Subject(model, trait) in plan.by_subject:
                found.append(_exact(session, known, Subject(model, trait), plan))
    return found


def _exact(session: Session, known: KnownCells, subject: Subject, plan: ConfirmPlan) -> Forecast:
    cells, todo = plan.by_subject[subject], plan.todo(subject)
    needs_baseline = bool(todo) and not _has_baseline(plan, cells)
    return _forecast_confirmed(session, known, subject, (len(cells), len(cells) - len(todo)), needs_baseline)


def _least_confirmed(
    session: Session, known: KnownCells, subject: Subject, plan: ConfirmPlan, note: str
) -> Forecast:
    """One winner at every declared window; a window whose winner is confirmed may keep it."""
    groups = session.experiment.groups()
    names = (subject.model.name, subject.trait.name)
    windows = {group.position for group in groups if (group.model, group.trait) == names}
    cells = plan.by_subject.get(subject, [])
    done = {
        one.cell.steering.position for one in cells if one.key in plan.confirmed and one.cell.steering
    } & windows
    needs_baseline = len(done) < len(windows) and not _has_baseline(plan, cells)
    why = (
        note
        or "confirms one winner at each window where something reaches the floor, and all labels tied with it"
    )
    return _forecast_confirmed(session, known, subject, (len(windows), len(done)), needs_baseline, why)


def _has_baseline(plan: ConfirmPlan, cells: Sequence[Chosen]) -> bool:
    return any(cell_key(replace(one.cell, steering=None)) in plan.confirmed for one in cells)


def _forecast_confirmed(
    session: Session,
    known: KnownCells,
    subject: Subject,
    counts: tuple[int, int],
    needs_baseline: bool,
    note: str = "",
) -> Forecast:
    """A forecast of so many cells, so many of them finished; with a note it is the least."""
    (cells, finished), model = counts, subject.model
    n_cells = cells - finished + needs_baseline
    n_questions = len(session.confirming_questions(subject.trait).questions)
    rate, n_measured = seconds_per_response(known, model, session)
    return Forecast(
        phase=PHASE,
        model=model.name,
        trait=subject.trait.name,
        cells=cells,
        finished=finished,
        earlier=0,
        same=0,
        judge_calls=n_cells * n_questions * calls_per_exchange(session.experiment.judge),
        seconds=None if rate is None else n_cells * n_questions * rate,
        n_measured=n_measured,
        note=note,
        is_least=bool(note),
    )
