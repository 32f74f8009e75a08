"""Per-question scores of evaluations and of their baselines, as matrices for statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from massact.query.evaluations import Evaluations
from massact.query.selection import Slice
from massact.schema import EvaluationRow, Scores
from massact.store.base import RunStore, Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

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

    def deltas(self, part: Slice, run_ids: Sequence[str]) -> "Numbers | None":
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
