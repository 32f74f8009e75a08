"""What an executor on a cluster works with, and the pieces of work that it hands out."""

from dataclasses import dataclass, replace
from typing import Any

from massact.executors.ray.cluster import Cluster, Events
from massact.executors.ray.crew import Crew, Member
from massact.executors.ray.desks import Desks
from massact.executors.ray.keeping import Keeping, Vectors
from massact.executors.shards import Shard
from massact.pipeline.evaluate import PlannedCell


@dataclass(frozen=True, slots=True)
class Tools:
    """What an executor works with."""

    cluster: Cluster
    events: Events
    vectors: Vectors
    crew: Crew
    desks: Desks
    keeping: Keeping


@dataclass(eq=False, slots=True)
class Task:
    """A shard that a worker has in hand."""

    shard: Shard
    member: Member
    cells: list[PlannedCell]
    account: Any
    """Reference to what it cost, and to the pieces that were generated."""
    pieces: Any


@dataclass(eq=False, slots=True)
class Judging:
    """A part of a shard, from `first` up to `last`, that a judge has in hand."""

    task: Task
    first: int
    last: int
    times_lost: int = 0
    """How often a judge was lost over it."""

    @property
    def shard(self) -> Shard:
        """Its cells, to be generated again."""
        return replace(self.task.shard, cells=self.task.shard.cells[self.first : self.last])
