"""How far each best can be believed: its interval, and whether its label can be told from the winner."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from massact.query.groups import ComparableGroups, GroupInSetting, as_point
from massact.query.rows import Point
from massact.query.same_vector import Cosines, same_vector
from massact.query.stats.paired import CONFIDENCE, LEAST_QUESTIONS, QuestionScores, tied_with_winner

if TYPE_CHECKING:
    from massact.query.stats.paired import Numbers

_MOST_FREEDOM = 100.0
"""Degrees of freedom that the variances of other cells give at most."""
_LEAST_VARIANCE = 1e-6
"""Variance, in squared points, that is no variance."""
_SIMULTANEOUS_SHARE = 0.1
"""Share of the error that the simultaneous interval takes, as the source proposes."""
_LEAST_LEAD = 0.1
"""Standard errors by which the selected cell is taken to lead at least."""
_LARGEST_SLOPE = 0.999
_LARGEST_CORRELATION = 0.99
_NODES = 64
"""Of the integral over what correlated means have in common."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true mean delta of a selected cell lies."""

    low: float
    high: float
    estimate: float
    """Median unbiased: as often too high as too low, which the selected mean itself is not."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Means over questions, and how they vary."""

    means: "Numbers"
    """`[n_cells]`"""
    variances: "Numbers"
    """Of the means, `[n_cells]`, pulled towards their own mean."""
    correlation: float
    """Of the means of any two cells, 0 to 1."""
    n_questions: int
    """Scored in the mean, over the cells."""
    freedom: float
    """Degrees of freedom of the variances."""


def winner_interval(deltas: "Numbers", selected: int, *, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of the true mean delta of a cell that was selected for its mean: it knows that.

    The hybrid one of Andrews, Kitagawa and McCloskey, "Inference on Winners" (Quarterly Journal of Economics 139,
    2024, section 4): the selected mean follows a normal distribution that is cut off where another cell would
    have been selected, within a simultaneous interval of all cells. With m_k the mean delta of cell k, j the
    selected one, and the means' covariance S:

        Z_k = m_k - c_k m_j,  c_k = S_jk / S_jj        (independent of m_j)
        L   = max over k != j of Z_k / (1 - c_k)       (below it another cell would have won)
        H(theta) = P(m_j' <= m_j | m_j' ~ N(theta, S_jj), max(L, theta - b s) <= m_j' <= theta + b s)

    The limits are where H is 1 - a/2 and a/2, with a = (alpha - beta) / (1 - beta), beta = alpha / 10, s the
    standard error and b the critical value of the simultaneous interval at level 1 - beta. It departs from the
    source where few questions tell little about S: variances are pulled towards what the cells have in common
    (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004), all pairs of cells share one
    correlation, and the standard error is widened from the normal to Student's distribution. Scores are rounded,
    so means tie: L stays a tenth of a standard error below m_j, and the upper limit is never below m_j.
    docs/statistics.md says how often it holds.

    Args:
        deltas: `[n_cells, n_questions]`, each question's delta of every cell that could have been selected; NaN
            where a response was not scored. Larger is better: turn the sign where it is not.
        selected: the cell with the largest mean.
        confidence: how often the interval is to hold the true mean, 0 to 1.

    Returns:
        `None` where fewer than three questions were scored.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit  # scipy.stats has the same and takes half a second to load

    # equal scores are one result, not a tie of two
    cells, places = np.unique(deltas, axis=0, return_inverse=True)
    selected = int(places.reshape(-1)[selected])
    found = moments(cells)
    if found.n_questions < LEAST_QUESTIONS:
        return None
    mean, alpha = float(found.means[selected]), 1 - confidence
    quantile = float(stdtrit(found.freedom, 1 - alpha / 2))
    error = math.sqrt(float(found.variances[selected]))
    if error == 0.0 or len(cells) == 1:
        return Interval(mean - quantile * error, mean + quantile * error, mean)
    error *= quantile / float(ndtri(1 - alpha / 2))
    cut = min(_cut(found, selected), mean - _LEAST_LEAD * error)
    low, high, estimate = _limits((mean - cut) / error, len(cells), round(found.correlation, 3), alpha)
    return Interval(mean + low * error, mean + max(high, 0.0) * error, mean + estimate * error)


def moments(deltas: "Numbers") -> Moments:
    """Means of cells `[n_cells, n_questions]` and how they vary; NaN where a response was not scored.

    A cell with one scored response shows no variance: it is taken to vary as the others do.
    """
    import numpy as np

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
    prior, common = _prior(own, freedom)
    pulled = (freedom * own + prior * common) / (freedom + prior)
    correlation = _correlation(deltas - means[:, None], float(own.mean()))
    return Moments(means, pulled, correlation, n_questions, freedom + prior)


def _prior(variances: "Numbers", freedom: int) -> tuple[float, float]:
    """Degrees of freedom that the cells' variances give one another, and the variance that they have in common."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    if len(variances) == 1:
        return 0.0, 0.0
    logs = np.log(np.maximum(variances, _LEAST_VARIANCE)) - digamma(freedom / 2) + math.log(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2))

    def missing(half: float) -> float:
        return float(polygamma(1, half)) - excess

    if excess <= missing(_MOST_FREEDOM / 2) + excess:
        prior = _MOST_FREEDOM
    else:
        prior = 2 * float(brentq(missing, 1e-4, _MOST_FREEDOM / 2)) if missing(1e-4) > 0 else 0.0
    if prior == 0.0:
        return 0.0, 0.0
    return prior, math.exp(float(logs.mean()) + float(digamma(prior / 2)) - math.log(prior / 2))


def _correlation(centred: "Numbers", pooled: float) -> float:
    """Of the means of two cells, on average over all pairs: what the questions have in common."""
    import numpy as np

    n_cells = len(centred)
    if n_cells == 1 or pooled == 0.0:
        return 0.0
    filled = np.nan_to_num(centred)
    n_questions = filled.shape[1]
    covariances = float((filled.sum(0) ** 2).sum() - (filled**2).sum()) / (n_questions - 1) / n_questions
    correlation: float = covariances / (n_cells * (n_cells - 1)) / pooled
    return float(min(max(correlation, 0.0), _LARGEST_CORRELATION))


def _cut(found: Moments, selected: int) -> float:
    """Below it another cell would have been selected."""
    import numpy as np

    slopes = found.correlation * np.sqrt(found.variances / found.variances[selected])
    slopes = np.minimum(slopes, _LARGEST_SLOPE)
    others = np.arange(len(found.means)) != selected
    return float(np.max(((found.means - slopes * found.means[selected]) / (1 - slopes))[others]))


@lru_cache(maxsize=4096)
def _limits(lead: float, n_cells: int, correlation: float, alpha: float) -> tuple[float, float, float]:
    """Low, high and median, in standard errors from the selected mean, which leads by `lead` of them."""
    from scipy.optimize import brentq

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
        return float(brentq(excess, -bound, bound, args=(level,)))

    return limit(1 - rest / 2), limit(rest / 2), limit(0.5)


@lru_cache(maxsize=1024)
def _simultaneous(n_cells: int, correlation: float, beta: float) -> float:
    """b with P(|x_k| <= b for every k) = 1 - beta, for standard normal x of equal correlation."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr, roots_hermitenorm

    nodes, weights = roots_hermitenorm(_NODES)
    weights = weights / weights.sum()
    shift, scale = math.sqrt(correlation) * nodes, math.sqrt(1 - correlation)

    def outside(bound: float) -> float:
        inside = ndtr((bound - shift) / scale) - ndtr((-bound - shift) / scale)
        with np.errstate(divide="ignore"):
            return 1.0 - float(weights @ np.exp(n_cells * np.log(inside))) - beta

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


NOTHING = Believed()
_MOST_NAMED = 6
"""Places that a note names."""
_LARGEST = 100.0
"""Points of delta: scores run from 0 to 100."""


def believe(part: GroupInSetting, point: Point, floor: float, scores: QuestionScores) -> Believed:
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
    stratum: ComparableGroups, floor: float, scores: QuestionScores, cosines: Cosines | None = None
) -> dict[str, Standing]:
    """The standing of every label that has a best; empty where the scores by question do not tell.

    A label that is one vector with the winner is tied with it, whatever its noise.
    """
    bests = stratum.ranked(floor)
    tied = _tied(stratum, bests, scores)
    if tied is None:
        return {}
    first = stratum.side(*bests[0])
    found: dict[str, Standing] = {bests[0][0]: "winner"}
    for index, entry in enumerate(bests[1:], 1):
        is_tied = index in tied or same_vector(first, stratum.side(*entry), cosines) is not None
        found[entry[0]] = "tied" if is_tied else "behind"
    return found


def _tied(
    stratum: ComparableGroups, entries: list[tuple[str, Point]], scores: QuestionScores
) -> list[int] | None:
    """Which of the evaluations cannot be told from the first; `None` where the scores do not tell."""
    import numpy as np

    rows = [scores.deltas(stratum.slices[label], [point.run_id]) for label, point in entries]
    known = [row for row in rows if row is not None]
    return tied_with_winner(np.concatenate(known), 0) if rows and len(known) == len(rows) else None


class Standings:
    """How evaluations stand among all labels of their model, trait and position in one setting, whatever is shown."""

    def __init__(self, places: Iterable[ComparableGroups], floor: float, scores: QuestionScores) -> None:
        self._places = {_place_of(one): one for one in places}
        self._floor, self._scores = floor, scores
        self._known: dict[tuple[Any, ...], dict[str, Standing]] = {}

    def of(self, part: GroupInSetting, run_id: str | None) -> Standing | None:
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
        bests = stratum.ranked(self._floor)
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


def _place_of(one: ComparableGroups) -> tuple[Any, ...]:
    return (one.model, one.trait, one.position, one.setting, one.baseline_trait_mean)
