"""Confirming winners: each is evaluated once more, on questions that took no part in choosing it.

The results are runs of a kind of their own, which no question about the grid sees: a confirmation must not become a
second chance to win.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from massact.domain import Cell, QuestionSet, Setting
from massact.errors import MassactError, NothingToConfirmError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.keys import cell_key
from massact.query import BestRow
from massact.query.questions.best import ask_best
from massact.report.phase_notes import confirm_markdown, confirm_verdicts
from massact.store.read.base import Stored
from massact.store.read.database import is_absent
from massact.store.schema import EvaluationRow, MlflowTag, Tag, is_scored
from massact.store.schema.points import or_nan
from massact.store.write.evaluations import RunMaker
from massact.store.write.rows import Baseline, Place
from massact.store.write.tracker import PROJECT_RUN, OpenRun
from massact.sweep.driver import Tally, stop_if_asked, sweeping, taking
from massact.sweep.planner import load_answers, make_setting
from massact.sweep.recast import Subject, recast, stored_plan, subject_of
from massact.sweep.reuse import is_compared
from massact.sweep.unscored import checked_baseline, is_short
from massact.workflow.accounting import counted_work
from massact.workflow.context import Session
from massact.workflow.steps import phase_params
from massact.workflow.validate import check_experiment

# Which cells are to be confirmed: every winner and every label tied with it, on the questions kept for that.

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
    bests = ask_best.of(load_answers(session, with_scores=True), floor).rows
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


PHASE = "confirm"


def run_confirm(session: Session, parent: OpenRun | None = None) -> Tally:
    """Evaluate every winner and every label tied with it on the questions kept for that, as far as that was not done.

    Where all of it was done, nothing is evaluated, and without a `parent` no run is made.

    Raises:
        NothingToConfirmError: no questions are kept for confirming, or no winner can be confirmed; nothing was written.
        Interrupted: somebody asked to stop; the cells in hand were finished.
    """
    for trait in session.experiment.traits:
        session.confirming_questions(trait)
    check_experiment(session, judges=True)
    session.send_leftovers()
    plan = plan_confirm(session)
    if plan.left_out:
        session.say(f"confirm: {plan.why_left_out}")
    tally = Tally(wanted=plan.n_cells, finished_before=plan.n_cells - plan.n_todo)
    # the run that `mlflow run` made for this command is to say what it is, also where there is nothing to do
    if not plan.n_todo and parent is None and not os.environ.get(PROJECT_RUN):
        session.show(_outcome(session)[0])
        session.say(f"{PHASE}: {tally}; everything was confirmed already")
        return tally
    params = {**phase_params(session), "confirm_share": f"{session.experiment.confirm_share:g}"}
    phase_run = session.tracker.phase(PHASE, parent=parent, params=params)
    with phase_run as run, counted_work(session, run):
        for subject in plan.by_subject:
            _Confirming(session, run, subject, plan, tally).run()
        session.settle()
        _log(session, run)
    session.say(f"{PHASE}: {tally}")
    return tally


def _outcome(session: Session) -> tuple[str, dict[str, str]]:
    """What was confirmed so far: in tables, and in a few words each for tags."""
    answers = load_answers(session, with_scores=True, with_confirmations=True)
    return confirm_markdown(session.experiment, answers), confirm_verdicts(session.experiment, answers)


def _log(session: Session, run: OpenRun) -> None:
    text, verdicts = _outcome(session)
    tracker = session.tracker
    tracker.set_tag(run, MlflowTag.NOTE, text)
    for name, verdict in verdicts.items():
        tracker.set_tag(run, f"{Tag.VERDICT}.{name}", verdict)
    with tracker.artifacts(run) as folder:
        (folder / f"{PHASE}.md").write_text(text + "\n", encoding="utf-8")
    session.show(text)


class _Confirming:
    """Confirms what is chosen of one model and trait, under one parent run."""

    def __init__(
        self, session: Session, parent: OpenRun, subject: Subject, plan: ConfirmPlan, tally: Tally
    ) -> None:
        self._session, self._parent, self._subject = session, parent, subject
        self._plan, self._tally = plan, tally
        self._sharing = session.sharing(parent)
        self._came: set[str] = set()
        """Keys that this command came to an end with."""

    def run(self) -> None:
        """Evaluate what is not confirmed yet, the baseline on the same questions first."""
        wanted = self._plan.todo(self._subject)
        if self._sharing.look():
            self._read_confirmed(wanted)
        todo = self._ready([one for one in wanted if one.key not in self._came])
        while todo:
            self._sweep(todo)
            todo = [one for one in todo if one[0].key not in self._came]
            if todo:
                self._sharing.wait([one.key for one, _ in todo])
                self._read_confirmed([one for one, _ in todo])
                todo = [one for one in todo if one[0].key not in self._came]

    def _read_confirmed(self, wanted: Sequence[Chosen]) -> None:
        """Look again what was confirmed, since another sweep is at work."""
        self._plan.confirmed |= confirmed_rows(self._session)
        done = {key for key in (one.key for one in wanted) if self._sharing.ended_elsewhere(key)}
        done |= {one.key for one in wanted if one.key in self._plan.confirmed}
        self._tally.elsewhere += len(done - self._came)
        self._came |= done

    def _sweep(self, todo: Sequence[tuple[Chosen, PlannedCell]]) -> None:
        session, subject = self._session, self._subject
        questions = session.confirming_questions(subject.trait)
        baseline, cells = self._baseline(todo[0][0]), [planned for _, planned in todo]
        sources = {one.key: one.source.row.key for one, _ in todo}
        unsteered = PlannedCell(replace(todo[0][1].cell, steering=None), None)
        key, take = cell_key(unsteered.cell), taking(self._sharing, [unsteered])
        while baseline is None and not take([unsteered], 1):
            self._sharing.wait([key])
            self._read_confirmed(())
            baseline = self._baseline(todo[0][0])
        if baseline is None:
            cells = [unsteered, *cells]
            sources[key] = todo[0][0].source.row.baseline_key or ""
        place = self._place(questions)
        with sweeping(session, self._parent, subject, cells, questions.questions) as results:
            for result in results:
                confirms = sources[cell_key(result.planned.cell)]
                if result.planned.cell.steering is None:
                    baseline = self._put_baseline(place, result, confirms)
                else:
                    self._put(place, result, baseline, confirms)
        stop_if_asked(session, self._tally)

    def _ready(self, todo: Sequence[Chosen]) -> list[tuple[Chosen, PlannedCell]]:
        """Those whose vector can be read from the run that was chosen."""
        found = []
        for one in todo:
            try:
                found.append((one, stored_plan(self._session, one.cell, one.source)))
            except MassactError as error:
                self._tally.failed += 1
                self._session.say(f"failed: the vector of run {one.source.run_id}: {error}")
        return found

    def _baseline(self, one: Chosen) -> Baseline | None:
        key = cell_key(replace(one.cell, steering=None))
        known = self._plan.confirmed.get(key)
        return None if known is None else Baseline(key, known.trait_mean)

    def _place(self, questions: QuestionSet) -> Place:
        session, model = self._session, self._subject.model
        loaded = session.loaded(model, model.instruct)
        return Place(
            session.experiment.name,
            model.name,
            model.instruct.name,
            len(questions.questions),
            attention=loaded.attention,
            unused_settings=loaded.unused_settings,
            confirm_share=session.experiment.confirm_share,
        )

    def _put_baseline(self, place: Place, result: Evaluation | FailedCell, confirms: str) -> Baseline:
        self._keep(result, RunMaker(place=place, parent=self._parent, confirms=confirms))
        return checked_baseline(self._session, self._subject.model.name, result)

    def _put(
        self, place: Place, result: Evaluation | FailedCell, baseline: Baseline | None, confirms: str
    ) -> None:
        self._came.add(cell_key(result.planned.cell))
        if isinstance(result, FailedCell):
            self._tally.failed += 1
            self._sharing.release(cell_key(result.planned.cell))
            self._session.say(f"failed: {result.error}")
        else:
            self._tally.evaluated += 1
            self._tally.short += is_short(self._session, result)
        maker = RunMaker(
            place=place,
            parent=self._parent,
            baseline=baseline,
            # each of them is the best of its group, or was
            keep_responses=self._session.workload.save_responses != "none",
            confirms=confirms,
        )
        self._keep(result, maker)

    def _keep(self, result: Evaluation | FailedCell, maker: RunMaker) -> None:
        self._session.executor.keep(result, maker, home=self._parent)
