"""What a regression reads off a vector, besides its relative strength."""

import math
from collections.abc import Collection, Mapping, Sequence

from massact.prediction.prior import VectorFacts

NAMES = (
    "depth",
    "massive_energy",
    "log_norm_ratio",
    "cosine_to_mean",
    "cosine_to_uncleaned",
    "effect_size",
)
"""Of every vector; a method has one more each, 1 for its own vectors and 0 for others."""
METHOD = "method="
"""Prefix of the features that stand for a method."""


def features_of(facts: VectorFacts, methods: Collection[str]) -> dict[str, float | None]:
    """By name; `None` where it is not known.

    Args:
        methods: those that a regression knows; of a vector of another one no method is known.
    """
    known = {
        "depth": facts.depth,
        "massive_energy": facts.massive_energy,
        # by how much massive dims lengthen the stream
        "log_norm_ratio": math.log(facts.norm / facts.norm_without_massive),
        "cosine_to_mean": facts.cosine_to_mean,
        "cosine_to_uncleaned": facts.cosine_to_uncleaned,
        "effect_size": facts.effect_size,
    }
    is_known = facts.method in methods
    own = {f"{METHOD}{one}": float(facts.method == one) if is_known else None for one in methods}
    return {name: _finite(value) for name, value in (known | own).items()}


def named_methods(names: Collection[str]) -> tuple[str, ...]:
    """The methods that feature names stand for."""
    return tuple(name.removeprefix(METHOD) for name in names if name.startswith(METHOD))


def column(rows: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    """The known values of a feature."""
    return [value for row in rows if (value := row[name]) is not None]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
