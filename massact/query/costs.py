"""What evaluations cost on tasks of lm-evaluation-harness, as `massact capability` measured it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from massact.store.read import RunStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an intervention changes on one task; figures in points, hundredths of the task's metric."""

    task: str
    metric: str
    n_documents: int
    value: float
    """Mean over the documents, steered."""
    unsteered: float
    delta: float
    """Steered minus unsteered: what it costs where it is negative."""
    delta_low: float
    """Of the interval that holds the delta in 95 of 100 sets of documents."""
    delta_high: float
    run_id: str
    """That holds the figures, document by document."""

    def __str__(self) -> str:
        return f"{self.task} {self.delta:+.1f} ({self.delta_low:+.1f} to {self.delta_high:+.1f})"


def cost_lines(rows: Iterable[Any]) -> list[str]:
    """What each row's changes on tasks, in points."""
    return [f"{row.place}, {row.label}: {'; '.join(map(str, row.costs))}" for row in rows if row.costs]


Costs = Mapping[str, tuple[Cost, ...]]
"""By the key of an evaluation, a task each, in the order of their names."""
_FIGURES = ("task", "metric", "n_documents", "value", "unsteered", "delta", "delta_low", "delta_high")


def costs_of(store: RunStore, experiment: str) -> Costs:
    """The costs that a store holds; of one task that was run several times the newest."""
    found: dict[str, dict[str, Cost]] = {}
    for stored in store.capabilities(experiment):
        figures = {name: getattr(stored.row, name) for name in _FIGURES}
        found.setdefault(stored.row.evaluation_key, {})[stored.row.task] = Cost(**figures, run_id=stored.run_id)
    return {key: tuple(by_task[task] for task in sorted(by_task)) for key, by_task in found.items()}
