"""Scoring stored responses with the experiment's judge, without generating any again.

An evaluation that another judge scored becomes a second one under this judge, beside the first. One that
this judge left responses of unscored is scored again, and the newer run counts.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from massact.domain import Cell
from massact.errors import MassactError
from massact.keys import cell_key
from massact.query import Filters
from massact.store.read.base import Stored
from massact.store.read.contents import stored_runs
from massact.store.schema import EvaluationRow, Kind, MlflowTag, is_scored
from massact.store.schema.points import or_nan
from massact.store.write.evaluations import taken_over_run
from massact.store.write.rows import Baseline, Place
from massact.store.write.tracker import OpenRun
from massact.sweep.interrupt import Interrupted
from massact.sweep.recast import Subject, recast, stored_plan, subject_of, with_judge
from massact.sweep.reuse import is_compared, read_sources
from massact.sweep.unscored import (
    RESPONSES_AT_ONCE,
    Again,
    checked_baseline,
    judged,
    put_again,
    read_again,
    size,
    without_scores,
)
from massact.workflow.accounting import counted_judging, ready_judge
from massact.workflow.context import Session
from massact.workflow.steps import phase_params

# What of the store the experiment's judge has not scored, and why the rest cannot be.


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


_TAKEN_AT_ONCE = 16
"""Evaluations that no other sweep begins from then on."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A stored result with what its run keeps of it."""

    todo: Rescoring
    held: Again


def run_rejudge(session: Session, only: Filters, parent: OpenRun | None = None) -> RejudgePlan:
    """Score what the experiment's judge has not scored of the stored responses.

    Args:
        only: which evaluations; its judges are those that scored them so far.

    Returns:
        What was scored, and what was left out.

    Raises:
        Interrupted: somebody asked to stop; what was scored is kept.
        JudgeError: the judge as a whole cannot be used.
        MissingPrerequisiteError: a baseline has scores of too few responses still.
    """
    params = {**phase_params(session), "scored_by": ",".join(only.judges) or "any other judge"}
    session.send_leftovers()
    plan = plan_rejudge(session, only)
    session.say(f"rejudge: {plan}")
    if not plan.evaluations and not plan.following:
        return plan
    with session.tracker.phase("rejudge", parent=parent, params=params) as run:
        with counted_judging(session, run):
            rejudging = _Rejudging(session, run, plan)
            if session.sharing(run).look():
                rejudging.go_on(plan_rejudge(session, only))
            else:
                rejudging.run()
            while left := rejudging.left:
                session.sharing(run).wait(left)
                rejudging.go_on(plan_rejudge(session, only))
            rejudging.take_over()
        session.settle()
    return plan


class _Rejudging:
    """Scores what a plan holds, under one parent run."""

    def __init__(self, session: Session, parent: OpenRun, plan: RejudgePlan) -> None:
        self._session, self._parent, self._plan = session, parent, plan
        self._sharing = session.sharing(parent)
        self._todo = [*plan.baselines, *plan.evaluations]
        self._came: set[str] = set()
        """Keys that this command came to an end with."""
        self._begun: set[str] = set()
        self._n_done = 0
        self._baselines = dict(plan.known_baselines)

    @property
    def left(self) -> list[str]:
        """Keys that other sweeps have, or whose baseline they have."""
        return [one.key for one in self._todo if one.key not in self._came]

    def go_on(self, plan: RejudgePlan) -> None:
        """Score what other sweeps have let go of, by what the store holds now."""
        self._baselines |= plan.known_baselines
        self._todo = [*plan.baselines, *plan.evaluations]
        self._came |= {one.key for one in plan.evaluations if self._sharing.ended_elsewhere(one.key)}
        self.run()

    def run(self) -> None:
        """Score what no other sweep has, the baselines first."""
        session = self._session
        session.spool  # noqa: B018  opened before anything is spent on what it could not take
        todo = [one for one in self._todo if one.key not in self._came]
        for subject in dict.fromkeys(one.subject for one in todo):
            ready_judge(session, self._parent, subject.trait, subject.model)
        with session.interruption.finishing(), session.progress("scoring responses", len(todo)) as advance:
            for batch in self._batches(self._taken(todo)):
                if session.interruption.is_requested:
                    break
                self._score(batch)
                advance(len(batch))
        if session.interruption.is_requested:
            session.close()
            raise Interrupted(
                f"interrupted: {self._n_done} of {len(todo)} scored; run the same command again to go on"
            )

    def take_over(self) -> None:
        """Write anew what was taken over from results that this judge has scored."""
        session, plan = self._session, self._plan
        if not plan.following:
            return
        sources = read_sources(session, {one.lender_key for one in plan.following})
        keys = [cell_key(one.cell) for one in plan.following]
        mine = set(self._sharing.take(keys, len(keys)))
        for one in plan.following:
            if cell_key(one.cell) not in mine:  # another sweep writes it
                continue
            row, source = one.source.row, sources.get(one.lender_key)
            if source is None:
                plan.left_out[f"the same as {row.same_as}, which could not be scored"] += 1
                continue
            try:
                planned = stored_plan(session, one.cell, one.source)
            except MassactError as error:
                plan.left_out["its vector cannot be read"] += 1
                session.say(f"warning: run {one.source.run_id}: {error}")
                continue
            place = _place(row, row.n_questions or 0)
            whole = taken_over_run(place, planned, source, row.same_as_cosine or 0.0, parent=self._parent)
            session.spool.put(whole, experiment_id=self._parent.experiment_id)

    def _taken(self, todo: Sequence[Rescoring]) -> Iterator[Rescoring]:
        """Results that no other sweep has, one after the other, each once its baseline was scored."""
        for is_baseline in (True, False):
            left = {one.key: one for one in todo if (one.source.row.layer is None) == is_baseline}
            if not is_baseline:
                left = {key: one for key, one in left.items() if self._has_baseline(one)}
            while taken := self._sharing.take(left, _TAKEN_AT_ONCE):
                self._begun |= set(taken)
                yield from [left.pop(key) for key in taken]

    def _has_baseline(self, one: Rescoring) -> bool:
        """Whether the baseline was scored, or is being scored here and comes first."""
        key = cell_key(replace(one.cell, steering=None))
        return key in self._baselines or key in self._begun

    def _batches(self, todo: Iterable[Rescoring]) -> Iterator[list[_Read]]:
        """Results with their responses, of one trait and model a batch, the baselines by themselves."""
        batch: list[_Read] = []
        for one in todo:
            read = self._read(one)
            if read is None:
                self._came.add(one.key)
                self._sharing.release(one.key)
                continue
            is_full = sum(size(one.held) for one in (*batch, read)) > RESPONSES_AT_ONCE
            if batch and (is_full or _kin(batch[0]) != _kin(read)):
                yield batch
                batch = []
            batch.append(read)
        if batch:
            yield batch

    def _read(self, one: Rescoring) -> _Read | None:
        """What the run keeps; `None`, and counted among what was left out, where it cannot be had."""
        session = self._session
        try:
            planned = stored_plan(session, one.cell, one.source)
            held = read_again(session, one.source.run_id, planned, one.source.row, needs_texts=not one.is_own)
        except MassactError as error:
            self._plan.left_out["its responses or its vector cannot be read"] += 1
            session.say(f"warning: run {one.source.run_id}: {error}")
            return None
        return _Read(one, held if one.is_own else without_scores(held))

    def _score(self, batch: Sequence[_Read]) -> None:
        session, subject = self._session, batch[0].todo.subject
        done = list(judged(session, self._parent, subject, [read.held for read in batch]))
        for read, held in zip(batch, done, strict=True):
            self._put(read.todo, held)
        # all of them are written before one that is short ends this
        if batch[0].todo.source.row.layer is None:
            checked = [checked_baseline(session, subject.model.name, held.evaluation) for held in done]
            self._baselines |= {one.key: one for one in checked}

    def _put(self, todo: Rescoring, held: Again) -> None:
        row, baseline = todo.source.row, None
        self._came.add(todo.key)
        if row.layer is not None:
            baseline = self._baselines.get(cell_key(replace(todo.cell, steering=None)))
            if baseline is None:
                self._plan.left_out["its baseline could not be scored"] += 1
                return
        put_again(self._session, self._parent, _place(row, len(held.evaluation.responses)), held, baseline)
        self._n_done += 1


def _place(row: EvaluationRow, n_questions: int) -> Place:
    return Place(row.experiment, row.model, row.model_variant, n_questions, confirm_share=row.confirm_share)


def _kin(read: _Read) -> tuple[str, str, bool]:
    row = read.todo.source.row
    return (row.model, row.trait, row.layer is None)
