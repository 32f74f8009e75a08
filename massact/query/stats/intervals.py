"""How far each best can be believed: its interval, and whether its label can be told from the winner."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from massact._lazy import Numbers, np
from massact.query.groups import ComparableGroups, GroupInSetting, as_point
from massact.query.rows import Point
from massact.query.same_vector import Cosines, same_vector
from massact.query.stats.means import root
from massact.query.stats.paired import (
    CONFIDENCE,
    LARGEST,
    LEAST_QUESTIONS,
    QuestionScores,
    mean_interval,
    tied_with_winner,
)

_MOST_FREEDOM = 100.0  # degrees of freedom that the variances of other cells give at most
_LEAST_NEAR, _NEAR_SHARE = 4, 0.05
"""Cells, and share of all cells, with the best means: their variances are taken together with that of the best."""
_LEAST_VARIANCE = 1e-6  # variance, in squared points, that is no variance
_SIMULTANEOUS_SHARE = 0.2  # share of the error that the simultaneous interval takes; the source proposes 0.1
_LEAST_LEAD = 0.1  # standard errors by which the selected cell is taken to lead at least
_LARGEST_SLOPE = 0.999
_LARGEST_CORRELATION = 0.99
_NODES = 64  # of the integral over what correlated means have in common
_FAR = 25.0  # points by which the mean of a cell may lie off those of the others that tell nothing of it


class Interval(NamedTuple):
    """Where the true mean delta of a selected cell lies."""

    low: float
    high: float
    estimate: float  # median unbiased: as often too high as too low, which the selected mean itself is not


@dataclass(frozen=True, slots=True)
class Moments:
    """Means over questions, and how they vary."""

    means: Numbers  # `[n_cells]`
    variances: Numbers
    """Of the means, `[n_cells]`: pulled towards their mean where they are alike; see docs/statistics.md."""
    correlation: float  # of the means of any two cells, 0 to 1
    n_questions: int  # scored in the mean, over the cells
    freedom: float  # degrees of freedom of the variances

    def expected(self, index: int) -> float:
        """The mean that is expected of a cell from its own and those of all cells, however it was selected. Empirical
        Bayes (Efron and Morris, Journal of the American Statistical Association 68, 1973); see docs/statistics.md,
        "What to expect"."""
        mean, variance = float(self.means[index]), float(self.variances[index]) * (1 - self.correlation)
        if variance == 0.0 or len(self.means) == 1:
            return mean
        low, middle, high = np.quantile(self.means, (0.25, 0.5, 0.75))
        noise = float(self.variances.mean()) * (1 - self.correlation)
        near = max(0.0, float((high - low) / _QUARTILES) ** 2 - noise)
        off = mean - float(middle)
        kept, weights = [], []
        for spread, prior in ((near, 1 - 1 / len(self.means)), (max(near, _FAR**2), 1 / len(self.means))):
            total = spread + variance
            kept.append(spread / total)
            weights.append(prior * math.exp(-0.5 * off**2 / total) / math.sqrt(total))
        if not any(weights):
            return mean
        return mean - off * (1 - (kept[0] * weights[0] + kept[1] * weights[1]) / sum(weights))


_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution


@dataclass(frozen=True, slots=True)
class Picked:
    """A cell that was picked among others for the largest mean."""

    cells: Numbers  # deltas `[n_cells, n_questions]`, larger is better; NaN where a response was not scored
    selected: int
    known: Moments

    @classmethod
    def of(cls, deltas: Numbers, selected: int) -> "Picked":
        """Of each question's delta of every cell that could have been selected; equal ones are one, no tie of two."""
        cells, places = np.unique(deltas, axis=0, return_inverse=True)
        return cls(cells, int(places.reshape(-1)[selected]), moments(cells))

    @property
    def expected(self) -> float:
        return self.known.expected(self.selected)

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

        known = self.known
        if known.n_questions < LEAST_QUESTIONS:
            return None
        mean, alpha = float(known.means[self.selected]), 1 - confidence
        error = math.sqrt(float(known.variances[self.selected]))
        if error == 0.0 or len(self.cells) == 1:
            own = self.cells[self.selected]
            return Interval(*mean_interval(own[~np.isnan(own)], within=within, confidence=confidence), mean)
        error *= float(stdtrit(known.freedom, 1 - alpha / 2)) / float(ndtri(1 - alpha / 2))
        cut = min(_cut(known, self.selected), mean - _LEAST_LEAD * error)
        low, high, estimate = _limits((mean - cut) / error, len(self.cells), round(known.correlation, 3), alpha)
        return Interval(mean + low * error, mean + max(high, 0.0) * error, mean + estimate * error)


def moments(deltas: Numbers) -> Moments:
    """Means of cells `[n_cells, n_questions]` and how they vary; NaN where a response was not scored."""
    from scipy.special import digamma

    n_scored = np.maximum((~np.isnan(deltas)).sum(1), 1)
    n_questions = round(float(n_scored.mean()))
    means = np.nansum(deltas, axis=1) / n_scored
    if n_questions < 2:
        return Moments(means, np.zeros(len(means)), 0.0, n_questions, 0.0)
    spread = np.nansum((deltas - means[:, None]) ** 2, axis=1) / np.maximum(n_scored - 1, 1)
    has_spread = n_scored > 1
    spread[~has_spread] = spread[has_spread].mean() if has_spread.any() else 0.0
    own = spread / n_scored
    freedom = n_questions - 1
    prior = _prior(own, freedom)
    variances = (freedom * own + prior * own.mean()) / (freedom + prior)
    if 0 < prior < _MOST_FREEDOM:  # they differ: a noisy cell is more often the best than a steady one
        near = np.argsort(-means)[: max(_LEAST_NEAR, math.ceil(_NEAR_SHARE * len(own)))]
        n_values = 1 + (np.diff(np.sort(deltas, axis=1)) > 0).sum(axis=1)
        variances = np.where(n_values <= n_scored / 2, np.maximum(own, variances), own)
        # the logarithm of a variance lies below that of the true one, on average
        bias = float(digamma(freedom / 2)) - math.log(freedom / 2)
        together = math.exp(float(np.log(np.maximum(own[near], _LEAST_VARIANCE)).mean()) - bias)
        variances[near] = np.maximum(variances[near], together)
    correlation = _correlation(deltas - means[:, None], float(own.mean()))
    return Moments(means, variances, correlation, n_questions, freedom + prior)


def _prior(variances: Numbers, freedom: int) -> float:
    """Degrees of freedom that the cells' variances give one another, by their moments: many where they are alike."""
    mean = float(variances.mean())
    if len(variances) == 1 or mean == 0.0:
        return 0.0
    relative = float(variances.var(ddof=1)) / mean**2
    excess = (relative - 2 / freedom) / (1 + 2 / freedom)
    return _MOST_FREEDOM if excess <= 2 / (_MOST_FREEDOM - 4) else 4 + 2 / excess


def _correlation(centred: Numbers, pooled: float) -> float:
    """Of the means of two cells, on average over all pairs: what the questions have in common."""
    n_cells = len(centred)
    if n_cells == 1 or pooled == 0.0:
        return 0.0
    filled = np.nan_to_num(centred)
    n_questions = filled.shape[1]
    covariances = float((filled.sum(0) ** 2).sum() - (filled**2).sum()) / (n_questions - 1) / n_questions
    correlation: float = covariances / (n_cells * (n_cells - 1)) / pooled
    return float(min(max(correlation, 0.0), _LARGEST_CORRELATION))


def _cut(known: Moments, selected: int) -> float:
    """Below it another cell would have been selected."""
    slopes = known.correlation * np.sqrt(known.variances / known.variances[selected])
    slopes = np.minimum(slopes, _LARGEST_SLOPE)
    others = np.arange(len(known.means)) != selected
    return float(np.max(((known.means - slopes * known.means[selected]) / (1 - slopes))[others]))


@lru_cache(maxsize=4096)
def _limits(lead: float, n_cells: int, correlation: float, alpha: float) -> tuple[float, float, float]:
    """Low, high and median, in standard errors from the selected mean, which leads by `lead` of them."""
    beta = alpha * _SIMULTANEOUS_SHARE
    bound = _simultaneous(n_cells, correlation, beta)
    rest = (alpha - beta) / (1 - beta)

    def excess(theta: float, level: float) -> float:
        low = max(-lead, theta - bound)
        below, whole = _phi(-theta) - _phi(low - theta), _phi(bound) - _phi(low - theta)
        return (below / whole if whole > 0 else 1.0) - level

    def limit(level: float) -> float:
        at_ends = excess(-bound, level), excess(bound, level)
        if at_ends[0] <= 0 or at_ends[1] >= 0:
            return -bound if at_ends[0] <= 0 else bound
        return root(lambda theta: excess(theta, level), -bound, bound)

    return limit(1 - rest / 2), limit(rest / 2), limit(0.5)


@lru_cache(maxsize=1024)
def _simultaneous(n_cells: int, correlation: float, beta: float) -> float:
    """b with P(|x_k| <= b for every k) = 1 - beta, for standard normal x of equal correlation."""
    from scipy.special import ndtr, roots_hermitenorm

    nodes, weights = roots_hermitenorm(_NODES)
    weights = weights / weights.sum()
    shift, scale = math.sqrt(correlation) * nodes, math.sqrt(1 - correlation)

    def outside(bound: float) -> float:
        inside = ndtr((bound - shift) / scale) - ndtr((-bound - shift) / scale)
        with np.errstate(divide="ignore"):
            return 1.0 - float(weights @ np.exp(n_cells * np.log(inside))) - beta

    return root(outside, 0.1, 10.0)


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
        return 0.0 if picked is None else float(picked.known.means[picked.selected]) - picked.expected

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
        rivals = part.points.coherent_runs(self._floor)
        key = (part.group.label, point.run_id, tuple(rivals))
        if key not in self._picked:
            runs = rivals if point.run_id in rivals else [*rivals, point.run_id]
            deltas = self._scores.deltas(part, runs)
            self._picked[key] = None if deltas is None else Picked.of(deltas, runs.index(point.run_id))
        return self._picked[key]

    def _among_all(self, point: Point) -> Picked:
        """The winner, which was picked among the coherent evaluations of all labels."""
        runs, rows = list[str](), []
        for part in self._place.slices.values():
            rivals = part.points.coherent_runs(self._floor)
            deltas = self._scores.deltas(part, rivals)
            if deltas is not None:
                runs += rivals
                rows.append(deltas)
        return Picked.of(np.concatenate(rows), runs.index(point.run_id))


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


def beside(one: ComparableGroups | GroupInSetting) -> Beside:
    """What a group, or a place, is set beside."""
    where = one.group if isinstance(one, GroupInSetting) else one
    return (where.model, where.trait, where.position, str(one.setting), one.baseline_trait_mean)


def hidden_winners(places: Iterable[Beliefs], shown: Collection[str | None]) -> list[str]:
    """Where the winner is not among the runs that are shown, in words."""
    names = [words for beliefs in places for run_id, words in beliefs.winner if run_id not in shown]
    more = f"; and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    named = "; ".join(names[:_MOST_NAMED])
    return [f"standings are among all labels of a place; the winner is not shown: {named}{more}"] if names else []
