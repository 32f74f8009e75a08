"""Executors: who runs the cells of a plan. `local` is this process, `ray` a cluster.

Each satisfies `massact.sweep.executors.base.Executor`; `tests/sweep/test_executors.py` runs each through the same
contract. Other packages add executors by entry points (docs/extending.md). Here is how a command does its work and what
an executor is told of it; nothing heavy is loaded to read a command line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from massact.domain import DEFAULT_ALIKE, DEFAULT_BUDGET, DEFAULT_SPOOL
from massact.plugins import OWN_CODE

EXECUTORS = ("local", "ray")  # massact's own


_PREFIXES = ("MLFLOW_TRACKING_", "MLFLOW_S3_", "MLFLOW_HTTP_", "AWS_", "AZURE_STORAGE_", "OPENAI_")
_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TOKENIZERS_PARALLELISM", OWN_CODE)
_OF_THE_MACHINE = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
"""Files: each machine has its own."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How cells are run with Ray."""

    address: str | None = None
    """Of a cluster that runs; `None`: that of the environment (`RAY_ADDRESS`), else one of this machine alone."""
    workers: int = 0  # workers that are wanted; 0: as many as the cluster has room for, more when it grows
    gpus_per_worker: float | None = None
    """GPUs of each, or a part of one; `None`: 1 where the cluster has GPUs, else none and one processor."""
    gpus_per_judge: float = 0
    judges_per_node: int = 1


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables that a process elsewhere gets; their values are in no repr, and so in no log."""

    values: Mapping[str, str] = field(repr=False)

    def set(self) -> None:
        """Set them in this process."""
        os.environ.update(self.values)


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The command's own place, as others need to know it."""

    tracking_uri: str = field(repr=False)  # it may hold a password
    experiment: str
    spool: Path  # whole path of the spool's folder: it is the same on every machine
    key_variable: str  # environment variable that holds the judge's key

    def environment(self) -> Environment:
        """Logins, keys and tokens of this process that an actor may need. Ray writes the variables of a `runtime_env`
        into its logs; arguments of an actor it does not."""
        wanted = {
            name: value
            for name, value in os.environ.items()
            if (name.startswith(_PREFIXES) and name not in _OF_THE_MACHINE) or name in (*_NAMES, self.key_variable)
        }
        return Environment({**wanted, "MLFLOW_TRACKING_URI": self.tracking_uri})


@dataclass(frozen=True, slots=True)
class Workload:
    """How work is done; none of it but `alike` changes a result."""

    batch_rows: int = 0  # responses generated side by side at most; 0: as many as are of use and fit in memory
    save_responses: str = "all"  # `all`, `best` (those that were the best of their group when they were made) or `none`
    max_rounds: int = DEFAULT_BUDGET
    """Rounds of the search with which a phase fills its gaps: coefficients tried at one layer of a gap."""
    spool: Path = Path(DEFAULT_SPOOL)
    store_timeout: float = 3600  # seconds that a run store which is down is waited for, once work is under way
    alike: float | None = DEFAULT_ALIKE
    """Labels whose vectors are more alike than this are evaluated once; `None`: each is evaluated itself."""
    force: bool = False  # whether to go on where the judge leaves most canaries or the baseline unscored
    executor: str = "local"  # who runs cells: `local`, or what another package adds
    ray: RayOptions | None = None  # how cells are run on a cluster of Ray's; `None`: as `executor` says
