"""Sweeps of one model and trait: results as they are judged, hopeless cells given up on a part of their questions."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from massact.executors.base import Work
from massact.keys import cell_key
from massact.phases.interrupt import Interrupted
from massact.phases.judged import ready_judge
from massact.phases.recast import Subject
from massact.phases.session import Session
from massact.phases.sharing import Sharing
from massact.pipeline.evaluate import Evaluation, FailedCell, Part, PlannedCell, Take
from massact.pipeline.screening import Screening, StoppedCell, joined, stop_reason
from massact.tracking.tracker import OpenRun


@dataclass(slots=True)
class Tally:
    """What came of a set of requests."""

    wanted: int = 0
    finished_before: int = 0
    same: int = 0
    """Cells that took over the result of another, since their vectors are alike."""
    evaluated: int = 0
    again: int = 0
    """Cells whose stored responses without scores were judged again."""
    short: int = 0
    """Cells, of both, that have scores of too few responses."""
    stopped: int = 0
    """Cells that were given up on a part of their questions; see `massact.pipeline.screening`."""
    failed: int = 0
    elsewhere: int = 0
    """Cells that another sweep, at work at the same time, came to an end with."""

    def add(self, other: "Tally") -> None:
        self.wanted += other.wanted
        self.finished_before += other.finished_before
        self.same += other.same
        self.evaluated += other.evaluated
        self.again += other.again
        self.short += other.short
        self.stopped += other.stopped
        self.failed += other.failed
        self.elsewhere += other.elsewhere

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        stopped = f", {self.stopped} given up early" if self.stopped else ""
        same = f"{self.same} the same as another, " if self.same else ""
        again = f"{self.again} judged again, " if self.again else ""
        short = f", {self.short} with too few scores, to be judged again" if self.short else ""
        elsewhere = f", {self.elsewhere} by another sweep" if self.elsewhere else ""
        before = f"{self.wanted} cells: {self.finished_before} finished already"
        return f"{before}, {same}{again}{self.evaluated} evaluated{elsewhere}{stopped}{failed}{short}"


@contextmanager
def sweeping(
    session: Session,
    parent: OpenRun,
    subject: Subject,
    cells: Sequence[PlannedCell],
    questions: Sequence[str] | Part,
) -> Iterator[Iterator[Evaluation | FailedCell]]:
    """The results of cells, one by one as they are judged; an interruption lets those in hand be finished.

    Cells that another sweep has taken have no result here.

    Raises:
        JudgeError: the judge as a whole cannot be used.
    """
    interruption = session.interruption
    judge = ready_judge(session, parent, subject.trait, subject.model)
    work = Work(
        session.model_use(subject.model, subject.model.instruct),
        judge,
        questions if isinstance(questions, Part) else Part(questions),
        session.workload.batch_rows or None,
    )
    results = session.executor.evaluate(
        work,
        cells,
        progress=session.progress,
        should_stop=lambda: interruption.is_requested,
        take=taking(session.sharing(parent), cells),
    )
    session.spool  # noqa: B018  opened before anything is spent on what it could not take
    with interruption.finishing(), closing(results):
        yield results


def taking(sharing: Sharing, cells: Sequence[PlannedCell]) -> Take:
    """Takes cells by their keys, each of which is worked out once."""
    keys = {id(one): cell_key(one.cell) for one in cells}

    def take(wanted: Sequence[PlannedCell], n: int) -> Sequence[PlannedCell]:
        by_key = {keys[id(one)]: one for one in wanted}
        return [by_key[key] for key in sharing.take(by_key, n)]

    return take


def stop_if_asked(session: Session, tally: Tally) -> None:
    """End a sweep that was interrupted.

    Raises:
        Interrupted: somebody asked to stop; the cells in hand were finished.
    """
    if session.interruption.is_requested:
        session.close()
        n_finished = tally.finished_before + tally.evaluated + tally.again
        raise Interrupted(
            f"interrupted: {n_finished} of {tally.wanted} cells finished; run the same command again to go on"
        )


def screened(
    session: Session,
    parent: OpenRun,
    subject: Subject,
    cells: Sequence[PlannedCell],
    questions: Sequence[str],
    screening: Screening,
) -> Iterator[Evaluation | FailedCell | StoppedCell]:
    """The results of cells that are asked the first questions, and the others only where they are not hopeless.

    What was asked first of a cell is lost where an interruption comes before its other questions.
    """
    first, kept = screening.n_first, dict[str, Evaluation]()
    with sweeping(session, parent, subject, cells, questions[:first]) as results:
        for result in results:
            if isinstance(result, FailedCell):
                yield result
                continue
            reason = stop_reason(result.responses, len(questions), screening)
            if reason is not None:
                yield StoppedCell(result, reason)
            else:
                kept[cell_key(result.planned.cell)] = result
    going_on = [] if session.interruption.is_requested else [one.planned for one in kept.values()]
    if not going_on:
        return
    with sweeping(session, parent, subject, going_on, Part(questions[first:], first)) as results:
        for result in results:
            if isinstance(result, FailedCell):
                yield result
            else:
                yield joined(kept[cell_key(result.planned.cell)], result)
