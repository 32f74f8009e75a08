"""Stand-ins that processes of Ray's import: engines whose cells do what their coefficient says, and a judge."""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Recipe, Setting, Steering
from massact.errors import JudgeError, ModelError
from massact.evaluation import Part, PlannedCell
from massact.judges import Exchange, Usage, Verdict
from massact.sweep.executors.base import Generated

IDENTITY = JudgeIdentity("scripted", "m", "p")
SETTING = Setting(ModelIdentity("tiny", "0", "float32"), "trait", "t", "q", 0, "c", Generation(4), IDENTITY)
QUESTIONS = ("t5 t6 t7", "t9 t11")
PART = Part(QUESTIONS)
CRASHES, RAISES, TOO_LARGE, HANGS_UP = 666.0, 667.0, 668.0, 669.0
"""Coefficients of cells that end their worker, that cannot be generated, that fit in no memory, that break a GPU."""
LOSES_JUDGE = 670.0
"""Of cells whose responses end the judge's process."""
NO_CREDIT = "no credit"
"""Definition of a trait whose judge cannot be used."""


def cells(coefficients: Sequence[float | None], *, vectors: Any = None) -> list[PlannedCell]:
    """Cells by their coefficients; `None` is the baseline. `vectors(i)` gives each its vector."""

    def one(i: int, coefficient: float | None) -> PlannedCell:
        if coefficient is None:
            return PlannedCell(Cell(SETTING, None), None)
        steering = Steering(str(i), "response[:5]", Recipe("probe"), 1, coefficient, "positive")
        return PlannedCell(Cell(SETTING, steering), None if vectors is None else vectors(i))

    return [one(i, coefficient) for i, coefficient in enumerate(coefficients)]


def coefficient(planned: PlannedCell) -> float | None:
    """Of a cell; `None` for the baseline."""
    steering = planned.cell.steering
    return None if steering is None else steering.coefficient


class Engine:
    """Takes a fixed time for each cell, needs no torch, and says the cell's coefficient."""

    seconds = 0.02
    per_batch = 4

    def load(self, use: Any, batch_rows: int | None) -> Any:
        from massact.sweep.executors.base import Loaded

        if use.reference == "missing":
            raise ModelError("missing: no such model")
        loaded = Loaded("tiny", "eager")  # type: ignore[arg-type]  # a description would need torch
        return loaded, batch_rows or self.per_batch * len(QUESTIONS)

    def generate(self, batch: Sequence[PlannedCell], part: Part) -> Iterator[Generated]:
        coefficients = [coefficient(one) for one in batch]
        if CRASHES in coefficients:
            time.sleep(0.05)
            os._exit(9)
        if TOO_LARGE in coefficients:
            raise ModelError("one response does not fit in the memory")
        if HANGS_UP in coefficients:
            yield Generated(batch, (), 0.0, (), "RuntimeError: CUDA error: an illegal memory access")
            return
        for planned in batch:
            time.sleep(self.seconds)
            if coefficient(planned) == RAISES:
                yield Generated([planned], (), 0.0, (), "RuntimeError: it cannot be generated")
                continue
            exchanges = [Exchange(q, f"{coefficient(planned)} {os.getpid()}") for q in part.questions]
            yield Generated([planned], [exchanges], self.seconds, [2 * len(exchanges)])


class SlowEngine(Engine):
    """The same with time for somebody to end it."""

    seconds = 0.15


class TinyEngine:
    """The real engine, on a tiny model."""

    def __init__(self) -> None:
        from massact.sweep.executors import local as engine
        from tests.support.tiny import tiny_model

        class Tiny(engine.ModelEngine):
            """Takes the tiny model for whatever it is asked to load."""

        engine.load_use = lambda use: tiny_model("llama")
        self._real = Tiny()

    def load(self, use: Any, batch_rows: int | None) -> Any:
        return self._real.load(use, batch_rows)

    def generate(self, batch: Sequence[PlannedCell], part: Part) -> Iterator[Generated]:
        if any(coefficient(one) == RAISES for one in batch):
            if len(batch) == 1:
                yield Generated(batch, (), 0.0, (), "RuntimeError: out of memory")
                return
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                yield from self.generate(half, part)
            return
        yield from self._real.generate(batch, part)


class Judge:
    """Scores by length; it may end its process, or be unusable."""

    identity = IDENTITY

    def __init__(self, use: Any = None) -> None:
        self.n_calls = 0
        self._has_credit = use is None or use.subject.definition != NO_CREDIT

    @property
    def usage(self) -> Usage:
        return Usage(calls=self.n_calls)

    def prepare(self) -> None:
        """Nothing to load."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        if not self._has_credit:
            raise JudgeError("no credit left")
        if any(one.response.startswith(str(LOSES_JUDGE)) for one in exchanges):
            os._exit(9)
        self.n_calls += len(exchanges)
        return [Verdict(float(len(one.question)), 50.0) for one in exchanges]
