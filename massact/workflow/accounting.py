"""What a phase's run says of the work that it took: of its judge, and of each worker where it has several."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from massact.config import ModelConfig, Prices, TraitConfig
from massact.judges import Usage
from massact.judges.caching import CachingJudge
from massact.store.schema import JudgeMetric, Tag, WorkerMetric
from massact.store.write.tracker import OpenRun, Step
from massact.sweep.executors.base import WorkerReport
from massact.workflow.context import Session

# What a phase's run says of its judge: whether it can be trusted, what it was asked, and what that costs.


def ready_judge(session: Session, run: OpenRun, trait: TraitConfig, model: ModelConfig) -> CachingJudge:
    """The experiment's judge, loaded and checked; a warning and a tag tell where it fails its canaries.

    Raises:
        JudgeError: the judge as a whole cannot be used.
    """
    config, judge = session.experiment.judge, session.judge(trait, model)
    judge.prepare()
    failures = session.judges.failures(config, judge)
    if failures and session.judges.is_news(failures):
        session.say(
            f"warning: the judge {config.name} fails canaries ({failures}): its scores may mean little; see massact "
            "judge-check"
        )
    all_failures = session.judges.all_failures
    session.tracker.set_tag(run, Tag.JUDGE_CHECK, f"failed: {all_failures}" if all_failures else "passed")
    return judge


@contextmanager
def counted_judging(session: Session, run: OpenRun, *, say: bool = True) -> Iterator[None]:
    """Keep on a run what judges were asked while the block ran, also where it was interrupted.

    Args:
        say: also tell it in a line.
    """
    before = session.judges.usage
    try:
        yield
    except BaseException:
        session.patience.end()  # what went wrong may be the store, which is not waited for twice
        with suppress(Exception):
            _log_judge(session, run, session.judges.usage - before, say=say)
        raise
    _log_judge(session, run, session.judges.usage - before, say=say)


def _log_judge(session: Session, run: OpenRun, used: Usage, *, say: bool) -> None:
    if used == Usage():
        return
    prices = session.experiment.judge.prices
    if say:
        session.say(usage_line(used, prices))
    metrics = {
        JudgeMetric.CALLS: used.calls,
        JudgeMetric.PROMPT_TOKENS: used.prompt_tokens,
        JudgeMetric.COMPLETION_TOKENS: used.completion_tokens,
        JudgeMetric.CACHED: used.cached,
    }
    values = {name.value: float(value) for name, value in metrics.items()}
    if prices is not None:
        values[JudgeMetric.COST.value] = used.cost(prompt=prices.prompt, completion=prices.completion)
    session.tracker.log(run, metrics=values)


def usage_line(used: Usage, prices: Prices | None) -> str:
    """What judging took, for a person."""
    parts = [f"{used.calls} judge calls"]
    if used.prompt_tokens or used.completion_tokens:
        parts.append(f"{used.prompt_tokens:,} + {used.completion_tokens:,} tokens")
    if prices is not None:
        parts.append(f"{used.cost(prompt=prices.prompt, completion=prices.completion):.4f} USD")
    return f"{', '.join(parts)}; {used.cached} responses were judged before"


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
                _log_work(session, run, before, say=say)
            raise
        _log_work(session, run, before, say=say)


def _log_work(session: Session, run: OpenRun, before: Mapping[int, WorkerReport], *, say: bool) -> None:
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
