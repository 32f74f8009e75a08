"""Evaluating cells of one model and trait: what the store holds is skipped, the rest is generated and spooled."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from massact.config import ModelConfig, TraitConfig
from massact.errors import MissingPrerequisiteError
from massact.keys import cell_key
from massact.labels import format_label
from massact.phases.interrupt import Interrupted
from massact.phases.judged import ready_judge
from massact.phases.planning import NO_OVERRIDES, GridRequest, Overrides, Planner
from massact.phases.recast import Subject
from massact.phases.session import Session
from massact.pipeline.evaluate import Evaluation, FailedCell, PlannedCell
from massact.pipeline.sweep import evaluate_cells
from massact.schema import EvaluationRow
from massact.tracking.evaluations import evaluation_whole_run, failure_whole_run
from massact.tracking.rows import Baseline, Place
from massact.tracking.tracker import OpenRun

__all__ = ["Evaluator", "GridRequest", "Overrides", "Tally"]


@dataclass(slots=True)
class Tally:
    """What came of a set of requests."""

    wanted: int = 0
    finished_before: int = 0
    evaluated: int = 0
    failed: int = 0

    def add(self, other: "Tally") -> None:
        self.wanted += other.wanted
        self.finished_before += other.finished_before
        self.evaluated += other.evaluated
        self.failed += other.failed

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.wanted} cells: {self.finished_before} finished already, {self.evaluated} evaluated{failed}"


@contextmanager
def sweeping(
    session: Session,
    parent: OpenRun,
    subject: Subject,
    cells: Sequence[PlannedCell],
    questions: Sequence[str],
) -> Iterator[Iterator[Evaluation | FailedCell]]:
    """The results of cells, one by one as they are judged; an interruption lets those in hand be finished.

    Raises:
        JudgeError: the judge as a whole cannot be used.
    """
    interruption = session.interruption
    judge = ready_judge(session, parent, subject.trait, subject.model)
    results = evaluate_cells(
        session.model(subject.model, subject.model.instruct),
        cells,
        questions,
        judge,
        batch_rows=session.workload.batch_rows or None,
        progress=session.progress,
        should_stop=lambda: interruption.is_requested,
    )
    session.spool  # noqa: B018  opened before anything is spent on what it could not take
    with interruption.finishing(), closing(results):
        yield results


def stop_if_asked(session: Session, tally: Tally) -> None:
    """End a sweep that was interrupted.

    Raises:
        Interrupted: somebody asked to stop; the cells in hand were finished.
    """
    if session.interruption.is_requested:
        session.close()
        n_finished = tally.finished_before + tally.evaluated
        raise Interrupted(
            f"interrupted: {n_finished} of {tally.wanted} cells finished; run the same command again to go on"
        )


class Evaluator:
    """Evaluates cells of one model and one trait, under one parent run."""

    def __init__(
        self,
        session: Session,
        parent: OpenRun,
        config: ModelConfig,
        trait: TraitConfig,
        overrides: Overrides = NO_OVERRIDES,
    ) -> None:
        self._session, self._parent, self._config, self._trait = session, parent, config, trait
        session.send_leftovers()
        self._planner = Planner(session, config, trait, overrides)
        n_questions = len(self._planner.questions.questions)
        self._place = Place(
            session.experiment.name,
            config.name,
            config.instruct.name,
            n_questions,
            confirm_share=session.experiment.confirm_share,
        )
        self._best: dict[tuple[str, str], float] = {}

    @property
    def n_layers(self) -> int:
        return self._planner.n_layers

    @property
    def planner(self) -> Planner:
        """What plans the cells."""
        return self._planner

    @property
    def allowed(self) -> tuple[float, float]:
        """Least and greatest |coefficient| that may be tried of the model."""
        return self._config.coefficient_range or (0.0, math.inf)

    def is_of(self, model: str, trait: str) -> bool:
        """Whether results of a model and trait, by their names in the experiment file, are evaluated here."""
        return (model, trait) == (self._config.name, self._trait.name)

    def baseline_row(self) -> EvaluationRow:
        """The baseline's row; it is evaluated where the store has none.

        Raises:
            MissingPrerequisiteError: it could not be evaluated.
        """
        found = self._find_baseline()
        if found is None:
            self._session.model(self._config, self._config.instruct)
            self._sweep([], Tally())
            found = self._find_baseline()
        if found is None:
            raise MissingPrerequisiteError(f"the baseline of {self._config.name} is not in the store")
        return found

    def run(self, requests: Iterable[GridRequest]) -> Tally:
        """Evaluate what the store does not hold of the requested cells, the baseline first.

        Raises:
            Interrupted: somebody asked to stop; the cells in hand were finished.
        """
        requests = list(requests)
        described = self._planner.description
        tally, todo = self._plan(requests)
        if todo:
            model = self._session.model(self._config, self._config.instruct)
            self._place = replace(self._place, attention=model.attention)
            if self._planner.description != described:
                # what the weights say counts; the files of some models tell it otherwise
                tally, todo = self._plan(requests)
            self._sweep(todo, tally)
        self._session.say(f"{self._config.name}, {self._trait.name}: {tally}")
        return tally

    def _plan(self, requests: Sequence[GridRequest]) -> tuple[Tally, list[PlannedCell]]:
        wanted = self._planner.cells(requests)
        with self._session.store() as store:
            finished = store.finished_keys(self._session.experiment.name)
        todo = [planned for key, planned in wanted.items() if key not in finished]
        return Tally(wanted=len(wanted), finished_before=len(wanted) - len(todo)), todo

    def _sweep(self, todo: Sequence[PlannedCell], tally: Tally) -> None:
        cell = self._planner.baseline()
        baseline = self._stored_baseline()
        cells = todo if baseline else [cell, *todo]
        subject = Subject(self._config, self._trait)
        with sweeping(
            self._session, self._parent, subject, cells, self._planner.questions.questions
        ) as results:
            for result in results:
                if baseline is None:
                    baseline = self._put_baseline(result)
                else:
                    self._put(result, baseline, tally)
        stop_if_asked(self._session, tally)

    def _stored_baseline(self) -> Baseline | None:
        found = self._find_baseline()
        return None if found is None else Baseline(found.key, found.trait_mean)

    def _find_baseline(self) -> EvaluationRow | None:
        key = cell_key(self._planner.baseline().cell)
        with self._session.store() as store:
            baselines = store.baselines(self._session.experiment.name)
        return next((one.row for one in baselines if one.row.key == key), None)

    def _put_baseline(self, result: Evaluation | FailedCell) -> Baseline:
        spool, home = self._session.spool, self._parent.experiment_id
        if isinstance(result, FailedCell):
            spool.put(failure_whole_run(self._place, result, parent=self._parent), experiment_id=home)
            raise MissingPrerequisiteError(
                f"the baseline of {self._config.name} could not be evaluated: {result.error}"
            )
        run, row = evaluation_whole_run(
            self._place, result, baseline=None, keep_responses=True, parent=self._parent
        )
        spool.put(run, experiment_id=home)
        return Baseline(row.key, row.trait_mean)

    def _put(self, result: Evaluation | FailedCell, baseline: Baseline, tally: Tally) -> None:
        spool, home = self._session.spool, self._parent.experiment_id
        if isinstance(result, FailedCell):
            tally.failed += 1
            self._session.say(f"failed: {result.error}")
            spool.put(failure_whole_run(self._place, result, parent=self._parent), experiment_id=home)
            return
        run, _ = evaluation_whole_run(
            self._place,
            result,
            baseline=baseline,
            keep_responses=self._keeps_responses(result, baseline),
            parent=self._parent,
        )
        spool.put(run, experiment_id=home)
        tally.evaluated += 1

    def _keeps_responses(self, result: Evaluation, baseline: Baseline) -> bool:
        keep = self._session.workload.save_responses
        if keep != "best":
            return keep == "all"
        summary, steering = result.summary, result.planned.cell.steering
        coherent = (summary.coherence_mean or 0.0) >= self._session.experiment.coherence_floor
        if steering is None or summary.trait_mean is None or not coherent:
            return False
        gain = (summary.trait_mean - (baseline.trait_mean or 0.0)) * (
            1 if self._planner.direction == "positive" else -1
        )
        group = (steering.position, format_label(steering.recipe))
        is_best = gain > self._best.get(group, float("-inf"))
        if is_best:
            self._best[group] = gain
        return is_best
