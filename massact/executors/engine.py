"""What a worker does with a model: load it, and generate the responses of cells."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from massact.executors.base import Loaded, ModelUse
from massact.models.generate import Generator
from massact.models.identity import describe
from massact.models.load import SteerableModel, load_model
from massact.pipeline.evaluate import Part, PlannedCell
from massact.pipeline.generating import CellGenerator
from massact.pipeline.judging import Generated


class Engine(Protocol):
    """Generates with one model at a time."""

    def load(self, use: ModelUse, batch_rows: int | None) -> tuple[Loaded, int]:
        """Load a model where it is not loaded yet. Returns what it says of itself, and how many rows a batch has."""
        ...

    def generate(self, cells: Sequence[PlannedCell], part: Part) -> Iterator[Generated]:
        """The responses of a batch: in one piece, or in several where some cell cannot be generated.

        Args:
            cells: their vectors are in numpy, as they have travelled.
        """
        ...


def load_use(use: ModelUse) -> SteerableModel:
    """Load a model.

    Raises:
        ModelError: it cannot be loaded.
    """
    return load_model(use.reference, revision=use.revision, adapter=use.adapter, options=use.options)


class ModelEngine:
    """The engine of real models; it keeps the last one, and the memory of its batches."""

    def __init__(self) -> None:
        self._use: tuple[ModelUse, int | None] | None = None
        self._model: SteerableModel | None = None
        self._generator: Generator | None = None
        self._cells: tuple[Part, CellGenerator] | None = None

    def load(self, use: ModelUse, batch_rows: int | None) -> tuple[Loaded, int]:
        """See `Engine`."""
        if self._use is None or self._use[0] != use:
            self._model = self._generator = self._cells = None
            self._model = load_use(use)
        if self._generator is None or self._use != (use, batch_rows):
            assert self._model is not None
            self._generator, self._cells = Generator(self._model, batch_rows=batch_rows), None
        self._use = (use, batch_rows)
        assert self._model is not None
        loaded = Loaded(describe(self._model), self._model.attention, self._model.unused_settings)
        return loaded, self._generator.batch_rows

    def generate(self, cells: Sequence[PlannedCell], part: Part) -> Iterator[Generated]:
        """See `Engine`."""
        if self._model is None or self._generator is None:
            raise RuntimeError("no model is loaded")
        if self._cells is None or self._cells[0] != part:
            self._cells = (part, CellGenerator(self._model, part, self._generator))
        whole = [
            one if one.vector is None else replace(one, vector=torch.as_tensor(one.vector)) for one in cells
        ]
        return self._cells[1].run(whole)
