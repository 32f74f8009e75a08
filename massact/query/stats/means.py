"""The mean of few values between two known ends: an interval that holds however they are distributed."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from massact._lazy import Numbers, np
from massact.domain import Direction

_USED = 0.8  # share of the error that is used: what is asked for is held with two-valued scores too, the worst case
_EXACTNESS = 1e-6  # of a limit, as a share of the distance between the ends
_SCALE = 100.0  # scores run from 0 to it
_MANY = 3  # different baseline scores from which they are taken to lie on a scale, and not to be one of two
_GULF = 50.0  # points without any score between two that are the answers of a judge that says no or yes
_BEYOND = 0.975  # quantile of Student's distribution within which the baseline's score of another question is expected


def delta_ends(baseline: Sequence[float], steered: Sequence[float], direction: Direction | None) -> tuple[float, float]:
    """The least and the greatest delta that another question may have; see docs/statistics.md. `baseline`: its scores
    by question, 0 to 100, at least one. `steered`: the scores of the same questions."""
    is_negative = direction == "negative"
    room = [_SCALE - score if is_negative else score for score in baseline]
    n, worst = len(room), _SCALE
    ordered = sorted(steered)
    widest = max((after - before for before, after in pairwise(ordered)), default=0.0)
    if len(set(room)) >= _MANY and widest < _GULF:
        from scipy.special import stdtrit

        mean = math.fsum(room) / n
        spread = math.sqrt(math.fsum((score - mean) ** 2 for score in room) / (n - 1) * (1 + 1 / n))
        worst = min(_SCALE, max(*room, mean + float(stdtrit(n - 1, _BEYOND)) * spread))
    return (-_SCALE, worst) if is_negative else (-worst, _SCALE)


def bounded_mean_interval(
    values: Iterable[float], low: float, high: float, *, confidence: float
) -> tuple[float, float]:
    """The interval of the mean that values between two ends are drawn from.
    Gaffke's (Mathematical Methods of Statistics 14, 2005; Learned-Miller and Thomas, arXiv:1905.06208), in the mid-P
    version of docs/statistics.md. It always has a width unless low and high are equal.
    `values`: n at least 1, none NaN. `low`: no value can be less; as `high` it is moved to the values where they lie
    beyond it. `high`: no value can be more. `confidence`: how often the interval is to hold the mean, 0 to 1."""
    ordered, error = sorted(map(float, values)), (1 - confidence) * _USED / 2
    mirrored = [-value for value in reversed(ordered)]
    return -_upper(mirrored, -low, error), _upper(ordered, high, error)


def _upper(values: Sequence[float], end: float, error: float) -> float:
    """The upper limit of a mean whose values, in order, are `end` at most."""
    from scipy.optimize import brentq

    if values[0] >= end:
        return values[0]
    end = max(end, values[-1])

    def excess(point: float) -> float:
        return _share_below(values, end, point) - (1 - error)

    return float(brentq(excess, values[0], end, xtol=_EXACTNESS * (end - values[0])))


def _share_below(values: Sequence[float], end: float, point: float) -> float:
    """P(sum of D_i z_i <= point), D uniform on the simplex: half with z the values, half with the end among them.

    It is P(X >= Y) for X the sum of a_i E_i and Y that of b_j E_j: E exponential, a what values are below the point, b
    what others are above it. Of two terms a E and b E' the first ends before the second with chance b / (a + b), and
    what is left of the other is as if new; so with p_ij the chance where i of X and j of Y have ended

        p_ij = b_j / (a_i + b_j) p_i+1,j + a_i / (a_i + b_j) p_i,j+1,

    0 where all of X have ended and 1 where all of Y have.
    """
    below = [point - value for value in values if value < point]
    above = [end - point, *(value - point for value in values if value >= point)]
    chances = [0.0] * len(above) + [1.0]
    for a in below:
        for j in range(len(above) - 1, -1, -1):
            b = above[j]
            chances[j] = (b * chances[j] + a * chances[j + 1]) / (a + b)
    if not below and not any(above[1:]):
        return 0.5 if above[0] else 1.0
    return (chances[0] + chances[1]) / 2


def matched_interval(differences: Sequence[float], scale: float, quantile: float = 1.96) -> tuple[float, float]:
    """The interval of the mean difference of pairs, each from `-scale` to `scale`, such as two marks of one document.
    Agresti and Min's (Statistics in Medicine 24, 2005): a pair more of each kind there can be, at half its weight (two
    without a difference, one of `scale`, one of `-scale`), so that it has a width though all are equal."""
    n = len(differences) + 2
    mean = math.fsum(differences) / n
    variance = max((math.fsum(difference**2 for difference in differences) + scale**2) / n - mean**2, 0.0)
    reach = quantile * math.sqrt(variance / n)
    return max(-scale, mean - reach), min(scale, mean + reach)


def pulled_mean(values: Numbers, selected: int) -> float | None:
    """The mean of a row that was selected as the largest, pulled towards the mean of all rows.
    Empirical Bayes (Efron and Morris, Journal of the American Statistical Association 68, 1973). `values` are
    `[n_rows, n_questions]`, NaN where unscored; what all rows of a question share is no noise.
    Returns `None` where fewer than two questions were scored in all rows."""
    shared = values[:, ~np.isnan(values).any(axis=0)]
    n_rows, n_questions = shared.shape
    if n_questions < 2:
        return None
    means = shared.mean(axis=1)
    mean, spread = float(means.mean()), float(means.var(ddof=1)) if n_rows > 1 else 0.0
    if spread == 0.0:
        return float(means[selected])
    rest = shared - means[:, None] - shared.mean(axis=0) + mean
    noise = float((rest**2).sum()) / ((n_rows - 1) * (n_questions - 1) * n_questions)
    kept = max(0.0, 1 - noise / spread)
    pulled: float = mean + kept * (float(means[selected]) - mean)
    return pulled
