"""What is expected of a ladder before any coefficient of it was tried."""

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFacts:
    """What is known of a unit vector and its layer without steering by it."""

    method: str
    layer: int
    depth: float
    """The layer as a share of the model's depth, 0 (first) to 1 (last)."""
    unit_strength: float
    """Relative strength of coefficient 1: ‖v without massive dims‖ / mean ‖h without massive dims‖."""
    norm: float
    """Mean L2 norm of a token's activation at the layer."""
    norm_without_massive: float
    """The same with the massive dims (uniform list) zeroed."""
    massive_energy: float
    """Share of the vector's squared norm in massive dims, 0 to 1."""
    cosine_to_uncleaned: float
    """With the same method's vector before any cleaning, -1 to 1."""
    cosine_to_mean: float | None = None
    """With the mean of the contrastive training activations, -1 to 1; `None`: they were not read."""
    effect_size: float | None = None
    """Cohen's d on the validation split; `None`: not read, or the split is too small."""


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
        """What to expect of the ladder of a vector."""


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
        """See `Prior`.

        Raises:
            ValueError: the vector lies in massive dims alone, so that no coefficient has a strength.
        """
        if not facts.unit_strength > 0:
            raise ValueError(
                "the vector lies in massive dims alone: no coefficient moves the rest of the stream"
            )
        return Expectation(
            self.best / facts.unit_strength, self.cliff / facts.unit_strength, self.spread, self.source
        )
