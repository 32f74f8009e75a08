"""Per-question scores, as one compact JSON in the tag `massact.scores`."""

import json
from dataclasses import dataclass

from massact.schema.names import TAG_LIMIT
from massact.schema.rows import refuse_constant


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-question scores of one evaluation, 0 to 100, in the question set's order; `None` unscored."""

    trait: tuple[float | None, ...]
    coherence: tuple[float | None, ...]


def encode_scores(scores: Scores) -> str | None:
    """Per-question scores as JSON for the tag `massact.scores`; `None` where they do not fit in a tag."""
    rounded = {name: [_rounded(v) for v in getattr(scores, name)] for name in ("trait", "coherence")}
    text = json.dumps(rounded, separators=(",", ":"), allow_nan=False)
    return text if len(text) <= TAG_LIMIT else None


def decode_scores(text: str) -> Scores:
    """The scores that `encode_scores` wrote.

    Raises:
        ValueError, TypeError, KeyError: not such scores.
    """
    values = json.loads(text, parse_constant=refuse_constant)
    if not isinstance(values, dict):
        raise TypeError(f"not per-question scores: {text[:80]!r}")
    trait, coherence = _score_list(values["trait"]), _score_list(values["coherence"])
    if len(trait) != len(coherence):
        raise ValueError(f"{len(trait)} trait scores, but {len(coherence)} of coherence")
    return Scores(trait, coherence)


def _score_list(values: object) -> tuple[float | None, ...]:
    if not isinstance(values, list) or any(v is not None and not isinstance(v, int | float) for v in values):
        raise TypeError(f"not a list of scores: {str(values)[:80]}")
    return tuple(values)


def _rounded(score: float | None) -> float | None:
    # judges give at most four decimals; more would only make the tag longer
    return None if score is None else round(score, 4)
