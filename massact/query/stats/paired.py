"""Two evaluations question by question: how far apart they are, and whether that is more than noise.

The interval is Student's over questions, with a wider one where scores repeat: at ten questions it holds its 95 %
better than percentile and BCa bootstraps, and unlike the bootstrap-t it stays sensible where one question differs and
nine do not (docs/statistics.md has the measurements). The test flips the signs of the differences, all 2^n ways where
there are few questions, drawn ones where there are many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from massact._lazy import Numbers, np
from massact.query.evaluations import Evaluations
from massact.query.groups import GroupInSetting
from massact.query.stats.means import bounded_mean_interval
from massact.store.read import RunStore
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Scores

CONFIDENCE = 0.95
LEAST_QUESTIONS = 3
"""Questions below which nothing is tested."""
N_DRAWS = 9998
_SEED = 20_251_109


LARGEST = 100.0
"""Points of a delta, and of a difference: scores run from 0 to it."""


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The mean difference of two evaluations over the questions that both were scored on."""

    n_questions: int
    difference: float
    expected: float
    """The difference less what the picking is expected to have added to it."""
    low: float
    high: float
    """Of the interval that holds the true mean difference in 95 of 100 experiments."""
    p_value: float
    """Two-sided: how often chance alone gives a difference as large."""


def paired_test(differences: Numbers, *, luck: float = 0.0) -> PairedTest | None:
    """Compare two evaluations by question.

    Where one was picked among more or noisier evaluations than the other, picking alone makes it look better. The
    interval is that of `mean_interval`, stretched to be that of the expected difference too; the difference is as
    significant as the less significant of both is, and not at all where they have unlike signs.

    Args:
        differences: scores of one evaluation minus those of the other to the same questions, `[n_questions]`, NaN where
            one is unscored.
        luck: points by which the picking is expected to have made the difference too large.

    Returns:
        `None` where fewer than three questions were scored in both.
    """
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
    """The interval of the mean of deltas, or of differences of scores, `[n]`, n at least 2.

    Student's. Where values repeat, as those of few-valued scores and of rare effects do, it does not hold and may have
    no width; so if no more than half of the values are different ones it is stretched to the interval that holds
    however values are distributed.

    Args:
        within: the least and the greatest value that there can be.
    """
    from scipy.special import stdtrit  # scipy.stats has the same and takes half a second to load

    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    low, high = mean - half, mean + half
    if _is_few_valued(values):
        outer = bounded_mean_interval(values, *within, confidence=confidence)
        low, high = min(low, outer[0]), max(high, outer[1])
    return low, high


def _is_few_valued(values: Numbers) -> bool:
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
    """Of sign flips; where values repeat no less than where the interval that holds then would end at zero."""
    from scipy.optimize import brentq

    flipped = _sign_flip(differences)
    if not _is_few_valued(differences):
        return flipped
    sign = 1 if differences.mean() > 0 else -1

    def nearest(p: float) -> float:
        return min(bounded_mean_interval(sign * differences, -LARGEST, LARGEST, confidence=1 - p)[0], 1.0)

    if nearest(flipped) >= 0:
        return flipped
    return 1.0 if nearest(1.0) <= 0 else float(brentq(nearest, flipped, 1.0, xtol=1e-4))


def _sign_flip(differences: Numbers) -> float:
    from scipy.stats import permutation_test

    def mean(values: Numbers, axis: int = -1) -> Numbers:
        return np.mean(values, axis=axis)  # type: ignore[no-any-return]  # an array, or one number

    result = permutation_test(
        (differences,), mean, permutation_type="samples", vectorized=True, n_resamples=N_DRAWS, rng=_SEED
    )
    return float(result.pvalue)


_SAME_MEAN = 0.01
"""Points by which the mean of a baseline's scores may differ from the mean that a row holds."""


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """What the judge gave question by question."""

    evaluations: Mapping[str, Scores]
    """By run id."""
    baselines: Mapping[str, Scores]
    """By the key of the baseline."""

    @classmethod
    def from_store(
        cls, store: RunStore, evaluations: Evaluations, floor: float, baselines: Mapping[str, Stored[EvaluationRow]]
    ) -> "QuestionScores":
        """The scores of evaluations at or above the floor, and of the baselines that they name."""
        wanted = {row.baseline_key for row in evaluations.samples.values()}
        runs = {key: one.run_id for key, one in baselines.items() if key in wanted}
        of_baselines = store.scores(runs.values())
        return cls(
            evaluations=store.scores(
                run for points in evaluations.by_place.values() for run in points.coherent_runs(floor)
            ),
            baselines={key: of_baselines[run] for key, run in runs.items() if run in of_baselines},
        )

    def deltas(self, part: GroupInSetting, run_ids: Sequence[str]) -> Numbers | None:
        """Each question's delta of some runs of a slice.

        Returns:
            `[n_runs, n_questions]`, larger is better whatever the direction, NaN where a response was not scored;
            `None` where the store holds no scores by question, as of imported results.
        """
        baseline = self.baselines.get(part.sample.baseline_key or "")
        found = [self.evaluations.get(run_id) for run_id in run_ids]
        if baseline is None or not run_ids or not _is_of(baseline, part.baseline_trait_mean):
            return None
        rows = [one.trait for one in found if one is not None and len(one.trait) == len(baseline.trait)]
        if len(rows) < len(run_ids):
            return None
        deltas = np.array(rows, dtype=float) - np.array(baseline.trait, dtype=float)
        if np.isnan(deltas).all(axis=1).any():
            return None
        return deltas * (-1.0 if part.sample.direction == "negative" else 1.0)  # type: ignore[no-any-return]

    def delta_limits(self, part: GroupInSetting) -> tuple[float, float]:
        """The least and the greatest true delta that there can be, larger is better whatever the direction.

        Scores run from 0 to 100, so it is no more than what the baseline leaves room for, wherever in the 95 % interval
        of its own the true mean of the baseline lies.
        """
        baseline = self.baselines.get(part.sample.baseline_key or "")
        scores = np.array(baseline.trait if baseline else (), dtype=float)
        scores = scores[~np.isnan(scores)]
        if len(scores) < LEAST_QUESTIONS:
            return -LARGEST, LARGEST
        least, greatest = (min(max(limit, 0.0), LARGEST) for limit in mean_interval(scores, within=(0.0, LARGEST)))
        is_negative = part.sample.direction == "negative"
        return (least - LARGEST, greatest) if is_negative else (-greatest, LARGEST - least)

    def coherences(self, run_ids: Sequence[str]) -> Numbers | None:
        """Each question's coherence of some runs, `[n_runs, n_questions]`, 0 to 100, NaN where unscored."""
        rows = [one.coherence for run_id in run_ids if (one := self.evaluations.get(run_id))]
        if not run_ids or len(rows) < len(run_ids) or len({len(row) for row in rows}) > 1:
            return None
        return np.array(rows, dtype=float)


def _is_of(baseline: Scores, mean: float | None) -> bool:
    """Whether scores are of the baseline whose mean a slice was compared with."""
    values = np.array(baseline.trait, dtype=float)
    both = ~np.isnan(values) & ~np.isnan(np.array(baseline.coherence, dtype=float))
    return mean is not None and bool(both.any()) and abs(float(values[both].mean()) - mean) < _SAME_MEAN


NEGLIGIBLE = 0.5
"""Points of delta: no judge is as exact, so a smaller lead is a tie however steady it is."""


def tied_with_winner(deltas: Numbers, winner: int, *, luck: Sequence[float] | None = None) -> list[int] | None:
    """The labels that cannot be told from the winner.

    Gupta's subset selection (Technometrics 7, 1965) on paired differences: with a chance of at least the confidence
    the label that is truly best is the winner or among those tied with it. A label is kept unless its best falls behind
    the winner's by more than t * se(difference), or by less than half a point, which no judge can tell. Here t is
    Student's, with the error shared out to the labels (Bonferroni). A best that was picked among more or noisier
    evaluations looks better than it is: the lead counts as it was seen, or less what the picking is expected to have
    added to it, whichever is smaller.

    Args:
        deltas: `[n_labels, n_questions]`, each question's delta at every label's best; NaN where unscored. Larger
            is better: turn the sign where it is not.
        winner: the label with the best mean.
        luck: `[n_labels]`, by how many points each label's best is expected to be too good.

    Returns:
        Indices of the labels, without the winner; `None` where fewer than three questions were scored.
    """
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
