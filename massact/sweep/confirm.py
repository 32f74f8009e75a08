"""Confirming winners: each is evaluated once more, on questions that took no part in choosing it.

The results are runs of a kind of their own, which no question about the grid sees: a confirmation must not become a
second chance to win.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from massact.domain import Cell, QuestionSet, Setting
from massact.errors import MassactError, NothingToConfirmError, UsageError
from massact.evaluation import PlannedCell
from massact.floors import as_floor
from massact.keys import cell_key, differences
from massact.plugins import own_digest
from massact.query.questions.best import BestRow, ask_best
from massact.report.phase_notes import confirm_markdown, confirm_verdicts
from massact.store.databases import is_absent
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, is_scored
from massact.store.schema.points import or_nan
from massact.store.write.tracker import PROJECT_RUN, OpenRun
from massact.sweep.context import Session, keep_outcome, load_answers, open_phase
from massact.sweep.driver import CellSource, Driver, Plan, Tally
from massact.sweep.planner import check_experiment, make_setting
from massact.sweep.reuse import is_compared
from massact.sweep.stored import Subject, stored_plan, stored_subject

# Which cells are to be confirmed: every winner and every label tied with it, on the questions kept for that.

_OTHER_QUESTIONS = "chosen on other questions than those that the experiment file now keeps for choosing"
_OTHER_SETTING = "evaluated in another setting than the experiment file's ({} differ)"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A cell that won or is tied with the winner, as it is to be evaluated once more."""

    source: Stored[EvaluationRow]  # the evaluation that it was chosen by
    cell: Cell  # the same on the questions that confirm
    key: str


@dataclass(slots=True)
class ConfirmPlan:
    """What there is to confirm."""

    by_subject: dict[Subject, list[Chosen]] = field(default_factory=dict)
    confirmed: dict[str, Stored[EvaluationRow]] = field(default_factory=dict)
    """What was confirmed before and counts, baselines too, by key."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Winners and tied labels that cannot be confirmed, by the reason."""

    @property
    def n_cells(self) -> int:
        return sum(map(len, self.by_subject.values()))

    def todo(self, subject: Subject) -> list[Chosen]:
        """What of a model and trait was not confirmed yet."""
        return [one for one in self.by_subject.get(subject, ()) if one.key not in self.confirmed]

    @property
    def n_todo(self) -> int:
        return sum(len(self.todo(subject)) for subject in self.by_subject)

    @property
    def why_left_out(self) -> str:
        """The reasons in words; empty where nothing was left out."""
        return "; ".join(f"{n} left out: {reason}" for reason, n in sorted(self.left_out.items()))


def plan_confirm(session: Session) -> ConfirmPlan:
    """Every winner and every label tied with it, at the experiment's floor and in its setting."""
    if is_absent(session.stores.tracking_uri):
        raise NothingToConfirmError(f"nothing to confirm: no run store is there yet; {_evaluate_first(session)}")
    floor = session.experiment.coherence_floor
    bests = ask_best.of(load_answers(session, with_scores=True), floor).rows
    winning = [row for row in bests if row.standing in ("winner", "tied")]
    with session.stores.read() as store:
        rows = store.rows(row.run_id or "" for row in winning)
    plan = ConfirmPlan(confirmed=confirmed_rows(session))
    _Planning(session, plan).add([(row.run_id or "", rows.get(row.run_id or "")) for row in winning])
    if not plan.n_cells:
        raise NothingToConfirmError(f"nothing to confirm: {_why_nothing(session, bests, plan)}")
    return plan


def confirmed_rows(session: Session) -> dict[str, Stored[EvaluationRow]]:
    """What was confirmed and counts, by key: it has scores of enough responses, and what the floor is of, and is
    compared with what has too."""
    least, floor = session.experiment.least_scored, as_floor(session.experiment.coherence_floor)
    with session.stores.read() as store:
        stored = {one.row.key: one for one in store.confirmations(session.experiment.name)}

    def counts(row: EvaluationRow) -> bool:
        baseline = stored.get(row.baseline_key or "")
        mean = or_nan(row.baseline_trait_mean)
        is_whole = is_scored(row, least) and not floor.is_lacking(row)
        return is_whole and (baseline is None or bool(is_compared(mean, baseline.row, least)))

    return {key: one for key, one in stored.items() if counts(one.row)}


def _evaluate_first(session: Session) -> str:
    return f"run massact main --experiment {session.experiment.file}, or its phases, first"


def _why_nothing(session: Session, bests: Sequence[BestRow], plan: ConfirmPlan) -> str:
    floor = session.experiment.coherence_floor
    if plan.left_out:
        return f"{plan.why_left_out}; {_evaluate_first(session)}"
    if any(row.status == "ok" for row in bests):
        return (
            "no winner can be told, since the run store has no scores of three questions or more: ask more questions "
            "(subset, questions.confirm)"
        )
    if any(row.status == "below_floor" for row in bests):
        command = f"massact gaps --experiment {session.experiment.file}"
        return f"no winner reaches {as_floor(floor).reach}; {command} says what to try"
    return f"nothing was evaluated; {_evaluate_first(session)}"


class _Planning:
    def __init__(self, session: Session, plan: ConfirmPlan) -> None:
        self._session, self._plan = session, plan
        self._settings: dict[Subject, tuple[Setting, QuestionSet]] = {}

    def add(self, winning: Sequence[tuple[str, EvaluationRow | None]]) -> None:
        """Each winning evaluation on the questions that confirm, or why that cannot be."""
        for run_id, row in winning:
            if row is None:
                self._plan.left_out["its row cannot be read: see massact doctor"] += 1
                continue
            stored = stored_subject(self._session, row)
            cell = stored if isinstance(stored, str) else self._moved(*stored)
            if isinstance(stored, str) or isinstance(cell, str):
                self._plan.left_out[str(cell)] += 1
                continue
            subject = stored[0]
            chosen = Chosen(Stored(run_id, "FINISHED", None, row), cell, cell_key(cell))
            self._plan.by_subject.setdefault(subject, []).append(chosen)

    def _moved(self, subject: Subject, cell: Cell) -> Cell | str:
        """A chosen cell on the questions that confirm; else why it cannot be had."""
        setting, questions = self._current(subject)
        if (cell.setting.questions_digest, cell.setting.subset) != (setting.questions_digest, setting.subset):
            return _OTHER_QUESTIONS
        if cell.setting.model != setting.model and not self._session.stores.is_dry:
            # what the weights say counts; the files of some models tell it otherwise
            self._session.models.loaded(subject.model, subject.model.instruct)
            del self._settings[subject]
            setting, questions = self._current(subject)
        names = [*differences(cell.setting, setting)]
        if cell.steering is None or cell.steering.direction != subject.trait.direction:
            names.append("direction")
        if names:
            return _OTHER_SETTING.format(", ".join(names))
        return replace(cell, setting=replace(setting, questions_digest=questions.digest, subset=questions.subset))

    def _current(self, subject: Subject) -> tuple[Setting, QuestionSet]:
        """The experiment file's setting, and the questions that confirm."""
        if subject not in self._settings:
            session = self._session
            questions = session.datasets.confirming(subject.trait)
            asked, generation = session.datasets.questions(subject.trait), session.experiment.generation
            setting = make_setting(session, subject.model, subject.trait, asked, generation)
            self._settings[subject] = (setting, questions)
        return self._settings[subject]


PHASE = "confirm"


def run_confirm(session: Session, parent: OpenRun | None = None) -> Tally:
    """Evaluate every winner and every label tied with it on the questions kept for that, as far as that was not done.
    Where all of it was done, nothing is evaluated, and without a `parent` no run is made. Raises NothingToConfirmError:
    no questions are kept for confirming, or no winner can be confirmed; nothing was written."""
    for trait in session.experiment.traits:
        session.datasets.confirming(trait)
    check_experiment(session, judges=True)
    session.stores.send_leftovers()
    plan = plan_confirm(session)
    if plan.left_out:
        session.say(f"confirm: {plan.why_left_out}")
    tally = Tally(wanted=plan.n_cells - plan.n_todo, finished_before=plan.n_cells - plan.n_todo)
    # the run that `mlflow run` made for this command is to say what it is, also where there is nothing to do
    if not plan.n_todo and parent is None and not os.environ.get(PROJECT_RUN):
        _tell(session, *_outcome(session))
        session.say(f"{PHASE}: {tally}; everything was confirmed already")
        return tally
    params = {"confirm_share": f"{session.experiment.confirm_share:g}"}
    with open_phase(session, PHASE, parent, params) as run:
        for subject in plan.by_subject:
            if cells := _read_cells(session, plan.todo(subject), tally):
                tally.add(Driver(session, run, _source(session, subject, cells)).run())
        session.stores.settle()
        keep_outcome(session, run, PHASE, *(outcome := _outcome(session)))
        _tell(session, *outcome)
    session.say(f"{PHASE}: {tally}")
    return tally


def _outcome(session: Session) -> tuple[dict[str, str], str]:
    """What was confirmed so far: in a few words each for tags, and in tables."""
    answers = load_answers(session, with_scores=True, with_confirmations=True)
    return confirm_verdicts(session.experiment, answers), confirm_markdown(session.experiment, answers)


def _tell(session: Session, verdicts: Mapping[str, str], text: str) -> None:
    said = (f"{name.replace('_', ' ')}: {verdict}" for name, verdict in verdicts.items())
    session.tell(text, "\n".join(["Confirmed on other questions", *said]))


def _read_cells(session: Session, todo: Sequence[Chosen], tally: Tally) -> dict[str, tuple[Chosen, PlannedCell]]:
    """By key, those whose vector can be read from the run that was chosen."""
    cells = {}
    for one in todo:
        try:
            _check_code(one.cell)
            cells[one.key] = (one, stored_plan(session, one.cell, one.source))
        except MassactError as error:
            tally.add(Tally(wanted=1, failed=1))
            session.say(f"failed: the vector of run {one.source.run_id}: {error}")
    return cells


def _check_code(cell: Cell) -> None:
    """See that the experiment's own operator is the one that a cell was evaluated with."""
    if cell.steering and cell.steering.operator_source != own_digest("operators", cell.steering.recipe.operator):
        raise UsageError(f"the file of the operator {cell.steering.recipe.operator} was changed since")


def _source(session: Session, subject: Subject, cells: Mapping[str, tuple[Chosen, PlannedCell]]) -> CellSource:
    """What is chosen of one model and trait, on the questions that confirm."""
    first, planned = next(iter(cells.values()))
    unsteered = PlannedCell(replace(planned.cell, steering=None), None)
    baseline_key = cell_key(unsteered.cell)

    def plan() -> Plan:
        confirmed = confirmed_rows(session)
        return Plan(len(cells), {key: one for key, (_, one) in cells.items() if key not in confirmed})

    return CellSource(
        subject,
        session.datasets.confirming(subject.trait).questions,
        unsteered=lambda: unsteered,
        # one that does not count is evaluated anew
        stored_baseline=lambda: confirmed_rows(session).get(baseline_key),
        plan=plan,
        # each of them is the best of its group, or was
        keeps_responses=lambda *_: session.workload.save_responses != "none",
        confirms={
            **{key: one.source.row.key for key, (one, _) in cells.items()},
            baseline_key: first.source.row.baseline_key or "",
        },
    )
