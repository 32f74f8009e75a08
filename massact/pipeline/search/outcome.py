"""What a ladder's search came to, in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from massact.domain import LEAST_EFFECT
from massact.pipeline.search.curves import Observation

MOVES = LEAST_EFFECT
"""A trait that changed by fewer points than this has not moved."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to try."""

    reason: str


def conclude(
    observations: Sequence[Observation], floor: float, allowed: tuple[float, float], why: str
) -> Done:
    """Why a ladder is over: what its observations show where no text was coherent or the trait did not move.

    Args:
        why: the reason where there is nothing else to say.
    """
    scored = sorted(
        ((one.coefficient, one.coherence, one) for one in observations if one.coherence is not None),
        key=lambda each: each[0],
    )
    coherent = [one for _, coherence, one in scored if coherence >= floor and not one.is_partial]
    if not coherent:
        return Done(_never_coherent(scored[0], allowed[0]) if scored else why)
    gain = max((one.gain for one in coherent if one.gain is not None), default=None)
    last = coherent[-1].coefficient
    beyond = next(((c, coherence) for c, coherence, _ in scored if c > last and coherence < floor), None)
    if beyond is None or gain is None or gain >= MOVES:
        return Done(why)
    return Done(
        f"coherence falls below the floor before the trait moves: up to {last:g} it changes by {gain:.1f} at most, "
        f"at {beyond[0]:g} coherence is {beyond[1]:.1f}"
    )


def _never_coherent(least_tried: tuple[float, float, Observation], least: float) -> str:
    coefficient, coherence, _ = least_tried
    is_least = least > 0 and math.isclose(coefficient, least, rel_tol=0.03)
    which = "the least coefficient allowed" if is_least else "the least coefficient tried"
    return f"at {coefficient:g}, {which}, coherence is {coherence:.1f}"
