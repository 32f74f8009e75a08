"""Which coefficients to try next between the last coherent and the first incoherent one."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from massact.query.evaluations import GridPoint

N_RUNGS = 3
"""How many coefficients are suggested per bracket."""
START_FRACTION = 0.25
"""Where the ladder starts, as a fraction of the upper end, if nothing but the baseline is coherent."""
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
    points: Iterable[GridPoint], floor: float, *, allowed: tuple[float, float] | None, suggest: bool
) -> tuple[Bracket, ...]:
    """The bracket of each layer (and sign of coefficient), the lowest layer first.

    Args:
        allowed: least and greatest |coefficient| that may be tried; `None` is no bound.
        suggest: whether to fill in `try_next`.
    """
    sides: dict[tuple[int, float], list[tuple[float, float]]] = defaultdict(list)
    for layer, coefficient, coherence in points:
        if coefficient != 0:  # the baseline itself
            sides[layer, 1.0 if coefficient > 0 else -1.0].append((abs(coefficient), coherence))
    found = []
    for (layer, sign), side in sorted(sides.items(), key=lambda item: (item[0][0], -item[0][1])):
        low, high = _ends(side, floor)
        rungs: tuple[float, ...] = ()
        reason = None
        if suggest and high is not None:
            tried = [size for size, _ in side]
            rungs, reason = _ladder((low, high), tried=tried, allowed=allowed)
        elif suggest:
            reason = "nothing that was scored here is below the floor"
        found.append(
            Bracket(
                layer=layer,
                low=None if low is None else sign * low,
                high=None if high is None else sign * high,
                try_next=tuple(sign * rung for rung in rungs),
                reason=reason,
            )
        )
    return tuple(found)


def _ends(side: Sequence[tuple[float, float]], floor: float) -> tuple[float | None, float | None]:
    # a coherence of NaN, which is a missing one, is neither above the floor nor below it
    low = max((size for size, coherence in side if coherence >= floor), default=None)
    least = low or 0.0
    return low, min((size for size, coherence in side if coherence < floor and size > least), default=None)


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
    rungs = {_rounded(start * (end / start) ** (index / n_steps)) for index in indices}
    kept = [
        rung
        for rung in sorted(rungs)
        if (low or 0.0) < rung < high and least <= rung <= most and not _is_among(rung, tried)
    ]
    reason = None if kept else f"everything {inside} is tried, to {SIGNIFICANT_DIGITS} digits"
    return tuple(kept), reason


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}")


def _is_among(rung: float, tried: Iterable[float]) -> bool:
    return any(math.isclose(rung, one, rel_tol=1e-9) for one in tried)
