"""Which cells are to be confirmed: every winner and every label tied with it, on the questions kept for that."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from massact.domain import Cell, QuestionSet, Setting
from massact.errors import NothingToConfirmError
from massact.keys import cell_key
from massact.phases.alike import is_compared
from massact.phases.grid import load_answers
from massact.phases.planning import make_setting
from massact.phases.recast import Subject, recast, subject_of
from massact.phases.session import Session
from massact.query import BestRow
from massact.schema import EvaluationRow, is_scored
from massact.schema.points import or_nan
from massact.store.base import Stored
from massact.store.contents import is_absent

_OTHER_QUESTIONS = "chosen on other questions than those that the experiment file now keeps for choosing"
_OTHER_SETTING = (
    "evaluated in another setting than the experiment file's (model, judge, generation or direction)"
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A cell that won or is tied with the winner, as it is to be evaluated once more."""

    source: Stored[EvaluationRow]
    """The evaluation that it was chosen by."""
    cell: Cell
    """The same on the questions that confirm."""
    key: str
    """Of that cell."""


@dataclass(slots=True)
class ConfirmPlan:
    """What there is to confirm."""

    by_subject: dict[Subject, list[Chosen]] = field(default_factory=dict)
    confirmed: dict[str, EvaluationRow] = field(default_factory=dict)
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
    """Every winner and every label tied with it, at the experiment's floor and in its setting.

    Raises:
        NothingToConfirmError: there is none; says why and what to do.
        MissingPrerequisiteError: in a dry run, only the weights of a model tell what it is.
    """
    if is_absent(session.tracking_uri):
        raise NothingToConfirmError(
            f"nothing to confirm: no run store is there yet; {_evaluate_first(session)}"
        )
    floor = session.experiment.coherence_floor
    bests = load_answers(session, with_scores=True).best(floor).rows
    winning = [row for row in bests if row.standing in ("winner", "tied")]
    with session.store() as store:
        rows = store.rows(row.run_id or "" for row in winning)
    plan = ConfirmPlan(confirmed=confirmed_rows(session))
    _Planning(session, plan).add([(row.run_id or "", rows.get(row.run_id or "")) for row in winning])
    if not plan.n_cells:
        raise NothingToConfirmError(f"nothing to confirm: {_why_nothing(session, bests, plan)}")
    return plan


def confirmed_rows(session: Session) -> dict[str, EvaluationRow]:
    """What was confirmed and counts, by key: it has scores of enough responses and is compared with what has too."""
    least = session.experiment.least_scored
    with session.store() as store:
        rows = {one.row.key: one.row for one in store.confirmations(session.experiment.name)}

    def counts(row: EvaluationRow) -> bool:
        baseline = rows.get(row.baseline_key or "")
        mean = or_nan(row.baseline_trait_mean)
        return is_scored(row, least) and (baseline is None or bool(is_compared(mean, baseline, least)))

    return {key: row for key, row in rows.items() if counts(row)}


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
        return f"no winner reaches coherence {floor:g}; {command} says what to try"
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
            subject = subject_of(self._session, row)
            if subject is None:
                self._plan.left_out["the experiment file does not name its model or trait any more"] += 1
                continue
            cell = self._moved(subject, row)
            if isinstance(cell, str):
                self._plan.left_out[cell] += 1
                continue
            chosen = Chosen(Stored(run_id, "FINISHED", None, row), cell, cell_key(cell))
            self._plan.by_subject.setdefault(subject, []).append(chosen)

    def _moved(self, subject: Subject, row: EvaluationRow) -> Cell | str:
        """A chosen cell on the questions that confirm; else why it cannot be had."""
        if row.origin == "imported":
            return "imported, so that what exactly was measured is not known"
        cell = recast(self._session, subject, row)
        if cell is None:
            return "the trait's dataset or the model's chat template has changed since"
        setting, questions = self._current(subject)
        if (cell.setting.questions_digest, cell.setting.subset) != (setting.questions_digest, setting.subset):
            return _OTHER_QUESTIONS
        if cell.setting.model != setting.model and not self._session.is_dry:
            # what the weights say counts; the files of some models tell it otherwise
            self._session.loaded(subject.model, subject.model.instruct)
            del self._settings[subject]
            setting, questions = self._current(subject)
        if (
            cell.setting != setting
            or cell.steering is None
            or cell.steering.direction != subject.trait.direction
        ):
            return _OTHER_SETTING
        return replace(
            cell, setting=replace(setting, questions_digest=questions.digest, subset=questions.subset)
        )

    def _current(self, subject: Subject) -> tuple[Setting, QuestionSet]:
        """The experiment file's setting, and the questions that confirm."""
        if subject not in self._settings:
            session = self._session
            questions = session.confirming_questions(subject.trait)
            asked, generation = session.questions(subject.trait), session.experiment.generation
            setting = make_setting(session, subject.model, subject.trait, asked, generation)
            self._settings[subject] = (setting, questions)
        return self._settings[subject]
