"""Two evaluations question by question: how far apart they are, and whether that is more than noise.

docs/statistics.md says why these intervals and tests, and how often they hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from massact._lazy import Numbers, np
from massact.floors import DEFAULT_FLOOR, Floor, as_floor
from massact.query.evaluations import Evaluations
from massact.query.groups import GroupInSetting
from massact.query.rows import AnyPoint, Point
from massact.query.stats.means import bounded_mean_interval
from massact.store.read import RunStore
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Scores

CONFIDENCE = 0.95
LEAST_QUESTIONS = 3  # questions below which nothing is tested
N_DRAWS = 9998
_SEED = 20_251_109
_EQUAL = 1e-12  # share by which sums that are equal may differ as numbers


LARGEST = 100.0  # points of a delta, and of a difference: scores run from 0 to it


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The mean difference of two evaluations over the questions that both were scored on."""

    n_questions: int
    difference: float
    expected: float  # the difference less what the picking is expected to have added to it
    low: float
    high: float  # of the interval that holds the true mean difference in 95 of 100 experiments
    p_value: float  # Two-sided: how often chance alone gives a difference as large


def paired_test(differences: Numbers, *, luck: float = 0.0) -> PairedTest | None:
    """Compare two evaluations by question, with the interval stretched to be that of the expected difference too.
    `differences`: scores of one minus those of the other, `[n_questions]`, NaN where one is unscored. `luck`: points by
    which the picking is expected to have made the difference too large.
    Returns `None` where fewer than three questions were scored in both."""
    differences = differences[~np.isnan(differences)]
    if len(differences) < LEAST_QUESTIONS:
        return None
    low, high = mean_interval(differences)
    difference = float(differences.mean())
    expected = difference - luck
    return PairedTest(
        n_questions=len(differences),
        difference=difference,
        expected=expected,
        low=max(low - max(luck, 0.0), -LARGEST),
        high=min(high - min(luck, 0.0), LARGEST),
        p_value=max(_p_value(differences), _p_value(differences - luck)) if difference * expected > 0 else 1.0,
    )


def is_more_than_noise(differences: Numbers) -> bool:
    """Whether the 95 % interval of their mean leaves out zero, `[n_questions]`, NaN where one is unscored."""
    known = differences[~np.isnan(differences)]
    if len(known) < LEAST_QUESTIONS:
        return False
    low, high = mean_interval(known)
    return low > 0 or high < 0


def least_p(n_questions: int) -> float:
    """The least p-value that `paired_test` can give: all signs, or none, flipped, of all ways to flip them."""
    return max(2.0 ** (1 - n_questions), 1 / (N_DRAWS + 1))


def mean_interval(
    values: Numbers, *, within: tuple[float, float] = (-LARGEST, LARGEST), confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval of the mean of deltas, or of differences of scores, `[n]`, n at least 2. Student's; where values
    repeat it is stretched to the one that holds however values are distributed. `within` are the least and the greatest
    value that there can be."""
    from scipy.special import stdtrit  # scipy.stats has the same and takes half a second to load

    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    low, high = mean - half, mean + half
    if is_few_valued(values):
        outer = bounded_mean_interval(values, *within, confidence=confidence)
        low, high = min(low, outer[0]), max(high, outer[1])
    return low, high


def is_few_valued(values: Numbers) -> bool:
    return len(set(values.tolist())) <= len(values) / 2


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for that many tests (Holm, Scandinavian Journal of Statistics 6, 1979); `None` stays."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[index] = largest
    return corrected


def _p_value(differences: Numbers) -> float:
    """Of sign flips, and no less than where the interval that is given would end at zero."""
    from scipy.optimize import brentq

    flipped = max(_sign_flip(differences), _student(differences))
    if not is_few_valued(differences):
        return flipped
    sign = 1 if differences.mean() > 0 else -1

    def nearest(p: float) -> float:
        return min(bounded_mean_interval(sign * differences, -LARGEST, LARGEST, confidence=1 - p)[0], 1.0)

    if nearest(flipped) >= 0:
        return flipped
    return 1.0 if nearest(1.0) <= 0 else float(brentq(nearest, flipped, 1.0, xtol=1e-4))


def _student(differences: Numbers) -> float:
    from scipy.special import stdtr

    n, spread = len(differences), float(differences.std(ddof=1))
    if spread == 0.0:
        return 0.0 if differences.any() else 1.0
    return 2 * float(stdtr(n - 1, -abs(float(differences.mean())) * n**0.5 / spread))


def _sign_flip(differences: Numbers) -> float:
    """Share of the ways to flip signs, or of drawn ones with the signs as they are, whose mean is as far from zero."""
    sums = np.abs(_signs(len(differences)) @ differences)
    return float(np.mean(sums >= sums[0] * (1 - _EQUAL)))


@lru_cache(maxsize=8)
def _signs(n: int) -> Numbers:
    """Ways to flip the signs of so many differences, the first of which flips none."""
    if 2**n <= N_DRAWS:
        return np.where(np.arange(2**n)[:, None] >> np.arange(n) & 1, -1.0, 1.0)
    drawn = np.random.default_rng(_SEED).choice([-1.0, 1.0], (N_DRAWS, n))
    return np.concatenate([np.ones((1, n)), drawn])


_SAME_MEAN = 0.01  # points by which the mean of a baseline's scores may differ from the mean that a row holds


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """What the judge gave question by question."""

    evaluations: Mapping[str, Scores]  # by run id
    baselines: Mapping[str, Scores]  # by the key of the baseline
    floor: Floor = DEFAULT_FLOOR  # what `coherences` are of

    @classmethod
    def from_store(
        cls, store: RunStore, evaluations: Evaluations, floor: float, baselines: Mapping[str, Stored[EvaluationRow]]
    ) -> "QuestionScores":
        """The scores of evaluations at or above the floor, and of the baselines that they name."""
        wanted = {row.baseline_key for row in evaluations.samples.values()}
        runs = {key: baseline.run_id for key, baseline in baselines.items() if key in wanted}
        of_baselines, asked = store.scores(runs.values()), as_floor(floor)
        scores = store.scores(run for points in evaluations.by_place.values() for run in points.coherent_runs(floor))
        if not asked.is_coherence:
            scores = store.with_metrics(scores, [asked.metric])
        by_key = {key: of_baselines[run] for key, run in runs.items() if run in of_baselines}
        return cls(scores, by_key, asked)

    def deltas(self, part: GroupInSetting, run_ids: Sequence[str]) -> Numbers | None:
        """Each question's delta of some runs of a slice, `[n_runs, n_questions]`, larger is better, NaN where unscored.
        `None` where the store holds no scores by question, as of imported results."""
        baseline = self.baselines.get(part.sample.baseline_key or "")
        found = [self.evaluations.get(run_id) for run_id in run_ids]
        if baseline is None or not run_ids or not _is_of(baseline, part.baseline_trait_mean):
            return None
        rows = [scores.trait for scores in found if scores is not None and len(scores.trait) == len(baseline.trait)]
        if len(rows) < len(run_ids):
            return None
        deltas = np.array(rows, dtype=float) - np.array(baseline.trait, dtype=float)
        if np.isnan(deltas).all(axis=1).any():
            return None
        return deltas * (-1.0 if part.sample.direction == "negative" else 1.0)  # type: ignore[no-any-return]

    def delta_limits(self, part: GroupInSetting) -> tuple[float, float]:
        """The least and the greatest true delta that the baseline leaves room for; larger is better."""
        baseline = self.baselines.get(part.sample.baseline_key or "")
        scores = np.array(baseline.trait if baseline else (), dtype=float)
        scores = scores[~np.isnan(scores)]
        if len(scores) < LEAST_QUESTIONS:
            return -LARGEST, LARGEST
        least, greatest = (min(max(limit, 0.0), LARGEST) for limit in mean_interval(scores, within=(0.0, LARGEST)))
        is_negative = part.sample.direction == "negative"
        return (least - LARGEST, greatest) if is_negative else (-greatest, LARGEST - least)

    def coherences(self, run_ids: Sequence[str]) -> Numbers | None:
        """Each question's coherence of some runs, `[n_runs, n_questions]`, 0 to 100, NaN where unscored; or of what
        else the floor is, on its scale."""
        found = [one for run_id in run_ids if (one := self.evaluations.get(run_id))]
        rows = [
            scores.coherence if self.floor.is_coherence else scores.metrics.get(self.floor.metric, ())
            for scores in found
        ]
        if not all(rows):
            return None
        if not run_ids or len(rows) < len(run_ids) or len({len(row) for row in rows}) > 1:
            return None
        return self.floor.measure(np.array(rows, dtype=float))


def _is_of(baseline: Scores, mean: float | None) -> bool:
    """Whether scores are of the baseline whose mean a slice was compared with."""
    values = np.array(baseline.trait, dtype=float)
    both = ~np.isnan(values) & ~np.isnan(np.array(baseline.coherence, dtype=float))
    return mean is not None and bool(both.any()) and abs(float(values[both].mean()) - mean) < _SAME_MEAN


NEGLIGIBLE = 0.5  # points of delta: no judge is as exact, so a smaller lead is a tie however steady it is


def tied_with_winner(deltas: Numbers, winner: int, *, luck: Sequence[float] | None = None) -> list[int] | None:
    """The labels that cannot be told from the winner.
    Gupta's subset selection (Technometrics 7, 1965) on paired differences; see docs/statistics.md.
    `deltas`: `[n_labels, n_questions]`, each question's delta at every label's best, larger is better; NaN where
    unscored. `winner`: the label with the best mean. `luck`: `[n_labels]`, by how many points each label's best is
    expected to be too good.
    Returns indices of the labels, without the winner; `None` where fewer than three questions were scored."""
    from scipy.special import stdtrit  # scipy.stats has the same and takes half a second to load

    others = [index for index in range(len(deltas)) if index != winner]
    if not others:
        return []
    differences = deltas[winner] - deltas[others]
    counts = (~np.isnan(differences)).sum(axis=1)
    if counts.min() < LEAST_QUESTIONS:
        return None
    means = np.nanmean(differences, axis=1)
    errors = np.nanstd(differences, axis=1, ddof=1) / np.sqrt(counts)
    critical = stdtrit(counts - 1, 1 - (1 - CONFIDENCE) / len(others))
    added = np.zeros(len(deltas)) if luck is None else np.array(luck)
    leads = np.minimum(means, means - added[winner] + added[others])
    is_kept = leads <= np.maximum(critical * errors, NEGLIGIBLE)
    return [label for label, kept in zip(others, is_kept.tolist(), strict=True) if kept]


# Two labels read where both have one coherence: the less coherent best is followed along its curve.


@dataclass(frozen=True, slots=True)
class Matched:
    """Two labels at one coherence, each at the layer of its best."""

    coherence: float  # 0 to 100: that of the more coherent of the two bests, as it is read along its curve
    delta_a: float
    delta_b: float
    slope: float
    """Points of delta by which the less coherent label rises for each point of coherence, from its best to there."""
    noise: float
    """Of the difference, as a share of that of two evaluations: what is read between two has less."""


def at_matched_coherence(
    best_a: Point,
    points_a: Iterable[AnyPoint],
    best_b: Point,
    points_b: Iterable[AnyPoint],
    *,
    at_zero: float | None = None,
    floor: float = DEFAULT_FLOOR,
    expected: Mapping[str, float] = MappingProxyType({}),
) -> Matched | None:
    """The deltas of two labels where both have the coherence of the more coherent best, or what else the
    floor is of, on its scale.
    The other one is followed from its best to smaller coefficients of its layer, each read between its neighbours, so
    that its own luck is no difference. `expected`: by run what is expected of deltas among which some were picked, and
    the neighbours of a best were not. `at_zero` is the coherence of the baseline, the neighbour at coefficient 0.
    Returns `None` where the ranges do not overlap: it was not evaluated at coefficients as coherent as that."""
    a, b = (_path(*side, at_zero, as_floor(floor), expected) for side in ((best_a, points_a), (best_b, points_b)))
    if not a or not b:
        return None
    is_a_followed = a[0].coherence < b[0].coherence
    followed, target = (a, b[0]) if is_a_followed else (b, a[0])
    found = _read(followed, target.coherence)
    if found is None:
        return None
    delta, noise = found
    gap = target.coherence - followed[0].coherence
    slope = (delta - followed[0].delta) / gap if gap else 0.0
    delta_a, delta_b = (delta, target.delta) if is_a_followed else (target.delta, delta)
    return Matched(target.coherence, delta_a, delta_b, slope, ((noise + target.noise) / 2) ** 0.5)


class _Reading(NamedTuple):
    size: float  # of the coefficient
    coherence: float
    delta: float
    noise: float = 1.0  # variance, as a share of that of one evaluation


def _read(path: Sequence[_Reading], coherence: float) -> tuple[float, float] | None:
    """The delta, and its noise, where a layer's curve passes a coherence, coming from its best."""
    if path[0].coherence == coherence:
        return path[0].delta, path[0].noise
    for low, high in pairwise(path):
        if low.coherence <= coherence <= high.coherence and high.coherence > low.coherence:
            share = (coherence - low.coherence) / (high.coherence - low.coherence)
            return low.delta + share * (high.delta - low.delta), low.noise + share * (high.noise - low.noise)
    return None


def _path(
    best: Point, points: Iterable[AnyPoint], at_zero: float | None, floor: Floor, expected: Mapping[str, float]
) -> list[_Reading]:
    """Readings from the best to ever smaller coefficients of one sign on its layer, each between its neighbours."""
    if best.coefficient is None:
        return [_Reading(0.0, best.coherence_mean or 0.0, best.delta or 0.0)]
    known = {
        abs(point.coefficient): _Reading(abs(point.coefficient), measure, expected.get(point.run_id, point.delta))
        for point in points
        if point.layer == best.layer
        and point.coefficient is not None
        and (measure := floor.measure_of(point)) is not None
        and point.delta is not None
        and point.coefficient * best.coefficient > 0
    }
    if at_zero is not None:
        known[0.0] = _Reading(0.0, at_zero, 0.0, 0.0)
    curve = [known[size] for size in sorted(known)]
    inner = [_between(before, at, after) for before, at, after in zip(curve, curve[1:], curve[2:], strict=False)]
    readings = [*curve[:1], *inner, *curve[len(inner) + 1 :]]
    return [reading for reading in reversed(readings) if reading.size <= abs(best.coefficient)]


def _between(before: _Reading, at: _Reading, after: _Reading) -> _Reading:
    share = (at.size - before.size) / (after.size - before.size)
    return _Reading(
        at.size,
        before.coherence + share * (after.coherence - before.coherence),
        before.delta + share * (after.delta - before.delta),
        (1 - share) ** 2 * before.noise + share**2 * after.noise,
    )
