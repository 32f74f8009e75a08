"""What of the store the experiment's judge has not scored, and why the rest cannot be."""

from collections import Counter
from dataclasses import dataclass, field, replace

from massact.domain import Cell
from massact.keys import cell_key
from massact.phases.recast import Subject, recast, subject_of, with_judge
from massact.phases.session import Session
from massact.query import Filters
from massact.schema import EvaluationRow, Kind, MlflowTag
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


@dataclass(slots=True)
class RejudgePlan:
    """What there is to score."""

    baselines: list[Rescoring] = field(default_factory=list)
    evaluations: list[Rescoring] = field(default_factory=list)
    known_baselines: dict[str, Baseline] = field(default_factory=dict)
    """Those that the judge has scored already, by key."""
    n_finished: int = 0
    """Evaluations that the judge has scored already."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Evaluations that cannot be scored, by the reason."""

    @property
    def n_responses(self) -> int:
        """Responses that the judge is asked about."""
        return sum(one.source.row.n_questions or 0 for one in (*self.baselines, *self.evaluations))

    @property
    def n_left_out(self) -> int:
        return self.left_out.total()

    def __str__(self) -> str:
        left_out = "".join(f"; {n} left out: {reason}" for reason, n in sorted(self.left_out.items()))
        n = len(self.evaluations)
        todo = f"{n} evaluations ({self.n_responses} responses) to score" if n else "nothing to score"
        return f"{todo}, {self.n_finished} scored by this judge already{left_out}"


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
        for stored in self._evaluations:  # the oldest first: of two that become one the newer counts
            if not only.admits_row(stored.row):
                continue
            one = self._rescoring(stored)
            if isinstance(one, str):
                plan.left_out[one] += 1
            elif _is_whole(self._by_key.get(one.key)):
                finished.add(one.key)
            else:
                found[one.key] = one
        plan.n_finished = len(finished)
        for one in found.values():
            self._add(plan, one)
        return plan

    def _add(self, plan: RejudgePlan, one: Rescoring) -> None:
        """An evaluation, and its baseline where that is not scored yet."""
        key = cell_key(replace(one.cell, steering=None))
        known = self._baselines.get(key)
        if known is not None and _is_whole(known):
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
        row, session = stored.row, self._session
        if row.origin == "imported":
            return "imported, so that what exactly was measured is not known"
        subject = subject_of(session, row)
        if subject is None:
            return "the experiment file does not name its model or trait any more"
        cell = recast(session, subject, row)
        if cell is None:
            return "the trait's dataset or the model's chat template has changed since"
        if stored.run_id not in self._with_responses:
            return "its responses were not kept (--save-responses)"
        moved = with_judge(cell, session.judge(subject.trait, subject.model).identity)
        return Rescoring(stored, subject, moved, cell_key(moved))


def _is_whole(stored: Stored[EvaluationRow] | None) -> bool:
    """Whether a result is there, and every response of it has its scores."""
    return stored is not None and not stored.row.n_unscored
