"""How far each best can be believed: its interval, and whether its label can be told from the winner."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from massact.query.question_scores import QuestionScores
from massact.query.rows import Point
from massact.query.same_vector import Cosines, Side, same_vector
from massact.query.selection import Slice, Stratum, as_point, rank
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
_MOST_NAMED = 6
"""Places that a note names."""
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


def standings(
    stratum: Stratum, floor: float, scores: QuestionScores, cosines: Cosines | None = None
) -> dict[str, Standing]:
    """The standing of every label that has a best; empty where the scores by question do not tell.

    A label that is one vector with the winner is tied with it, whatever its noise.
    """
    bests = _ranked(stratum, floor)
    tied = _tied(stratum, bests, scores)
    if tied is None:
        return {}
    first = _side(stratum, bests[0])
    found: dict[str, Standing] = {bests[0][0]: "winner"}
    for index, entry in enumerate(bests[1:], 1):
        is_tied = index in tied or same_vector(first, _side(stratum, entry), cosines) is not None
        found[entry[0]] = "tied" if is_tied else "behind"
    return found


def _ranked(stratum: Stratum, floor: float) -> list[tuple[str, Point]]:
    """The bests of all labels, the winner's first."""
    direction = stratum.sample.direction if stratum.sample else None
    found = ((label, stratum.best(label, floor)) for label in stratum.slices)
    bests = [(label, best) for label, best in found if best is not None]
    return sorted(bests, key=lambda one: rank(one, direction))


def _side(stratum: Stratum, entry: tuple[str, Point]) -> Side:
    return Side(*entry, stratum.slices[entry[0]].points)


def _tied(stratum: Stratum, entries: list[tuple[str, Point]], scores: QuestionScores) -> list[int] | None:
    """Which of the evaluations cannot be told from the first; `None` where the scores do not tell."""
    import numpy as np

    rows = [scores.deltas(stratum.slices[label], [point.run_id]) for label, point in entries]
    known = [row for row in rows if row is not None]
    return tied_with_winner(np.concatenate(known), 0) if rows and len(known) == len(rows) else None


class Standings:
    """How evaluations stand among all labels of their model, trait and position in one setting, whatever is shown."""

    def __init__(self, places: Iterable[Stratum], floor: float, scores: QuestionScores) -> None:
        self._places = {_place_of(one): one for one in places}
        self._floor, self._scores = floor, scores
        self._known: dict[tuple[Any, ...], dict[str, Standing]] = {}

    def of(self, part: Slice, run_id: str | None) -> Standing | None:
        """The standing of a group's best among what is shown; `None` where it has none, or nothing tells."""
        key = (
            part.group.model,
            part.group.trait,
            part.group.position,
            part.setting,
            part.baseline_trait_mean,
        )
        stratum = self._places.get(key)
        if stratum is None or run_id is None:
            return None
        if key not in self._known:
            self._known[key] = standings(stratum, self._floor, self._scores)
        found = self._known[key]
        best = stratum.best(part.group.label, self._floor)
        if not found or best is None or best.run_id == run_id:
            return found.get(part.group.label)
        # a filter hides the label's best: what is shown of it is set beside the bests of the place
        shown = as_point(next(point for point in part.points if point.run_id == run_id))
        bests = _ranked(stratum, self._floor)
        tied = _tied(stratum, [*bests, (part.group.label, shown)], self._scores)
        return None if tied is None else "tied" if len(bests) in tied else "behind"

    def hidden(self, shown: Collection[str | None]) -> list[str]:
        """Where the winner is not among the runs that are shown, in words."""
        found = []
        for key, standing in self._known.items():
            label = next((label for label, one in standing.items() if one == "winner"), None)
            best = self._places[key].best(label, self._floor) if label else None
            if best is not None and best.run_id not in shown:
                found.append(f"{', '.join(key[:3])}: {label} (layer {best.layer}, {best.coefficient:g})")
        more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        named = "; ".join(found[:_MOST_NAMED])
        return (
            [f"standings are among all labels of a place; the winner is not shown: {named}{more}"]
            if found
            else []
        )


def _place_of(one: Stratum) -> tuple[Any, ...]:
    return (one.model, one.trait, one.position, one.setting, one.baseline_trait_mean)
