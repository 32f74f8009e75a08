"""What a phase's run says of the work that it took: of its judge, and of each worker where it has several."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from massact.executors.base import WorkerReport
from massact.phases.judged import counted_judging
from massact.phases.session import Session
from massact.schema import Tag, WorkerMetric
from massact.tracking.tracker import OpenRun, Step


@contextmanager
def counted_work(session: Session, run: OpenRun, *, say: bool = True) -> Iterator[None]:
    """Keep on a run what judges were asked and what workers did while the block ran, also where it was interrupted.

    Args:
        say: also tell it.
    """
    before = {one.number: one for one in session.executor.reports}
    with ExitStack() as counting:
        counting.enter_context(counted_judging(session, run, say=say))
        try:
            yield
        except BaseException:
            session.patience.end()  # what went wrong may be the store, which is not waited for twice
            with suppress(Exception):
                _log(session, run, before, say=say)
            raise
        _log(session, run, before, say=say)


def _log(session: Session, run: OpenRun, before: Mapping[int, WorkerReport], *, say: bool) -> None:
    reports = [_since(before.get(one.number), one) for one in session.executor.reports]
    reports = [one for one in reports if one.present_seconds > 0]
    if not reports:
        return
    steps = [step for one in reports for step in _steps(one)]
    text = _text(reports)
    session.tracker.log(run, metrics={WorkerMetric.WORKERS.value: float(len(reports))}, steps=steps)
    session.tracker.set_tag(run, Tag.EXECUTOR, f"ray: {text}")
    if say:
        session.say(text)


def _since(before: WorkerReport | None, after: WorkerReport) -> WorkerReport:
    if before is None:
        return after
    return WorkerReport(
        after.number,
        after.node,
        after.cells - before.cells,
        after.tokens - before.tokens,
        after.busy_seconds - before.busy_seconds,
        after.present_seconds - before.present_seconds,
        after.is_lost and not before.is_lost,
    )


def _steps(one: WorkerReport) -> list[Step]:
    values = {
        WorkerMetric.CELLS: one.cells,
        WorkerMetric.CELL_RATE: one.cells / one.present_seconds,
        WorkerMetric.SPEED: one.tokens / one.present_seconds,
        WorkerMetric.UTILISATION: min(1.0, one.busy_seconds / one.present_seconds),
        WorkerMetric.LOST: one.is_lost,
    }
    return [Step(name.value, float(value), one.number) for name, value in values.items()]


def _text(reports: Sequence[WorkerReport]) -> str:
    nodes = sorted({one.node for one in reports if one.node})
    busy = sum(one.busy_seconds for one in reports) / sum(one.present_seconds for one in reports)
    n_lost = sum(one.is_lost for one in reports)
    lost = f", {n_lost} of them lost" if n_lost else ""
    machines = f"{len(nodes)} machine{'s' if len(nodes) != 1 else ''}"
    workers = f"{len(reports)} worker{'s' if len(reports) != 1 else ''}"
    n_cells = sum(one.cells for one in reports)
    return f"{workers} on {machines}{lost}: {n_cells} cells, busy {min(1.0, busy):.0%} of the time"
