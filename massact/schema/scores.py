"""Per-question scores, as one compact JSON in the tag `massact.scores`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from massact.json_text import parse_json
from massact.schema.names import TAG_LIMIT

_TEXTS_AT_ONCE = 1000


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
    values = parse_json(text)
    if not isinstance(values, dict):
        raise TypeError(f"not per-question scores: {text[:80]!r}")
    trait, coherence = _score_list(values["trait"]), _score_list(values["coherence"])
    if len(trait) != len(coherence):
        raise ValueError(f"{len(trait)} trait scores, but {len(coherence)} of coherence")
    return Scores(trait, coherence)


def decode_many_scores(texts: Sequence[str]) -> list[Scores | None]:
    """What `decode_scores` says of each text, `None` where it refuses; together they take a fifth of the time."""
    found: list[Scores | None] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        try:
            found += _decode_together(some)
        except (ValueError, TypeError, KeyError):  # at least one is none: find which
            found += map(_decoded, some)
    return found


def _decode_together(texts: Sequence[str]) -> list[Scores]:
    parsed = parse_json(f"[{','.join(texts)}]")
    if len(parsed) != len(texts) or set(map(type, parsed)) != {dict}:
        raise TypeError("not one object a text")
    pairs = [(one["trait"], one["coherence"]) for one in parsed]
    if set(map(type, chain.from_iterable(pairs))) != {list}:
        raise TypeError("not a list of scores")
    values = chain.from_iterable(chain.from_iterable(pairs))
    if not set(map(type, values)) <= {float, int, type(None)}:
        raise TypeError("a score of the wrong type")
    if any(len(trait) != len(coherence) for trait, coherence in pairs):
        raise ValueError("scores of trait and coherence differ in number")
    return [Scores(tuple(trait), tuple(coherence)) for trait, coherence in pairs]


def _decoded(text: str) -> Scores | None:
    try:
        return decode_scores(text)
    except (ValueError, TypeError, KeyError):
        return None


def _score_list(values: object) -> tuple[float | None, ...]:
    if not isinstance(values, list) or any(v is not None and not isinstance(v, int | float) for v in values):
        raise TypeError(f"not a list of scores: {str(values)[:80]}")
    return tuple(values)


def _rounded(score: float | None) -> float | None:
    # judges give at most four decimals; more would only make the tag longer
    return None if score is None else round(score, 4)
