"""The workers of a command: started as the cluster has room, given a model, and let go."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from massact import __version__
from massact.errors import ExecutorError, MassactError, UsageError
from massact.sweep.executors.base import Loaded, ModelUse, WorkerReport
from massact.sweep.executors.options import RayOptions
from massact.sweep.executors.ray.cluster import About, Cluster, Events, Node, reason
from massact.sweep.executors.ray.worker import Worker, model_engine
from massact.sweep.executors.ray.worker_env import CommandContext

Model = tuple[ModelUse, int | None]
"""A model, and how many rows its batches have at most."""
PATIENCE_SECONDS = 600.0
"""How long there may be no worker at all, although some were asked for."""
TELL_SECONDS = 30.0
"""How often it is said that there is none."""
IDLE_SECONDS = 60.0
"""A worker that had nothing to do for so long while others work is let go: its machine may be needed by others."""


@dataclass(eq=False, slots=True)
class WorkerHandle:
    """A worker, as the driver knows it."""

    number: int
    actor: Any
    about: About | None = None
    model: Model | None = None
    """Loaded, or being loaded."""
    loaded: Loaded | None = None
    batch_rows: int = 0
    tasks: deque[Any] = field(default_factory=deque)
    """What it has in hand, the one that it works on first."""
    idle_since: float = 0.0
    cells: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0
    present_seconds: float = 0.0
    is_lost: bool = False

    def has(self, model: Model) -> bool:
        """Whether it can generate with a model at once."""
        return self.loaded is not None and self.model == model

    @property
    def report(self) -> WorkerReport:
        """What it did so far."""
        host = self.about.host if self.about else ""
        figures = (self.cells, self.tokens, self.busy_seconds, self.present_seconds)
        return WorkerReport(self.number, host, *figures, self.is_lost)


class WorkerPool:
    """Starts workers and watches over them."""

    def __init__(
        self,
        cluster: Cluster,
        events: Events,
        options: RayOptions,
        context: CommandContext,
        *,
        lost: Callable[[WorkerHandle, BaseException], None],
        say: Callable[[str], None],
        engine: Any = model_engine,
    ) -> None:
        """
        Args:
            lost: told of a worker that has ended, with its tasks still in hand.
            engine: makes what a worker generates with.
        """
        self._cluster, self._events, self._options, self._context = cluster, events, options, context
        self._lost, self._say, self._engine = lost, say, engine
        self.workers: list[WorkerHandle] = []
        """Those that are at work or being started."""
        self.reports: list[WorkerReport] = []
        """Of those that are gone."""
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
        """How many workers there should be.

        Raises:
            UsageError: no machine has room for one.
        """
        room = sum(map(self._room, self._cluster.nodes().values()))
        if self._options.workers:
            return max(0, self._options.workers - self._n_unfit)
        if not room:
            raise UsageError(
                f"no machine of the cluster has room for a worker of {self.gpus_per_worker:g} GPUs"
                + (
                    f" beside a judge of {self._options.gpus_per_judge:g}"
                    if self._options.gpus_per_judge
                    else ""
                )
                + ": see --gpus-per-worker, or say with --workers how many are to be waited for"
            )
        return max(0, room - self._n_unfit)

    def _room(self, node: Node) -> int:
        gpus = self.gpus_per_worker
        if not gpus:
            return int(node.cpus)
        taken = self._options.gpus_per_judge * self._options.judges_per_node
        return max(0, math.floor((node.gpus - taken) / gpus + 1e-9))

    def adjust(self, wanted: int, model: Model) -> None:
        """Start workers until there are as many as are wanted and there should be, and give each the model.

        Raises:
            ExecutorError: none can be started.
            MassactError: none can load the model; it is what the last of them said.
        """
        wanted = min(wanted, self.target())
        while len(self.workers) < wanted:
            self._start()
        for one in sorted(self.workers, key=lambda one: one.loaded is None)[:wanted]:
            if one.about is not None and one.model != model and not one.tasks:
                self._load(one, model)
        self._check()

    def with_model(self, model: Model) -> list[WorkerHandle]:
        """Workers that can generate with a model at once."""
        return [one for one in self.workers if one.has(model)]

    def release_idle(self) -> None:
        """Let workers go that have had nothing to do for long, all but one."""
        now = time.monotonic()
        for one in list(self.workers):
            is_idle = one.loaded is not None and not one.tasks and now - one.idle_since > IDLE_SECONDS
            if is_idle and len(self.workers) > 1:
                self._release(one)

    def lose(self, worker: WorkerHandle, error: BaseException) -> None:
        """A worker has ended, or is of no use any more."""
        if worker not in self.workers:
            return
        worker.is_lost = True
        self._release(worker)
        self._cluster.forget_nodes()
        where = f" on {worker.about.host}" if worker.about else ""
        self._say(f"worker {worker.number}{where} is lost ({reason(error)})")
        self._lost(worker, error)

    def stop(self) -> None:
        """Let all go."""
        for one in list(self.workers):
            self._release(one)

    def _release(self, worker: WorkerHandle) -> None:
        self.workers.remove(worker)
        self.reports.append(worker.report)
        self._cluster.ray.kill(worker.actor)

    def _start(self) -> None:
        gpus = self.gpus_per_worker
        # where there are GPUs, they alone decide how many workers a machine has
        make = self._cluster.ray.remote(Worker).options(
            num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        actor = make.remote(self._context.environment(), self._engine, has_gpu=gpus > 0)
        worker = WorkerHandle(self._n_started, actor)
        self._n_started += 1
        self.workers.append(worker)
        self._events.when(worker.actor.about.remote(), lambda ref: self._started(worker, ref))

    def _started(self, worker: WorkerHandle, ref: Any) -> None:
        if worker not in self.workers:
            return
        try:
            about: About = self._cluster.ray.get(ref)
        except self._cluster.ray.exceptions.RayError as error:
            self._failed(worker, error)
            return
        if about.version != __version__:
            text = f"{about.host} has massact {about.version}, the command {__version__}: install the same on both"
            self._unfit(worker, ExecutorError(text))
            return
        worker.about, worker.idle_since = about, time.monotonic()

    def _load(self, worker: WorkerHandle, model: Model) -> None:
        worker.model, worker.loaded = model, None
        self._events.when(worker.actor.load.remote(*model), lambda ref: self._took(worker, model, ref))

    def _took(self, worker: WorkerHandle, model: Model, ref: Any) -> None:
        if worker not in self.workers or worker.model != model:
            return
        try:
            loaded, batch_rows = self._cluster.ray.get(ref)
        except self._cluster.ray.exceptions.RayTaskError as error:
            self._unfit(worker, getattr(error, "cause", error))
            return
        except self._cluster.ray.exceptions.RayError as error:
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
        if any(one.about is not None for one in self.workers):
            self._alone_since = now
        problem = self._problem
        if not self.workers and self._n_unfit:
            if isinstance(problem, MassactError):
                raise problem
            raise ExecutorError(
                f"no worker can be used: {reason(problem)}" if problem else "no worker can be used"
            )
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
        has = f"{len(nodes)} machines with {sum(one.gpus for one in nodes):g} GPUs"
        return f"each needs {what}, and the cluster has {has}, which others may be using"
