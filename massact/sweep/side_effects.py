"""Side effects: the responses of winners, and of their baselines, scored for the other traits of the file.

Nothing is generated, and each judge is asked about each response once: a source for the driver, as rejudging is.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from massact.errors import UsageError
from massact.query.questions.best import ask_best, winners
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, load_answers, open_phase
from massact.sweep.driver import CellSource, Driver, Plan
from massact.sweep.planner import check_experiment
from massact.sweep.reuse import is_finished
from massact.sweep.stored import LeftOutError, Moved, Subject, counting, stored_plan, stored_subject

PHASE = "side-effects"


@dataclass(slots=True)
class SideEffectsPlan:
    """What there is to score."""

    by_baseline: dict[str, list[Moved]] = field(default_factory=dict)
    """Of each baseline, by its key under the other trait's judge."""
    baselines: dict[str, Stored[EvaluationRow]] = field(default_factory=dict)
    """By the same key: the run that holds its responses."""
    finished: set[str] = field(default_factory=set)  # keys of what was scored already
    left_out: Counter[str] = field(default_factory=Counter)  # what cannot be scored, by the reason

    @property
    def todo(self) -> dict[str, list[Moved]]:
        """What was not scored yet."""
        left = {key: [one for one in some if one.key not in self.finished] for key, some in self.by_baseline.items()}
        return {key: some for key, some in left.items() if some}

    def __str__(self) -> str:
        n_cells, left_out = sum(map(len, self.todo.values())), "; ".join(self.left_out)
        n_responses = sum(one.source.row.n_questions or 0 for some in self.todo.values() for one in some)
        n_responses += sum(self.baselines[key].row.n_questions or 0 for key in self.todo if key not in self.finished)
        n_done = sum(one.key in self.finished for some in self.by_baseline.values() for one in some)
        todo = f"{n_cells} winners for another trait ({n_responses} responses) to score, {n_done} scored already"
        return f"{todo}; left out: {left_out}" if left_out else todo


def plan_side_effects(session: Session) -> SideEffectsPlan:
    """The winners of the current setting, for every trait but their own. Raises UsageError: the file has one trait."""
    experiment, plan = session.experiment, SideEffectsPlan()
    if len(experiment.traits) < 2:
        raise UsageError(f"{experiment.file} has one trait alone: side effects are told by the judge of another one")
    bests = ask_best.of(load_answers(session), experiment.coherence_floor).rows
    wanted = [row for row in winners(bests).values() if row.is_current]
    with session.stores.read() as store:
        by_key = {one.row.key: one for one in store.evaluations(experiment.name)}
        baselines = {one.row.key: one for one in store.baselines(experiment.name)}
        scored = {one.row.key: one for one in store.side_effects(experiment.name)}
    for best in wanted:
        with counting(plan.left_out):
            stored = by_key.get(best.key or "")
            of, cell = stored_subject(session, stored.row if stored else None)
            if stored is None or (baseline := baselines.get(stored.row.baseline_key or "")) is None:
                raise LeftOutError("its baseline is not in the store")
            for trait in (one for one in experiment.traits if one.name != best.trait):
                subject = Subject(of.model, trait)
                judge, dataset = session.judges.of(trait, subject.model).identity, session.datasets.of(trait)
                told_of: dict[str, Any] = {"trait": trait.name, "trait_digest": dataset.digest, "judge": judge}
                one = Moved(stored, subject, replace(cell, setting=replace(cell.setting, **told_of)))
                plan.by_baseline.setdefault(one.baseline_key, []).append(one)
                plan.baselines[one.baseline_key] = scored.get(one.baseline_key, baseline)
    least = experiment.least_scored
    rows = [one.row for one in scored.values()]
    plan.finished = {row.key for row in rows if is_finished(row, scored.get(row.baseline_key or ""), least)}
    return plan


def run_side_effects(session: Session, parent: OpenRun | None = None) -> SideEffectsPlan:
    """Score what the plan has that was not scored yet."""
    check_experiment(session, judges=True)
    session.stores.send_leftovers()
    plan = plan_side_effects(session)
    session.say(f"{PHASE}: {plan}")
    if plan.todo:
        with open_phase(session, PHASE, parent) as run:
            for key in plan.todo:
                Driver(session, run, _source(session, plan, key)).run()
            session.stores.settle()
    return plan


def _source(session: Session, plan: SideEffectsPlan, baseline_key: str) -> CellSource:
    """The winners of one trait for another one."""
    wanted, baseline = {one.key: one for one in plan.todo[baseline_key]}, plan.baselines[baseline_key]
    first = next(iter(wanted.values()))
    unsteered = stored_plan(session, replace(first.cell, steering=None), baseline)

    def stored() -> Mapping[str, Stored[EvaluationRow]]:
        with session.stores.read() as store:
            return {one.row.key: one for one in store.side_effects(session.experiment.name)}

    def plan_left() -> Plan:
        known, least = stored(), session.experiment.least_scored
        of_known = known.get(baseline_key)
        done = {key for key in wanted if key in known and is_finished(known[key].row, of_known, least)}
        left = {key: one for key, one in wanted.items() if key not in done}
        cells = {key: stored_plan(session, one.cell, one.source) for key, one in left.items()}
        return Plan(len(wanted), cells, stored={key: one.source.run_id for key, one in left.items()})

    return CellSource(
        subject=first.subject,
        questions=(),
        unsteered=lambda: unsteered,
        stored_baseline=lambda: stored().get(baseline_key, baseline),
        plan=plan_left,
        keeps_responses=lambda *_: False,
        kind=Kind.SIDE_EFFECT,
        stored=first.source.row,
        left_out=plan.left_out,
    )
