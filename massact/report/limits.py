"""Which places a report draws where there are too many, and how it says what it left out."""

import math
from collections.abc import Iterable

from massact.report.evidence import Evidence, Place
from massact.report.result_tables import RANDOM

MOST_FIGURES = 6
"""Figures of one kind, each of its own place or model and trait."""
MOST_TRADEOFFS = 4
"""Figures against the coefficient; that against coherence shows every window of a model."""
MOST_PAIRS = 2
"""Figures of one kind, each of its own model and trait."""
MOST_PANELS = 6
"""Panels of one figure."""
MOST_ROWS = 3
"""Rows of panels in one figure, each of its own model and trait."""


def top_gain(evidence: Evidence, place: Place) -> float:
    """The largest delta of a place in the direction that is wanted; a random direction's does not count."""
    bests = (evidence.best(place, label) for label in evidence.labels(place) if label != RANDOM)
    gains = (evidence.gain(place, one.delta) for one in bests if one and one.delta is not None)
    return max(gains, default=-math.inf)


def key_places(evidence: Evidence, places: Iterable[Place], most: int | None) -> list[Place]:
    """At most so many of the places, in their order: the best of each model and trait first, then the others."""
    found = list(places)
    if most is None or len(found) <= most:
        return found
    best: dict[tuple[str, str], tuple[float, Place]] = {}
    for place in found:
        gain = top_gain(evidence, place)
        pair = (place.model, place.trait)
        if pair not in best or gain > best[pair][0]:
            best[pair] = (gain, place)
    first = [place for _, place in best.values()]
    chosen = set([*first, *(place for place in found if place not in first)][:most])
    return [place for place in found if place in chosen]


def left_out(drawn: int, of: int, what: str, how: str) -> str:
    """What a caption says of the rest, such as ` 6 of 60 places are drawn: …`; nothing where there is no rest."""
    if drawn >= of:
        return ""
    return (
        f" {drawn} of {of} {what} are drawn, the best window of each model and trait first; any other: {how}."
    )
