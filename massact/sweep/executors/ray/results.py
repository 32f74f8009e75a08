"""Keep results: each is spooled on the machine where it was made, and the driver knows it until the store has it."""

import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massact.sweep.executors.ray.cluster import About, Draft, News, about
from massact.sweep.executors.ray.worker_env import Environment

if TYPE_CHECKING:
    from massact.store.spool.sender import Outcome
    from massact.sweep.executors.base import Finished
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import torch

from massact.evaluation import PlannedCell, StoppedCell
from massact.keys import cell_key
from massact.store.spool import Spool
from massact.store.write.tracker import OpenRun
from massact.sweep.executors.base import Finished, MakeRun
from massact.sweep.executors.ray.cluster import Cluster, Events, reason
from massact.sweep.executors.ray.worker_env import CommandContext, reaches_anywhere

# Keep the spool of a machine on a cluster: what was made there is written and sent there.


class SpoolActor:
    """Keeps the spool of a machine. Several threads may call it."""

    def __init__(
        self, environment: Environment, folder: Path, tracking_uri: Environment, experiment: str
    ) -> None:
        """
        Args:
            tracking_uri: in an environment, which shows it to nobody.
        """
        from massact.store.spool import Spool

        environment.set()
        self._changed = threading.Condition()
        self._arrived: list[str] = []
        self._refused: list[str] = []
        self._lines: list[str] = []
        self._folder, self._uri = folder, tracking_uri.values["MLFLOW_TRACKING_URI"]
        self._spool = Spool(folder, self._uri, experiment, say=self._say, heard=self._hear)

    def about(self) -> About:
        """Who this is."""
        return about()

    def leftovers(self) -> tuple[int, News]:
        """Send what earlier commands left on this machine. Returns how many runs are left."""
        from massact.store.spool import send_leftovers

        reports = send_leftovers(self._folder, self._uri, say=self._say, only_here=True)
        return sum(one.left - len(one.refused) for one in reports), self.news(0)

    def write(self, drafts: Sequence[Draft]) -> None:
        """Put results into the spool; they are on the disk when it returns.

        Raises:
            SpoolError: the journal cannot be written.
        """
        import ray

        for draft in drafts:
            run = draft.make(
                whole_result(draft.result, None if draft.vector is None else ray.get(draft.vector))
            )
            self._spool.put(run, experiment_id=draft.experiment_id, record_id=draft.id)

    def news(self, seconds: float) -> News:
        """What became of records since the last time; waits for something to tell."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._refused or self._lines, seconds)
            news = News(tuple(self._arrived), tuple(self._refused), tuple(self._lines))
            for told in (self._arrived, self._refused, self._lines):
                told.clear()
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
            self._arrived += [*outcome.sent, *outcome.there]
            self._refused += outcome.refused
            self._changed.notify_all()

    def _say(self, line: str) -> None:
        with self._changed:
            self._lines.append(f"{socket.gethostname()}: {line}")
            self._changed.notify_all()


def whole_result(result: "Finished", vector: Any) -> "Finished":
    """A result with its cell's vector, `[d_model]` in numpy, put back."""
    if vector is None:
        return result
    import torch

    from massact.evaluation import StoppedCell

    tensor = torch.from_numpy(vector.copy())
    if isinstance(result, StoppedCell):
        evaluation = result.evaluation
        return replace(
            result, evaluation=replace(evaluation, planned=replace(evaluation.planned, vector=tensor))
        )
    return replace(result, planned=replace(result.planned, vector=tensor))


FULL = 50_000
"""Results that the store does not have yet, at which no more are made: a few kB of memory each."""
_NEWS_SECONDS = 5.0


@dataclass(slots=True)
class _Kept:
    draft: Draft
    result: Finished
    node: str
    is_written: bool = False


class Vectors:
    """Vectors by digest, each put into Ray's store once, from where a machine gets it once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._refs: dict[str, Any] = {}

    def ref(self, planned: PlannedCell) -> Any:
        """A reference to a cell's vector; `None` where it has none."""
        steering = planned.cell.steering
        if planned.vector is None or steering is None:
            return None
        digest = steering.vector_digest
        if digest not in self._refs:
            array = planned.vector.to(dtype=torch.float32).contiguous().numpy()
            self._refs[digest] = self._cluster.ray.put(array)
        return self._refs[digest]


class ResultKeeper:
    """Hands results to the machines' spool actors, and takes them back where one is lost."""

    def __init__(
        self,
        cluster: Cluster,
        events: Events,
        context: CommandContext,
        vectors: Vectors,
        *,
        spool: Callable[[], Spool],
        say: Callable[[str], None],
    ) -> None:
        """
        Args:
            spool: of the driver, for what no other machine keeps.
        """
        self._cluster, self._events, self._context, self._vectors = cluster, events, context, vectors
        self._spool, self._say = spool, say
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

    def keep(self, result: Finished, make: MakeRun, home: OpenRun) -> None:
        """Keep a result where it was made, or here."""
        id_, planned = uuid.uuid4().hex, _planned(result)
        node = self._made_on.pop(cell_key(planned.cell), None)
        if node is None or not self._can_write(node, home):
            self._spool().put(make(result), experiment_id=home.experiment_id, record_id=id_)
            return
        vector = self._vectors.ref(planned)
        draft = Draft(id_, _without_vector(result), vector, make, home.experiment_id)
        kept = self._unsent[id_] = _Kept(draft, result, node)
        self._new.setdefault(node, []).append(kept)

    def flush(self) -> None:
        """Hand over what is new; does not wait."""
        new, self._new = self._new, {}
        for node, some in new.items():
            if node in self._no_spool_actor:  # found out since it was kept
                self._take_back([one.draft.id for one in some])
                continue
            ref = self._spool_actor(node).write.remote([one.draft for one in some])
            self._events.when(ref, lambda ref, node=node, some=some: self._written(node, some, ref))  # type: ignore[misc]

    def settle(self, seconds: float) -> int:
        """Wait until the store has everything that others keep. Returns how many runs it does not have."""
        self.flush()
        for spool_actor in self._spool_actors.values():
            self._events.when(spool_actor.hurry.remote(), lambda _ref: None)
        deadline = time.monotonic() + seconds
        while self._unsent and time.monotonic() < deadline:
            self._events.turn(min(0.2, max(0.0, deadline - time.monotonic())))
            self.flush()
        return self.n_waiting

    def send_leftovers(self) -> int:
        """Send what earlier commands left on other machines. Returns how many runs are left there."""
        left = 0
        for node in self._cluster.nodes().values():
            if self._cluster.is_here(node.id) or not reaches_anywhere(
                self._context.tracking_uri, "mlflow-artifacts:"
            ):
                continue
            try:
                n, news = self._cluster.ray.get(self._spool_actor(node.id).leftovers.remote())
            except self._cluster.ray.exceptions.RayError as error:
                self._say(
                    f"warning: what earlier commands left on {node.host} cannot be sent ({reason(error)})"
                )
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
                self._hear(self._cluster.ray.get(spool_actor.close.remote(left), timeout=left + 5))
            except self._cluster.ray.exceptions.RayError as error:
                self._lost(node, error)
        self._spool_actors.clear()
        return self.n_waiting

    def abandon(self) -> None:
        """What is not known to be on a disk is put on this one."""
        self._take_back([id_ for id_, one in self._unsent.items() if not one.is_written])
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
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            make = self._cluster.ray.remote(SpoolActor).options(
                num_cpus=0, max_restarts=0, max_task_retries=0, max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )  # fmt: skip
            uri = Environment({"MLFLOW_TRACKING_URI": self._context.tracking_uri})
            spool_actor = make.remote(
                self._context.environment(), self._context.spool, uri, self._context.experiment
            )
            self._spool_actors[node] = spool_actor
            self._ask_news(node, spool_actor)
        return self._spool_actors[node]

    def _ask_news(self, node: str, spool_actor: Any) -> None:
        ref = spool_actor.news.remote(_NEWS_SECONDS)

        def told(ref: Any) -> None:
            if self._spool_actors.get(node) is not spool_actor:
                return
            try:
                self._hear(self._cluster.ray.get(ref))
            except self._cluster.ray.exceptions.RayError as error:
                self._lost(node, error)
            else:
                self._ask_news(node, spool_actor)

        self._events.when(ref, told)

    def _hear(self, news: News) -> None:
        for line in news.lines:
            self._say(line)
        for id_ in news.arrived:
            self._unsent.pop(id_, None)
        for id_ in news.refused:
            if self._unsent.pop(id_, None) is not None:
                self._n_refused += 1

    def _written(self, node: str, some: list[_Kept], ref: Any) -> None:
        exceptions = self._cluster.ray.exceptions
        try:
            self._cluster.ray.get(ref)
        except exceptions.RayTaskError as error:
            self._say(
                f"the spool {self._context.spool} of a machine cannot be used ({reason(error)}): this one's is"
            )
            self._no_spool_actor.add(node)
            self._take_back([one.draft.id for one in some])
        except exceptions.RayError as error:
            self._lost(node, error)
        else:
            for one in some:
                one.is_written = True

    def _give_up(self, node: str) -> None:
        self._no_spool_actor.add(node)
        spool_actor = self._spool_actors.pop(node, None)
        if spool_actor is not None:
            self._cluster.ray.kill(spool_actor)

    def _lost(self, node: str, error: BaseException) -> None:
        """A spool actor has ended, perhaps with its machine: what it had not sent is sent from here, still once."""
        if node not in self._spool_actors:
            return
        # one that only does not answer must not send what is sent from here
        self._cluster.ray.kill(self._spool_actors.pop(node))
        self._no_spool_actor.add(node)
        self._cluster.forget_nodes()
        mine = [id_ for id_, one in self._unsent.items() if one.node == node]
        self._say(
            f"a machine's spool is lost ({reason(error)})"
            + (f": {len(mine)} results are sent from here" if mine else "")
        )
        self._take_back(mine)

    def _take_back(self, ids: list[str]) -> None:
        for id_ in ids:
            kept = self._unsent.pop(id_, None)
            if kept is not None:
                draft = kept.draft
                run = draft.make(kept.result)
                self._spool().put(run, experiment_id=draft.experiment_id, record_id=id_, may_be_there=True)


def _planned(result: Finished) -> PlannedCell:
    return result.evaluation.planned if isinstance(result, StoppedCell) else result.planned


def _without_vector(result: Finished) -> Finished:
    if isinstance(result, StoppedCell):
        evaluation = result.evaluation
        bare = replace(evaluation, planned=replace(evaluation.planned, vector=None))
        return replace(result, evaluation=bare)
    return replace(result, planned=replace(result.planned, vector=None))
