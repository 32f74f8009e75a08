"""Two evaluations question by question: how far apart they are, and whether that is more than noise.

The interval is Student's over questions: at ten questions it holds its 95 % better than percentile and BCa
bootstraps, and unlike the bootstrap-t it stays sensible where one question differs and nine do not
(docs/statistics.md has the measurements). The test flips the signs of the differences, all 2^n ways where
there are few questions, drawn ones where there are many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from massact.query.evaluations import Evaluations
from massact.query.groups import GroupInSetting
from massact.store.read import RunStore
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

CONFIDENCE = 0.95
LEAST_QUESTIONS = 3
"""Questions below which nothing is tested."""
N_DRAWS = 9998
_SEED = 20_251_109


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The mean difference of two evaluations over the questions that both were scored on."""

    n_questions: int
    difference: float
    low: float
    high: float
    """Of the interval that holds the true mean difference in 95 of 100 experiments."""
    p_value: float
    """Two-sided: how often chance alone gives a difference as large."""


def paired_test(a: "Numbers", b: "Numbers", *, confidence: float = CONFIDENCE) -> PairedTest | None:
    """Compare two evaluations by question.

    Args:
        a: scores of one evaluation, `[n_questions]`, NaN where unscored.
        b: scores of the other, to the same questions in the same order.
        confidence: of the interval, 0 to 1.

    Returns:
        `None` where fewer than three questions were scored in both.
    """
    import numpy as np

    differences = (a - b)[~np.isnan(a - b)]
    if len(differences) < LEAST_QUESTIONS:
        return None
    low, high = mean_interval(differences, confidence=confidence)
    return PairedTest(
        n_questions=len(differences),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=_sign_flip(differences),
    )


def mean_interval(values: "Numbers", *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean of values `[n]`, n at least 2."""
    from scipy.stats import t

    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for that many tests (Holm, Scandinavian Journal of Statistics 6, 1979); `None` stays."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[index] = largest
    return corrected


def _sign_flip(differences: "Numbers") -> float:
    import numpy as np
    from scipy.stats import permutation_test

    def mean(values: "Numbers", axis: int = -1) -> "Numbers":
        return np.mean(values, axis=axis)  # type: ignore[no-any-return]  # an array, or one number

    result = permutation_test(
        (differences,),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=N_DRAWS,
        rng=_SEED,
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
        cls,
        store: RunStore,
        evaluations: Evaluations,
        floor: float,
        baselines: Mapping[str, Stored[EvaluationRow]],
    ) -> "QuestionScores":
        """The scores of evaluations at or above the floor, and of the baselines that they name.

        Args:
            baselines: those of the experiment, by key.

        Raises:
            StoreError: the store cannot be read.
        """
        wanted = {row.baseline_key for row in evaluations.samples.values()}
        runs = {key: one.run_id for key, one in baselines.items() if key in wanted}
        of_baselines = store.scores(runs.values())
        return cls(
            evaluations=store.scores(
                run for points in evaluations.by_place.values() for run in points.coherent_runs(floor)
            ),
            baselines={key: of_baselines[run] for key, run in runs.items() if run in of_baselines},
        )

    def deltas(self, part: GroupInSetting, run_ids: Sequence[str]) -> "Numbers | None":
        """Each question's delta of some runs of a slice.

        Returns:
            `[n_runs, n_questions]`, larger is better whatever the direction, NaN where a response was not scored;
            `None` where the store holds no scores by question, as of imported results.
        """
        import numpy as np

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

    def coherences(self, run_ids: Sequence[str]) -> "Numbers | None":
        """Each question's coherence of some runs, `[n_runs, n_questions]`, 0 to 100, NaN where unscored."""
        import numpy as np

        rows = [one.coherence for run_id in run_ids if (one := self.evaluations.get(run_id))]
        if not run_ids or len(rows) < len(run_ids) or len({len(row) for row in rows}) > 1:
            return None
        return np.array(rows, dtype=float)


def _is_of(baseline: Scores, mean: float | None) -> bool:
    """Whether scores are of the baseline whose mean a slice was compared with."""
    import numpy as np

    values = np.array(baseline.trait, dtype=float)
    both = ~np.isnan(values) & ~np.isnan(np.array(baseline.coherence, dtype=float))
    return mean is not None and bool(both.any()) and abs(float(values[both].mean()) - mean) < _SAME_MEAN


NEGLIGIBLE = 0.5
"""Points of delta: no judge is as exact, so a smaller lead is a tie however steady it is."""
N_TIE_DRAWS = 2000


def tied_with_winner(deltas: "Numbers", winner: int, *, confidence: float = CONFIDENCE) -> list[int] | None:
    """The labels that cannot be told from the winner.

    Gupta's subset selection (Technometrics 7, 1965) on paired differences: with a chance of at least the confidence the
    label that is truly best is the winner or among those tied with it. A label is kept unless its best falls behind the
    winner's by more than c * se(difference), or by less than half a point, which no judge can tell. Here c is the
    critical value for that many comparisons with one winner: the bootstrap over questions draws the largest studentised
    difference that chance alone gives, all labels together. At few questions it is widened to Student's distribution.

    Args:
        deltas: `[n_labels, n_questions]`, each question's delta at every label's best; NaN where unscored. Larger
            is better: turn the sign where it is not.
        winner: the label with the best mean.
        confidence: that the truly best label is the winner or tied with it, 0 to 1.

    Returns:
        Indices of the labels, without the winner; `None` where fewer than three questions were scored.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit  # scipy.stats has the same and takes half a second to load

    others = [index for index in range(len(deltas)) if index != winner]
    differences = deltas[winner] - deltas[others]
    counts = (~np.isnan(differences)).sum(axis=1)
    if not others:
        return []
    if counts.min() < LEAST_QUESTIONS:
        return None
    n = deltas.shape[1]
    means = np.nanmean(differences, axis=1)
    errors = np.nanstd(differences, axis=1, ddof=1) / np.sqrt(counts)
    centred = np.nan_to_num(differences - means[:, None])
    weights = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=N_TIE_DRAWS)
    drawn = centred @ weights.T / counts[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # a resampled mean varies by (n - 1) / n of what a fresh one does
        studentised = np.nan_to_num(drawn / errors[:, None]) * np.sqrt(n / max(n - 1, 1))
    freedom = int(counts.min()) - 1
    widening = stdtrit(freedom, confidence) / ndtri(confidence)
    critical = float(np.quantile(studentised.max(axis=0), confidence)) * float(widening)
    return [
        label
        for label, mean, error in zip(others, means, errors, strict=True)
        if mean <= max(critical * error, NEGLIGIBLE)
    ]
