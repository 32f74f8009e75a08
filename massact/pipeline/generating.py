"""Generating the responses of a batch of cells; what fails is tried again by halves, so that a bad cell fails alone."""

import time
from collections.abc import Iterator, Sequence

import torch

from massact.judges.base import Exchange
from massact.models.generate import Generator, Push, Row
from massact.models.load import SteerableModel
from massact.models.prompting import decode, encode_question
from massact.models.turns import turn
from massact.pipeline.evaluate import Part, PlannedCell
from massact.pipeline.judging import Generated


class CellGenerator:
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
