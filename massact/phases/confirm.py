"""Confirming winners: each is evaluated once more, on questions that took no part in choosing it.

The results are runs of a kind of their own, which no question about the grid sees: a confirmation must not become a
second chance to win.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from massact.domain import QuestionSet
from massact.errors import MassactError
from massact.keys import cell_key
from massact.phases.accounting import counted_work
from massact.phases.confirm_plan import Chosen, ConfirmPlan, confirmed_rows, plan_confirm
from massact.phases.grid import load_answers
from massact.phases.preflight import check_experiment
from massact.phases.recast import Subject, stored_plan
from massact.phases.session import Session
from massact.phases.steps import phase_params
from massact.phases.sweeping import Tally, stop_if_asked, sweeping, taking
from massact.phases.unscored import checked_baseline, is_short
from massact.pipeline.evaluate import Evaluation, FailedCell, PlannedCell
from massact.report.tables import confirm_markdown, confirm_verdicts
from massact.schema import MlflowTag, Tag
from massact.tracking.making import RunMaker
from massact.tracking.rows import Baseline, Place
from massact.tracking.tracker import PROJECT_RUN, OpenRun

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
