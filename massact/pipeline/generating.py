"""Generating the responses of a batch of cells; what fails is tried again by halves, so that a bad cell fails alone."""

import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from massact.judges.base import Exchange
from massact.models.generate import Generator, NotFiniteError, Push, Row
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
                generated = list(self._generate(batch))
        except (RuntimeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            yield from generated
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            yield Generated(batch, (), 0.0, (), reason)
            return
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            yield from self.run(half)

    def _generate(self, batch: Sequence[PlannedCell]) -> Iterator[Generated]:
        prompts, width = list(enumerate(self._prompts, self._first_draw)), len(self._questions)
        rows = [Row(prompt, _push(one), draw) for one in batch for draw, prompt in prompts]
        reasons: dict[int, str] = {}
        began = time.perf_counter()
        try:
            tokens = self._generator.generate(rows, batch[0].cell.setting.generation)
        except NotFiniteError as error:
            # a cell fails with the first of its rows that is not finite; the others were generated as they are
            for i in reversed([i for i, said in enumerate(error.said) if said is None]):
                reasons[i // width] = error.reason(i)
            tokens = [said or () for said in error.said]
        share = (time.perf_counter() - began) / len(batch)
        for reason, group in groupby(range(len(batch)), reasons.get):
            cells = list(group)
            for some in [cells] if reason is None else [[cell] for cell in cells]:
                mine = [tokens[cell * width : (cell + 1) * width] for cell in some]
                yield self._generated([batch[cell] for cell in some], mine, share * len(some), reason)

    def _generated(
        self,
        cells: Sequence[PlannedCell],
        tokens: Sequence[Sequence[tuple[int, ...]]],
        seconds: float,
        reason: str | None,
    ) -> Generated:
        if reason is not None:
            return Generated(cells, (), 0.0, (), reason)
        said = [[decode(self._model, one) for one in mine] for mine in tokens]
        exchanges = [
            [Exchange(q, text) for q, text in zip(self._questions, texts, strict=True)] for texts in said
        ]
        return Generated(cells, exchanges, seconds, [sum(map(len, mine)) for mine in tokens])


def _push(planned: PlannedCell) -> Push | None:
    steering = planned.cell.steering
    if steering is None or planned.vector is None:
        return None
    return Push(steering.layer, planned.vector, steering.coefficient)
