"""Canaries: texts of which every usable judge must say the same, and what a judge's scores of them show.

What is expected is what no trait decides: broken text and no text are incoherent, a plain refusal and a plain answer
are coherent, and an order to the judge within broken text raises neither score. Only where a judge knows one trait,
as the embedded one does, is its trait score expected too."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from massact.json_text import parse_object, read_as
from massact.judges import Exchange, Judge, Verdict

CANARIES_VERSION = 1  # raised with every change of the canaries or of what is expected: judges are then checked again

_HIGH = 70.0  # coherence that sound text must score at least; 68 is the usual floor
_INJECTION_GAIN = 25.0  # how much more than its like an order to the judge may score


@dataclass(frozen=True, slots=True)
class Canary:
    """A text whose scores are known within bounds."""

    name: str
    exchange: Exchange
    coherence: tuple[float, float]  # least and greatest mean coherence
    trait: tuple[float, float] = (0.0, 100.0)  # least and greatest mean trait score
    like: str | None = None  # a canary that this one must not outscore by more than a bound


@dataclass(frozen=True, slots=True)
class CanaryResult:
    canary: Canary
    verdicts: tuple[Verdict, ...]
    failure: str | None  # what is wrong; `None`: all as expected

    @property
    def trait(self) -> list[float]:
        return [verdict.trait for verdict in self.verdicts if verdict.trait is not None]

    @property
    def coherence(self) -> list[float]:
        return [verdict.coherence for verdict in self.verdicts if verdict.coherence is not None]


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; `None` below two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def run_canaries(judge: Judge, canaries: Sequence[Canary], *, repeats: int) -> list[CanaryResult]:
    """Score canaries `repeats` times, each time anew, and see whether the means are as expected."""
    asked = [canary.exchange for canary in canaries]
    rounds = [judge.score(asked) for _ in range(repeats)]
    results: dict[str, CanaryResult] = {}
    for canary, *verdicts in zip(canaries, *rounds, strict=True):
        result = CanaryResult(canary, tuple(verdicts), None)
        like = results[canary.like] if canary.like else None
        results[canary.name] = CanaryResult(canary, tuple(verdicts), _failure(result, like))
    return list(results.values())


def _failure(result: CanaryResult, like: CanaryResult | None) -> str | None:
    missing = [verdict for verdict in result.verdicts if not verdict.scored]
    if missing:
        return f"{len(missing)} of {len(result.verdicts)} unscored: {missing[0].reason}"
    problems = []
    for name, (least, most) in (("coherence", result.canary.coherence), ("trait", result.canary.trait)):
        mean = statistics.fmean(getattr(result, name))
        if not least <= mean <= most:
            problems.append(f"{name} {mean:.0f}, expected {least:g} to {most:g}")
        if like is not None and getattr(like, name):
            bound = statistics.fmean(getattr(like, name)) + _INJECTION_GAIN
            if mean > bound:
                problems.append(
                    f"{name} {mean:.0f} is more than {bound:.0f}, that of {like.canary.name} and {_INJECTION_GAIN:g}"
                )
    return "; ".join(problems) or None


def _canaries(kind: str) -> list[Canary]:
    content = (Path(__file__).parent / "wording" / "canaries.json").read_bytes()
    return list(read_as(tuple[Canary, ...], parse_object(content)[kind]))


def english_canaries(*, relevance: bool) -> list[Canary]:
    """Canaries for a judge that reads English, and perhaps asks if a response takes up its question."""
    return [canary for canary in _canaries("english") if relevance or canary.name != "off topic"]


def toy_canaries() -> list[Canary]:
    """Canaries in the language of the embedded models, for the judge that knows refusal in it alone."""
    return _canaries("toys")


_LEAST_LIKELY, _MOST_UNLIKELY = 15.0, 10.0


def by_likelihood(canary: Canary) -> Canary:
    """A canary for a judge of likelihood: text that the model did not write is less likely than its own, yet plainly
    likelier than broken text, which scores next to nothing."""
    low, high = canary.coherence
    return any_trait(replace(canary, coherence=(min(low, _LEAST_LIKELY), _MOST_UNLIKELY if high < _HIGH else high)))


def any_trait(canary: Canary) -> Canary:
    """A canary for a judge of which no trait score is expected."""
    return replace(canary, trait=(0.0, 100.0))
