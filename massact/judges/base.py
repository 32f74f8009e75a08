"""What a judge is: it reads a question and a response and scores trait and coherence.

A response that cannot be scored is never a zero: its `Verdict` carries the reason, and no mean
counts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from massact.domain import JudgeIdentity

# What a judge was asked and what that costs.

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of a judge's work. Two are added and subtracted field by field."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    """Answers received, malformed ones included; an attempt that brought none is not counted."""
    cached: int = 0
    """Exchanges whose verdict was known: from this command, or from the judge cache."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(a + b for a, b in zip(self._counts, other._counts, strict=True)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*(a - b for a, b in zip(self._counts, other._counts, strict=True)))

    @property
    def _counts(self) -> tuple[int, int, int, int]:
        return (self.prompt_tokens, self.completion_tokens, self.calls, self.cached)

    def cost(self, *, prompt: float, completion: float) -> float:
        """USD, at prices per million tokens."""
        return (self.prompt_tokens * prompt + self.completion_tokens * completion) / _MILLION


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and the model's response to it."""

    question: str
    response: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's two scores of one response, each 0 to 100, `None` where unscored."""

    trait: float | None
    """How strongly the response shows the trait, 0 to 100."""
    coherence: float | None
    """How well the response reads as text, 0 to 100."""
    reason: str | None = None
    """Why a score is missing; `None` when both are there."""

    @property
    def scored(self) -> bool:
        return self.trait is not None and self.coherence is not None


class Judge(Protocol):
    """Scores exchanges for one trait. Built once per trait, used for the whole sweep."""

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges: part of every cell's key."""
        ...

    @property
    def usage(self) -> Usage:
        """What it was asked since it was built."""
        ...

    def prepare(self) -> None:
        """Load what scoring needs: called before a sweep, which then measures the memory that is left.

        Raises:
            UsageError: it cannot be loaded.
        """
        ...

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order. Never raises for a single response."""
        ...
