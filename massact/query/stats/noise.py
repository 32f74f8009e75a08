"""How the mean deltas of the cells of a place vary over the questions, and what they have in common."""

import math
from dataclasses import dataclass, replace

from massact._lazy import Indices, Numbers, np
from massact.query.stats.paired import LEAST_QUESTIONS

_MOST_FREEDOM = 100.0  # degrees of freedom that the variances of other cells give at most
LEAST_VARIANCE = 1e-6  # variance, in squared points, that is no variance
_MOST_STEPS = 4  # coefficients between two cells of a layer from which on they are as unlike as any two
_LARGEST_SLOPE = 0.9
_LARGEST_POWER = 700.0
_LEAST_KNOWN = 0.5  # share of the cells from which on it is asked what other labels have at their layer and coefficient
_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
_FAR = 25.0  # points by which the mean of a cell may lie off those of the others that tell nothing of it


@dataclass(frozen=True, slots=True)
class Spots:
    """Where cells lie, `[n_cells]` each."""

    labels: Indices
    layers: Indices
    coefficients: Numbers

    def of(self, cells: Indices) -> "Spots":
        return Spots(self.labels[cells], self.layers[cells], self.coefficients[cells])


@dataclass(frozen=True, slots=True)
class Moments:
    """Means over questions, `[n_cells]`, and how they vary; docs/statistics.md, "How noisy a cell is"."""

    means: Numbers
    variances: Numbers  # of the means: pulled towards those of the cells of the same label, layer and coefficient
    freedom: float  # degrees of freedom of the variances
    n_questions: int  # scored in the mean, over the cells
    skewness: float = 0.0  # of the means, that of all cells together
    shared: float = 0.0  # covariance of the means of any two cells
    unseen: float = 0.0  # by which it may be larger where the means are too large by what they share
    along: tuple[float, ...] = ()  # correlation beyond it of cells 1, 2, ... coefficients apart on a layer of a label
    ladders: Indices | None = None  # layers of labels
    steps: Indices | None = None  # rank of the coefficient on its ladder
    usual: Numbers | None = None  # mean that other labels at its layer and coefficient let expect of each

    def of(self, cells: Indices) -> "Moments":
        """The same of some cells."""
        of_cells = ("means", "variances", "ladders", "steps", "usual")
        known = {name: some[cells] for name in of_cells if (some := getattr(self, name)) is not None}
        return replace(self, **known)

    def expected(self) -> Numbers:
        """The mean that is expected of each cell from its own, those of all cells, and those of other labels there."""
        if len(self.means) == 1 or self.n_questions < 2:
            return self.means
        usual = np.zeros(len(self.means)) if self.usual is None else self.usual
        return usual + expected(self.means - usual, np.maximum(self.variances - self.shared, 0.0), len(self.means))

    def slopes(self, index: int) -> Numbers:
        """By how much the mean of each cell rises with that of one of them."""
        variance = float(self.variances[index])
        found = np.full(len(self.means), self.shared / variance)
        if self.ladders is not None and self.steps is not None:
            along = np.array([0.0, *self.along, 0.0])
            apart = np.minimum(np.abs(self.steps - self.steps[index]), len(along) - 1)
            beyond = along[apart] * np.sqrt(self.variances / variance)
            found += np.where(self.ladders == self.ladders[index], beyond, 0.0)
        slopes: Numbers = np.minimum(found, _LARGEST_SLOPE)
        return slopes


def moments(deltas: Numbers, spots: Spots | None = None) -> Moments:
    """Means of cells `[n_cells, n_questions]` and how they vary; NaN where a response was not scored."""
    n_scored = np.maximum((~np.isnan(deltas)).sum(1), 1)
    n_questions = round(float(n_scored.mean()))
    means = np.nansum(deltas, axis=1) / n_scored
    if n_questions < 2:
        return Moments(means, np.zeros(len(means)), 0.0, n_questions)
    centred = np.nan_to_num(deltas - means[:, None])
    spread = (centred**2).sum(axis=1) / np.maximum(n_scored - 1, 1)
    has_spread = n_scored > 1
    spread[~has_spread] = spread[has_spread].mean() if has_spread.any() else 0.0
    own, freedom = spread / n_scored, n_questions - 1
    known = Moments(means, own, freedom, n_questions)
    if len(means) == 1 or not own.any():
        return known
    scaled = centred / np.sqrt(freedom * n_scored)[:, None]
    known = _with_shared(known, deltas, scaled)
    if spots is not None:
        known = _along(known, spots, scaled / np.sqrt(np.maximum(known.variances, LEAST_VARIANCE))[:, None])
        known = replace(known, usual=_usual(means, spots))
    fitted = _fitted(known, spots)
    prior = prior_freedom(known.variances / fitted, freedom)
    variances = (freedom * known.variances + prior * fitted) / (freedom + prior)
    return replace(known, variances=variances, freedom=freedom + prior, skewness=_skewness(centred, n_questions))


def _with_shared(known: Moments, deltas: Numbers, scaled: Numbers) -> Moments:
    """With the covariance of any two cells: of two-valued scores, as of a judge that says yes or no, no less than one
    more question may have. `scaled`: deviations of deltas `[n_cells, n_questions]`, whose squares sum to variances."""
    n_cells, mean, n = len(scaled), float(known.variances.mean()), known.n_questions
    shared = float((scaled.sum(0) ** 2).sum() - (scaled**2).sum()) / (n_cells * (n_cells - 1))
    shared = min(max(shared, 0.0), mean)
    n_values = 1 + (np.diff(np.sort(deltas, axis=1)) > 0).sum(axis=1)
    if 2 * np.count_nonzero(n_values <= (~np.isnan(deltas)).sum(1) / 2) <= n_cells:
        return replace(known, shared=shared)
    added = max(0.0, 4 * _spread(1 / (n + 2)) * mean - shared)
    shared += added
    rare = (1 - math.sqrt(1 - min(shared / mean, 1.0))) / 2 if mean else 0.0  # share of the rarer answer
    unseen = max(0.0, 4 * _spread((n * rare + 2) / (n + 4)) * mean - shared)
    return replace(known, shared=shared, unseen=unseen, variances=known.variances + added)


def _spread(share: float) -> float:
    """The variance of answers of which a share is 1 and the rest 0."""
    return share * (1 - share)


def _usual(means: Numbers, spots: Spots) -> Numbers:
    """What the mean of the other labels at its layer and coefficient lets expect of each cell, as far as labels are
    alike there; that of all cells where no other label is."""
    site = np.unique(np.stack([spots.layers, spots.coefficients]), axis=1, return_inverse=True)[1].reshape(-1)
    counts, sums = np.bincount(site), np.bincount(site, means)
    known, usual = counts[site] > 1, np.full(len(means), float(np.median(means)))
    if known.mean() < _LEAST_KNOWN:
        return usual
    within = float(((means - (sums / np.maximum(counts, 1))[site]) ** 2).sum()) / int((counts - 1).sum())
    others = counts[site][known] - 1
    n_sites = max(2, int(np.count_nonzero(counts > 1)))
    usual[known] = expected((sums[site] - means)[known] / others, within / others, n_sites)
    return usual


def expected(means: Numbers, variances: Numbers, n: int) -> Numbers:
    """True means that are expected of noisy ones, however they were selected: pulled towards their median, by as much
    as their quartiles are no further apart than noise makes them; one of n may lie far off. Empirical Bayes (Efron and
    Morris, Journal of the American Statistical Association 68, 1973)."""
    low, middle, high = np.quantile(means, (0.25, 0.5, 0.75))
    near = max(0.0, float((high - low) / _QUARTILES) ** 2 - float(variances.mean()))
    off = means - middle
    kept, weights = [], []
    for spread, prior in ((near, 1 - 1 / n), (max(near, _FAR**2), 1 / n)):
        total = np.maximum(spread + variances, LEAST_VARIANCE)
        kept.append(spread / total)
        weights.append(np.log(prior) - 0.5 * (off**2 / total + np.log(total)))
    share = 1 / (1 + np.exp(np.minimum(weights[0] - weights[1], _LARGEST_POWER)))
    pulled: Numbers = middle + off * ((1 - share) * kept[0] + share * kept[1])
    return pulled


def _skewness(centred: Numbers, n_questions: int) -> float:
    """Of the mean of as many values, from all cells."""
    if n_questions < LEAST_QUESTIONS:
        return 0.0
    third = float((centred**3).sum()) * n_questions / ((n_questions - 1) * (n_questions - 2))
    second = float((centred**2).sum()) / (n_questions - 1)
    skewness: float = third / second**1.5 * len(centred) ** 0.5 / n_questions**0.5
    return skewness


def _fitted(known: Moments, spots: Spots | None) -> Numbers:
    """What the cells of its label and of its coefficient say of the variance of each."""
    own = known.variances
    fitted = np.full(len(own), float(own.mean()))
    alike = 1 + 2 * sum(
        correlation**2 for correlation in known.along
    )  # cells of a label that tell as much as one alone
    for column, size in () if spots is None else ((spots.labels, alike), (spots.coefficients, 1.0)):
        group = np.unique(column, return_inverse=True)[1]
        counts = np.bincount(group)
        effects, freedom = np.bincount(group, own / fitted) / counts, known.freedom * counts / size
        prior = prior_freedom(effects, 1 / float((1 / freedom).mean()))
        fitted *= ((freedom * effects + prior) / (freedom + prior))[group]
    kept: Numbers = np.maximum(fitted, LEAST_VARIANCE)
    return kept


def prior_freedom(variances: Numbers, freedom: float) -> float:
    """Degrees of freedom that variances give one another, by their moments: many where they are alike (as Smyth does,
    Statistical Applications in Genetics and Molecular Biology 3, 2004)."""
    mean = float(variances.mean())
    if len(variances) == 1 or mean == 0.0:
        return 0.0
    relative = float(variances.var(ddof=1)) / mean**2
    excess = (relative - 2 / freedom) / (1 + 2 / freedom)
    return _MOST_FREEDOM if excess <= 2 / (_MOST_FREEDOM - 4) else 4 + 2 / excess


def _along(known: Moments, spots: Spots, values: Numbers) -> Moments:
    """With the correlation of neighbouring coefficients, where it is more than chance. `values` are unit vectors."""
    ladders = np.unique(
        np.stack([spots.labels, spots.layers, np.sign(spots.coefficients)]), axis=1, return_inverse=True
    )[1].reshape(-1)
    order, at = np.lexsort((np.abs(spots.coefficients), ladders)), np.arange(len(ladders))
    ladder, values, n = ladders[order], values[order], len(ladders)
    steps = np.empty_like(at)
    steps[order] = at - np.maximum.accumulate(np.where(np.r_[True, ladder[1:] != ladder[:-1]], at, 0))
    usual = float((values.sum(0) ** 2).sum() - (values**2).sum()) / (n * (n - 1))
    found = list[float]()
    for apart in range(1, _MOST_STEPS + 1):
        pairs = np.flatnonzero(ladder[apart:] == ladder[:-apart])
        if not len(pairs):
            break
        beyond = float((values[pairs] * values[pairs + apart]).sum(1).mean()) - usual
        chance = 1 / (len(pairs) * known.freedom)
        found.append(max(0.0, beyond) * max(0.0, 1 - chance / beyond**2) if beyond else 0.0)
    return replace(known, along=tuple(found), ladders=ladders, steps=steps)
