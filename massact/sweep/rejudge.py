"""Scoring stored responses with the experiment's judge: the same cells under another judge, a source for the driver.

An evaluation that another judge scored becomes a second one under this judge, beside the first. One that
this judge left responses of unscored is scored again, and the newer run counts. Nothing is generated.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from massact.domain import Cell
from massact.errors import MassactError
from massact.evaluation import PlannedCell
from massact.keys import cell_key
from massact.query import Filters
from massact.store.read import stored_runs
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind, MlflowTag, is_scored
from massact.store.schema.points import or_nan
from massact.store.write.evaluations import Baseline, Place
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, open_phase
from massact.sweep.driver import CellSource, Driver, Plan
from massact.sweep.reuse import Same, is_compared
from massact.sweep.stored import Subject, find_baseline, stored_plan, stored_subject
from massact.words import counted

_DATASET_CHANGED = "the trait's dataset, which tells the judge what to look for, has changed since"


@dataclass(frozen=True, slots=True)
class Rescoring:
    """A stored result as a cell under the experiment's judge."""

    source: Stored[EvaluationRow]
    subject: Subject
    cell: Cell
    key: str
    reused_from: str | None = None
    """Of a result that was taken over: the key, under that judge, of the one that it follows, unscored itself."""

    @property
    def is_own(self) -> bool:
        """Whether the same judge scored it, so that its scores stay and only what has none is asked about."""
        return self.source.row.key == self.key

    @property
    def baseline_key(self) -> str:
        return cell_key(replace(self.cell, steering=None))

    @property
    def n_responses(self) -> int:
        """Responses that the judge is asked about."""
        row = self.source.row
        return row.n_unscored if self.is_own else row.n_questions or 0


@dataclass(slots=True)
class RejudgePlan:
    """What there is to score."""

    baselines: list[Rescoring] = field(default_factory=list)
    evaluations: list[Rescoring] = field(default_factory=list)
    known_baselines: dict[str, Baseline] = field(default_factory=dict)
    """Those that the judge has scored already, by key."""
    following: list[Rescoring] = field(default_factory=list)
    """Evaluations that were taken over from others, and will be again."""
    n_finished: int = 0  # evaluations that the judge has scored already
    left_out: Counter[str] = field(default_factory=Counter)  # evaluations that cannot be scored, by the reason

    @property
    def n_responses(self) -> int:
        """Responses that the judge is asked about."""
        return sum(rescoring.n_responses for rescoring in (*self.baselines, *self.evaluations))

    def __str__(self) -> str:
        left_out = "".join(f"; {n} left out: {reason}" for reason, n in sorted(self.left_out.items()))
        n = len(self.evaluations)
        todo = (
            f"{counted(n, 'evaluation')} ({counted(self.n_responses, 'response')}) to score"
            if n
            else "nothing to score"
        )
        same = f", {len(self.following)} the same as another" if self.following else ""
        return f"{todo}, {self.n_finished} scored by this judge already{same}{left_out}"


def plan_rejudge(session: Session, only: Filters) -> RejudgePlan:
    """What of the store, as far as `only` admits it, the experiment's judge has not scored."""
    return _Planning(session).plan(only)


class _Planning:
    def __init__(self, session: Session) -> None:
        self._session, name = session, session.experiment.name
        with session.stores.read() as store:
            self._evaluations = store.evaluations(name)
            self._baselines = {run.row.key: run for run in store.baselines(name)}
        self._least_scored = session.experiment.least_scored
        self._by_key = {run.row.key: run for run in self._evaluations}
        self._with_responses = {
            run.run_id
            for kind in (Kind.EVALUATION, Kind.BASELINE)
            for run in stored_runs(session.stores.tracking_uri, name, kind, tags=(MlflowTag.TABLES,))
            if run.tags.get(MlflowTag.TABLES)
        }

    def plan(self, only: Filters) -> RejudgePlan:
        plan, finished = RejudgePlan(), set[str]()
        todo: dict[str, Rescoring] = {}
        taken_over: list[Stored[EvaluationRow]] = []
        for stored in self._evaluations:  # the oldest first: of two that become one the newer counts
            if not only.admits_row(stored.row):
                continue
            if stored.row.same_as_key is not None:
                taken_over.append(stored)
                continue
            rescoring = self._rescoring(stored)
            if isinstance(rescoring, str):
                plan.left_out[rescoring] += 1
            elif self._is_finished(rescoring.key):
                finished.add(rescoring.key)
            else:
                todo[rescoring.key] = rescoring
        for rescoring in todo.values():
            self._add(plan, rescoring)
        scored = {rescoring.key for rescoring in plan.evaluations}
        following: dict[str, Rescoring] = {}
        for stored in taken_over:
            copy = self._following(stored, scored)
            if isinstance(copy, str):
                plan.left_out[copy] += 1
            elif copy.reused_from not in scored and self._has(copy):
                finished.add(copy.key)
            else:
                following[copy.key] = copy
        plan.following = list(following.values())
        plan.n_finished = len(finished)
        return plan

    def _is_finished(self, key: str) -> bool:
        """Whether a result is there, has all its scores, and was compared with the baseline as it is now."""
        if key not in self._by_key or (row := self._by_key[key].row).n_unscored:
            return False
        baseline = self._baselines.get(row.baseline_key or "")
        if baseline is None:
            return True
        mean = or_nan(row.baseline_trait_mean)
        return row.delta is not None and bool(is_compared(mean, baseline.row, self._least_scored))

    def _following(self, stored: Stored[EvaluationRow], scored: Collection[str]) -> Rescoring | str:
        """A result that was taken over under the experiment's judge; else why it cannot be had."""
        same_as = stored.row.same_as
        source = self._by_key.get(stored.row.same_as_key or "")
        if source is None:
            return f"the same as {same_as}, whose result is not in the store any more"
        rescored, copy = self._rescoring(source), self._moved(stored)
        if isinstance(rescored, str):
            return f"the same as {same_as}: {rescored}"
        if isinstance(copy, str):
            return copy
        if rescored.key not in scored and rescored.key not in self._by_key:
            return f"the same as {same_as}, which is not scored: the filters leave it out"
        return replace(copy, reused_from=rescored.key)

    def _has(self, copy: Rescoring) -> bool:
        """Whether the store has it as it would be written now, or evaluated by itself."""
        known, source = self._by_key.get(copy.key), self._by_key[copy.reused_from or ""].row
        if known is None:
            return False
        return known.row.same_as is None or _figures(known.row) == _figures(source)

    def _add(self, plan: RejudgePlan, rescoring: Rescoring) -> None:
        """An evaluation, and its baseline where that has too few scores: all deltas rest on one that counts."""
        key = rescoring.baseline_key
        known = self._baselines.get(key)
        mean = None if known is None else known.row.trait_mean
        if known is not None and mean is not None and is_scored(known.row, self._least_scored):
            plan.known_baselines[key] = Baseline(key, mean)
        elif key not in {baseline.key for baseline in plan.baselines}:
            source = known or self._baselines.get(rescoring.source.row.baseline_key or "")
            baseline = self._rescoring(source) if source else "its baseline is not in the store"
            if isinstance(baseline, str):
                plan.left_out[f"its baseline: {baseline}" if source else baseline] += 1
                return
            plan.baselines.append(baseline)
        plan.evaluations.append(rescoring)

    def _rescoring(self, stored: Stored[EvaluationRow]) -> Rescoring | str:
        """A stored result under the experiment's judge; else why it cannot be had."""
        rescoring = self._moved(stored)
        if isinstance(rescoring, str):
            return rescoring
        # what has enough scores of this judge can be compared anew, by its scores alone
        is_known = rescoring.is_own and is_scored(stored.row, self._least_scored)
        if not is_known and stored.run_id not in self._with_responses:
            return "its responses were not kept (--save-responses)"
        return rescoring

    def _moved(self, stored: Stored[EvaluationRow]) -> Rescoring | str:
        """A row's cell under the experiment's judge; else why there is none."""
        session, told = self._session, stored_subject(self._session, stored.row)
        if isinstance(told, str):
            return told
        subject, cell = told
        if cell.setting.trait_digest != session.datasets.of(subject.trait).digest:
            return _DATASET_CHANGED
        judge = session.judges.of(subject.trait, subject.model).identity
        cell = replace(cell, setting=replace(cell.setting, judge=judge))
        return Rescoring(stored, subject, cell, cell_key(cell))


def _figures(row: EvaluationRow) -> tuple[object, ...]:
    return (row.trait_mean, row.coherence_mean, row.delta, row.n_scored, row.n_unscored)


def run_rejudge(session: Session, only: Filters, parent: OpenRun | None = None) -> RejudgePlan:
    """Score what the experiment's judge has not scored of the stored responses. `only`: which evaluations; its judges
    are those that scored them so far. Raises Interrupted: somebody asked to stop; what was scored is kept;
    MissingPrerequisiteError: a baseline has scores of too few responses still."""
    params = {"scored_by": ",".join(only.judges) or "any other judge"}
    session.stores.send_leftovers()
    plan = plan_rejudge(session, only)
    session.say(f"rejudge: {plan}")
    if not plan.evaluations and not plan.following:
        return plan
    with open_phase(session, "rejudge", parent, params) as run:
        is_alone = not session.stores.sharing(run).look()
        for key in dict.fromkeys(result.baseline_key for result in (*plan.evaluations, *plan.following)):
            results = _StoredResults(session, only, plan, key, is_current=is_alone)
            Driver(session, run, results.source()).run()
        session.stores.settle()
    return plan


class _StoredResults:
    """The stored results that are compared with one baseline, as cells under the judge."""

    def __init__(self, session: Session, only: Filters, plan: RejudgePlan, key: str, *, is_current: bool) -> None:
        """`is_current`: whether no other sweep may have gone on since the plan was made."""
        self._session, self._only, self._key = session, only, key
        self._current = plan if is_current else None
        self._left_out = plan.left_out
        self._first = next(self._mine((*plan.evaluations, *plan.following)))
        self._earlier = next((one.source for one in self._mine(plan.baselines)), None)
        """The baseline as another judge scored it."""
        self._planned: dict[str, PlannedCell | None] = {}

    def source(self) -> CellSource:
        row = self._first.source.row
        unsteered = PlannedCell(replace(self._first.cell, steering=None), None)
        return CellSource(
            subject=self._first.subject,
            questions=(),
            unsteered=lambda: unsteered,
            stored_baseline=self._stored_baseline,
            plan=self._plan,
            keeps_responses=lambda _result, _baseline: True,
            place=_place(row, row.n_questions or 0),
            left_out=self._left_out,
        )

    def _mine(self, results: Iterable[Rescoring]) -> Iterator[Rescoring]:
        return (result for result in results if result.baseline_key == self._key)

    def _stored_baseline(self) -> Stored[EvaluationRow] | None:
        return find_baseline(self._session, self._key) or self._earlier

    def _plan(self) -> Plan:
        plan, self._current = self._current or plan_rejudge(self._session, self._only), None
        stored = {result.key: result.source.run_id for result in self._mine(plan.evaluations)}
        following = {result.key: result for result in self._mine(plan.following)}
        cells = {
            result.key: planned
            for result in (*self._mine(plan.evaluations), *following.values())
            if (planned := self._planned_cell(result)) is not None
        }
        same = {
            key: Same(row.same_as or "", copy.reused_from or "", row.same_as_cosine or 0.0)
            for key, copy in following.items()
            if key in cells and (row := copy.source.row)
        }
        return Plan(len(cells), cells, same, {key: run_id for key, run_id in stored.items() if key in cells})

    def _planned_cell(self, result: Rescoring) -> PlannedCell | None:
        """The cell with its vector; `None`, and counted once among what was left out, where that cannot be read."""
        if result.key not in self._planned:
            self._planned[result.key] = None
            try:
                self._planned[result.key] = stored_plan(self._session, result.cell, result.source)
            except MassactError as error:
                self._left_out["its vector cannot be read"] += 1
                self._session.say(f"warning: run {result.source.run_id}: {error}")
        return self._planned[result.key]


def _place(row: EvaluationRow, n_questions: int) -> Place:
    return Place(row.experiment, row.model, row.model_variant, n_questions, confirm_share=row.confirm_share)
