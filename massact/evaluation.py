"""What a cell is before it is evaluated and after it, how its responses are summed up, and when it is given up."""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING

from massact._lazy import Numbers, np
from massact.domain import DEFAULT_CONFIDENCE, Cell, Geometry, Message, Response, Timing
from massact.floors import as_floor
from massact.metrics import NOT_MEASURED, Measured, means

if TYPE_CHECKING:  # what a cell is can be said, and sent about, without torch
    import torch


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell to be evaluated, with the vector it steers by."""

    cell: Cell
    vector: "torch.Tensor | None"
    """Unit vector `[d_model]`, float32, or `[n_layers, d_model]` where several layers are steered; `None` for the
    baseline."""
    geometry: Geometry | None = None  # of the first layer
    n_dims_cleaned: int | None = None
    before: tuple[Message, ...] = ()  # what stands before every question


Take = Callable[[Sequence[PlannedCell], int], Sequence[PlannedCell]]
"""Takes the first cells that nobody else has taken, so many at most; none where others have all of them."""


def first_cells(cells: Sequence[PlannedCell], n: int) -> Sequence[PlannedCell]:
    """A `Take` where nobody else is at work."""
    return cells[:n]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a question set's questions, in its order, and what is measured of the responses."""

    questions: Sequence[str]
    numbers: Sequence[int] | None = None
    """Of each in the set, from 0: a sampled response hangs on it; `None`: they are the first ones."""
    measured: Measured = NOT_MEASURED

    def only(self, numbers: Sequence[int]) -> "Part":
        """Those of a whole set with some numbers."""
        return Part([self.questions[number] for number in numbers], tuple(numbers), self.measured)


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the scored responses; `None` where none was scored, never zero."""

    trait_mean: float | None
    coherence_mean: float | None
    trait_std: float | None  # sample standard deviation; `None` below two scored responses
    coherence_std: float | None
    n_scored: int  # responses with both scores
    n_unscored: int
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Mean of each metric over the responses that have it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A cell and its result: what rows, points, params, metrics and scores are derived from."""

    planned: PlannedCell
    responses: tuple[Response, ...]  # one per question, in the question set's order
    timing: Timing
    given_up: str | None = None  # why it was given up on a part of its questions
    measured: Measured = NOT_MEASURED  # what was measured of the responses

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
        metrics=means([response.metrics for response in responses]),
    )


Advance = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`progress(what, total)` opens a bar; the function it yields moves it on."""


@contextmanager
def silent(_what: str, _total: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda _n: None


_MOST_WAYS = 40_000  # ways in which the questions asked may lie among all that are looked at; of more so many are drawn
_SEED = 20_251_109


@dataclass(frozen=True, slots=True)
class Screening:
    """How a cell is looked at before it is given all of its questions."""

    n_first: int  # questions that are asked first; see `first_asked`
    floor: float  # least mean coherence that counts, 0 to 100
    confidence: float = DEFAULT_CONFIDENCE
    """Chance that a cell which is at or above the floor over all questions is not given up."""


def first_asked(questions: Sequence[str], n: int) -> list[int]:
    """The numbers, from 0 in order, of the questions that every cell is asked first: as if drawn, whatever their order.
    They are those with the least digests of their texts: the same for all cells, and in every sweep."""
    digests = [hashlib.sha256(f"asked first: {text}".encode()).digest() for text in questions]
    return sorted(sorted(range(len(questions)), key=lambda number: (digests[number], number))[:n])


def coherence_bound(coherences: Sequence[float], n_questions: int, confidence: float) -> float:
    """The greatest mean coherence over all questions that those which were asked leave room for.

    The k questions asked are drawn from the n, so in order of their scores they may lie in any of n! / k! (n - k)! ways
    among all scores with the same chance. In each of these ways the mean is at most

        (p_1 x_1 + (p_2 - p_1) x_2 + ... + (p_k - p_k-1) x_k + (n - p_k) 100) / n

    with x_i the i-th least of the scores asked and p_i its place among all: a score that was not asked is at most the
    next greater one that was. The bound is exceeded in a share 1 - confidence of the ways at most. This is the bound of
    Learned-Miller and Thomas (arXiv:1905.06208) for a mean over a finite population, whatever its scores.
    `coherences`: of the k questions asked, 0 to 100."""
    weights = _weights(len(coherences), n_questions)
    means = weights @ np.array([*sorted(coherences), 100.0])
    n_beyond = math.floor((1 - confidence) * len(means) + 1e-9)
    return float(-np.partition(-means, n_beyond)[n_beyond])


@cache
def _weights(n_asked: int, n_questions: int) -> Numbers:
    """Of each score asked and of 100, as they may lie among all scores, `[n_ways, n_asked + 1]`."""
    if math.comb(n_questions, n_asked) <= _MOST_WAYS:
        places = np.array(list(combinations(range(n_questions), n_asked)))
    else:
        drawn = np.random.default_rng(_SEED).random((_MOST_WAYS, n_questions))
        places = np.sort(drawn.argpartition(n_asked, axis=1)[:, :n_asked], axis=1)
    return np.diff(places, axis=1, prepend=-1, append=n_questions - 1) / n_questions


def stop_reason(responses: Sequence[Response], n_questions: int, screening: Screening) -> str | None:
    """Why a cell is hopeless; `None` where it could still be coherent, or a response was not scored. A metric that must
    be so at least gives none up: it may be any size on the questions that were not asked."""
    floor = as_floor(screening.floor)
    if not (floor.is_coherence or floor.is_most):
        return None
    told = [floor.of_response(response) for response in responses]
    values = [value for value in told if value is not None]
    if len(values) < max(2, len(responses)) or any(response.coherence is None for response in responses):
        return None
    bound = coherence_bound([floor.measure(value) for value in values], n_questions, screening.confidence)
    if bound >= floor:
        return None
    mean, most = statistics.fmean(values), f"at most {bound:.1f}"
    if not floor.is_coherence:
        most = f"at least {floor.shown(floor.value_at(bound))}"
    return (
        f"{floor.metric} {floor.shown(mean)} over {len(values)} of {n_questions} questions: "
        f"over all of them it is {most} (confidence {screening.confidence:g}), "
        f"{'below' if floor.is_coherence else 'beyond'} the floor of {floor:g}"
    )


def joined(first: Evaluation, rest: Evaluation, numbers: Sequence[int]) -> Evaluation:
    """One evaluation, asked in two parts. `numbers`: of the first part's questions among all, in order."""
    a, b = first.timing, rest.timing
    timing = Timing(
        a.generation_seconds + b.generation_seconds, a.judge_seconds + b.judge_seconds, a.n_tokens + b.n_tokens
    )
    responses = list(rest.responses)
    for number, response in zip(numbers, first.responses, strict=True):
        responses.insert(number, response)
    return Evaluation(first.planned, tuple(responses), timing, measured=first.measured)
