"""The cluster: connecting to it quietly, what it has, and waiting for what its processes answer."""

import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from massact import __version__
from massact.domain import Response, Timing
from massact.errors import UsageError
from massact.judges.base import Usage
from massact.sweep.executors.options import RayOptions

if TYPE_CHECKING:
    from massact.sweep.executors.base import Finished, MakeRun


_REACH_SECONDS = 5.0
LOOK_SECONDS = 2.0
"""How often machines are looked for that have joined or left."""


def require_ray(options: RayOptions | None) -> None:
    """See that what `--executor ray` needs is there, without loading it.

    Raises:
        UsageError: it is not; the message has the command that installs it.
    """
    if options is None:
        return
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--executor ray needs the package ray: pip install 'massact[ray]'")
    if (options.address or "").startswith("ray://"):
        raise UsageError(
            f"--ray-address {options.address}: Ray's client does not take part in a cluster, which massact has to; run "
            "the command on a machine of the cluster, or with ray job submit (docs/scale.md)"
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, alive."""

    id: str
    host: str
    address: str
    cpus: float
    gpus: float


class Cluster:
    """A connection to a cluster."""

    def __init__(self, options: RayOptions) -> None:
        """Connect; without an address a cluster of this machine alone is started.

        Raises:
            UsageError: there is no cluster at the address.
        """
        self.ray = _quiet_ray()
        self._is_ours = not self.ray.is_initialized()
        if self._is_ours:
            _connect(self.ray, options)
        self.node_id: str = self.ray.get_runtime_context().get_node_id()
        self.host = socket.gethostname()
        self._nodes: dict[str, Node] = {}
        self._looked = -LOOK_SECONDS

    def nodes(self) -> dict[str, Node]:
        """The machines that are alive, by id, as of some seconds ago at most."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._nodes = {one.id: one for one in map(_node, self.ray.nodes()) if one is not None}
        return self._nodes

    def is_here(self, node_id: str) -> bool:
        """Whether a node is the command's own machine."""
        nodes = self.nodes()
        here, other = nodes.get(self.node_id), nodes.get(node_id)
        if here is None or other is None:
            return node_id == self.node_id
        return (here.host, here.address) == (other.host, other.address)

    def forget_nodes(self) -> None:
        """Look again at the next question: something was lost."""
        self._looked = -LOOK_SECONDS

    def disconnect(self) -> None:
        """Let go of the cluster; what this process has started in it ends. One that was there before stays."""
        if self._is_ours:
            self.ray.shutdown()


def _connect(ray: Any, options: RayOptions) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {}
    _check_reachable(address)
    if address == "local":
        # where workers need no GPU, as many are started as are wanted
        settings = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, options.workers)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **settings)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "; where the cluster wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise UsageError(f"no cluster of Ray's at {address}: {text}{hint}") from error
    finally:
        # Ray takes SIGTERM for itself; how a command ends is massact's
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Ray itself would ask for minutes, and write of it to our stderr."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"no cluster of Ray's at {address}: {error}; start one with ray start --head (docs/scale.md)"
        ) from error


def _node(found: dict[str, Any]) -> Node | None:
    if not found["Alive"]:
        return None
    resources = found["Resources"]
    return Node(
        found["NodeID"],
        found["NodeManagerHostname"],
        found["NodeManagerAddress"],
        float(resources.get("CPU", 0)),
        float(resources.get("GPU", 0)),
    )


def _quiet_ray() -> Any:
    """Ray, told to send no statistics to its makers and to write nothing to our stdout."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns where this is left open
    import ray
    from ray._private import worker

    # what a node reports of dead processes goes to stdout, whatever log_to_driver says; we report it ourselves
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_args, **_kwargs: None
    return ray


class Events:
    """What is waited for, and what to do when it is there."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._actions: dict[Any, Callable[[Any], None]] = {}

    def when(self, ref: Any, action: Callable[[Any], None]) -> None:
        """Do something with a reference once it is ready, or has failed: getting it raises then."""
        self._actions[ref] = action

    def turn(self, seconds: float) -> None:
        """Do what is due; waits for the first such thing, but not longer than that."""
        refs = list(self._actions)
        if not refs:
            time.sleep(min(seconds, 0.05))
            return
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=seconds, fetch_local=False)
        if ready:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        for ref in ready:
            action = self._actions.pop(ref, None)
            if action is not None:
                action(ref)


def reason(error: BaseException) -> str:
    """Why a process of Ray's failed, in a line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}".rstrip(": ")
    lines = [one.strip() for one in str(error).splitlines() if one.strip()]
    told = next((one for one in lines if one.startswith(("The actor is dead", "The actor died"))), "")
    detail = next((one for one in lines if "Worker exit type" in one or "node" in one.lower()), "")
    text = detail or told or (lines[0] if lines else "")
    return f"{type(error).__name__}: {text[:300]}"


# What travels between the driver and processes of Ray's. Neither torch nor transformers is loaded for it.


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
