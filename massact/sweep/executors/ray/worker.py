"""A worker: a process with a GPU, or a part of one, that generates. It is a plain class: Ray makes an actor of it."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from massact.evaluation import Part, PlannedCell
from massact.sweep.executors.ray.cluster import About, Account, BrokenDeviceError, Piece, about
from massact.sweep.executors.ray.worker_env import Environment
from massact.sweep.judging import Generated

if TYPE_CHECKING:
    from massact.sweep.executors.base import Loaded, ModelUse
    from massact.sweep.generating import Engine

_BROKEN = ("CUDA error", "cuDNN error", "CUBLAS", "device-side assert", "NCCL", "HIP error")
"""After these a process can do nothing more with its GPU."""
_VECTORS_KEPT = 4096


def model_engine() -> "Engine":
    """The engine of real models."""
    from massact.sweep.generating import ModelEngine

    return ModelEngine()


class Worker:
    """Generates, with one model in memory."""

    def __init__(
        self, environment: Environment, engine: "Callable[[], Engine]" = model_engine, *, has_gpu: bool = True
    ) -> None:
        """
        Args:
            engine: makes what it generates with.
            has_gpu: whether it was given one; without, it must not see those of others.
        """
        environment.set()
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._make, self._engine = engine, None  # type: tuple[Callable[[], Engine], Engine | None]
        self._vectors: dict[str, Any] = {}

    def about(self) -> About:
        """Who this is."""
        return about()

    def load(self, use: "ModelUse", batch_rows: int | None) -> "tuple[Loaded, int]":
        """Load a model; see `Engine.load`."""
        if self._engine is None:
            self._engine = self._make()
        return self._engine.load(use, batch_rows)

    def generate(
        self, part: Part, cells: Sequence[PlannedCell], vectors: Sequence[Any]
    ) -> tuple[Account, tuple[Piece, ...]]:
        """Generate a shard.

        Args:
            cells: without their vectors.
            vectors: a reference to each cell's; `None` where it has none.
        """
        if self._engine is None:
            raise RuntimeError("no model is loaded")
        began = time.perf_counter()
        whole = [
            one if ref is None else replace(one, vector=self._vector(one, ref))
            for one, ref in zip(cells, vectors, strict=True)
        ]
        pieces: list[Piece] = []
        for batch in self._engine.generate(whole, part):
            if batch.error is not None and any(sign in batch.error for sign in _BROKEN):
                raise BrokenDeviceError(batch.error)
            pieces.append(_piece(batch, sum(one.n_cells for one in pieces)))
        n_tokens = sum(sum(one.n_tokens) for one in pieces)
        return Account(time.perf_counter() - began, n_tokens), tuple(pieces)

    def _vector(self, planned: PlannedCell, ref: Any) -> Any:
        """A cell's vector, in numpy: it is fetched from the store of this machine once, and kept."""
        steering = planned.cell.steering
        digest = steering.vector_digest if steering else ""
        if digest not in self._vectors:
            import ray

            if len(self._vectors) >= _VECTORS_KEPT:
                self._vectors.clear()
            self._vectors[digest] = ray.get(ref).copy()  # what it gives is the store's, and read-only
        return self._vectors[digest]


def _piece(batch: Generated, first: int) -> Piece:
    responses = tuple(tuple(one.response for one in exchanges) for exchanges in batch.exchanges)
    return Piece(first, len(batch.cells), responses, batch.seconds, tuple(batch.n_tokens), batch.error)
