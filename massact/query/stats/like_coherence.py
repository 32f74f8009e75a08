"""Two labels read where both have one coherence: the less coherent best is followed along its curve."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from massact.query.rows import AnyPoint, Point


@dataclass(frozen=True, slots=True)
class Matched:
    """Two labels at one coherence, each at the layer of its best."""

    coherence: float
    """0 to 100: that of the more coherent of the two bests, as it is read along its curve."""
    delta_a: float
    delta_b: float
    slope: float
    """Points of delta by which the less coherent label rises for each point of coherence, from its best to there."""


def at_matched_coherence(
    best_a: Point,
    points_a: Iterable[AnyPoint],
    best_b: Point,
    points_b: Iterable[AnyPoint],
    *,
    at_zero: float | None = None,
) -> Matched | None:
    """The deltas of two labels where both have the coherence of the more coherent best.

    The less coherent one is followed from its best to smaller coefficients of its layer, and read between the two
    evaluations where it passes that coherence, linearly in coherence. Coherence and delta of an evaluation are read
    between its two neighbours on the layer: a best was picked for its own scores, and whatever luck is in them would
    be a difference between labels that are alike. At either end of a ladder they are its own.

    Args:
        points_a: evaluations of A, of any layer; those of the other layers are passed over.
        at_zero: coherence of the baseline, the neighbour at coefficient 0; `None`: not known.

    Returns:
        `None` where the ranges do not overlap: it was not evaluated at coefficients as coherent as that.
    """
    a, b = _path(best_a, points_a, at_zero), _path(best_b, points_b, at_zero)
    if not a or not b:
        return None
    is_a_followed = a[0].coherence < b[0].coherence
    followed, target = (a, b[0]) if is_a_followed else (b, a[0])
    delta = _read(followed, target.coherence)
    if delta is None:
        return None
    gap = target.coherence - followed[0].coherence
    slope = (delta - followed[0].delta) / gap if gap else 0.0
    delta_a, delta_b = (delta, target.delta) if is_a_followed else (target.delta, delta)
    return Matched(target.coherence, delta_a, delta_b, slope)


class _Reading(NamedTuple):
    size: float
    """Of the coefficient."""
    coherence: float
    delta: float


def _read(path: Sequence[_Reading], coherence: float) -> float | None:
    """The delta where a layer's curve passes a coherence, coming from its best."""
    if path[0].coherence == coherence:
        return path[0].delta
    for low, high in pairwise(path):
        if low.coherence <= coherence <= high.coherence and high.coherence > low.coherence:
            share = (coherence - low.coherence) / (high.coherence - low.coherence)
            return low.delta + share * (high.delta - low.delta)
    return None


def _path(best: Point, points: Iterable[AnyPoint], at_zero: float | None) -> list[_Reading]:
    """Readings from the best to ever smaller coefficients of one sign on its layer, each between its neighbours."""
    known = {
        abs(point.coefficient): _Reading(abs(point.coefficient), point.coherence_mean, point.delta)
        for point in points
        if point.layer == best.layer
        and point.coherence_mean is not None
        and point.delta is not None
        and point.coefficient * best.coefficient > 0
    }
    if at_zero is not None:
        known[0.0] = _Reading(0.0, at_zero, 0.0)
    curve = [known[size] for size in sorted(known)]
    inner = [_between(before, at, after) for before, at, after in zip(curve, curve[1:], curve[2:], strict=False)]
    readings = [*curve[:1], *inner, *curve[len(inner) + 1 :]]
    return [reading for reading in reversed(readings) if reading.size <= abs(best.coefficient)]


def _between(before: _Reading, at: _Reading, after: _Reading) -> _Reading:
    share = (at.size - before.size) / (after.size - before.size)
    return _Reading(
        at.size,
        before.coherence + share * (after.coherence - before.coherence),
        before.delta + share * (after.delta - before.delta),
    )
