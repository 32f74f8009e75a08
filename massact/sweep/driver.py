"""The driver of all sweeps: what a source of cells wants and the store lacks is generated, judged and spooled."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace

from massact.config import ModelConfig, TraitConfig
from massact.errors import MissingPrerequisiteError
from massact.evaluation import Evaluation, FailedCell, Part, PlannedCell, Screening, first_asked, joined, stop_reason
from massact.floors import as_floor
from massact.keys import cell_key
from massact.labels import format_label
from massact.metrics import Measured
from massact.store.claims import Sharing
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind
from massact.store.write.evaluations import Baseline, Place, RunMaker, taken_over_run
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Interrupted, Session, ready_judge
from massact.sweep.executors.base import Work
from massact.sweep.planner import NO_OVERRIDES, GridRequest, Overrides, Planner
from massact.sweep.reuse import Alikeness, Same, alike_lines, is_baseline, read_sources
from massact.sweep.stored import Subject, checked_baseline, find_baseline, is_short, judged_again, place_of, put_again
from massact.words import counted

_JUDGED_AT_ONCE = 16  # stored results that no other sweep begins from then on


@dataclass(slots=True)
class Tally:
    """What came of a set of cells."""

    wanted: int = 0
    finished_before: int = 0
    same: int = 0  # took over the result of another cell, since their vectors are alike
    evaluated: int = 0
    again: int = 0  # whose stored responses without scores were judged again
    short: int = 0  # of both, those that have scores of too few responses
    stopped: int = 0  # given up on a part of their questions; see `massact.evaluation`
    failed: int = 0
    unscored: int = 0  # responses without scores
    elsewhere: int = 0  # that another sweep, at work at the same time, came to an end with

    def add(self, other: "Tally") -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        stopped = f", {self.stopped} given up early" if self.stopped else ""
        same = f"{self.same} the same as another, " if self.same else ""
        again = f"{self.again} judged again, " if self.again else ""
        short = f", {self.short} with too few scores, to be judged again" if self.short else ""
        elsewhere = f", {self.elsewhere} by another sweep" if self.elsewhere else ""
        unscored = f", {counted(self.unscored, 'response')} unscored" if self.unscored else ""
        before = f"{counted(self.wanted, 'cell')}: {self.finished_before} finished already"
        return f"{before}, {same}{again}{self.evaluated} evaluated{elsewhere}{stopped}{failed}{unscored}{short}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a source wants, by what the store holds now."""

    n_wanted: int
    cells: Mapping[str, PlannedCell]  # those that are not finished, by key
    same: Mapping[str, Same] = field(default_factory=dict)  # of these, those that take over another's result
    stored: Mapping[str, str] = field(default_factory=dict)
    """Of these, the run of each that has a result which does not count."""

    @property
    def todo(self) -> list[PlannedCell]:
        """To be evaluated."""
        return [planned for key, planned in self.cells.items() if key not in self.same]

    def only(self, keys: Sequence[str]) -> "Plan":
        """The same of some unfinished cells."""
        return Plan(
            self.n_wanted,
            {key: self.cells[key] for key in keys},
            {key: self.same[key] for key in keys if key in self.same},
            {key: self.stored[key] for key in keys if key in self.stored},
        )


@dataclass(frozen=True, slots=True)
class CellSource:
    """Where the cells come from that are compared with one baseline."""

    subject: Subject
    questions: Sequence[str]
    unsteered: Callable[[], PlannedCell]  # the baseline's cell
    stored_baseline: Callable[[], Stored[EvaluationRow] | None]
    """The baseline's newest finished run, whatever scores it has."""
    plan: Callable[[], Plan]  # what is wanted and what of it the store lacks; read anew each time
    keeps_responses: Callable[[Evaluation, Baseline], bool]
    confirms: Mapping[str, str] = field(default_factory=dict)
    """Of a confirmation, by key: the evaluation that it repeats on other questions."""
    kind: Kind | None = None  # of its results, where they are no points of the grid
    stored: EvaluationRow | None = None  # of a source of stored responses, one of the rows that have them
    left_out: Counter[str] | None = None
    """Of a source of stored responses, for which nothing is generated: what cannot be scored, counted by the reason."""


class Driver:
    """Brings the cells of one source to an end, under one phase's run."""

    def __init__(self, session: Session, parent: OpenRun, source: CellSource) -> None:
        self._session, self._parent, self._source = session, parent, source
        self._model = source.subject.model
        self._work = (session, parent, source.subject)
        names = (session.experiment.name, self._model.name, self._model.instruct.name, len(source.questions))
        place = Place(*names, confirm_share=session.experiment.confirm_share)
        self._place = replace(place_of(source.stored) if source.stored else place, kind=source.kind)
        self._failed: dict[str, str] = {}  # error by key
        self._came: set[str] = set()  # keys that `run` came to an end with
        self._planning_seconds = 0.0

    def run(self, screening: Screening | None = None) -> Tally:
        """Evaluate what the store does not hold of the source's cells, the baseline first. `screening`: how hopeless
        cells are given up; `None`: every cell is asked all questions. Raises Interrupted: somebody asked to stop; the
        cells in hand were finished; MissingPrerequisiteError: the baseline could not be evaluated or scored."""
        self._came = set()
        self._sharing.look()
        plan, tally = self._first_plan()
        if self._generates and plan.todo and self._load_model():
            # what the weights say counts; the files of some models tell it otherwise
            plan, tally = self._first_plan()
        for line in alike_lines(plan.same, plan.cells):
            self._session.detail(f"{self._model.name}, {self._source.subject.trait.name}, {line}")
        self._go_through(plan, tally, screening)
        while left := [key for key in plan.cells if key not in self._came]:
            plan = self._judge_again(self._without_others(left), tally)
            self._go_through(plan, tally, screening)
        here = tally.finished_before + tally.same + tally.again + tally.evaluated + tally.stopped + tally.failed
        tally.elsewhere = tally.wanted - here
        return tally

    def baseline_row(self) -> EvaluationRow:
        """The baseline's row, evaluated where the store has none; MissingPrerequisiteError where it could not be."""
        if self._known_baseline() is None:
            self._load_model()
            self._sweep([], Tally(), None)
        stored = self._source.stored_baseline()
        if stored is None:
            raise MissingPrerequisiteError(f"the baseline of {self._model.name} is not in the store")
        return stored.row

    @property
    def _generates(self) -> bool:
        return self._source.left_out is None

    def _leave_out(self, keys: Iterable[str], reason: str) -> None:
        """Count stored results that cannot be scored."""
        for key in keys:
            self._came.add(key)
            self._sharing.release(key)
            if self._source.left_out is not None:
                self._source.left_out[reason] += 1

    @property
    def _sharing(self) -> Sharing:
        return self._session.stores.sharing(self._parent)

    def _load_model(self) -> bool:
        """Load the model where cells are evaluated. Returns whether it is another than its files tell."""
        session, variant = self._session, self._model.instruct
        described = session.models.description(self._model, variant)
        loaded = session.models.loaded(self._model, variant)
        self._place = replace(self._place, attention=loaded.attention, unused_settings=loaded.unused_settings)
        return loaded.description != described

    def _plan(self) -> Plan:
        began = time.monotonic()
        self._sharing.renew()
        plan = self._source.plan()
        self._planning_seconds = time.monotonic() - began
        return plan

    def _first_plan(self) -> tuple[Plan, Tally]:
        plan = self._plan()
        tally = Tally(wanted=plan.n_wanted, finished_before=plan.n_wanted - len(plan.cells))
        return self._judge_again(plan, tally), tally

    def _judge_again(self, plan: Plan, tally: Tally) -> Plan:
        """Have stored responses judged that have no scores; what is left of the plan."""
        session, left = self._session, dict(plan.stored)
        baseline = self._known_baseline() if left else None
        if baseline is None:
            if not self._generates:
                self._leave_out(left, "its baseline could not be scored")
            return plan
        session.stores.spool  # noqa: B018  opened before anything is spent on what it could not take
        with session.interruption.finishing(), session.progress("scoring responses", len(left)) as advance:
            while not session.interruption.is_requested and (mine := self._sharing.take(left, _JUDGED_AT_ONCE)):
                cells = {left.pop(key): plan.cells[key] for key in mine}
                say = None if self._generates else session.say
                for again in judged_again(*self._work, cells, say=say):
                    put_again(session, self._parent, self._place, again, baseline)
                    self._came.add(cell_key(again.evaluation.cell))
                    tally.again += 1
                    tally.short += is_short(session, again.evaluation)
                    tally.unscored += again.evaluation.summary.n_unscored
                if not (self._generates or session.interruption.is_requested):
                    self._leave_out(set(mine) - self._came, "its responses or its vector cannot be read")
                advance(len(mine))
        self._stop_if_asked(tally)
        return plan.only([key for key in plan.cells if key not in self._came])

    def _go_through(self, plan: Plan, tally: Tally, screening: Screening | None) -> None:
        if self._generates and (todo := plan.todo):
            self._sweep(todo, tally, screening)
        if plan.same:
            self._take_over(plan, tally)

    def _without_others(self, left: Sequence[str]) -> Plan:
        """What is left to do once a moment has passed in which other sweeps went on with these cells."""
        plan, is_free = Plan(0, {}), False
        while left and not is_free:
            is_free = self._sharing.wait(left, 10 * self._planning_seconds)
            plan = self._plan()
            done = self._came | {key for key in left if self._sharing.ended_elsewhere(key)}
            left = [key for key in plan.cells if key not in done]
        return plan.only(left)

    def _take_over(self, plan: Plan, tally: Tally) -> None:
        """Write the results that are the same as another's, once the store has that one."""
        waited_for = {key for key in plan.cells if key not in plan.same} - self._came
        mine = [key for key, same in plan.same.items() if same.key not in waited_for]
        mine = self._sharing.take(mine, len(mine)) if mine else []
        sources = read_sources(self._session, {plan.same[key].key for key in mine})
        for key in mine:
            same, planned = plan.same[key], plan.cells[key]
            self._came.add(key)
            if (source := sources.get(same.key)) is not None:
                run = taken_over_run(self._place, planned, source, same.likeness, parent=self._parent)
                tally.same += 1
            elif not self._generates:
                self._leave_out([key], f"the same as {same.label}, which could not be scored")
                continue
            else:
                reason = self._failed.get(same.key, "its result is not in the store")
                failed = FailedCell(planned, f"the same as {same.label}, which failed: {reason}")
                run = RunMaker(place=self._place, parent=self._parent)(failed)
                tally.failed += 1
            self._session.stores.spool.put(run, experiment_id=self._parent.experiment_id)

    def _sweep(self, todo: Sequence[PlannedCell], tally: Tally, screening: Screening | None) -> None:
        session, baseline, questions = self._session, self._known_baseline(), self._source.questions
        if baseline is not None and screening is not None and screening.n_first < len(questions):
            for cell in self._screened(todo, screening):
                self._put(cell, baseline, tally)
        else:
            cells = todo if baseline else [self._source.unsteered(), *todo]
            with self._results(cells, Part(questions)) as results:
                for result in results:
                    if result.planned.cell.is_baseline:
                        tally.unscored += result.summary.n_unscored if isinstance(result, Evaluation) else 0
                        self._keep(result, None, keep_responses=True)
                        baseline = checked_baseline(session, self._model.name, result)
                    else:
                        baseline = baseline or self._baseline_of_another()
                        self._put(result, baseline, tally)
        self._stop_if_asked(tally)

    def _screened(self, cells: Sequence[PlannedCell], screening: Screening) -> Iterator[Evaluation | FailedCell]:
        """The results of cells that are asked some questions first, and the others only where they are not hopeless.
        What was asked first of a cell is lost where an interruption comes before its other questions."""
        whole = Part(self._source.questions)
        first = first_asked(whole.questions, screening.n_first)
        rest = [number for number in range(len(whole.questions)) if number not in first]
        kept: dict[str, Evaluation] = {}
        with self._results(cells, whole.only(first)) as results:
            for result in results:
                if isinstance(result, FailedCell):
                    yield result
                elif reason := stop_reason(result.responses, len(whole.questions), screening):
                    yield replace(result, given_up=reason)
                else:
                    kept[cell_key(result.planned.cell)] = result
        if not kept or self._session.interruption.is_requested:
            return
        with self._results([generated.planned for generated in kept.values()], whole.only(rest)) as results:
            for result in results:
                if isinstance(result, FailedCell):
                    yield result
                else:
                    yield joined(kept[cell_key(result.planned.cell)], result, first)

    @contextmanager
    def _results(self, cells: Sequence[PlannedCell], part: Part) -> Iterator[Iterator[Evaluation | FailedCell]]:
        """The results of cells, one by one as they are judged; an interruption lets those in hand be finished. Cells
        that another sweep has taken have no result here."""
        session, interruption = self._session, self._session.interruption
        work = Work(
            session.models.use(self._model, self._model.instruct),
            ready_judge(session, self._parent, self._source.subject.trait, self._model),
            replace(part, measured=Measured.by(session.experiment.metrics, session.experiment.metric_tokens)),
            session.workload.batch_rows or None,
        )
        keys = {id(cell): cell_key(cell.cell) for cell in cells}

        def take(wanted: Sequence[PlannedCell], n: int) -> Sequence[PlannedCell]:
            by_key = {keys[id(cell)]: cell for cell in wanted}
            return [by_key[key] for key in self._sharing.take(by_key, n)]

        results = session.models.executor.evaluate(
            work, cells, progress=session.progress, should_stop=lambda: interruption.is_requested, take=take
        )
        session.stores.spool  # noqa: B018  opened before anything is spent on what it could not take
        with interruption.finishing(), closing(results):
            yield results

    def _stop_if_asked(self, tally: Tally) -> None:
        if self._session.interruption.is_requested:
            self._session.stores.close()
            n_finished = tally.finished_before + tally.evaluated + tally.again
            raise Interrupted(
                f"interrupted: {n_finished} of {tally.wanted} cells finished; run the same command again to go on"
            )

    def _stored_baseline(self) -> Baseline | None:
        """The stored baseline; `None` where there is none, or it has scores of too few responses."""
        stored = self._source.stored_baseline()
        if stored is None or stored.row.key != cell_key(self._source.unsteered().cell):
            return None  # or another judge's
        if not is_baseline(self._session, stored.row, generates=self._generates):
            return None
        return Baseline(stored.row.key, stored.row.trait_mean)

    def _known_baseline(self) -> Baseline | None:
        """The stored baseline, completed where it lacks scores; `None` where it is this sweep's to evaluate."""
        key = cell_key(self._source.unsteered().cell)
        baseline = self._stored_baseline()
        while baseline is None and not self._sharing.take([key], 1, is_known=True):
            self._sharing.wait([key])
            baseline = self._stored_baseline()
        return baseline or self._baseline_again()

    def _baseline_again(self) -> Baseline | None:
        """The stored baseline, its responses without scores judged again; `None` where there are none to judge."""
        stored = self._source.stored_baseline()
        floor = as_floor(self._session.experiment.coherence_floor)
        if stored is None or (self._generates and floor.is_lacking(stored.row)):
            return None
        for baseline in judged_again(*self._work, {stored.run_id: self._source.unsteered()}):
            put_again(self._session, self._parent, self._place, baseline, None)
            return checked_baseline(self._session, self._model.name, baseline.evaluation)
        return None

    def _baseline_of_another(self) -> Baseline:
        """The baseline that another sweep has in hand, waited for."""
        if (baseline := self._known_baseline()) is None:
            raise MissingPrerequisiteError(
                f"the baseline of {self._model.name} was another sweep's, which ended without it: "
                "run the same command again"
            )
        return baseline

    def _put(self, result: Evaluation | FailedCell, baseline: Baseline, tally: Tally) -> None:
        key, keeps = cell_key(result.planned.cell), True
        self._came.add(key)
        if isinstance(result, FailedCell):
            self._sharing.release(key)
            tally.failed += 1
            self._failed[key] = result.error
            self._session.say(f"failed: {result.error}")
        elif result.given_up:
            self._sharing.release(key)
            tally.stopped += 1
        else:
            tally.evaluated += 1
            tally.short += is_short(self._session, result)
            tally.unscored += result.summary.n_unscored
            keeps = self._source.keeps_responses(result, baseline)
        self._keep(result, baseline, keep_responses=keeps)

    def _keep(self, result: Evaluation | FailedCell, baseline: Baseline | None, *, keep_responses: bool) -> None:
        maker = RunMaker(
            place=self._place,
            parent=self._parent,
            baseline=baseline,
            keep_responses=keep_responses,
            confirms=self._source.confirms.get(cell_key(result.planned.cell)),
        )
        self._session.models.executor.keep(result, maker, home=self._parent)


class Evaluator:
    """The grid as a source of cells: evaluates cells of one model and one trait, under one parent run."""

    def __init__(
        self,
        session: Session,
        parent: OpenRun,
        config: ModelConfig,
        trait: TraitConfig,
        overrides: Overrides = NO_OVERRIDES,
    ) -> None:
        session.stores.send_leftovers()
        self._session, self.subject, self.parent = session, Subject(config, trait), parent
        self.planner = planner = Planner(session, config, trait, overrides)
        self._requests: list[GridRequest] = []
        self._best: dict[tuple[str, str], float] = {}
        self._reuse = Alikeness(planner, session)
        about = (self.subject, planner.questions.questions, planner.baseline)
        source = CellSource(*about, self._stored_baseline, self._plan, self._keeps_responses)
        self._driver = Driver(session, parent, source)
        self.baseline_row = self._driver.baseline_row

    @property
    def allowed(self) -> tuple[float, float]:
        """Least and greatest |coefficient| that may be tried of the model."""
        return self.subject.model.coefficient_range or (0.0, math.inf)

    def is_of(self, model: str, trait: str) -> bool:
        """Whether results of a model and trait, by their names in the experiment file, are evaluated here."""
        return (model, trait) == (self.subject.model.name, self.subject.trait.name)

    def run(self, requests: Iterable[GridRequest], screening: Screening | None = None) -> Tally:
        """Evaluate what the store does not hold of the requested cells; see `Driver`."""
        self._requests = list(requests)
        tally = self._driver.run(screening)
        self._session.detail(f"{self.subject.model.name}, {self.subject.trait.name}: {tally}")
        return tally

    def _stored_baseline(self) -> Stored[EvaluationRow] | None:
        return find_baseline(self._session, cell_key(self.planner.baseline().cell))

    def _plan(self) -> Plan:
        session = self._session
        wanted = self.planner.cells(self._requests)
        with session.stores.read() as store:
            points = store.points(session.experiment.name)
        baseline = self._stored_baseline()
        known = self._reuse.known(points, self.subject, baseline.row if baseline else None)
        cells = {key: planned for key, planned in wanted.items() if not known.has(key)}
        same = self._reuse.of(cells, known)
        lacking = self._reuse.lacking(points)
        runs = zip(points.keys, points.run_ids, strict=True)
        # what lacks the floor's metric is generated again
        stored = {key: run_id for key, run_id in runs if key in cells and key not in same and key not in lacking}
        return Plan(len(wanted), cells, same, stored)

    def _keeps_responses(self, result: Evaluation, baseline: Baseline) -> bool:
        """All, none, or those of the best of each group so far."""
        keep = self._session.workload.save_responses
        if keep != "best":
            return keep == "all"
        summary, steering = result.summary, result.planned.cell.steering
        is_coherent = as_floor(self._session.experiment.coherence_floor).is_met(summary)
        if steering is None or summary.trait_mean is None or not is_coherent:
            return False
        sign = 1 if self.planner.direction == "positive" else -1
        gain = (summary.trait_mean - (baseline.trait_mean or 0.0)) * sign
        group = (steering.position, format_label(steering.recipe))
        is_best = gain > self._best.get(group, float("-inf"))
        if is_best:
            self._best[group] = gain
        return is_best
