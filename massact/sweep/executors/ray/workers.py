"""The workers of a command: processes that generate, started as the cluster has room, given a model, and let go."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from massact import __version__
from massact.errors import ExecutorError, MassactError, UsageError
from massact.evaluation import Part, PlannedCell
from massact.sweep.executors import Environment
from massact.sweep.executors.base import Generated, Loaded, ModelUse, WorkerReport
from massact.sweep.executors.ray.cluster import About, Actor, ActorError, Cluster, FailedError, Node, reason

if TYPE_CHECKING:
    from massact.sweep.executors.local import ModelEngine

# A worker: a process with a GPU, or a part of one, that generates.

_BROKEN = ("CUDA error", "cuDNN error", "CUBLAS", "device-side assert", "NCCL", "HIP error")
"""After these a process can do nothing more with its GPU."""
_VECTORS_KEPT = 4096


class BrokenDeviceError(Exception):
    """The worker's GPU answers nothing any more; only a new process can use it."""


def model_engine() -> "ModelEngine":
    """The engine of real models."""
    from massact.sweep.executors.local import ModelEngine

    return ModelEngine()


class Worker(Actor):
    """Generates, with one model in memory."""

    def __init__(self, environment: Environment, engine: "Callable[[], ModelEngine]" = model_engine) -> None:
        super().__init__(environment)
        self._make, self._engine = engine, None  # type: tuple[Callable[[], ModelEngine], ModelEngine | None]
        self._vectors: dict[str, Any] = {}

    def load(self, use: "ModelUse", batch_rows: int | None) -> "tuple[Loaded, int]":
        """Load a model; see `ModelEngine.load`."""
        if self._engine is None:
            self._engine = self._make()
        return self._engine.load(use, batch_rows)

    def generate(
        self, part: Part, cells: Sequence[PlannedCell], vectors: Sequence[Any]
    ) -> tuple[tuple[float, int], list[Generated]]:
        """Generate a shard, in one piece or several, as they travel to a judge; with its seconds and tokens. Cells come
        without their vectors, of each of which there is a reference; `None` where it has none."""
        if self._engine is None:
            raise RuntimeError("no model is loaded")
        began = time.perf_counter()
        whole = [
            cell if ref is None else replace(cell, vector=self._vector(cell, ref))
            for cell, ref in zip(cells, vectors, strict=True)
        ]
        pieces: list[Generated] = []
        for batch in self._engine.generate(whole, part):
            if batch.error is not None and any(sign in batch.error for sign in _BROKEN):
                raise BrokenDeviceError(batch.error)
            pieces.append(replace(batch, cells=[replace(cell, vector=None) for cell in batch.cells]))
        n_tokens = sum(sum(piece.n_tokens) for piece in pieces)
        return (time.perf_counter() - began, n_tokens), pieces

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


Model = tuple[ModelUse, int | None]  # a model, and how many rows its batches have at most
PATIENCE_SECONDS = 600.0  # how long there may be no worker at all, although some were asked for
TELL_SECONDS = 30.0  # how often it is said that there is none
IDLE_SECONDS = 60.0
"""A worker that had nothing to do for so long while others work is let go: its machine may be needed by others."""


@dataclass(eq=False, slots=True)
class WorkerHandle:
    """A worker, as the driver knows it."""

    report: WorkerReport
    actor: Any
    about: About | None = None
    model: Model | None = None  # loaded, or being loaded
    loaded: Loaded | None = None
    batch_rows: int = 0
    tasks: deque[Any] = field(default_factory=deque)  # what it has in hand, the one that it works on first
    idle_since: float = 0.0

    def has(self, model: Model) -> bool:
        """Whether it can generate with a model at once."""
        return self.loaded is not None and self.model == model


class WorkerPool:
    """Starts workers and watches over them."""

    def __init__(
        self, cluster: Cluster, *, lost: Callable[[WorkerHandle, BaseException], None], engine: Any = model_engine
    ) -> None:
        """`lost`: told of a worker that has ended, with its tasks still in hand."""
        self._cluster, self._options, self._say = cluster, cluster.options, cluster.say
        self._lost, self._engine = lost, engine
        self.workers: list[WorkerHandle] = []  # those that are at work or being started
        self.reports: list[WorkerReport] = []  # of those that are gone
        self._n_started = self._n_unfit = self._n_failed_in_a_row = 0
        self._problem: BaseException | None = None
        self._loaded: dict[Model, Loaded] = {}
        self._alone_since = self._told = time.monotonic()

    @property
    def gpus_per_worker(self) -> float:
        """GPUs that each worker gets."""
        if self._options.gpus_per_worker is not None:
            return self._options.gpus_per_worker
        return 1.0 if any(node.gpus for node in self._cluster.nodes().values()) else 0.0

    def target(self) -> int:
        """How many workers there should be. Raises UsageError: no machine has room for one."""
        wanted = self._options.workers or sum(map(self._room, self._cluster.nodes().values()))
        if not wanted:
            beside = f" beside a judge of {self._options.gpus_per_judge:g}" if self._options.gpus_per_judge else ""
            raise UsageError(
                f"no machine of the cluster has room for a worker of {self.gpus_per_worker:g} GPUs{beside}: see "
                "--gpus-per-worker, or say with --workers how many are to be waited for"
            )
        return max(0, wanted - self._n_unfit)

    def _room(self, node: Node) -> int:
        gpus = self.gpus_per_worker
        if not gpus:
            return int(node.cpus)
        taken = self._options.gpus_per_judge * self._options.judges_per_node
        return max(0, math.floor((node.gpus - taken) / gpus + 1e-9))

    def adjust(self, wanted: int, model: Model) -> None:
        """Start workers until there are as many as are wanted and should be, and give each the model."""
        wanted = min(wanted, self.target())
        while len(self.workers) < wanted:
            self._start()
        for worker in sorted(self.workers, key=lambda worker: worker.loaded is None)[:wanted]:
            if worker.about is not None and worker.model != model and not worker.tasks:
                worker.model, worker.loaded = model, None
                self._cluster.when(worker.actor.load.remote(*model), partial(self._took, worker, model))
        self._check()

    def with_model(self, model: Model) -> list[WorkerHandle]:
        """Workers that can generate with a model at once."""
        return [worker for worker in self.workers if worker.has(model)]

    def release_idle(self) -> None:
        """Let workers go that have had nothing to do for long, all but one."""
        now = time.monotonic()
        for worker in list(self.workers):
            is_idle = worker.loaded is not None and not worker.tasks and now - worker.idle_since > IDLE_SECONDS
            if is_idle and len(self.workers) > 1:
                self._release(worker)

    def lose(self, worker: WorkerHandle, error: BaseException) -> None:
        """A worker has ended, or is of no use any more."""
        if worker not in self.workers:
            return
        worker.report.is_lost = True
        self._release(worker)
        self._cluster.forget_nodes()
        where = f" on {worker.about.host}" if worker.about else ""
        self._say(f"worker {worker.report.number}{where} is lost ({reason(error)})")
        self._lost(worker, error)

    def stop(self) -> None:
        """Let all go."""
        for worker in list(self.workers):
            self._release(worker)

    def _release(self, worker: WorkerHandle) -> None:
        self.workers.remove(worker)
        self.reports.append(worker.report)
        self._cluster.ray.kill(worker.actor)

    def _start(self) -> None:
        gpus = self.gpus_per_worker
        # where there are GPUs, they alone decide how many workers a machine has
        actor = self._cluster.start(Worker, self._engine, num_cpus=0 if gpus else 1, num_gpus=gpus)
        worker = WorkerHandle(WorkerReport(self._n_started, ""), actor)
        self._n_started += 1
        self.workers.append(worker)
        self._cluster.when(worker.actor.about.remote(), lambda ref: self._started(worker, ref))

    def _started(self, worker: WorkerHandle, ref: Any) -> None:
        if worker not in self.workers:
            return
        try:
            about: About = self._cluster.get(ref)
        except ActorError as error:
            self._failed(worker, error)
            return
        if about.version != __version__:
            text = f"{about.host} has massact {about.version}, the command {__version__}: install the same on both"
            self._unfit(worker, ExecutorError(text))
            return
        worker.about, worker.report.node, worker.idle_since = about, about.host, time.monotonic()

    def _took(self, worker: WorkerHandle, model: Model, ref: Any) -> None:
        if worker not in self.workers or worker.model != model:
            return
        try:
            loaded, batch_rows = self._cluster.get(ref)
        except FailedError as error:
            self._unfit(worker, error.cause)
            return
        except ActorError as error:
            self._failed(worker, error)
            return
        first = self._loaded.setdefault(model, loaded)
        if loaded.description != first.description:
            where = worker.about.host if worker.about else ""
            text = f"{where} has other weights of {model[0].reference} than the first machine: put the same there"
            self._unfit(worker, ExecutorError(text))
            return
        worker.loaded, worker.batch_rows = loaded, batch_rows
        worker.idle_since = time.monotonic()
        self._n_failed_in_a_row = 0

    def _failed(self, worker: WorkerHandle, error: BaseException) -> None:
        """A worker ended before it had its model: another is started in its place, a few times."""
        self._n_failed_in_a_row += 1
        self._problem = error
        self.lose(worker, error)

    def _unfit(self, worker: WorkerHandle, error: BaseException) -> None:
        """A worker that cannot be used, and would not be if it were started again: none takes its place."""
        self._n_unfit += 1
        self._problem = error
        self.lose(worker, error)

    def _check(self) -> None:
        now = time.monotonic()
        if any(worker.about is not None for worker in self.workers):
            self._alone_since = now
        problem = self._problem
        if not self.workers and self._n_unfit:
            if isinstance(problem, MassactError):
                raise problem
            raise ExecutorError(f"no worker can be used: {reason(problem)}" if problem else "no worker can be used")
        if self._n_failed_in_a_row > 3 + 2 * len(self.workers):
            text = reason(problem) if problem else "they end at once"
            raise ExecutorError(f"workers cannot be started: {text}; see Ray's logs on their machines")
        if now - self._alone_since > PATIENCE_SECONDS:
            raise ExecutorError(f"no worker has started within {PATIENCE_SECONDS:g} s: {self._lack()}")
        if now - self._alone_since > TELL_SECONDS and now - self._told > TELL_SECONDS:
            self._told = now
            self._say(f"no worker has started yet: {self._lack()}")

    def _lack(self) -> str:
        nodes = self._cluster.nodes().values()
        what = f"{self.gpus_per_worker:g} GPUs" if self.gpus_per_worker else "a processor"
        has = f"{len(nodes)} machines with {sum(node.gpus for node in nodes):g} GPUs"
        return f"each needs {what}, and the cluster has {has}, which others may be using"
