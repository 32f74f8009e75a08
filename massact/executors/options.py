"""What a command line says of the executor. Standard library only, so that a command can be read without one."""

from dataclasses import dataclass


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
