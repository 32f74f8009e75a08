"""How sure it is that an evaluation is truly at or above the coherence floor, given its scores and its neighbours."""

from collections.abc import Callable
from dataclasses import dataclass

from massact._lazy import Indices, Mask, Numbers, np
from massact.query.groups import ComparableGroups
from massact.query.stats.paired import QuestionScores

SURE = 0.9  # chance below which it is shown
_MOST_SAMPLED = 64  # evaluations of a place whose scores by question tell how coherence scatters
_ALIKE = 8.0  # points of coherence within which evaluations scatter alike
_USUAL_OFF = 15.0
"""Points by which a neighbour's coherence is off where nothing else tells: it counts as one cell that was seen."""
_LEAST_VARIANCE = 1e-6
_LARGEST_CORRELATION = 0.9


@dataclass(frozen=True, slots=True)
class Coherences:
    """Coherence of the evaluations of one place, `[n_cells]` each."""

    labels: Indices
    layers: Indices
    coefficients: Numbers
    means: Numbers
    variances: Numbers  # of the means, from their scatter over questions
    correlation: float  # of two cells' means: a hard question lowers all of them


def coherent_chances(place: ComparableGroups, floor: float, scores: QuestionScores) -> dict[str, float]:
    """By run the chance that an evaluation at or above the floor is truly there; empty where scores do not tell."""
    parts = [part.points for part in place.slices.values()]
    if not parts:
        return {}
    labels = np.repeat(np.arange(len(parts)), [len(points) for points in parts])
    run_ids = [run_id for points in parts for run_id in points.run_ids()]
    layers, coefficients = (
        np.concatenate([points.column(name) for points in parts]) for name in ("layer", "coefficient")
    )
    means = np.concatenate([points.measures(floor) for points in parts])
    known = np.flatnonzero(~np.isnan(means) & (coefficients != 0))
    is_coherent = means[known] >= floor
    scatter = _scatter(known[is_coherent], run_ids, means, scores)
    if scatter is None:
        return {}
    cells = Coherences(
        labels[known], layers[known].astype(np.intp), coefficients[known], means[known],
        scatter.variances(means[known]), scatter.correlation,
    )  # fmt: skip
    chances = chances_of(cells, floor)[is_coherent].tolist()
    return dict(zip((run_ids[index] for index in known[is_coherent].tolist()), chances, strict=True))


@dataclass(frozen=True, slots=True)
class _Scatter:
    """How the coherence of some evaluations scatters over questions."""

    means: Numbers
    of_means: Numbers  # variances of the means
    correlation: float

    def variances(self, means: Numbers) -> Numbers:
        """Those of other evaluations: as of the ones that are about as coherent."""
        off = np.abs(means[:, None] - self.means) / _ALIKE
        weights = np.exp(-0.5 * off**2) + 1e-9 / (1 + off**4)  # far from all of them the nearest count
        variances: Numbers = weights @ self.of_means / weights.sum(axis=1)
        return variances


def _scatter(coherent: Indices, run_ids: list[str], means: Numbers, scores: QuestionScores) -> _Scatter | None:
    """From some of the coherent evaluations, those of all degrees of coherence alike."""
    told = np.array([run_ids[index] in scores.evaluations for index in coherent.tolist()], dtype=bool)
    if not told.any():
        return None
    ordered = np.array(sorted(coherent[told].tolist(), key=lambda index: (means[index], run_ids[index])))
    sampled = ordered[np.unique(np.linspace(0, len(ordered) - 1, _MOST_SAMPLED).round().astype(int))]
    found = scores.coherences([run_ids[index] for index in sampled.tolist()])
    if found is None:
        return None
    counts = (~np.isnan(found)).sum(axis=1)
    found, counts = found[counts > 1], counts[counts > 1]
    if not len(found):
        return None
    own = np.nanvar(found, axis=1, ddof=1)
    centred = np.nan_to_num(found - np.nanmean(found, axis=1)[:, None])
    n_cells, n_questions = found.shape
    correlation = 0.0
    if n_cells > 1 and own.any():
        shared = float((centred.sum(axis=0) ** 2).sum() - (centred**2).sum()) / (n_questions - 1)
        correlation = shared / (n_cells * (n_cells - 1)) / float(own.mean())
    correlation = min(max(correlation, 0.0), _LARGEST_CORRELATION)
    return _Scatter(np.nanmean(found, axis=1), own / counts, correlation)


def chances_of(cells: Coherences, floor: float) -> Numbers:
    """The chance of each cell that its true coherence is at or above the floor, `[n_cells]`. Empirical Bayes: what is
    expected of it by the line through its neighbours on the ladder, by other labels and by other layers at its
    coefficient is weighed with its own mean; see docs/statistics.md."""
    from scipy.special import ndtr

    noise = cells.variances * (1 - cells.correlation) + _LEAST_VARIANCE
    ladders = _Ladders.of(cells)
    is_edge = ladders.edges(cells.means, floor)
    precision, weighted = 1 / noise, cells.means / noise
    seen = np.zeros(len(noise), dtype=bool)
    for neighbours in (ladders.line(-1, 1), ladders.line(-1, -2)):
        expected, inflation = neighbours(cells.means)
        off = _off(cells.means, expected, noise * (1 + inflation), is_edge)
        variance = np.where(seen, np.nan, noise * inflation + off)
        precision, weighted = _with(precision, weighted, expected, variance)
        seen |= ~np.isnan(expected)
    for others in (_same(cells.layers, cells.coefficients), _same(cells.labels, cells.coefficients)):
        expected, inflation = _mean_of_others(others, cells.means)
        off = _off(cells.means, expected, noise * (1 + inflation), is_edge)
        precision, weighted = _with(precision, weighted, expected, noise * inflation + off)
    error = np.sqrt(1 / precision + cells.correlation * cells.variances)
    chances: Numbers = ndtr((weighted / precision - floor) / error)
    return chances


def _off(means: Numbers, expected: Numbers, noise: Numbers, is_edge: Mask) -> float:
    """Variance by which an expectation is off the true mean, beside noise."""
    known = is_edge & ~np.isnan(expected)
    excess = float(((means - expected) ** 2 - noise)[known].sum())
    return max(_LEAST_VARIANCE, (_USUAL_OFF**2 + excess) / (1 + int(np.count_nonzero(known))))


def _with(precision: Numbers, weighted: Numbers, expected: Numbers, variance: Numbers) -> tuple[Numbers, Numbers]:
    """What is known of each cell, with one more expectation where there is one."""
    with np.errstate(invalid="ignore"):
        added = np.nan_to_num(1 / np.where(np.isnan(expected), np.nan, variance))
    return precision + added, weighted + added * np.nan_to_num(expected)


def _same(*columns: Numbers | Indices) -> Indices:
    """A number for each cell, which is that of the cells with the same values."""
    places: Indices = np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)
    return places


def _mean_of_others(group: Indices, means: Numbers) -> tuple[Numbers, Numbers]:
    """Of each cell the mean of the others of its group, and the share of one cell's noise that it has."""
    counts = np.bincount(group)[group] - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(counts > 0, (np.bincount(group, means)[group] - means) / counts, np.nan)
        return expected, np.where(counts > 0, 1 / counts, 0.0)


@dataclass(frozen=True, slots=True)
class _Ladders:
    """The coefficients of each label, layer and sign in the order of their size."""

    order: Indices
    ladder: Indices  # in that order
    sizes: Numbers

    @classmethod
    def of(cls, cells: Coherences) -> "_Ladders":
        ladder = _same(cells.labels, cells.layers, np.sign(cells.coefficients))
        sizes = np.abs(cells.coefficients)
        order = np.lexsort((sizes, ladder))
        return cls(order, ladder[order], sizes[order])

    def _at(self, step: int) -> Indices:
        """The place of the neighbour so many steps on; -1 where its ladder has none."""
        places = np.arange(len(self.order)) + step
        inside = (places >= 0) & (places < len(self.order))
        inside[inside] &= self.ladder[places[inside]] == self.ladder[inside]
        return np.where(inside, places, -1)

    def edges(self, means: Numbers, floor: float) -> Mask:
        """Which cells are on the other side of the floor than the one before or after them."""
        above, is_edge = means[self.order] >= floor, np.zeros(len(means), dtype=bool)
        for step in (-1, 1):
            there = self._at(step)
            is_edge[self.order] |= (there >= 0) & (above != above[there])
        return is_edge

    def line(self, first: int, second: int) -> Callable[[Numbers], tuple[Numbers, Numbers]]:
        """Of each cell what lies on the line through two neighbours, and how much noise of one cell that has."""
        a, b = self._at(first), self._at(second)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (self.sizes - self.sizes[a]) / (self.sizes[b] - self.sizes[a])
        share[(a < 0) | (b < 0) | ~np.isfinite(share)] = np.nan

        def expected(means: Numbers) -> tuple[Numbers, Numbers]:
            ordered, values, noise = means[self.order], np.empty(len(means)), np.empty(len(means))
            values[self.order] = (1 - share) * ordered[a] + share * ordered[b]
            noise[self.order] = np.nan_to_num((1 - share) ** 2 + share**2)
            return values, noise

        return expected
