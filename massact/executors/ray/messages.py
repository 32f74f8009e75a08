"""What travels between the driver and processes of Ray's. Neither torch nor transformers is loaded for it."""

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from massact import __version__
from massact.domain import Response, Timing
from massact.judges.usage import Usage

if TYPE_CHECKING:
    from massact.executors.base import Finished, MakeRun


class BrokenDeviceError(Exception):
    """The worker's GPU answers nothing any more; only a new process can use it."""


@dataclass(frozen=True, slots=True)
class About:
    """A process of Ray's, as it says itself."""

    node: str
    """Id of its node."""
    host: str
    pid: int
    version: str
    """Of massact."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What was generated for neighbouring cells of a shard, as it travels to a judge."""

    first: int
    """Number of the first of them in the shard."""
    n_cells: int
    responses: tuple[tuple[str, ...], ...]
    """Of each cell, in the order of the questions."""
    seconds: float
    n_tokens: tuple[int, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """What generating a shard cost."""

    seconds: float
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A cell's result as it travels to the driver: everything but the cell."""

    number: int
    """In the shard."""
    responses: tuple[Response, ...] = ()
    timing: Timing | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a judge has to tell beside its verdicts."""

    usage: Usage
    """Since it told the last time."""
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """A result on its way to a spool."""

    id: str
    """Of its record."""
    result: "Finished"
    """Its cell is without its vector."""
    vector: Any
    """A reference to it; `None` where the cell has none."""
    make: "MakeRun"
    experiment_id: str


@dataclass(frozen=True, slots=True)
class News:
    """What became of records."""

    arrived: tuple[str, ...]
    """Ids of those that the store has."""
    refused: tuple[str, ...]
    """Ids of those that it does not take; they stay in the journal."""
    lines: tuple[str, ...]


def about() -> About:
    """This process."""
    import ray

    return About(ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid(), __version__)
