"""Scoring stored responses with the experiment's judge, without generating any again.

An evaluation that another judge scored becomes a second one under this judge, beside the first. One that
this judge left responses of unscored is scored again, and the newer run counts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from massact.errors import MassactError
from massact.keys import cell_key
from massact.phases.interrupt import Interrupted
from massact.phases.judged import counted_judging, ready_judge
from massact.phases.recast import stored_plan
from massact.phases.rescoring import RejudgePlan, Rescoring, plan_rejudge
from massact.phases.session import Session
from massact.phases.sources import read_sources
from massact.phases.steps import phase_params
from massact.phases.unscored import (
    RESPONSES_AT_ONCE,
    Again,
    checked_baseline,
    judged,
    put_again,
    read_again,
    size,
    without_scores,
)
from massact.query import Filters
from massact.schema import EvaluationRow
from massact.tracking.rows import Place
from massact.tracking.taking_over import taken_over_run
from massact.tracking.tracker import OpenRun

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
