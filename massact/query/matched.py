"""Delta at like coherence: a method that breaks the text more may only look the stronger one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from massact.query.rows import AnyPoint, Point


@dataclass(frozen=True, slots=True)
class Matched:
    """Two labels at one coherence, each at the layer of its best."""

    coherence: float
    """0 to 100: that of the more coherent of the two bests."""
    delta_a: float
    delta_b: float
    """Deltas there: of the more coherent best its own, of the other interpolated."""


def at_matched_coherence(
    best_a: Point, points_a: Iterable[AnyPoint], best_b: Point, points_b: Iterable[AnyPoint]
) -> Matched | None:
    """The deltas of two labels where both have the coherence of the more coherent best.

    The less coherent one is followed from its best to smaller coefficients of its layer, and read between the two
    evaluations where it passes that coherence, linearly in coherence.

    Args:
        points_a: evaluations of A, of any layer; those of the other layers are passed over.

    Returns:
        `None` where the ranges do not overlap: it was not evaluated at coefficients as coherent as that.
    """
    if best_a.coherence_mean is None or best_b.coherence_mean is None:
        return None
    coherence = max(best_a.coherence_mean, best_b.coherence_mean)
    delta_a = best_a.delta if best_a.coherence_mean == coherence else _read(best_a, points_a, coherence)
    delta_b = best_b.delta if best_b.coherence_mean == coherence else _read(best_b, points_b, coherence)
    if delta_a is None or delta_b is None:
        return None
    return Matched(coherence, delta_a, delta_b)


def _read(best: Point, points: Iterable[AnyPoint], coherence: float) -> float | None:
    """The delta where a layer's curve passes a coherence, coming from its best."""
    for near, far in pairwise(_path(best, points)):
        (high, low) = (far, near)
        if low[0] <= coherence <= high[0] and high[0] > low[0]:
            share = (coherence - low[0]) / (high[0] - low[0])
            return low[1] + share * (high[1] - low[1])
    return None


def _path(best: Point, points: Iterable[AnyPoint]) -> Sequence[tuple[float, float]]:
    """(coherence, delta) from the best to ever smaller coefficients of one sign on its layer."""
    found = {
        point.coefficient: (point.coherence_mean, point.delta)
        for point in points
        if point.layer == best.layer
        and point.coherence_mean is not None
        and point.delta is not None
        and point.coefficient * best.coefficient > 0
        and abs(point.coefficient) <= abs(best.coefficient)
    }
    return [found[coefficient] for coefficient in sorted(found, key=abs, reverse=True)]
