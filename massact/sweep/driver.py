"""Evaluating cells of one model and trait: what the store holds is skipped, the rest is generated and spooled."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from massact.config import ModelConfig, TraitConfig
from massact.errors import MissingPrerequisiteError
from massact.evaluation import Evaluation, FailedCell, Part, PlannedCell, Take
from massact.keys import cell_key
from massact.labels import format_label
from massact.screening import Screening, StoppedCell, joined, stop_reason
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, is_scored
from massact.store.write.evaluations import RunMaker, failure_whole_run, taken_over_run
from massact.store.write.rows import Baseline, Place
from massact.store.write.tracker import OpenRun
from massact.sweep.claims import Sharing
from massact.sweep.executors.base import Work
from massact.sweep.interrupt import Interrupted
from massact.sweep.planner import NO_OVERRIDES, GridRequest, Overrides, Planner
from massact.sweep.recast import Subject
from massact.sweep.reuse import Alikeness, Same, alike_lines, known_results, read_sources
from massact.sweep.unscored import checked_baseline, is_short, judged_again, put_again
from massact.workflow.accounting import ready_judge
from massact.workflow.context import Session

# Sweeps of one model and trait: results as they are judged, hopeless cells given up on a part of their questions.


@dataclass(slots=True)
class Tally:
    """What came of a set of requests."""

    wanted: int = 0
    finished_before: int = 0
    same: int = 0
    """Cells that took over the result of another, since their vectors are alike."""
    evaluated: int = 0
    again: int = 0
    """Cells whose stored responses without scores were judged again."""
    short: int = 0
    """Cells, of both, that have scores of too few responses."""
    stopped: int = 0
    """Cells that were given up on a part of their questions; see `massact.screening`."""
    failed: int = 0
    elsewhere: int = 0
    """Cells that another sweep, at work at the same time, came to an end with."""

    def add(self, other: "Tally") -> None:
        self.wanted += other.wanted
        self.finished_before += other.finished_before
        self.same += other.same
        self.evaluated += other.evaluated
        self.again += other.again
        self.short += other.short
        self.stopped += other.stopped
        self.failed += other.failed
        self.elsewhere += other.elsewhere

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        stopped = f", {self.stopped} given up early" if self.stopped else ""
        same = f"{self.same} the same as another, " if self.same else ""
        again = f"{self.again} judged again, " if self.again else ""
        short = f", {self.short} with too few scores, to be judged again" if self.short else ""
        elsewhere = f", {self.elsewhere} by another sweep" if self.elsewhere else ""
        before = f"{self.wanted} cells: {self.finished_before} finished already"
        return f"{before}, {same}{again}{self.evaluated} evaluated{elsewhere}{stopped}{failed}{short}"


@contextmanager
def sweeping(
    session: Session,
    parent: OpenRun,
    subject: Subject,
    cells: Sequence[PlannedCell],
    questions: Sequence[str] | Part,
) -> Iterator[Iterator[Evaluation | FailedCell]]:
    """The results of cells, one by one as they are judged; an interruption lets those in hand be finished.

    Cells that another sweep has taken have no result here.

    Raises:
        JudgeError: the judge as a whole cannot be used.
    """
    interruption = session.interruption
    judge = ready_judge(session, parent, subject.trait, subject.model)
    work = Work(
        session.model_use(subject.model, subject.model.instruct),
        judge,
        questions if isinstance(questions, Part) else Part(questions),
        session.workload.batch_rows or None,
    )
    results = session.executor.evaluate(
        work,
        cells,
        progress=session.progress,
        should_stop=lambda: interruption.is_requested,
        take=taking(session.sharing(parent), cells),
    )
    session.spool  # noqa: B018  opened before anything is spent on what it could not take
    with interruption.finishing(), closing(results):
        yield results


def taking(sharing: Sharing, cells: Sequence[PlannedCell]) -> Take:
    """Takes cells by their keys, each of which is worked out once."""
    keys = {id(one): cell_key(one.cell) for one in cells}

    def take(wanted: Sequence[PlannedCell], n: int) -> Sequence[PlannedCell]:
        by_key = {keys[id(one)]: one for one in wanted}
        return [by_key[key] for key in sharing.take(by_key, n)]

    return take


def stop_if_asked(session: Session, tally: Tally) -> None:
    """End a sweep that was interrupted.

    Raises:
        Interrupted: somebody asked to stop; the cells in hand were finished.
    """
    if session.interruption.is_requested:
        session.close()
        n_finished = tally.finished_before + tally.evaluated + tally.again
        raise Interrupted(
            f"interrupted: {n_finished} of {tally.wanted} cells finished; run the same command again to go on"
        )


def screened(
    session: Session,
    parent: OpenRun,
    subject: Subject,
    cells: Sequence[PlannedCell],
    questions: Sequence[str],
    screening: Screening,
) -> Iterator[Evaluation | FailedCell | StoppedCell]:
    """The results of cells that are asked the first questions, and the others only where they are not hopeless.

    What was asked first of a cell is lost where an interruption comes before its other questions.
    """
    first, kept = screening.n_first, dict[str, Evaluation]()
    with sweeping(session, parent, subject, cells, questions[:first]) as results:
        for result in results:
            if isinstance(result, FailedCell):
                yield result
                continue
            reason = stop_reason(result.responses, len(questions), screening)
            if reason is not None:
                yield StoppedCell(result, reason)
            else:
                kept[cell_key(result.planned.cell)] = result
    going_on = [] if session.interruption.is_requested else [one.planned for one in kept.values()]
    if not going_on:
        return
    with sweeping(session, parent, subject, going_on, Part(questions[first:], first)) as results:
        for result in results:
            if isinstance(result, FailedCell):
                yield result
            else:
                yield joined(kept[cell_key(result.planned.cell)], result)


__all__ = ["Evaluator", "GridRequest", "Overrides"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The wanted cells that are not finished."""

    todo: Sequence[PlannedCell]
    """To be evaluated."""
    same: Mapping[str, Same]
    """Those that take over another's result, by key."""
    cells: Mapping[str, PlannedCell]
    """Both."""
    stored: Mapping[str, str]
    """Of those in `todo` that have a result which does not count, its run, by key."""


class Evaluator:
    """Evaluates cells of one model and one trait, under one parent run."""

    def __init__(
        self,
        session: Session,
        parent: OpenRun,
        config: ModelConfig,
        trait: TraitConfig,
        overrides: Overrides = NO_OVERRIDES,
    ) -> None:
        self._session, self._parent, self._config, self._trait = session, parent, config, trait
        session.send_leftovers()
        self._planner = Planner(session, config, trait, overrides)
        n_questions = len(self._planner.questions.questions)
        self._place = Place(
            session.experiment.name,
            config.name,
            config.instruct.name,
            n_questions,
            confirm_share=session.experiment.confirm_share,
        )
        self._best: dict[tuple[str, str], float] = {}
        self._alikeness = Alikeness(self._planner, session)
        self._failed: dict[str, str] = {}
        """Error by key."""
        self._came: set[str] = set()
        """Keys that `run` came to an end with."""
        self._planning_seconds = 0.0

    @property
    def n_layers(self) -> int:
        return self._planner.n_layers

    @property
    def planner(self) -> Planner:
        """What plans the cells."""
        return self._planner

    @property
    def allowed(self) -> tuple[float, float]:
        """Least and greatest |coefficient| that may be tried of the model."""
        return self._config.coefficient_range or (0.0, math.inf)

    def is_of(self, model: str, trait: str) -> bool:
        """Whether results of a model and trait, by their names in the experiment file, are evaluated here."""
        return (model, trait) == (self._config.name, self._trait.name)

    def baseline_row(self) -> EvaluationRow:
        """The baseline's row; it is evaluated where the store has none.

        Raises:
            MissingPrerequisiteError: it could not be evaluated.
        """
        if self._known_baseline() is None:
            self._session.loaded(self._config, self._config.instruct)
            self._sweep([], Tally())
        found = self._find_baseline()
        if found is None:
            raise MissingPrerequisiteError(f"the baseline of {self._config.name} is not in the store")
        return found.row

    def run(self, requests: Iterable[GridRequest], screening: Screening | None = None) -> Tally:
        """Evaluate what the store does not hold of the requested cells, the baseline first.

        Args:
            screening: how hopeless cells are given up; `None`: every cell is asked all questions.

        Raises:
            Interrupted: somebody asked to stop; the cells in hand were finished.
        """
        requests, self._came = list(requests), set()
        described = self._planner.description
        self._session.sharing(self._parent).look()
        tally, plan = self._plan(requests)
        plan = self._judge_again(plan, tally)
        if plan.todo:
            loaded = self._session.loaded(self._config, self._config.instruct)
            self._place = replace(
                self._place, attention=loaded.attention, unused_settings=loaded.unused_settings
            )
            if self._planner.description != described:
                # what the weights say counts; the files of some models tell it otherwise
                tally, plan = self._plan(requests)
                plan = self._judge_again(plan, tally)
        for line in alike_lines(plan.same, plan.cells):
            self._session.say(f"{self._config.name}, {self._trait.name}, {line}")
        self._go_through(plan, tally, screening)
        while left := [key for key in plan.cells if key not in self._came]:
            plan = self._judge_again(self._without_others(requests, left), tally)
            self._go_through(plan, tally, screening)
        n_here = (
            tally.finished_before + tally.same + tally.again + tally.evaluated + tally.stopped + tally.failed
        )
        tally.elsewhere = tally.wanted - n_here
        self._session.say(f"{self._config.name}, {self._trait.name}: {tally}")
        return tally

    def _plan(self, requests: Sequence[GridRequest]) -> tuple[Tally, _Plan]:
        began, session = time.monotonic(), self._session
        wanted = self._planner.cells(requests)
        with session.store() as store:
            points = store.points(session.experiment.name)
        baseline = self._find_baseline()
        known = known_results(
            points,
            session.workload.alike,
            model=self._config.name,
            trait=self._trait.name,
            least_scored=session.experiment.least_scored,
            baseline=baseline.row if baseline else None,
        )
        cells = {key: planned for key, planned in wanted.items() if not known.has(key)}
        same = self._alikeness.of(cells, known)
        todo = [planned for key, planned in cells.items() if key not in same]
        runs = zip(points.keys, points.run_ids, strict=True)
        stored = {key: run_id for key, run_id in runs if key in cells and key not in same}
        self._planning_seconds = time.monotonic() - began
        tally = Tally(wanted=len(wanted), finished_before=len(wanted) - len(cells))
        return tally, _Plan(todo, same, cells, stored)

    def _judge_again(self, plan: _Plan, tally: Tally) -> _Plan:
        """Have stored responses judged that have no scores; what is left of the plan."""
        baseline = self._known_baseline() if plan.stored else None
        if baseline is None:
            return plan
        mine = self._session.sharing(self._parent).take(plan.stored, len(plan.stored))
        for one in judged_again(*self._work, {plan.stored[key]: plan.cells[key] for key in mine}):
            put_again(self._session, self._parent, self._place, one, baseline)
            self._came.add(cell_key(one.evaluation.planned.cell))
            tally.again += 1
            tally.short += is_short(self._session, one.evaluation)
        stop_if_asked(self._session, tally)
        return replace(plan, todo=[one for one in plan.todo if cell_key(one.cell) not in self._came])

    def _known_baseline(self) -> Baseline | None:
        """The stored baseline, completed where it lacks scores; `None` where it is this sweep's to evaluate."""
        unsteered, sharing = self._planner.baseline(), self._session.sharing(self._parent)
        take, key = taking(sharing, [unsteered]), cell_key(unsteered.cell)
        baseline = self._stored_baseline()
        while baseline is None and not take([unsteered], 1):
            sharing.wait([key])
            baseline = self._stored_baseline()
        return baseline or self._baseline_again()

    def _baseline_of_another(self) -> Baseline:
        """The baseline that another sweep has in hand, waited for.

        Raises:
            MissingPrerequisiteError: that sweep ended without it.
        """
        key, is_free = cell_key(self._planner.baseline().cell), False
        while (baseline := self._stored_baseline()) is None:
            if is_free:
                raise MissingPrerequisiteError(
                    f"the baseline of {self._config.name} was another sweep's, which ended without it: "
                    "run the same command again"
                )
            is_free = self._session.sharing(self._parent).wait([key])
        return baseline

    def _baseline_again(self) -> Baseline | None:
        """The stored baseline, its responses without scores judged again; `None` where there are none to judge.

        Raises:
            MissingPrerequisiteError: too few of them have scores still.
        """
        found = self._find_baseline()
        stored = {} if found is None else {found.run_id: self._planner.baseline()}
        for one in judged_again(*self._work, stored):
            put_again(self._session, self._parent, self._place, one, None)
            return checked_baseline(self._session, self._config.name, one.evaluation)
        return None

    @property
    def _work(self) -> tuple[Session, OpenRun, Subject]:
        return (self._session, self._parent, Subject(self._config, self._trait))

    def _go_through(self, plan: _Plan, tally: Tally, screening: Screening | None) -> None:
        if plan.todo:
            self._sweep(plan.todo, tally, screening)
        if plan.same:
            self._take_over(plan, tally)

    def _without_others(self, requests: Sequence[GridRequest], left: Sequence[str]) -> _Plan:
        """What is left to do once a moment has passed in which other sweeps went on with these cells."""
        sharing, is_free = self._session.sharing(self._parent), False
        while left and not is_free:
            is_free = sharing.wait(left, 10 * self._planning_seconds)
            plan = self._plan(requests)[1]
            done = self._came | {key for key in left if sharing.ended_elsewhere(key)}
            left = [key for key in plan.cells if key not in done]
        return _Plan(
            [plan.cells[key] for key in left if key not in plan.same],
            {key: plan.same[key] for key in left if key in plan.same},
            {key: plan.cells[key] for key in left},
            {key: plan.stored[key] for key in left if key in plan.stored},
        )

    def _take_over(self, plan: _Plan, tally: Tally) -> None:
        """Write the results that are the same as another's, once the store has that one."""
        session, home = self._session, self._parent.experiment_id
        waited_for = {key for key in plan.cells if key not in plan.same} - self._came
        mine = [key for key, one in plan.same.items() if one.key not in waited_for]
        mine = session.sharing(self._parent).take(mine, len(mine)) if mine else []
        sources = read_sources(session, {plan.same[key].key for key in mine})
        for key in mine:
            one = plan.same[key]
            self._came.add(key)
            planned, source = plan.cells[key], sources.get(one.key)
            if source is not None:
                run = taken_over_run(self._place, planned, source, one.likeness, parent=self._parent)
                tally.same += 1
            else:
                reason = self._failed.get(one.key, "its result is not in the store")
                failed = FailedCell(planned, f"the same as {one.label}, which failed: {reason}")
                run = failure_whole_run(self._place, failed, parent=self._parent)
                tally.failed += 1
            session.spool.put(run, experiment_id=home)

    def _sweep(self, todo: Sequence[PlannedCell], tally: Tally, screening: Screening | None = None) -> None:
        baseline = self._known_baseline()
        questions, work = self._planner.questions.questions, self._work
        unsteered = self._planner.baseline()
        if baseline is not None and screening is not None and screening.n_first < len(questions):
            for one in screened(*work, todo, questions, screening):
                self._put(one, baseline, tally)
        else:
            cells = todo if baseline else [unsteered, *todo]
            with sweeping(*work, cells, questions) as results:
                for result in results:
                    if result.planned.cell.steering is None:
                        baseline = self._put_baseline(result)
                    else:
                        baseline = baseline or self._baseline_of_another()
                        self._put(result, baseline, tally)
        stop_if_asked(self._session, tally)

    def _stored_baseline(self) -> Baseline | None:
        """The stored baseline; `None` where there is none, or it has scores of too few responses."""
        found = self._find_baseline()
        if found is None or not is_scored(found.row, self._session.experiment.least_scored):
            return None
        return Baseline(found.row.key, found.row.trait_mean)

    def _find_baseline(self) -> Stored[EvaluationRow] | None:
        key = cell_key(self._planner.baseline().cell)
        with self._session.store() as store:
            baselines = store.baselines(self._session.experiment.name)
        return next((one for one in baselines if one.row.key == key), None)

    def _put_baseline(self, result: Evaluation | FailedCell) -> Baseline:
        self._keep(result, RunMaker(place=self._place, parent=self._parent))
        return checked_baseline(self._session, self._config.name, result)

    def _put(self, result: Evaluation | FailedCell | StoppedCell, baseline: Baseline, tally: Tally) -> None:
        planned = result.evaluation.planned if isinstance(result, StoppedCell) else result.planned
        keeps, key = True, cell_key(planned.cell)
        self._came.add(key)
        if not isinstance(result, Evaluation):
            self._session.sharing(self._parent).release(key)
        if isinstance(result, StoppedCell):
            tally.stopped += 1
        elif isinstance(result, FailedCell):
            tally.failed += 1
            self._failed[key] = result.error
            self._session.say(f"failed: {result.error}")
        else:
            tally.evaluated += 1
            tally.short += is_short(self._session, result)
            keeps = self._keeps_responses(result, baseline)
        maker = RunMaker(place=self._place, parent=self._parent, baseline=baseline, keep_responses=keeps)
        self._keep(result, maker)

    def _keep(self, result: Evaluation | FailedCell | StoppedCell, maker: RunMaker) -> None:
        self._session.executor.keep(result, maker, home=self._parent)

    def _keeps_responses(self, result: Evaluation, baseline: Baseline) -> bool:
        keep = self._session.workload.save_responses
        if keep != "best":
            return keep == "all"
        summary, steering = result.summary, result.planned.cell.steering
        coherent = (summary.coherence_mean or 0.0) >= self._session.experiment.coherence_floor
        if steering is None or summary.trait_mean is None or not coherent:
            return False
        gain = (summary.trait_mean - (baseline.trait_mean or 0.0)) * (
            1 if self._planner.direction == "positive" else -1
        )
        group = (steering.position, format_label(steering.recipe))
        is_best = gain > self._best.get(group, float("-inf"))
        if is_best:
            self._best[group] = gain
        return is_best
