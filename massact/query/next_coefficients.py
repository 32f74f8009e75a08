"""Which coefficients to try next between the last coherent and the first incoherent one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from massact._lazy import Numbers, np
from massact.query.evaluations import PointSet

N_RUNGS = 3  # how many coefficients are suggested per bracket
START_FRACTION = 0.25
"""Where the ladder starts, as a fraction of the upper end, if nothing but the baseline is coherent."""
WIDENING = 2 ** ((N_RUNGS + 1) / N_RUNGS)
"""How far beyond the largest coefficient a grid is widened: the last of the rungs inside is twice as large."""
SIGNIFICANT_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """Between which coefficients a layer's text breaks. The sign is that of the coefficients tried."""

    layer: int
    low: float | None
    """The largest |coefficient| at or above the floor; `None`: only the baseline, coefficient 0."""
    high: float | None
    """The smallest |coefficient| beyond `low` that is below the floor; `None`: none was tried."""
    try_next: tuple[float, ...] = ()
    """Coefficients to try, by rising size."""
    reason: str | None = None
    """Why there is none to try."""


def brackets(
    points: PointSet, floor: float, *, allowed: tuple[float, float] | None, suggest: bool
) -> tuple[Bracket, ...]:
    """The bracket of each layer (and sign of coefficient), the lowest layer first."""
    found = []
    for side in _sides(points, floor):
        rungs: tuple[float, ...] = ()
        reason = None
        if suggest and side.high is None:
            reason = "nothing that was scored here is below the floor"
        elif suggest and side.high is not None:
            rungs, reason = _ladder((side.low, side.high), tried=side.tried.tolist(), allowed=allowed)
        low, high = (None if size is None else side.sign * size for size in (side.low, side.high))
        next_ones = tuple(side.sign * rung for rung in rungs)
        found.append(Bracket(layer=side.layer, low=low, high=high, try_next=next_ones, reason=reason))
    return tuple(found)


def widened(bracket: Bracket, size: float, points: PointSet, allowed: tuple[float, float] | None) -> Bracket:
    """The bracket of a best that lies at the end of its grid, with coefficients beyond it to try."""
    layers, coefficients, _ = points.steered_grid(0.0)
    sign = -1.0 if (bracket.low or bracket.high or 0.0) < 0 else 1.0
    tried = np.abs(coefficients[(layers == bracket.layer) & (coefficients * sign > 0)]).tolist()
    ends: list[tuple[float | None, float]] = []
    if size <= min(tried):
        ends.append((None, size))
    if size >= max(tried):
        ends.append((size, size * WIDENING))
    rungs: list[float] = []
    reason = None
    for end in ends:
        some, why = _ladder(end, tried=tried, allowed=allowed)
        rungs += some
        reason = reason or why
    return replace(bracket, try_next=tuple(sign * rung for rung in sorted(rungs)), reason=None if rungs else reason)


class _Side(NamedTuple):
    """One layer and sign: the ends of its bracket, and the sizes that were tried."""

    layer: int
    sign: float
    low: float | None
    high: float | None
    tried: Numbers


def _sides(points: PointSet, floor: float) -> list[_Side]:
    """The lowest layer first, of a layer the positive coefficients first."""
    layers, coefficients, coherences = points.steered_grid(floor)
    if not len(layers):
        return []
    signs = np.sign(coefficients)
    order = np.lexsort((-signs, layers))
    layers, signs, sizes, coherences = (layers[order], signs[order], np.abs(coefficients)[order], coherences[order])
    is_first = np.ones(len(layers), dtype=bool)
    is_first[1:] = (layers[1:] != layers[:-1]) | (signs[1:] != signs[:-1])
    starts = np.flatnonzero(is_first)
    # a coherence of NaN, which is a missing one, is neither above the floor nor below it
    lows = np.maximum.reduceat(np.where(coherences >= floor, sizes, 0.0), starts)
    is_beyond = (coherences < floor) & (sizes > lows[np.cumsum(is_first) - 1])
    highs = np.minimum.reduceat(np.where(is_beyond, sizes, math.inf), starts)
    columns = (one.tolist() for one in (layers[starts].astype(np.intp), signs[starts], lows, highs, starts))
    ends = [*starts[1:].tolist(), len(sizes)]
    return [
        _Side(layer, sign, low or None, None if high == math.inf else high, sizes[start:end])
        for layer, sign, low, high, start, end in zip(*columns, ends, strict=True)
    ]


def _ladder(
    bracket: tuple[float | None, float], *, tried: Sequence[float], allowed: tuple[float, float] | None
) -> tuple[tuple[float, ...], str | None]:
    """Geometric steps strictly inside the bracket, and if there is none the reason."""
    low, high = bracket
    least, most = allowed or (0.0, math.inf)
    # an end that was tried is left out of the ladder, one that only bounds it belongs to it
    end, takes_end = (most, True) if most < high else (high, False)
    start, takes_start = (end * START_FRACTION, True) if low is None else (low, False)
    if least > start:
        start, takes_start = least, True
    inside = f"between {low or 0:g} and {high:g}"
    if start > end or (start == end and not (takes_start and takes_end)):
        return (), f"nothing {inside} lies within the allowed {least:g} to {most:g}"
    n_steps = N_RUNGS + 1 - takes_start - takes_end
    indices = range(0 if takes_start else 1, n_steps + takes_end)
    exact = (start * (end / start) ** (index / n_steps) for index in indices)
    rungs = {float(f"{rung:.{SIGNIFICANT_DIGITS - 1}e}") for rung in exact}
    inner = [rung for rung in sorted(rungs) if (low or 0.0) < rung < high and least <= rung <= most]
    kept = [rung for rung in inner if not any(math.isclose(rung, one, rel_tol=1e-9) for one in tried)]
    reason = None if kept else f"everything {inside} is tried, to {SIGNIFICANT_DIGITS} digits"
    return tuple(kept), reason
