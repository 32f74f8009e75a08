"""The workers of a command: started as the cluster has room, given a model, and let go."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from massact import __version__
from massact.errors import ExecutorError, MassactError, UsageError
from massact.executors.base import Loaded, ModelUse, WorkerReport
from massact.executors.options import RayOptions
from massact.executors.ray.cluster import Cluster, Events, Node, reason
from massact.executors.ray.messages import About
from massact.executors.ray.site import Site
from massact.executors.ray.worker import Worker, model_engine

Model = tuple[ModelUse, int | None]
"""A model, and how many rows its batches have at most."""
PATIENCE_SECONDS = 600.0
"""How long there may be no worker at all, although some were asked for."""
TELL_SECONDS = 30.0
"""How often it is said that there is none."""
IDLE_SECONDS = 60.0
"""A worker that had nothing to do for so long while others work is let go: its machine may be needed by others."""


@dataclass(eq=False, slots=True)
class Member:
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


class Crew:
    """Starts workers and watches over them."""

    def __init__(
        self,
        cluster: Cluster,
        events: Events,
        options: RayOptions,
        site: Site,
        *,
        lost: Callable[[Member, BaseException], None],
        say: Callable[[str], None],
        engine: Any = model_engine,
    ) -> None:
        """
        Args:
            lost: told of a worker that has ended, with its tasks still in hand.
            engine: makes what a worker generates with.
        """
        self._cluster, self._events, self._options, self._site = cluster, events, options, site
        self._lost, self._say, self._engine = lost, say, engine
        self.members: list[Member] = []
        """Those that are at work or being started."""
        self.reports: list[WorkerReport] = []
        """Of those that are gone."""
        self._n_hired = self._n_unfit = self._n_failed_in_a_row = 0
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
        while len(self.members) < wanted:
            self._hire()
        for one in sorted(self.members, key=lambda one: one.loaded is None)[:wanted]:
            if one.about is not None and one.model != model and not one.tasks:
                self._load(one, model)
        self._check()

    def with_model(self, model: Model) -> list[Member]:
        """Workers that can generate with a model at once."""
        return [one for one in self.members if one.has(model)]

    def let_idle_go(self) -> None:
        """Let workers go that have had nothing to do for long, all but one."""
        now = time.monotonic()
        for one in list(self.members):
            is_idle = one.loaded is not None and not one.tasks and now - one.idle_since > IDLE_SECONDS
            if is_idle and len(self.members) > 1:
                self._part(one)

    def lose(self, member: Member, error: BaseException) -> None:
        """A worker has ended, or is of no use any more."""
        if member not in self.members:
            return
        member.is_lost = True
        self._part(member)
        self._cluster.forget_nodes()
        where = f" on {member.about.host}" if member.about else ""
        self._say(f"worker {member.number}{where} is lost ({reason(error)})")
        self._lost(member, error)

    def dismiss(self) -> None:
        """Let all go."""
        for one in list(self.members):
            self._part(one)

    def _part(self, member: Member) -> None:
        self.members.remove(member)
        self.reports.append(member.report)
        self._cluster.ray.kill(member.actor)

    def _hire(self) -> None:
        gpus = self.gpus_per_worker
        # where there are GPUs, they alone decide how many workers a machine has
        make = self._cluster.ray.remote(Worker).options(
            num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )
        actor = make.remote(self._site.environment(), self._engine, has_gpu=gpus > 0)
        member = Member(self._n_hired, actor)
        self._n_hired += 1
        self.members.append(member)
        self._events.when(member.actor.about.remote(), lambda ref: self._started(member, ref))

    def _started(self, member: Member, ref: Any) -> None:
        if member not in self.members:
            return
        try:
            about: About = self._cluster.ray.get(ref)
        except self._cluster.ray.exceptions.RayError as error:
            self._failed(member, error)
            return
        if about.version != __version__:
            text = f"{about.host} has massact {about.version}, the command {__version__}: install the same on both"
            self._unfit(member, ExecutorError(text))
            return
        member.about, member.idle_since = about, time.monotonic()

    def _load(self, member: Member, model: Model) -> None:
        member.model, member.loaded = model, None
        self._events.when(member.actor.load.remote(*model), lambda ref: self._took(member, model, ref))

    def _took(self, member: Member, model: Model, ref: Any) -> None:
        if member not in self.members or member.model != model:
            return
        try:
            loaded, batch_rows = self._cluster.ray.get(ref)
        except self._cluster.ray.exceptions.RayTaskError as error:
            self._unfit(member, getattr(error, "cause", error))
            return
        except self._cluster.ray.exceptions.RayError as error:
            self._failed(member, error)
            return
        first = self._loaded.setdefault(model, loaded)
        if loaded.description != first.description:
            where = member.about.host if member.about else ""
            text = f"{where} has other weights of {model[0].reference} than the first machine: put the same there"
            self._unfit(member, ExecutorError(text))
            return
        member.loaded, member.batch_rows = loaded, batch_rows
        member.idle_since = time.monotonic()
        self._n_failed_in_a_row = 0

    def _failed(self, member: Member, error: BaseException) -> None:
        """A worker ended before it had its model: another is started in its place, a few times."""
        self._n_failed_in_a_row += 1
        self._problem = error
        self.lose(member, error)

    def _unfit(self, member: Member, error: BaseException) -> None:
        """A worker that cannot be used, and would not be if it were started again: none takes its place."""
        self._n_unfit += 1
        self._problem = error
        self.lose(member, error)

    def _check(self) -> None:
        now = time.monotonic()
        if any(one.about is not None for one in self.members):
            self._alone_since = now
        problem = self._problem
        if not self.members and self._n_unfit:
            if isinstance(problem, MassactError):
                raise problem
            raise ExecutorError(
                f"no worker can be used: {reason(problem)}" if problem else "no worker can be used"
            )
        if self._n_failed_in_a_row > 3 + 2 * len(self.members):
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
