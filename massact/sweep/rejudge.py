"""Stored responses scored again, sources for the driver: by another judge, and for the other traits of the file.

An evaluation that another judge scored becomes a second one under this judge, beside the first. One that
this judge left responses of unscored is scored again, and the newer run counts. Nothing is generated.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

from massact.errors import MassactError, UsageError
from massact.evaluation import PlannedCell
from massact.query import Filters
from massact.query.questions.best import ask_best, winners
from massact.store.read import stored_runs
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind, MlflowTag, is_scored
from massact.store.schema.points import or_nan
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, load_answers, open_phase
from massact.sweep.driver import CellSource, Driver, Plan
from massact.sweep.planner import check_experiment
from massact.sweep.reuse import Same, finished_rows, is_compared
from massact.sweep.stored import LeftOutError, Moved, Subject, counting, stored_by_key, stored_plan, stored_subject
from massact.words import counted


def _is_own(moved: Moved) -> bool:
    """Whether the same judge scored it, so that its scores stay and only what has none is asked about."""
    return moved.source.row.key == moved.key


@dataclass(slots=True)
class RejudgePlan:
    """What there is to score."""

    what: tuple[str, str] = ("evaluation", "evaluations")  # is scored, one and several
    baselines: dict[str, Moved] = field(default_factory=dict)  # by their key under the judge
    evaluations: list[Moved] = field(default_factory=list)
    following: list[Moved] = field(default_factory=list)
    """Evaluations that were taken over from others, and will be again."""
    n_finished: int = 0  # evaluations that the judge has scored already
    left_out: Counter[str] = field(default_factory=Counter)  # evaluations that cannot be scored, by the reason

    @property
    def n_responses(self) -> int:
        """Responses that the judge is asked about."""
        some = ((_is_own(baseline), baseline.source.row) for baseline in (*self.baselines.values(), *self.evaluations))
        return sum(row.n_unscored if is_own else row.n_questions or 0 for is_own, row in some)

    def __str__(self) -> str:
        left_out = "".join(f"; {n} left out: {reason}" for reason, n in sorted(self.left_out.items()))
        n = len(self.evaluations)
        todo = (
            f"{counted(n, *self.what)} ({counted(self.n_responses, 'response')}) to score" if n else "nothing to score"
        )
        same = f", {len(self.following)} the same as another" if self.following else ""
        return f"{todo}, {self.n_finished} scored by this judge already{same}{left_out}"


def plan_rejudge(session: Session, only: Filters) -> RejudgePlan:
    """What of the store, as far as `only` admits it, the experiment's judge has not scored."""
    return _Planning(session).plan(only)


class _Planning:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._by_key = stored_by_key(session, Kind.EVALUATION)  # the oldest first
        self._baselines = stored_by_key(session, Kind.BASELINE)
        self._least_scored = session.experiment.least_scored
        kinds, tags = (Kind.EVALUATION, Kind.BASELINE), (MlflowTag.TABLES,)
        runs = stored_runs(session.stores.tracking_uri, session.experiment.name, *kinds, tags=tags)
        self._with_responses = {run.run_id for run in runs if run.tags.get(MlflowTag.TABLES)}

    def plan(self, only: Filters) -> RejudgePlan:
        plan, finished = RejudgePlan(), set[str]()
        todo: dict[str, Moved] = {}
        taken_over: list[Stored[EvaluationRow]] = []
        for stored in self._by_key.values():  # of two that become one the newer counts
            if not only.admits_row(stored.row):
                continue
            if stored.row.same_as_key is not None:
                taken_over.append(stored)
                continue
            with counting(plan.left_out):
                rescoring = self._rescoring(stored)
                if self._is_finished(rescoring.key):
                    finished.add(rescoring.key)
                else:
                    todo[rescoring.key] = rescoring
        for rescoring in todo.values():
            with counting(plan.left_out):
                self._add(plan, rescoring)
        scored = {rescoring.key for rescoring in plan.evaluations}
        following: dict[str, Moved] = {}
        for stored in taken_over:
            with counting(plan.left_out):
                copy = self._following(stored, scored)
                if copy.reused_from not in scored and self._has(copy):
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

    def _following(self, stored: Stored[EvaluationRow], scored: Collection[str]) -> Moved:
        """A result that was taken over under the experiment's judge; LeftOutError where it cannot be had."""
        same_as, source = stored.row.same_as, self._by_key.get(stored.row.same_as_key or "")
        if source is None:
            raise LeftOutError(f"the same as {same_as}, whose result is not in the store any more")
        try:
            rescored = self._rescoring(source)
        except LeftOutError as error:
            raise LeftOutError(f"the same as {same_as}: {error}") from None
        copy = self._moved(stored)
        if rescored.key not in scored and rescored.key not in self._by_key:
            raise LeftOutError(f"the same as {same_as}, which is not scored: the filters leave it out")
        return replace(copy, reused_from=rescored.key)

    def _has(self, copy: Moved) -> bool:
        """Whether the store has it as it would be written now, or evaluated by itself."""
        known, source = self._by_key.get(copy.key), self._by_key[copy.reused_from or ""].row
        if known is None:
            return False
        return known.row.same_as is None or _figures(known.row) == _figures(source)

    def _add(self, plan: RejudgePlan, rescoring: Moved) -> None:
        """An evaluation, and its baseline where that has too few scores: all deltas rest on one that counts."""
        key = rescoring.baseline_key
        known = self._baselines.get(key)
        counts = known and known.row.trait_mean is not None and is_scored(known.row, self._least_scored)
        if not counts and key not in plan.baselines:
            source = known or self._baselines.get(rescoring.source.row.baseline_key or "")
            if source is None:
                raise LeftOutError("its baseline is not in the store")
            try:
                plan.baselines[key] = self._rescoring(source)
            except LeftOutError as error:
                raise LeftOutError(f"its baseline: {error}") from None
        plan.evaluations.append(rescoring)

    def _rescoring(self, stored: Stored[EvaluationRow]) -> Moved:
        """A stored result under the experiment's judge; LeftOutError where it cannot be had."""
        rescoring = self._moved(stored)
        # what has enough scores of this judge can be compared anew, by its scores alone
        is_known = _is_own(rescoring) and is_scored(stored.row, self._least_scored)
        if not is_known and stored.run_id not in self._with_responses:
            raise LeftOutError("its responses were not kept (--save-responses)")
        return rescoring

    def _moved(self, stored: Stored[EvaluationRow]) -> Moved:
        """A row's cell under the experiment's judge; LeftOutError where there is none."""
        session, (subject, cell) = self._session, stored_subject(self._session, stored.row)
        if cell.setting.trait_digest != session.datasets.of(subject.trait).digest:
            raise LeftOutError("the trait's dataset, which tells the judge what to look for, has changed since")
        judge = session.judges.of(subject.trait, subject.model).identity
        return Moved(stored, subject, replace(cell, setting=replace(cell.setting, judge=judge)))


_figures = attrgetter("trait_mean", "coherence_mean", "delta", "n_scored", "n_unscored")


def run_rejudge(session: Session, only: Filters) -> RejudgePlan:
    """Score what the experiment's judge has not scored of the stored responses. `only`: which evaluations; its judges
    are those that scored them so far. Raises Interrupted: somebody asked to stop; what was scored is kept;
    MissingPrerequisiteError: a baseline has scores of too few responses still."""
    params = {"scored_by": ",".join(only.judges) or "any other judge"}
    return _run(session, None, "rejudge", partial(plan_rejudge, session, only), params)


def _run(
    session: Session, parent: OpenRun | None, phase: str, make_plan: Callable[[], RejudgePlan],
    params: Mapping[str, object] = {}, kind: Kind | None = None,
) -> RejudgePlan:  # fmt: skip
    session.stores.send_leftovers()
    plan = make_plan()
    session.say(f"{phase}: {plan}")
    if not plan.evaluations and not plan.following:
        return plan
    with open_phase(session, phase, parent, params) as run:
        is_alone = not session.stores.sharing(run).look()
        for key in dict.fromkeys(result.baseline_key for result in (*plan.evaluations, *plan.following)):
            # where no other sweep may have gone on since, the plan is still what is left
            plans = chain([plan] if is_alone else (), iter(make_plan, None))
            Driver(session, run, _source(session, plan, plans, key, kind)).run()
        session.stores.settle()
    return plan


def _source(
    session: Session, plan: RejudgePlan, plans: Iterator[RejudgePlan], key: str, kind: Kind | None
) -> CellSource:
    """The stored results that are compared with one baseline, as cells under the judge. `plans`: what is left, each
    time it is asked. `kind`: of what is written, where it is no point of the grid."""

    def mine(results: Iterable[Moved]) -> list[Moved]:
        return [result for result in results if result.baseline_key == key]

    first, earlier = mine((*plan.evaluations, *plan.following))[0], plan.baselines.get(key)
    known = dict[str, PlannedCell | None]()

    def planned(result: Moved) -> PlannedCell | None:
        """The cell with its vector; `None`, and counted once among what was left out, where that cannot be read."""
        if result.key not in known:
            known[result.key] = None
            try:
                known[result.key] = stored_plan(session, result.cell, result.source)
            except MassactError as error:
                plan.left_out["its vector cannot be read"] += 1
                session.say(f"warning: run {result.source.run_id}: {error}")
        return known[result.key]

    def plan_left() -> Plan:
        now = next(plans)
        scored, following = mine(now.evaluations), mine(now.following)
        cells = {moved.key: cell for moved in (*scored, *following) if (cell := planned(moved)) is not None}
        same = {
            moved.key: Same(row.same_as or "", moved.reused_from or "", row.same_as_cosine or 0.0)
            for moved in following
            if moved.key in cells and (row := moved.source.row)
        }
        return Plan(len(cells), cells, same, {moved.key: moved.source.run_id for moved in scored if moved.key in cells})

    unsteered = PlannedCell(replace(first.cell, steering=None), None)
    baseline = earlier.source if earlier else None  # as another judge scored it
    return CellSource(
        subject=first.subject,
        questions=(),
        unsteered=lambda: unsteered,
        stored_baseline=lambda: stored_by_key(session, kind or Kind.BASELINE).get(key) or baseline,
        plan=plan_left,
        keeps_responses=lambda *_: True,
        kind=kind,
        stored=first.source.row,
        left_out=plan.left_out,
    )


# Side effects: responses of winners, and of their baselines, scored for the other traits of the file.


EFFECTS = "side-effects"


def plan_side_effects(session: Session) -> RejudgePlan:
    """The winners of the current setting, for every trait but their own. Raises UsageError: the file has one trait."""
    experiment, plan = session.experiment, RejudgePlan(("winner for another trait", "winners for another trait"))
    if len(experiment.traits) < 2:
        raise UsageError(f"{experiment.file} has one trait alone: side effects are told by the judge of another one")
    bests = ask_best.of(load_answers(session), experiment.coherence_floor).rows
    by_key, baselines = stored_by_key(session, Kind.EVALUATION), stored_by_key(session, Kind.BASELINE)
    scored = stored_by_key(session, Kind.SIDE_EFFECT)
    finished = finished_rows(session, scored, scored)
    for best in (row for row in winners(bests).values() if row.is_current):
        with counting(plan.left_out):
            stored = by_key.get(best.key or "")
            of, cell = stored_subject(session, stored.row if stored else None)
            if stored is None or (baseline := baselines.get(stored.row.baseline_key or "")) is None:
                raise LeftOutError("its baseline is not in the store")
            for trait in (trait for trait in experiment.traits if trait.name != best.trait):
                subject = Subject(of.model, trait)
                judge, dataset = session.judges.of(trait, subject.model).identity, session.datasets.of(trait)
                told_of: dict[str, Any] = {"trait": trait.name, "trait_digest": dataset.digest, "judge": judge}
                moved = Moved(stored, subject, replace(cell, setting=replace(cell.setting, **told_of)))
                if moved.key in finished:
                    plan.n_finished += 1
                    continue
                plan.evaluations.append(moved)
                if (key := moved.baseline_key) not in finished:
                    unsteered = replace(moved.cell, steering=None)
                    plan.baselines.setdefault(key, Moved(scored.get(key, baseline), subject, unsteered))
    return plan


def run_side_effects(session: Session, parent: OpenRun | None = None) -> RejudgePlan:
    """Score what the plan has that was not scored yet."""
    check_experiment(session, judges=True)
    return _run(session, parent, EFFECTS, partial(plan_side_effects, session), kind=Kind.SIDE_EFFECT)
