"""What is believed of coherence and gain along the coefficients of one ladder.

Everything is over x = ln(coefficient).

Coherence is a falling logistic that starts at the baseline's coherence C0,

    coherence(x) = C0 / (1 + exp((x - x50) / w)),

known by a grid over where it crosses the floor (the cliff) and over w, weighed by what was observed.

The gain (the delta in the wanted direction) is a Gaussian process: it may have plateaus, bumps and a peak before the
cliff, which no formula of few parameters follows. It is the sum of a trend, which the ladders of one model and trait
share, and of what is a ladder's own. A coefficient is worth the expected improvement on the best so far (Jones,
Schonlau and Welch, "Efficient Global Optimization of Expensive Black-Box Functions", 1998), bounded by what can be
gained at all, times the chance that the text is still coherent there (Gardner et al., "Bayesian Optimization with
Inequality Constraints", 2014).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

Numbers = NDArray[np.float64]
Curve = Callable[[Numbers], Numbers]
Kernel = Callable[[Numbers, Numbers], Numbers]


COHERENCE_NOISE, GAIN_NOISE = 10.0, 3.0
"""How far a mean score of about ten questions lies off a smooth curve, in points."""
_TAIL = 4.0  # degrees of freedom of the coherences' Student t: curves have bumps, and one must not decide alone
_WIDTH, _WIDTH_SPREAD = 0.14, 0.5  # median of w, and the standard deviation of its logarithm
_SURPRISE, _SURPRISE_SCALE = 0.1, 6.0
"""Weight of a cliff that is spread so much wider, for vectors that the prior knows nothing of."""
_N_CLIFFS, _N_WIDTHS = 481, 7
_NEGLIGIBLE = 1e-5  # cells of the grid lighter than this share of the heaviest are left out
_LENGTH = 0.2  # correlation length of the gain, in ln(coefficient)
_TREND_SPREAD, _LAYER_SPREAD, OWN_SPREAD = 0.3, 0.15, 0.15
"""Standard deviations of the trend, of a layer's part in it and of what is a ladder's own, as shares of the ceiling."""
LAYER_LENGTH = 3.0  # how many layers apart two are no longer alike
_HALF_REACH, _REACH_WIDTH, _LEAST_REACH = -0.8, 0.25, 0.5
"""How far below the expected best, in ln(coefficient), the gain scatters less, how fast that falls, to what share."""
_RISE_BELOW_BEST, _RISE_WIDTH, _RISE_TO = 0.35, 0.12, 0.8
"""The trend before any observation: its middle below the expected best and its width (ln), its height (share)."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A coefficient of a ladder that was tried."""

    coefficient: float  # its size, above 0
    coherence: float | None  # mean coherence, 0 to 100; `None`: it failed, or nothing was scored
    gain: float | None  # mean delta in the wanted direction; `None`: the trait was not scored
    is_partial: bool = False  # given up on part of the questions: it tells of the cliff and is never the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is expected of a ladder's curves before any evaluation of its own."""

    cliff: float  # ln(coefficient) where coherence is expected to cross the floor
    best: float  # ln(coefficient) where the prior expects the best; what x is aligned by across ladders
    spread: float  # standard deviation of the cliff
    floor: float
    baseline_coherence: float  # above the floor
    ceiling: float  # the most that can be gained: what the baseline leaves, in points
    layer: float = 0


class CoherenceBelief:
    """Where the cliff of a ladder may lie, and how steep it is."""

    def __init__(self, shape: Shape, observations: Sequence[Observation], *, may_surprise: bool = True) -> None:
        """`may_surprise`: whether the cliff may lie far off what is expected."""
        self._shape = shape
        units, widths, log_prior = _grid(_SURPRISE if may_surprise else 0.0)
        self._cliffs, self._widths = shape.cliff + shape.spread * _SURPRISE_SCALE * units, widths
        # far below the cliff coherence is the baseline's, at the cliff it is the floor
        self._halves = self._cliffs - widths * math.log(shape.baseline_coherence / shape.floor - 1)
        log_weights = log_prior.copy()
        for observation in observations:
            if observation.coherence is None:
                continue
            off = (self._curves(np.log([observation.coefficient]))[0] - observation.coherence) / COHERENCE_NOISE
            log_weights -= (_TAIL + 1) / 2 * np.log1p(off**2 / _TAIL)
        weights = np.exp(log_weights - log_weights.max())
        kept = weights > _NEGLIGIBLE
        self._cliffs, self._widths, self._halves = self._cliffs[kept], widths[kept], self._halves[kept]
        self._weights = weights[kept] / weights[kept].sum()

    def chance(self, x: Numbers) -> Numbers:
        """`[n_x]`: the chance that a mean coherence is at or above the floor at each x."""
        above = ndtr((self._curves(x) - self._shape.floor) / (COHERENCE_NOISE / 2))
        return np.asarray(above @ self._weights)

    def cliff(self) -> tuple[float, float]:
        """Mean and standard deviation of ln(coefficient) at the cliff."""
        mean = float(self._weights @ self._cliffs)
        return mean, math.sqrt(max(float(self._weights @ (self._cliffs - mean) ** 2), 0.0))

    def _curves(self, x: Numbers) -> Numbers:
        """`[n_x, n_grid]`, 0 to 100."""
        z = (x[:, None] - self._halves) / self._widths
        curves: Numbers = self._shape.baseline_coherence / (1 + np.exp(np.clip(z, -50, 50)))
        return curves


class Process:
    """A Gaussian process after some observations."""

    def __init__(self, mean: Curve, kernel: Kernel, x: Numbers, y: Numbers, noise: Numbers) -> None:
        """`mean`: before any observation. `kernel`: covariance before any observation, `[n_a, n_b]` of `[n_a]` and
        `[n_b]`. `noise`: variance of each observation."""
        self._mean, self._kernel, self._x = mean, kernel, x
        if len(x):
            self._factor = cho_factor(kernel(x, x) + np.diag(noise))
            self._residual = y - mean(x)

    def mean(self, x: Numbers) -> Numbers:
        """`[n_x]`."""
        if not len(self._x):
            return self._mean(x)
        return np.asarray(self._mean(x) + self._kernel(x, self._x) @ cho_solve(self._factor, self._residual))

    def covariance(self, a: Numbers, b: Numbers) -> Numbers:
        """`[n_a, n_b]`."""
        if not len(self._x):
            return self._kernel(a, b)
        known = self._kernel(a, self._x) @ cho_solve(self._factor, self._kernel(b, self._x).T)
        return np.asarray(self._kernel(a, b) - known)


def gain_trend(ceiling: float, points: Sequence[tuple[float, float, float, int]], own_spread: float) -> Process:
    """What the gains of one model and trait's ladders have in common, and more so those of near layers, in points over
    (x less the expected best, layer). `points`: both, the mean gain there, and over how many observations."""
    x, layers, gains, n = np.array(points, dtype=float).reshape(-1, 4).T
    whole, layered = _kernel(_TREND_SPREAD * ceiling), _kernel(_LAYER_SPREAD * ceiling)

    def rise(at: Numbers) -> Numbers:
        z = (at[:, 0] + _RISE_BELOW_BEST) / _RISE_WIDTH
        return np.asarray(_RISE_TO * ceiling / (1 + np.exp(np.clip(-z, -50, 50))))

    def kernel(a: Numbers, b: Numbers) -> Numbers:
        return np.asarray(whole(a, b) + layered(a, b) * alike(a[:, 1], b[:, 1]))

    noise = ((own_spread * ceiling) ** 2 + GAIN_NOISE**2) / n
    return Process(rise, kernel, np.column_stack([x, layers]), gains, noise)


def alike(a: Numbers, b: Numbers) -> Numbers:
    """`[n_a, n_b]`: correlation of what layers have to themselves."""
    return np.asarray(np.exp(-0.5 * ((a[:, None] - b[None, :]) / LAYER_LENGTH) ** 2))


class GainBelief:
    """What may be gained along the coefficients of a ladder."""

    def __init__(
        self, shape: Shape, trend: Process, observations: Sequence[Observation], own_spread: float = OWN_SPREAD
    ) -> None:
        own, self._shape = _kernel(own_spread * shape.ceiling), shape
        seen = [
            observation for observation in observations if observation.gain is not None and not observation.is_partial
        ]
        x = self._at([math.log(observation.coefficient) for observation in seen])
        gains = np.array([observation.gain for observation in seen], dtype=float)
        noise = np.full(len(seen), GAIN_NOISE**2)
        self._process = Process(trend.mean, lambda a, b: trend.covariance(a, b) + own(a, b), x, gains, noise)

    def at(self, x: Numbers) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation of the gain at each x, in points."""
        at = self._at(x)
        variance = np.diag(self._process.covariance(at, at))
        return self._process.mean(at), np.sqrt(np.maximum(variance, 1e-9))

    def _at(self, x: Sequence[float] | Numbers) -> Numbers:
        return np.column_stack([np.asarray(x) - self._shape.best, np.full(len(x), self._shape.layer)])

    def exceeding(self, x: Numbers, best: float) -> Numbers:
        """`[n_x]`: the chance that a gain is above the best so far."""
        mean, deviation = self.at(x)
        return np.asarray(ndtr((mean - best) / deviation))

    def improvement(self, x: Numbers, best: float) -> Numbers:
        """`[n_x]`: by how many points a gain is expected to pass the best so far, none above the ceiling."""
        mean, deviation = self.at(x)
        return _excess(mean - best, deviation) - _excess(mean - self._shape.ceiling, deviation)


def _kernel(spread: float) -> Kernel:
    """Over x less the expected best: the smaller a coefficient, the less it can do."""

    def covariance(a: Numbers, b: Numbers) -> Numbers:
        x, y = a[:, 0], b[:, 0]
        near = np.exp(-0.5 * ((x[:, None] - y[None, :]) / _LENGTH) ** 2)
        return np.asarray(spread**2 * np.outer(_reach(x), _reach(y)) * near)

    return covariance


def _reach(x: Numbers) -> Numbers:
    return np.asarray(_LEAST_REACH + (1 - _LEAST_REACH) / (1 + np.exp(-(x - _HALF_REACH) / _REACH_WIDTH)))


def _excess(ahead: Numbers, deviation: Numbers) -> Numbers:
    """E[max(N(ahead, deviation), 0)]."""
    z = ahead / deviation
    return np.asarray(ahead * ndtr(z) + deviation * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))


@cache
def _grid(surprise: float) -> tuple[Numbers, Numbers, Numbers]:
    """Cliffs (in units of the widest spread), widths and the log of the prior, `[n_grid]` each."""
    units, steps = np.meshgrid(np.linspace(-3, 3, _N_CLIFFS), np.linspace(-2, 2, _N_WIDTHS), indexing="ij")
    narrow = _SURPRISE_SCALE * np.exp(-0.5 * (units * _SURPRISE_SCALE) ** 2)
    prior = (1 - surprise) * narrow + surprise * np.exp(-0.5 * units**2)
    widths = _WIDTH * np.exp(_WIDTH_SPREAD * steps)
    return units.ravel(), widths.ravel(), (np.log(np.maximum(prior, 1e-300)) - 0.5 * steps**2).ravel()
