"""What a judge was asked and what that costs."""

from dataclasses import dataclass

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
