"""How far each best can be believed: its interval, and whether its label can be told from the winner."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from massact.query.question_scores import QuestionScores
from massact.query.rows import Point
from massact.query.selection import Slice, Stratum, rank
from massact.query.ties import tied_with_winner
from massact.query.winner_interval import winner_interval

Standing = Literal["winner", "tied", "behind"]
"""Among the labels of one model, trait and position in one setting: `winner` has the best delta, `tied` cannot be told
from it, `behind` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """What the scores by question say of a best."""

    delta_low: float | None = None
    delta_high: float | None = None
    delta_unbiased: float | None = None


NOTHING = Believed()
_LARGEST = 100.0
"""Points of delta: scores run from 0 to 100."""


def believe(part: Slice, point: Point, floor: float, scores: QuestionScores) -> Believed:
    """The interval of a best that was picked among all coherent evaluations of its slice."""
    rivals = part.points.coherent_runs(floor)
    deltas = scores.deltas(part, rivals)
    if deltas is None:
        return NOTHING
    found = winner_interval(deltas, rivals.index(point.run_id))
    if found is None:
        return NOTHING
    low, high, estimate = (
        min(max(one, -_LARGEST), _LARGEST) for one in (found.low, found.high, found.estimate)
    )
    if part.sample.direction == "negative":
        low, high, estimate = -high, -low, -estimate
    return Believed(delta_low=low, delta_high=high, delta_unbiased=estimate)


def standings(stratum: Stratum, floor: float, scores: QuestionScores) -> dict[str, Standing]:
    """The standing of every label that has a best; empty where the scores by question do not tell."""
    import numpy as np

    direction = stratum.sample.direction if stratum.sample else None
    found = ((label, stratum.best(label, floor)) for label in stratum.slices)
    bests = sorted(
        ((label, best) for label, best in found if best is not None), key=lambda one: rank(one, direction)
    )
    rows = [scores.deltas(stratum.slices[label], [best.run_id]) for label, best in bests]
    known = [row for row in rows if row is not None]
    if not bests or len(known) < len(bests):
        return {}
    tied = tied_with_winner(np.concatenate(known), 0)
    if tied is None:
        return {}
    others: dict[str, Standing] = {
        label: "tied" if index in tied else "behind" for index, (label, _) in enumerate(bests)
    }
    return {**others, bests[0][0]: "winner"}


def all_standings(
    all_strata: Iterable[Stratum], floor: float, scores: QuestionScores
) -> dict[tuple[str, str, str, str, str | None, float | None], Standing]:
    """Standings by model, trait, position, label, setting and baseline."""
    return {
        (one.model, one.trait, one.position, label, one.setting, one.baseline_trait_mean): standing
        for one in all_strata
        for label, standing in standings(one, floor, scores).items()
    }
