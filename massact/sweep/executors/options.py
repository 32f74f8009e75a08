"""What a command line says of the executor. Standard library only, so that a command can be read without one."""

from dataclasses import dataclass
from pathlib import Path

from massact.domain import DEFAULT_ALIKE, DEFAULT_BUDGET
from massact.store.spool import DEFAULT_SPOOL


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How cells are run with Ray."""

    address: str | None = None
    """Of a cluster that runs; `None`: that of the environment (`RAY_ADDRESS`), else one of this machine alone."""
    workers: int = 0
    """Workers that are wanted; 0: as many as the cluster has room for, more when it grows."""
    gpus_per_worker: float | None = None
    """GPUs of each, or a part of one; `None`: 1 where the cluster has GPUs, else none and one processor."""
    gpus_per_judge: float = 0
    """GPUs of each judge that is a local model; 0: it stays on processors."""
    judges_per_node: int = 1
    """Judges beside the workers of a machine."""


# How a command does its work.


@dataclass(frozen=True, slots=True)
class Workload:
    """How work is done; none of it but `alike` changes a result."""

    batch_rows: int = 0
    """Responses generated side by side at most; 0: as many as are of use and fit in memory."""
    save_responses: str = "all"
    """`all`, `best` (those that were the best of their group when they were made) or `none`."""
    max_rounds: int = DEFAULT_BUDGET
    """Rounds of the search with which a phase fills its gaps: coefficients tried at one layer of a gap."""
    spool: Path = Path(DEFAULT_SPOOL)
    """Folder where finished evaluations are kept until the run store has them."""
    store_timeout: float = 3600
    """Seconds that a run store which is down is waited for, once work is under way."""
    alike: float | None = DEFAULT_ALIKE
    """Labels whose vectors are more alike than this are evaluated once; `None`: each is evaluated itself."""
    ray: RayOptions | None = None
    """How cells are run on a cluster of Ray's; `None`: in this process."""
