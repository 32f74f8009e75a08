"""What a cell is before it is evaluated and after it, and how its responses are summed up."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from massact.domain import Cell, Geometry, Response, Timing

if TYPE_CHECKING:  # what a cell is can be said, and sent about, without torch
    import torch


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell to be evaluated, with the vector it steers by."""

    cell: Cell
    vector: "torch.Tensor | None"
    """Unit vector `[d_model]`, float32; `None` for the baseline."""
    geometry: Geometry | None = None
    n_dims_cleaned: int | None = None


Take = Callable[[Sequence[PlannedCell], int], Sequence[PlannedCell]]
"""Takes the first cells that nobody else has taken, so many at most; none where others have all of them."""


def first_cells(cells: Sequence[PlannedCell], n: int) -> Sequence[PlannedCell]:
    """A `Take` where nobody else is at work."""
    return cells[:n]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a question set's questions, one after the other."""

    questions: Sequence[str]
    first: int = 0
    """Number of the first of them in the set: a sampled response hangs on it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the scored responses; `None` where none was scored, never zero."""

    trait_mean: float | None
    coherence_mean: float | None
    trait_std: float | None
    """Sample standard deviation; `None` below two scored responses."""
    coherence_std: float | None
    n_scored: int
    """Responses with both scores."""
    n_unscored: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A cell's result."""

    planned: PlannedCell
    responses: tuple[Response, ...]
    """One per question, in the question set's order."""
    timing: Timing

    @property
    def summary(self) -> Summary:
        return summarise(self.responses)


@dataclass(frozen=True, slots=True)
class FailedCell:
    """A cell that could not be evaluated, alone in its batch."""

    planned: PlannedCell
    error: str


def summarise(responses: Sequence[Response]) -> Summary:
    """Mean and spread of the responses that carry both scores."""
    scored = [(r.trait, r.coherence) for r in responses if r.trait is not None and r.coherence is not None]
    trait, coherence = [t for t, _ in scored], [c for _, c in scored]
    return Summary(
        trait_mean=statistics.fmean(trait) if scored else None,
        coherence_mean=statistics.fmean(coherence) if scored else None,
        trait_std=statistics.stdev(trait) if len(scored) > 1 else None,
        coherence_std=statistics.stdev(coherence) if len(scored) > 1 else None,
        n_scored=len(scored),
        n_unscored=len(responses) - len(scored),
    )
