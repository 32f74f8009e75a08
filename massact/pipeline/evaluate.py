"""Evaluation: a grid of cells is generated as one batch, judged, and summed up cell by cell."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from massact.domain import Cell, Generation, Geometry, Response, Timing
from massact.errors import JudgeError
from massact.judges.base import Exchange, Judge
from massact.models.generate import Push, Row, generate
from massact.models.load import SteerableModel
from massact.models.prompting import decode, encode_question
from massact.pipeline.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """A cell to be evaluated, with the vector it steers by."""

    cell: Cell
    vector: torch.Tensor | None
    """Unit vector `[d_model]`, float32; `None` for the baseline."""
    geometry: Geometry | None = None
    n_dims_cleaned: int | None = None


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


def evaluate_cells(
    model: SteerableModel,
    cells: Sequence[PlannedCell],
    questions: Sequence[str],
    judge: Judge,
    *,
    batch_rows: int,
    progress: Progress = silent,
) -> Iterator[Evaluation | FailedCell]:
    """Evaluate cells, several side by side, and yield each as soon as it is judged.

    A batch that fails is tried again cell by cell, so that one bad cell fails alone.

    Args:
        cells: cells that share the model's setting (questions, generation, judge).
        questions: the steering questions, in order.
        batch_rows: responses generated side by side at most; a cell is never split.

    Raises:
        JudgeError: the judge as a whole cannot be used; nothing after it would be scored.
    """
    size = max(1, batch_rows // len(questions))
    prompts = [encode_question(model, question) for question in questions]
    with progress("evaluating cells", len(cells)) as advance:
        for start in range(0, len(cells), size):
            batch = cells[start : start + size]
            for result in _resilient(model, batch, questions, prompts, judge):
                yield result
                advance(1)


def _resilient(
    model: SteerableModel,
    batch: Sequence[PlannedCell],
    questions: Sequence[str],
    prompts: Sequence[tuple[int, ...]],
    judge: Judge,
) -> Iterator[Evaluation | FailedCell]:
    try:
        yield from _evaluate_batch(model, batch, questions, prompts, judge)
    except JudgeError:
        raise
    except (RuntimeError, ValueError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            yield FailedCell(batch[0], f"{type(error).__name__}: {error}")
            return
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            yield from _resilient(model, half, questions, prompts, judge)


def _evaluate_batch(
    model: SteerableModel,
    batch: Sequence[PlannedCell],
    questions: Sequence[str],
    prompts: Sequence[tuple[int, ...]],
    judge: Judge,
) -> list[Evaluation]:
    rows = [Row(prompt, _push(one), draw) for one in batch for draw, prompt in enumerate(prompts)]
    began = time.perf_counter()
    generated = generate(model, rows, _generation(batch), batch_rows=len(rows))
    generated_at = time.perf_counter()
    exchanges = [
        Exchange(questions[i % len(questions)], decode(model, tokens)) for i, tokens in enumerate(generated)
    ]
    verdicts = judge.score(exchanges)
    judged_at = time.perf_counter()
    responses = [
        Response(e.question, e.response, v.trait, v.coherence, v.reason)
        for e, v in zip(exchanges, verdicts, strict=True)
    ]
    results = []
    for i, one in enumerate(batch):
        mine = slice(i * len(questions), (i + 1) * len(questions))
        timing = Timing(
            generation_seconds=(generated_at - began) / len(batch),
            judge_seconds=(judged_at - generated_at) / len(batch),
            n_tokens=sum(len(tokens) for tokens in generated[mine]),
        )
        results.append(Evaluation(one, tuple(responses[mine]), timing))
    return results


def _push(planned: PlannedCell) -> Push | None:
    steering = planned.cell.steering
    if steering is None or planned.vector is None:
        return None
    return Push(steering.layer, planned.vector, steering.coefficient)


def _generation(batch: Sequence[PlannedCell]) -> Generation:
    return batch[0].cell.setting.generation
