"""What a cell is before it is evaluated and after it, how its responses are summed up, and when it is given up."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from massact.domain import DEFAULT_CONFIDENCE, Cell, Geometry, Response, Timing

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
    """A cell and its result: what rows, points, params, metrics and scores are derived from."""

    planned: PlannedCell
    responses: tuple[Response, ...]
    """One per question, in the question set's order."""
    timing: Timing

    @property
    def cell(self) -> Cell:
        return self.planned.cell

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


Advance = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`progress(what, total)` opens a bar; the function it yields moves it on."""


@contextmanager
def silent(_what: str, _total: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda _n: None


LEAST_SPREAD = 10.0
"""Standard deviation of coherence over questions that is allowed for at least, in points: alike answers may be luck."""


@dataclass(frozen=True, slots=True)
class Screening:
    """How a cell is looked at before it is given all of its questions."""

    n_first: int
    """Questions that are asked first, from the first on."""
    floor: float
    """Least mean coherence that counts, 0 to 100."""
    confidence: float = DEFAULT_CONFIDENCE
    """Chance that a cell which is at or above the floor over all questions is not given up."""


@dataclass(frozen=True, slots=True)
class StoppedCell:
    """A cell that was given up."""

    evaluation: Evaluation
    """Of the questions that were asked."""
    reason: str


def coherence_bound(coherences: Sequence[float], n_questions: int, confidence: float) -> float:
    """The greatest mean coherence over all questions that the first ones leave room for.

    A one-sided prediction bound for a mean over a finite population, of which k of n are known: m + t s
    sqrt(1/k - 1/n), with Student's t of k - 1 degrees of freedom at that confidence (Cochran, "Sampling
    Techniques", 1977, section 2.8). s is no less than `LEAST_SPREAD`. Never more than what is reached if every
    other question scores 100.

    Args:
        coherences: of the k questions asked, at least two.
    """
    from scipy.special import stdtrit

    k, mean = len(coherences), statistics.fmean(coherences)
    certain = (math.fsum(coherences) + 100 * (n_questions - k)) / n_questions
    spread = max(statistics.stdev(coherences), LEAST_SPREAD)
    bound = mean + float(stdtrit(k - 1, confidence)) * spread * math.sqrt(1 / k - 1 / n_questions)
    return min(bound, certain)


def stop_reason(responses: Sequence[Response], n_questions: int, screening: Screening) -> str | None:
    """Why a cell is hopeless; `None` where it could still be coherent, or a response was not scored."""
    coherences = [one.coherence for one in responses if one.coherence is not None]
    if len(coherences) < max(2, len(responses)):
        return None
    bound = coherence_bound(coherences, n_questions, screening.confidence)
    if bound >= screening.floor:
        return None
    return (
        f"coherence {statistics.fmean(coherences):.1f} over the first {len(coherences)} of {n_questions} questions: "
        f"over all of them it is at most {bound:.1f} (confidence {screening.confidence:g}), below the floor of "
        f"{screening.floor:g}"
    )


def joined(first: Evaluation, rest: Evaluation) -> Evaluation:
    """One evaluation of a cell whose questions were asked in two parts."""
    a, b = first.timing, rest.timing
    timing = Timing(
        a.generation_seconds + b.generation_seconds,
        a.judge_seconds + b.judge_seconds,
        a.n_tokens + b.n_tokens,
    )
    return Evaluation(first.planned, first.responses + rest.responses, timing)
