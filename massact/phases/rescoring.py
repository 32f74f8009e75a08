"""What of the store the experiment's judge has not scored, and why the rest cannot be."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from massact.domain import Cell
from massact.keys import cell_key
from massact.phases.alike import is_compared
from massact.phases.recast import Subject, recast, subject_of, with_judge
from massact.phases.session import Session
from massact.query import Filters
from massact.schema import EvaluationRow, Kind, MlflowTag, is_scored
from massact.schema.points import or_nan
from massact.store.base import Stored
from massact.store.contents import stored_runs
from massact.tracking.rows import Baseline


@dataclass(frozen=True, slots=True)
class Rescoring:
    """A stored result that is to be scored again."""

    source: Stored[EvaluationRow]
    subject: Subject
    cell: Cell
    """Under the judge that is to score it."""
    key: str
    """Of that cell."""

    @property
    def is_own(self) -> bool:
        """Whether the same judge scored it, so that its scores stay and only what has none is asked about."""
        return self.source.row.key == self.key

    @property
    def n_responses(self) -> int:
        """Responses that the judge is asked about."""
        row = self.source.row
        return row.n_unscored if self.is_own else row.n_questions or 0


@dataclass(frozen=True, slots=True)
class Following:
    """A stored result that was taken over from another: it follows that one, and is not scored itself."""

    source: Stored[EvaluationRow]
    cell: Cell
    """Under the judge that is to score the other."""
    lender_key: str
    """Of the other, under that judge."""


@dataclass(slots=True)
class RejudgePlan:
    """What there is to score."""

    baselines: list[Rescoring] = field(default_factory=list)
    evaluations: list[Rescoring] = field(default_factory=list)
    known_baselines: dict[str, Baseline] = field(default_factory=dict)
    """Those that the judge has scored already, by key."""
    following: list[Following] = field(default_factory=list)
    """Evaluations that were taken over from others, and will be again."""
    n_finished: int = 0
    """Evaluations that the judge has scored already."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Evaluations that cannot be scored, by the reason."""

    @property
    def n_responses(self) -> int:
        """Responses that the judge is asked about."""
        return sum(one.n_responses for one in (*self.baselines, *self.evaluations))

    @property
    def n_left_out(self) -> int:
        return self.left_out.total()

    def __str__(self) -> str:
        left_out = "".join(f"; {n} left out: {reason}" for reason, n in sorted(self.left_out.items()))
        n = len(self.evaluations)
        todo = f"{n} evaluations ({self.n_responses} responses) to score" if n else "nothing to score"
        same = f", {len(self.following)} the same as another" if self.following else ""
        return f"{todo}, {self.n_finished} scored by this judge already{same}{left_out}"


def plan_rejudge(session: Session, only: Filters) -> RejudgePlan:
    """What of the store the experiment's judge has not scored.

    Args:
        only: which evaluations; its judges are those that scored them so far.
    """
    name = session.experiment.name
    with session.store() as store:
        evaluations, baselines = store.evaluations(name), store.baselines(name)
    return _Planning(session, evaluations, baselines).plan(only)


class _Planning:
    def __init__(
        self,
        session: Session,
        evaluations: list[Stored[EvaluationRow]],
        baselines: list[Stored[EvaluationRow]],
    ) -> None:
        self._session, self._evaluations = session, evaluations
        self._least_scored = session.experiment.least_scored
        self._by_key = {one.row.key: one for one in evaluations}
        self._baselines = {one.row.key: one for one in baselines}
        self._with_responses = {
            run.run_id
            for kind in (Kind.EVALUATION, Kind.BASELINE)
            for run in stored_runs(
                session.tracking_uri, session.experiment.name, kind, tags=(MlflowTag.TABLES,)
            )
            if run.tags.get(MlflowTag.TABLES)
        }

    def plan(self, only: Filters) -> RejudgePlan:
        plan, finished = RejudgePlan(), set[str]()
        found: dict[str, Rescoring] = {}
        copies: list[Stored[EvaluationRow]] = []
        for stored in self._evaluations:  # the oldest first: of two that become one the newer counts
            if not only.admits_row(stored.row):
                continue
            if stored.row.same_as_key is not None:
                copies.append(stored)
                continue
            one = self._rescoring(stored)
            if isinstance(one, str):
                plan.left_out[one] += 1
            elif self._is_finished(one.key):
                finished.add(one.key)
            else:
                found[one.key] = one
        for one in found.values():
            self._add(plan, one)
        scored = {one.key for one in plan.evaluations}
        following: dict[str, Following] = {}
        for stored in copies:
            copy = self._following(stored, scored)
            if isinstance(copy, str):
                plan.left_out[copy] += 1
            elif copy.lender_key not in scored and self._has(copy):
                finished.add(cell_key(copy.cell))
            else:
                following[cell_key(copy.cell)] = copy
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

    def _following(self, stored: Stored[EvaluationRow], scored: Collection[str]) -> Following | str:
        """A result that was taken over under the experiment's judge; else why it cannot be had."""
        lender = self._by_key.get(stored.row.same_as_key or "")
        if lender is None:
            return f"the same as {stored.row.same_as}, whose result is not in the store any more"
        source, own = self._rescoring(lender), self._moved(stored.row)
        if isinstance(source, str):
            return f"the same as {stored.row.same_as}: {source}"
        if isinstance(own, str):
            return own
        if source.key not in scored and source.key not in self._by_key:
            return f"the same as {stored.row.same_as}, which is not scored: the filters leave it out"
        return Following(stored, own[1], source.key)

    def _has(self, copy: Following) -> bool:
        """Whether the store has it as it would be written now, or evaluated by itself."""
        known, lender = self._by_key.get(cell_key(copy.cell)), self._by_key[copy.lender_key].row
        if known is None:
            return False
        return known.row.same_as is None or _figures(known.row) == _figures(lender)

    def _add(self, plan: RejudgePlan, one: Rescoring) -> None:
        """An evaluation, and its baseline where that has too few scores: all deltas rest on one that counts."""
        key = cell_key(replace(one.cell, steering=None))
        known = self._baselines.get(key)
        if (
            known is not None
            and known.row.trait_mean is not None
            and is_scored(known.row, self._least_scored)
        ):
            plan.known_baselines[key] = Baseline(key, known.row.trait_mean)
        elif key not in {baseline.key for baseline in plan.baselines}:
            source = known or self._baselines.get(one.source.row.baseline_key or "")
            baseline = self._rescoring(source) if source else "its baseline is not in the store"
            if isinstance(baseline, str):
                plan.left_out[f"its baseline: {baseline}" if source else baseline] += 1
                return
            plan.baselines.append(baseline)
        plan.evaluations.append(one)

    def _rescoring(self, stored: Stored[EvaluationRow]) -> Rescoring | str:
        """A stored result under the experiment's judge; else why it cannot be had."""
        row = stored.row
        if row.origin == "imported":
            return "imported, so that what exactly was measured is not known"
        moved = self._moved(row)
        if isinstance(moved, str):
            return moved
        one = Rescoring(stored, *moved, cell_key(moved[1]))
        is_known = one.is_own and is_scored(
            row, self._least_scored
        )  # it can be compared anew, by its scores alone
        if not is_known and stored.run_id not in self._with_responses:
            return "its responses were not kept (--save-responses)"
        return one

    def _moved(self, row: EvaluationRow) -> tuple[Subject, Cell] | str:
        """A row's cell under the experiment's judge; else why it cannot be told."""
        session = self._session
        subject = subject_of(session, row)
        if subject is None:
            return "the experiment file does not name its model or trait any more"
        cell = recast(session, subject, row)
        if cell is None:
            return "the trait's dataset or the model's chat template has changed since"
        return subject, with_judge(cell, session.judge(subject.trait, subject.model).identity)


def _figures(row: EvaluationRow) -> tuple[object, ...]:
    return (row.trait_mean, row.coherence_mean, row.delta, row.n_scored, row.n_unscored)
