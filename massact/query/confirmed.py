"""What was evaluated once more, on questions that took no part in choosing: rows, and intervals by question."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from massact.query.filters import Filters
from massact.query.stats.paired import LEAST_QUESTIONS, mean_interval
from massact.store.read import RunStore, Stored
from massact.store.schema import EvaluationRow, Scores, is_scored

_LARGEST = 100.0
"""Points of delta: scores run from 0 to 100."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The confirmations of an experiment and the baselines on the same questions."""

    cells: Sequence[Stored[EvaluationRow]] = ()
    """Confirmed cells, the oldest first."""
    baselines: Mapping[str, Stored[EvaluationRow]] = field(default_factory=dict)
    """By key."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """By run id, of both."""

    @classmethod
    def of(cls, rows: Iterable[Stored[EvaluationRow]], scores: Mapping[str, Scores]) -> "Confirmed":
        """From all confirmations, the oldest first."""
        rows = list(rows)
        cells = tuple(one for one in rows if one.row.layer is not None)
        return cls(cells, {one.row.key: one for one in rows if one.row.layer is None}, scores)

    @classmethod
    def from_store(cls, store: RunStore, experiment: str, least_scored: float) -> "Confirmed":
        """Everything that was confirmed; what has scores of too few responses has no figures.

        Raises:
            StoreError: the store cannot be read.
        """
        rows = store.confirmations(experiment)
        short = {one.row.key for one in rows if not is_scored(one.row, least_scored)}
        counted = [
            replace(one, row=replace(one.row, coherence_mean=None, delta=None))
            if short & {one.row.key, one.row.baseline_key}
            else one
            for one in rows
        ]
        return cls.of(counted, store.scores([one.run_id for one in rows if one.row.key not in short]))

    def only(self, filters: Filters) -> "Confirmed":
        """Those cells that a filter admits."""
        return replace(self, cells=tuple(one for one in self.cells if filters.admits_row(one.row)))

    def interval(self, cell: Stored[EvaluationRow]) -> tuple[float, float] | None:
        """Student's 95 % interval of a cell's delta over its questions, which took no part in choosing it.

        Returns:
            `None` where fewer than three questions were scored both steered and unsteered.
        """
        import numpy as np

        baseline = self.baselines.get(cell.row.baseline_key or "")
        steered = self.scores.get(cell.run_id)
        unsteered = self.scores.get(baseline.run_id) if baseline else None
        if steered is None or unsteered is None or len(steered.trait) != len(unsteered.trait):
            return None
        deltas = np.array(steered.trait, dtype=float) - np.array(unsteered.trait, dtype=float)
        deltas = deltas[~np.isnan(deltas)]
        if len(deltas) < LEAST_QUESTIONS:
            return None
        low, high = mean_interval(deltas)
        return max(low, -_LARGEST), min(high, _LARGEST)
