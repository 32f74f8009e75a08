"""What is expected of a ladder before any coefficient of it was tried."""

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFacts:
    """What is known of a unit vector and its layer without steering by it."""

    unit_strength: float
    """Relative strength of coefficient 1: ‖v without massive dims‖ / mean ‖h without massive dims‖."""
    norm: float
    """Mean L2 norm of a token's activation at the layer."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Where a ladder's best coefficient and its coherence cliff are expected, as sizes (above 0)."""

    best: float
    """The coefficient of the best delta at or above the floor."""
    cliff: float
    """The coefficient where coherence falls below the floor."""
    spread: float
    """Standard deviation of the logarithm of either; ln 1.16 means within a factor of 1.16, two times in three."""
    source: str
    """What expects it, in words."""


class Prior(Protocol):
    """Expects something of a vector."""

    def expect(self, facts: VectorFacts) -> Expectation:
        """What to expect of the ladder of a vector.

        Raises:
            ValueError: the vector lies in massive dims alone, so that no coefficient has a strength.
        """


@dataclass(frozen=True, slots=True)
class RelativeStrengthPrior:
    """The best coefficient lies at one relative strength for all methods, layers and models.

    The defaults agree with the embedded Gemma 3 and with the published figures of Gemma 3. Within a model
    `spread` is about right; another model may have another strength (the embedded Gemma 2 takes half as much
    again), which `massact predict` measures (docs/design/prediction.md).
    """

    best: float = 0.82
    cliff: float = 1.03
    spread: float = math.log(1.16)
    source: str = "relative strength"

    def expect(self, facts: VectorFacts) -> Expectation:
        unit = facts.unit_strength
        if not unit > 0:
            raise ValueError("the vector lies in massive dims alone: no coefficient moves the rest of the stream")
        return Expectation(self.best / unit, self.cliff / unit, self.spread, self.source)
