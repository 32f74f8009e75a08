"""What a phase's run says of its judge: whether it can be trusted, what it was asked, and what that costs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from massact.config import ModelConfig, Prices, TraitConfig
from massact.judges import Usage
from massact.phases.session import Session
from massact.pipeline.remembering import RememberingJudge
from massact.schema import JudgeMetric, Tag
from massact.tracking.tracker import OpenRun


def ready_judge(session: Session, run: OpenRun, trait: TraitConfig, model: ModelConfig) -> RememberingJudge:
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
            _log(session, run, session.judges.usage - before, say=say)
        raise
    _log(session, run, session.judges.usage - before, say=say)


def _log(session: Session, run: OpenRun, used: Usage, *, say: bool) -> None:
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
