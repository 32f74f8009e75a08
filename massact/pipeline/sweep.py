"""A sweep: batches of cells are generated one after the other, each judged while the next is generated."""

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Iteration
from contextlib import closing
from dataclasses import dataclass

import torch

from massact.judges.base import Exchange, Judge
from massact.models.generate import Generator, Push, Row
from massact.models.load import SteerableModel
from massact.models.prompting import decode, encode_question
from massact.models.turns import turn
from massact.pipeline.evaluate import Evaluation, FailedCell, PlannedCell
from massact.pipeline.judging import Generated, JudgeThread
from massact.pipeline.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a question set's questions, one after the other."""

    questions: Sequence[str]
    first: int = 0
    """Number of the first of them in the set: a sampled response hangs on it."""


def evaluate_cells(
    model: SteerableModel,
    cells: Sequence[PlannedCell],
    questions: Sequence[str] | Part,
    judge: Judge,
    *,
    batch_rows: int | None = None,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iteration[Evaluation | FailedCell, None, None]:
    """Evaluate cells, several side by side, and yield each, in order, when it is judged.

    A batch that fails is tried again by halves, so that one bad cell fails alone.

    Args:
        cells: cells that share the model's setting (questions, generation, judge).
        questions: the steering questions, in order, or a part of them.
        batch_rows: responses generated side by side at most; `None` leaves it to the generator. The judge
            gets as many at a time, in whole cells.
        should_stop: asked before each batch; the batches that were begun are finished.

    Raises:
        JudgeError: the judge as a whole cannot be used; nothing after it would be scored.
    """
    part = questions if isinstance(questions, Part) else Part(questions)
    generator = _Generator(model, part, Generator(model, batch_rows=batch_rows))
    size = generator.n_cells
    batches = (cells[start : start + size] for start in range(0, len(cells), size))
    with progress("evaluating cells", len(cells)) as advance, closing(JudgeThread(judge)) as judging:
        for result in _through(generator, judging, batches, should_stop):
            yield result
            advance(1)


def _through(
    generator: "_Generator",
    judging: JudgeThread,
    batches: Iterator[Sequence[PlannedCell]],
    should_stop: Callable[[], bool],
) -> Iterator[Evaluation | FailedCell]:
    failure = None
    try:
        for batch in batches:
            if should_stop():
                break
            for generated in generator.run(batch):
                judging.put(generated)
                yield from judging.ready()
    except Exception as error:
        failure = error
    # what was generated before a failure is judged all the same: it is whole
    yield from judging.rest()
    if failure is not None:
        raise failure


class _Generator:
    """Generates the responses of cells to the same questions."""

    def __init__(self, model: SteerableModel, part: Part, generator: Generator) -> None:
        self._model, self._questions, self._generator = model, part.questions, generator
        self._first_draw = part.first
        self._prompts = [encode_question(model, question) for question in part.questions]
        self.n_cells = max(1, generator.batch_rows // len(part.questions))
        """Cells that are generated at a time."""

    def run(self, batch: Sequence[PlannedCell]) -> Iterator[Generated]:
        """The responses of a batch: in one piece, or in several where some cell cannot be generated."""
        try:
            with turn(self._model.model):  # the judge may be the same model
                generated = self._generate(batch)
        except (RuntimeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            yield generated
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            yield Generated(batch, (), 0.0, (), reason)
            return
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            yield from self.run(half)

    def _generate(self, batch: Sequence[PlannedCell]) -> Generated:
        prompts = list(enumerate(self._prompts, self._first_draw))
        rows = [Row(prompt, _push(one), draw) for one in batch for draw, prompt in prompts]
        settings = batch[0].cell.setting.generation
        began = time.perf_counter()
        tokens = self._generator.generate(rows, settings)
        seconds = time.perf_counter() - began
        exchanges, n_tokens, width = [], [], len(self._questions)
        for start in range(0, len(rows), width):
            mine = tokens[start : start + width]
            texts = (decode(self._model, one) for one in mine)
            exchanges.append([Exchange(q, text) for q, text in zip(self._questions, texts, strict=True)])
            n_tokens.append(sum(map(len, mine)))
        return Generated(batch, exchanges, seconds, n_tokens)


def _push(planned: PlannedCell) -> Push | None:
    steering = planned.cell.steering
    if steering is None or planned.vector is None:
        return None
    return Push(steering.layer, planned.vector, steering.coefficient)
