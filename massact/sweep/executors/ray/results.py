"""Keep results: each is spooled on the machine where it was made, and the driver knows it until the store has it."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from massact.evaluation import PlannedCell
from massact.keys import cell_key
from massact.store.spool import Spool, send_leftovers
from massact.store.write.tracker import OpenRun
from massact.sweep.executors import Environment
from massact.sweep.executors.base import MakeRun, Result
from massact.sweep.executors.ray.cluster import Actor, ActorError, Cluster, FailedError, LostError, reaches_anywhere

if TYPE_CHECKING:
    from massact.store.spool.spool import Outcome

FULL = 50_000  # results that the store does not have yet, at which no more are made: a few kB of memory each
_NEWS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A result on its way to a spool."""

    id: str
    result: Result  # its cell is without its vector
    vector: Any  # a reference to it; `None` where the cell has none
    make: MakeRun
    experiment_id: str


@dataclass(slots=True)
class News:
    """What became of records."""

    arrived: list[str] = field(default_factory=list)  # ids of those that the store has
    refused: list[str] = field(default_factory=list)  # ids of those that it does not take; they stay in the journal
    lines: list[str] = field(default_factory=list)


class SpoolActor(Actor):
    """Keeps the spool of a machine: what was made there is written and sent there. Several threads may call it."""

    def __init__(self, environment: Environment, folder: Path, experiment: str) -> None:
        super().__init__(environment)
        self._changed, self._news = threading.Condition(), News()
        self._folder, self._uri = folder, environment.values["MLFLOW_TRACKING_URI"]
        self._spool = Spool(folder, self._uri, experiment, say=self._say, heard=self._hear)

    def leftovers(self) -> tuple[int, News]:
        """Send what earlier commands left on this machine. Returns how many runs are left."""
        reports = send_leftovers(self._folder, self._uri, say=self._say, only_here=True)
        return sum(report.left - len(report.refused) for report in reports), self.news(0)

    def write(self, drafts: Sequence[Draft]) -> None:
        """Put results into the spool; they are on the disk when it returns."""
        import ray

        for draft in drafts:
            vector = None if draft.vector is None else torch.from_numpy(ray.get(draft.vector).copy())
            run = draft.make(with_vector(draft.result, vector))
            self._spool.put(run, experiment_id=draft.experiment_id, record_id=draft.id)

    def news(self, seconds: float) -> News:
        """What became of records since the last time; waits for something to tell."""
        with self._changed:
            self._changed.wait_for(lambda: self._news != News(), seconds)
            news, self._news = self._news, News()
            return news

    def hurry(self) -> None:
        """Somebody waits: an attempt that is put off is made now."""
        self._spool.flush(0)

    def close(self, seconds: float) -> News:
        """Send what can be sent within some seconds, and let go of the journal."""
        self._spool.close(seconds)
        return self.news(0)

    def _hear(self, outcome: "Outcome") -> None:
        with self._changed:
            self._news.arrived += outcome.arrived
            self._news.refused += outcome.refused
            self._changed.notify_all()

    def _say(self, line: str) -> None:
        with self._changed:
            self._news.lines.append(f"{socket.gethostname()}: {line}")
            self._changed.notify_all()


def with_vector(result: Result, vector: torch.Tensor | None) -> Result:
    """A result whose cell has another vector, or none while it travels."""
    return replace(result, planned=replace(result.planned, vector=vector))


@dataclass(slots=True)
class _Kept:
    draft: Draft
    result: Result
    node: str
    is_written: bool = False


class ResultKeeper:
    """Hands results to the machines' spool actors, and takes them back where one is lost."""

    def __init__(self, cluster: Cluster, spool: Callable[[], Spool]) -> None:
        self._cluster, self._context, self._say, self._spool = cluster, cluster.context, cluster.say, spool
        self._made_on: dict[str, str] = {}
        self._new: dict[str, list[_Kept]] = {}
        self._unsent: dict[str, _Kept] = {}
        self._spool_actors: dict[str, Any] = {}
        self._no_spool_actor: set[str] = set()
        self._n_refused = 0
        self._has_told = False

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the store that nothing more should be made."""
        return len(self._unsent) >= FULL

    @property
    def n_waiting(self) -> int:
        """Runs on other machines' disks, and those refused, that the store does not have."""
        return len(self._unsent) + self._n_refused

    def made(self, planned: PlannedCell, node: str) -> None:
        """A cell's result was made on a node."""
        self._made_on[cell_key(planned.cell)] = node

    def keep(self, result: Result, make: MakeRun, home: OpenRun) -> None:
        """Keep a result where it was made, or here."""
        id_, planned = uuid.uuid4().hex, result.planned
        node = self._made_on.pop(cell_key(planned.cell), None)
        if node is None or not self._can_write(node, home):
            self._spool().put(make(result), experiment_id=home.experiment_id, record_id=id_)
            return
        draft = Draft(id_, with_vector(result, None), self._cluster.vector_ref(planned), make, home.experiment_id)
        kept = self._unsent[id_] = _Kept(draft, result, node)
        self._new.setdefault(node, []).append(kept)

    def flush(self) -> None:
        """Hand over what is new; does not wait."""
        new, self._new = self._new, {}
        for node, some in new.items():
            if node in self._no_spool_actor:  # found out since it was kept
                self._take_back([kept.draft.id for kept in some])
                continue
            ref = self._spool_actor(node).write.remote([kept.draft for kept in some])
            self._cluster.when(ref, lambda ref, node=node, some=some: self._written(node, some, ref))  # type: ignore[misc]

    def settle(self, seconds: float) -> int:
        """Wait until the store has everything that others keep. Returns how many runs it does not have."""
        self.flush()
        for spool_actor in self._spool_actors.values():
            self._cluster.when(spool_actor.hurry.remote(), lambda _ref: None)
        deadline = time.monotonic() + seconds
        while self._unsent and time.monotonic() < deadline:
            self._cluster.turn(min(0.2, max(0.0, deadline - time.monotonic())))
            self.flush()
        return self.n_waiting

    def send_leftovers(self) -> int:
        """Send what earlier commands left on other machines. Returns how many runs are left there."""
        left = 0
        if not reaches_anywhere(self._context.tracking_uri, "mlflow-artifacts:"):
            return left
        for node in self._cluster.nodes().values():
            if self._cluster.is_here(node.id):
                continue
            try:
                n, news = self._cluster.get(self._spool_actor(node.id).leftovers.remote())
            except ActorError as error:
                self._say(f"warning: what earlier commands left on {node.host} cannot be sent ({error})")
                self._give_up(node.id)
                continue
            left += n
            self._hear(news)
        return left

    def close(self, seconds: float) -> int:
        """Send what can be sent within some seconds, and end the spool actors. Returns how many runs wait elsewhere."""
        began = time.monotonic()
        self.settle(seconds)
        for node, spool_actor in list(self._spool_actors.items()):
            left = max(0.5, seconds - (time.monotonic() - began))
            try:
                self._hear(self._cluster.get(spool_actor.close.remote(left), timeout=left + 5))
            except ActorError as error:
                self._lost(node, error)
        self._spool_actors.clear()
        return self.n_waiting

    def abandon(self) -> None:
        """What is not known to be on a disk is put on this one."""
        self._take_back([id_ for id_, kept in self._unsent.items() if not kept.is_written])
        self._spool_actors.clear()

    def _can_write(self, node: str, home: OpenRun) -> bool:
        if node in self._no_spool_actor:
            return False
        if self._cluster.is_here(node) or reaches_anywhere(self._context.tracking_uri, home.artifact_uri):
            return True
        if not self._has_told:
            self._has_told = True
            self._say(
                "results of other machines are spooled on this one: the run store, or its artifacts, are files here; "
                "a tracking server takes them from everywhere (docs/scale.md)"
            )
        return False

    def _spool_actor(self, node: str) -> Any:
        if node not in self._spool_actors:
            arguments = (self._context.spool, self._context.experiment)
            self._spool_actors[node] = self._cluster.start(SpoolActor, *arguments, node=node, max_concurrency=4)
            self._ask_news(node, self._spool_actors[node])
        return self._spool_actors[node]

    def _ask_news(self, node: str, spool_actor: Any) -> None:
        def told(ref: Any) -> None:
            if self._spool_actors.get(node) is not spool_actor:
                return
            try:
                self._hear(self._cluster.get(ref))
            except ActorError as error:
                self._lost(node, error)
            else:
                self._ask_news(node, spool_actor)

        self._cluster.when(spool_actor.news.remote(_NEWS_SECONDS), told)

    def _hear(self, news: News) -> None:
        for line in news.lines:
            self._say(line)
        for id_ in news.arrived:
            self._unsent.pop(id_, None)
        self._n_refused += sum(self._unsent.pop(id_, None) is not None for id_ in news.refused)

    def _written(self, node: str, some: list[_Kept], ref: Any) -> None:
        try:
            self._cluster.get(ref)
        except LostError as error:
            self._lost(node, error)
        except FailedError as error:
            self._say(f"the spool {self._context.spool} of a machine cannot be used ({error}): this one's is")
            self._no_spool_actor.add(node)
            self._take_back([kept.draft.id for kept in some])
        else:
            for kept in some:
                kept.is_written = True

    def _give_up(self, node: str) -> None:
        """Nothing more is kept there. One that only does not answer must not send what is sent from here."""
        self._no_spool_actor.add(node)
        if (spool_actor := self._spool_actors.pop(node, None)) is not None:
            self._cluster.ray.kill(spool_actor)

    def _lost(self, node: str, error: ActorError) -> None:
        """A spool actor has ended, perhaps with its machine: what it had not sent is sent from here, still once."""
        if node not in self._spool_actors:
            return
        self._give_up(node)
        self._cluster.forget_nodes()
        mine = [id_ for id_, kept in self._unsent.items() if kept.node == node]
        self._say(
            f"a machine's spool is lost ({error})" + (f": {len(mine)} results are sent from here" if mine else "")
        )
        self._take_back(mine)

    def _take_back(self, ids: list[str]) -> None:
        for id_ in ids:
            if (kept := self._unsent.pop(id_, None)) is not None:
                run, experiment_id = kept.draft.make(kept.result), kept.draft.experiment_id
                self._spool().put(run, experiment_id=experiment_id, record_id=id_, may_be_there=True)
