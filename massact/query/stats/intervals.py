"""How far each best can be believed: its interval, and whether its label can be told from the winner."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from massact._lazy import Indices, Numbers, np
from massact.query.groups import ComparableGroups, GroupInSetting, as_point
from massact.query.rows import Point
from massact.query.same_vector import Cosines, same_vector
from massact.query.stats.means import bounded_mean_interval
from massact.query.stats.noise import LEAST_VARIANCE, Moments, Spots, moments
from massact.query.stats.paired import (
    CONFIDENCE,
    LARGEST,
    LEAST_QUESTIONS,
    QuestionScores,
    is_few_valued,
    mean_interval,
    tied_with_winner,
)

_SIMULTANEOUS_SHARE = 0.4  # share of the error that the simultaneous bound takes; the source proposes 0.1
_REACH = 2.0  # standard errors within which a cell must be of the selected one, and it of the cell, to be a rival
_LEAST_LEAD = 0.1  # standard errors by which the selected cell is taken to lead at least
_LARGEST_CORRELATION = 0.99
_NODES = 64  # of the integral over what correlated means have in common


class Interval(NamedTuple):
    """Where the true mean delta of a selected cell lies."""

    low: float
    high: float
    estimate: float  # median unbiased: as often too high as too low, which the selected mean itself is not


@dataclass(frozen=True, slots=True)
class Picked:
    """A cell that was picked among others for the largest mean."""

    cells: Numbers  # deltas `[n_cells, n_questions]`, larger is better; NaN where a response was not scored
    selected: int
    known: Moments

    @classmethod
    def of(cls, deltas: Numbers, selected: int) -> "Picked":
        """Of each question's delta of every cell that could have been selected."""
        return Cells.of(deltas).picked(range(len(deltas)), selected)

    @property
    def expected(self) -> float:
        return float(self.known.expected()[self.selected])

    @property
    def luck(self) -> float:
        """Points by which the mean is expected to be too large, by what it was picked among alone."""
        return float(self.known.means[self.selected] - replace(self.known, usual=None).expected()[self.selected])

    def interval(
        self, within: tuple[float, float] = (-LARGEST, LARGEST), confidence: float = CONFIDENCE
    ) -> Interval | None:
        """The interval of the true mean delta of a cell that was selected for its mean: it knows that.
        The hybrid one of Andrews, Kitagawa and McCloskey, "Inference on Winners" (Quarterly Journal of Economics 139,
        2024, section 4), with the variances of `Moments`; docs/statistics.md says how it departs from the source, and
        how often it holds.
        `within`: the least and the greatest delta that there can be. `confidence`: how often the interval is to hold
        the true mean, 0 to 1.
        Returns `None` where fewer than three questions were scored."""
        from scipy.special import ndtri, stdtrit  # scipy.stats has the same and takes half a second to load

        known, own = self.known, self.cells[self.selected]
        own = own[~np.isnan(own)]
        if min(known.n_questions, len(own)) < LEAST_QUESTIONS:
            return None
        mean, alpha = float(known.means[self.selected]), 1 - confidence
        variance = float(known.variances[self.selected])
        if variance <= LEAST_VARIANCE or len(self.cells) == 1:
            return Interval(*mean_interval(own, within=within, confidence=confidence), mean)
        share = min(known.shared / variance, _LARGEST_CORRELATION)
        freedom = 1 / ((1 - share) ** 2 / known.freedom + share**2 / (known.n_questions - 1))
        error = math.sqrt(variance) * float(stdtrit(freedom, 1 - alpha / 2)) / float(ndtri(1 - alpha / 2))
        cut = min(_cut(known, self.selected), mean - _LEAST_LEAD * error)
        reach = _REACH * np.sqrt(known.variances)
        n_rivals = int(np.count_nonzero(known.means + reach >= mean - reach[self.selected]))
        low, high, estimate = _limits((mean - cut) / error, n_rivals, round(share, 3), alpha)
        below, above = (_tilted(limit, known.skewness) for limit in (low, high))
        low = mean + min(below, 0.0) * error * math.sqrt(1 + known.unseen / variance)
        high = mean + max(above, 0.0) * error
        if is_few_valued(own):
            outer = bounded_mean_interval(own, *within, confidence=confidence)
            low, high = min(low, outer[0]), max(high, outer[1])
        return Interval(low, high, mean + estimate * error)


def _tilted(limit: float, skewness: float) -> float:
    """A limit, in standard errors, where means are skewed (Cornish and Fisher, 1938)."""
    return limit - skewness / 6 * max(limit**2 - 1, 0.0)


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a place, among which some are picked; equal ones are one, no tie of two."""

    cells: Numbers
    places: Indices  # of each row among the cells
    known: Moments

    @classmethod
    def of(cls, deltas: Numbers, spots: Spots | None = None) -> "Cells":
        """Of each question's deltas `[n_rows, n_questions]`, larger is better; NaN where a response was not scored."""
        told = np.where(np.isnan(deltas), np.inf, deltas)  # NaN equals no NaN
        _, first, places = np.unique(told, axis=0, return_index=True, return_inverse=True)
        cells = deltas[first]
        return cls(cells, places.reshape(-1), moments(cells, None if spots is None else spots.of(first)))

    def picked(self, rows: Sequence[int], selected: int) -> Picked:
        """Of some rows the one that was selected."""
        among = np.unique(self.places[list(rows)])
        at = int(np.searchsorted(among, self.places[selected]))
        return Picked(self.cells[among], at, self.known.of(among))


def _cut(known: Moments, selected: int) -> float:
    """Below it another cell would have been selected."""
    slopes = known.slopes(selected)
    others = np.arange(len(known.means)) != selected
    return float(np.max(((known.means - slopes * known.means[selected]) / (1 - slopes))[others]))


@lru_cache(maxsize=4096)
def _limits(lead: float, n_cells: int, correlation: float, alpha: float) -> tuple[float, float, float]:
    """Low, high and median, in standard errors from the selected mean, which leads by `lead` of them."""
    from scipy.optimize import brentq

    beta = alpha * _SIMULTANEOUS_SHARE
    bound = _simultaneous(n_cells, correlation, beta)
    rest = (alpha - beta) / (1 - beta)

    def excess(theta: float, level: float) -> float:
        below, whole = _phi(-theta) - _phi(-lead - theta), _phi(bound) - _phi(-lead - theta)
        return (below / whole if whole > 0 else 1.0) - level

    def limit(level: float) -> float:
        if excess(-bound, level) <= 0:
            return -bound
        return bound if excess(bound, level) >= 0 else float(brentq(excess, -bound, bound, args=(level,)))

    low = limit(1 - rest)
    return low if low <= -lead else max(limit(1 - rest / 2), -lead), limit(rest / 2), limit(0.5)


@lru_cache(maxsize=1024)
def _simultaneous(n_cells: int, correlation: float, beta: float) -> float:
    """b with P(x_k <= b for every k) = 1 - beta, for standard normal x of equal correlation."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, roots_hermitenorm

    nodes, weights = roots_hermitenorm(_NODES)
    weights = weights / weights.sum()
    shift, scale = math.sqrt(correlation) * nodes, math.sqrt(1 - correlation)

    def outside(bound: float) -> float:
        return 1.0 - float(weights @ np.exp(n_cells * log_ndtr((bound - shift) / scale))) - beta

    return float(brentq(outside, 0.1, 10.0))


def _phi(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


Standing = Literal["winner", "tied", "behind"]
"""Among the labels of one model, trait and position in one setting: `winner` has the best delta, `tied` cannot be told
from it, `behind` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Believed:
    """What the scores by question say of a best."""

    delta_low: float | None = None
    delta_high: float | None = None
    delta_unbiased: float | None = None
    delta_expected: float | None = None


NOTHING = Believed()
_MOST_NAMED = 6  # places that a note names


class Beliefs:
    """How far the bests of all labels of one model, trait and position in one setting can be believed."""

    def __init__(
        self, place: ComparableGroups, floor: float, scores: QuestionScores, cosines: Cosines | None = None
    ) -> None:
        self._place, self._floor, self._scores, self._cosines = place, floor, scores, cosines
        self._picked: dict[tuple[str, str, tuple[str, ...]], Picked | None] = {}

    @cached_property
    def _cells(self) -> tuple[dict[str, int], Cells] | None:
        """All coherent cells of the place whose scores are known, and the row of each run."""
        runs, rows, spots = list[str](), [], []
        for index, (_, part) in enumerate(sorted(self._place.slices.items())):
            points = part.points.coherent(self._floor)
            deltas = self._scores.deltas(part, points.run_ids())
            if deltas is not None:
                runs += points.run_ids()
                rows.append(deltas)
                spots.append(
                    np.stack([np.full(len(deltas), index), points.column("layer"), points.column("coefficient")])
                )
        if not rows:
            return None
        where = np.concatenate(spots, axis=1)
        order = np.lexsort(where)  # of equal rows the first one's spot counts
        cells = Cells.of(np.concatenate(rows)[order], Spots(*where[:, order]))
        return {runs[at]: row for row, at in enumerate(order.tolist())}, cells

    @cached_property
    def _bests(self) -> list[tuple[str, Point]]:
        return self._place.ranked(self._floor)

    @cached_property
    def standings(self) -> dict[str, Standing]:
        """The standing of every label that has a best; one vector with the winner is tied. Else empty."""
        bests = self._bests
        tied = self._tied(bests)
        if tied is None:
            return {}
        first = self._place.side(*bests[0])
        known: dict[str, Standing] = {bests[0][0]: "winner"}
        for index, best in enumerate(bests[1:], 1):
            is_tied = index in tied or same_vector(first, self._place.side(*best), self._cosines) is not None
            known[best[0]] = "tied" if is_tied else "behind"
        return known

    def standing(self, label: str, run_id: str) -> Standing | None:
        """How an evaluation stands among the bests of all labels, whatever is shown; `None` where nothing tells."""
        if not self.standings or self._place.best(label, self._floor).run_id == run_id:  # type: ignore[union-attr]  # it is ranked
            return self.standings.get(label)
        # a filter hides the label's best: what is shown of it is set beside the bests of the place
        shown = next(point for point in self._place.slices[label].points if point.run_id == run_id)
        tied = self._tied([*self._bests, (label, as_point(shown))])
        return None if tied is None else "tied" if len(self._bests) in tied else "behind"

    def _tied(self, entries: Sequence[tuple[str, Point]]) -> list[int] | None:
        """Which of the evaluations cannot be told from the first; `None` where the scores do not tell."""
        parts = [(self._place.slices[label], point) for label, point in entries]
        rows = [self._scores.deltas(part, [point.run_id]) for part, point in parts]
        known = [row for row in rows if row is not None]
        if not rows or len(known) < len(rows):
            return None
        return tied_with_winner(np.concatenate(known), 0, luck=[self.luck(*each) for each in parts])

    def luck(self, part: GroupInSetting, point: Point) -> float:
        """Points by which the delta of a picked evaluation is expected to be too good; 0 where nothing tells."""
        picked = self._of(part, point)
        return 0.0 if picked is None else picked.luck

    def expected(self, label: str) -> dict[str, float]:
        """By run the expected delta of the coherent evaluations of a label; empty where nothing tells."""
        part = self._place.slices.get(label)
        if part is None or self._cells is None:
            return {}
        rows, cells = self._cells
        runs = [run for run in part.points.coherent_runs(self._floor) if run in rows]
        if not runs:
            return {}
        among, at = np.unique(cells.places[[rows[run] for run in runs]], return_inverse=True)
        sign = -1.0 if part.sample.direction == "negative" else 1.0
        return dict(zip(runs, (sign * cells.known.of(among).expected()[at]).tolist(), strict=True))

    def of(self, part: GroupInSetting, point: Point) -> Believed:
        """The interval of a best that was picked among all coherent evaluations of its label, or of the place."""
        picked = self._of(part, point)
        if picked is None:
            return NOTHING
        is_winner = self.standings and (part.group.label, point.run_id) == (self._bests[0][0], self._bests[0][1].run_id)
        if is_winner:
            picked = self._among_all(point)
        low, high = self._scores.delta_limits(part)
        interval = picked.interval((low, high))
        if interval is None:
            return NOTHING
        below, above, estimate, expected = (min(max(figure, low), high) for figure in (*interval, picked.expected))
        if part.sample.direction == "negative":
            below, above, estimate, expected = -above, -below, -estimate, -expected
        return Believed(delta_low=below, delta_high=above, delta_unbiased=estimate, delta_expected=expected)

    @property
    def winner(self) -> list[tuple[str, str]]:
        """The run of the winner, and the winner in words, if it is known."""
        bests = self._bests[:1] if self.standings else []
        return [(p.run_id, f"{self._place.place}: {label} (layer {p.layer}, {p.coefficient:g})") for label, p in bests]

    def _of(self, part: GroupInSetting, point: Point) -> Picked | None:
        """An evaluation, which was picked among the coherent ones of its label."""
        rivals = part.points.coherent_runs(self._floor)
        key = (part.group.label, point.run_id, tuple(rivals))
        if key not in self._picked:
            self._picked[key] = self._among(part, point, rivals)
        return self._picked[key]

    def _among(self, part: GroupInSetting, point: Point, rivals: list[str]) -> Picked | None:
        if self._cells and point.run_id in rivals and self._cells[0].keys() >= set(rivals):
            rows, cells = self._cells
            return cells.picked([rows[run] for run in rivals], rows[point.run_id])
        runs = [*rivals, *([] if point.run_id in rivals else [point.run_id])]
        deltas = self._scores.deltas(part, runs)
        return None if deltas is None else Picked.of(deltas, runs.index(point.run_id))

    def _among_all(self, point: Point) -> Picked:
        """The winner, which was picked among the coherent evaluations of all labels."""
        assert self._cells
        rows, cells = self._cells
        return cells.picked(range(len(rows)), rows[point.run_id])


def own_interval(
    scores: QuestionScores | None, part: GroupInSetting, point: Point
) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of the true delta of one evaluation that was not picked among others; or nothing."""
    deltas = scores.deltas(part, [point.run_id]) if scores else None
    known = deltas[0][~np.isnan(deltas[0])] if deltas is not None else np.array([])
    if scores is None or len(known) < LEAST_QUESTIONS:
        return None, None
    limits = scores.delta_limits(part)
    low, high = (min(max(end, limits[0]), limits[1]) for end in mean_interval(known, within=limits))
    return (-high, -low) if part.sample.direction == "negative" else (low, high)


Beside = tuple[str, str, str, str, float | None]
"""Model, trait, position, setting and the trait mean of the baseline: labels within are set side by side."""


def beside(group: ComparableGroups | GroupInSetting) -> Beside:
    """What a group, or a place, is set beside."""
    where = group.group if isinstance(group, GroupInSetting) else group
    return (where.model, where.trait, where.position, str(group.setting), group.baseline_trait_mean)


def hidden_winners(places: Iterable[Beliefs], shown: Collection[str | None]) -> list[str]:
    """Where the winner is not among the runs that are shown, in words."""
    names = [words for beliefs in places for run_id, words in beliefs.winner if run_id not in shown]
    more = f"; and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    named = "; ".join(names[:_MOST_NAMED])
    return [f"standings are among all labels of a place; the winner is not shown: {named}{more}"] if names else []
