"""How well two readers' scores of the same responses agree: correlations and kappas, with bootstrap intervals.

The bootstrap draws questions, not responses: what was said to one question is scored alike by whoever reads it. Every
figure is reckoned for all draws at once, from `weights` `[n_draws, n_responses]`: how often a response is in a draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from massact._lazy import Numbers, np
from massact.query.stats.paired import CONFIDENCE

Verdict = Literal["agrees", "disagrees", "cannot say"]
LEAST_KAPPA = 0.4  # weighted kappa from which two readers agree: `moderate` of Landis and Koch (Biometrics 33, 1977)
LEAST_RESPONSES = 20  # below which nothing is said of a reader, however well the few scores agree
_LEAST_QUESTIONS = 5  # below which there are too few to draw from, and no interval
_DRAWS, _SEED = 2000, 20_261_130
_FLAT = 1e-9  # variance below which scores are all the same


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, -1 to 1, and the interval that holds it in 95 of 100 sets of questions; `None`: not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two readers' scores of the same responses."""

    n_responses: int
    n_questions: int
    pearson: Estimate
    spearman: Estimate
    kappa: Estimate  # Cohen's, by band
    weighted_kappa: Estimate  # with quadratic weights

    @property
    def verdict(self) -> Verdict:
        """`agrees` and `disagrees` only where the whole interval of the weighted kappa says so."""
        low, high = self.weighted_kappa.low, self.weighted_kappa.high
        if low is None or high is None or self.n_responses < LEAST_RESPONSES or low < LEAST_KAPPA <= high:
            return "cannot say"
        return "agrees" if low >= LEAST_KAPPA else "disagrees"


def agreement(a: Sequence[float], b: Sequence[float], questions: Sequence[str], n_bands: int) -> Agreement:
    """Of scores 0 to 100 of the same responses, n at least 1, each to one of the questions. `n_bands`: `banded`."""
    places = {question: place for place, question in enumerate(dict.fromkeys(questions))}
    n = len(places)
    draws = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=_DRAWS)
    weights = np.vstack([np.ones(len(a)), draws[:, [places[question] for question in questions]]])
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    eye = np.eye(n_bands)
    pairs = eye[banded(first, n_bands)][:, :, None] * eye[banded(second, n_bands)][:, None]
    tables = (weights @ pairs.reshape(len(first), -1)).reshape(-1, n_bands, n_bands)
    distance = np.subtract.outer(np.arange(n_bands), np.arange(n_bands))
    return Agreement(
        len(first),
        n,
        _estimate(_correlations(weights, first, second), n),
        _estimate(_correlations(weights, _ranks(weights, first), _ranks(weights, second)), n),
        _estimate(kappas(tables, (distance != 0).astype(float)), n),
        _estimate(kappas(tables, distance.astype(float) ** 2), n),
    )


def banded(scores: Numbers, n_bands: int) -> Numbers:
    """The band of each score among equal ones of 0 to 100, from 0; a score between two is of the upper one."""
    bands: Numbers = np.minimum((scores * n_bands / 100).astype(int), n_bands - 1)
    return bands


def kappas(tables: Numbers, costs: Numbers) -> Numbers:
    """Cohen's kappa of each table `[n, k, k]` of counts; NaN where both readers use one band alone. 1 - sum of cost x
    observed / sum of cost x expected, expected from the table's margins (Cohen, Psychological Bulletin 70, 1968).
    `costs` `[k, k]`: of each disagreement, 0 on the diagonal."""
    expected = tables.sum(2)[:, :, None] * tables.sum(1)[:, None] / tables.sum((1, 2))[:, None, None]
    by_chance = (costs * expected).sum((1, 2))
    kappa: Numbers = 1 - (costs * tables).sum((1, 2)) / np.where(by_chance > 0, by_chance, np.nan)
    return kappa


def _correlations(weights: Numbers, a: Numbers, b: Numbers) -> Numbers:
    """Pearson's of each draw; NaN where one reader's scores are all the same."""
    shares = weights / weights.sum(1, keepdims=True)
    x, y = (ranks - (shares * ranks).sum(1, keepdims=True) for ranks in (a, b))
    spread = [(shares * residuals**2).sum(1) for residuals in (x, y)]
    is_flat = np.minimum(*spread) < _FLAT
    r: Numbers = (shares * x * y).sum(1) / np.sqrt(np.where(is_flat, np.nan, spread[0] * spread[1]))
    return r


def _ranks(weights: Numbers, scores: Numbers) -> Numbers:
    """Of each response in each draw its rank but for a constant, the mean one where several have a score."""
    values, place = np.unique(scores, return_inverse=True)
    counts = weights @ np.eye(len(values))[place]
    ranks: Numbers = (counts.cumsum(1) - counts / 2)[:, place]
    return ranks


def _estimate(values: Numbers, n_questions: int) -> Estimate:
    """From the responses as they are, first, and all draws; in a few of these a figure may not be defined."""
    if np.isnan(values[0]):
        return Estimate(None)
    if n_questions < _LEAST_QUESTIONS:
        return Estimate(float(values[0]))
    error = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values[1:], [error, 1 - error])
    return Estimate(float(values[0]), float(low), float(high))
