"""The cluster: connecting to it quietly, what it has, its processes and what they are told, and what they answer."""

import importlib.util
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from massact import __version__
from massact.errors import UsageError
from massact.evaluation import PlannedCell
from massact.sweep.executors import CommandContext, Environment, RayOptions

_REACH_SECONDS = 5.0
LOOK_SECONDS = 2.0  # how often machines are looked for that have joined or left


def require_ray(options: RayOptions | None) -> None:
    """See that what `--executor ray` needs is there, without loading it; else the command that installs it."""
    if options is None:
        return
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--executor ray needs the package ray: pip install 'massact[ray]'")
    if (options.address or "").startswith("ray://"):
        raise UsageError(
            f"--ray-address {options.address}: Ray's client does not take part in a cluster, which massact has to; run "
            "the command on a machine of the cluster, or with ray job submit (docs/scale.md)"
        )


def reaches_anywhere(tracking_uri: str, artifact_location: str) -> bool:
    """Whether another machine can write to a run store: it is no file of this one, and neither are its artifacts."""
    if tracking_uri.startswith("sqlite") or "://" not in tracking_uri:
        return False
    scheme, mark, _ = artifact_location.partition("://")
    # `mlflow-artifacts:/1/...` goes through the server
    return (bool(mark) and scheme != "file") or artifact_location.startswith("mlflow-artifacts:")


@dataclass(frozen=True, slots=True)
class About:
    """A process of Ray's, as it says itself."""

    node: str
    host: str
    pid: int
    version: str


class Actor:
    """A process that works for the command, on some machine of the cluster."""

    def __init__(self, environment: Environment) -> None:
        """Without a GPU of its own it must not see those of others."""
        import ray

        environment.set()
        assigned = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        if not assigned.get("GPU"):
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def about(self) -> About:
        """Who this is."""
        import ray

        return About(ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid(), __version__)


class ActorError(Exception):
    """An actor has no answer."""


class FailedError(ActorError):
    """Its method raised something."""

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}".rstrip(": "))


class LostError(ActorError):
    """It has ended, or does not answer."""


class GoneError(LostError):
    """What it was to work on is gone, with the machine that kept it."""


class CancelledError(ActorError):
    """The question was taken back."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, alive."""

    id: str
    host: str
    address: str
    cpus: float
    gpus: float


class Cluster:
    """A connection to a cluster, and what the parts of the driver share beside it."""

    def __init__(self, options: RayOptions, context: CommandContext, say: Callable[[str], None]) -> None:
        """Connect; without an address a cluster of this machine alone is started."""
        self.options, self.context, self.say = options, context, say
        self.ray = _quiet_ray()
        self._is_ours = not self.ray.is_initialized()
        if self._is_ours:
            _connect(self.ray, options)
        self.node_id: str = self.ray.get_runtime_context().get_node_id()
        self.host = socket.gethostname()
        self._nodes: dict[str, Node] = {}
        self._looked = -LOOK_SECONDS
        self._vectors: dict[str, Any] = {}
        self._actions: dict[Any, Callable[[Any], None]] = {}

    def nodes(self) -> dict[str, Node]:
        """The machines that are alive, by id, as of some seconds ago at most."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._nodes = {told["NodeID"]: _node(told) for told in self.ray.nodes() if told["Alive"]}
        return self._nodes

    def is_here(self, node_id: str) -> bool:
        """Whether a node is the command's own machine."""
        nodes = self.nodes()
        here, other = nodes.get(self.node_id), nodes.get(node_id)
        if here is None or other is None:
            return node_id == self.node_id
        return (here.host, here.address) == (other.host, other.address)

    def start(
        self, kind: type[Actor], *arguments: Any, node: str | None = None, soft: bool = False, **settings: Any
    ) -> Any:
        """Start an actor with Ray's settings. Ray restarts nothing: only we know what a retry means. `node` is the
        machine that it is meant for, `None` any with room; with `soft` another will do where that has no room."""
        settings = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, **settings}
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            settings["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=soft)
        return self.ray.remote(kind).options(**settings).remote(self.context.environment(), *arguments)

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        """What an actor answers. Raises ActorError: it has no answer."""
        exceptions = self.ray.exceptions
        try:
            return self.ray.get(ref, timeout=timeout)
        except exceptions.TaskCancelledError as error:
            raise CancelledError(str(error)) from None
        except exceptions.RayTaskError as error:
            cause: BaseException = getattr(error, "cause", None) or error
            is_gone = isinstance(cause, exceptions.ObjectLostError)
            raise (GoneError(_reason(cause)) if is_gone else FailedError(cause)) from None
        except exceptions.ObjectLostError as error:
            raise GoneError(_reason(error)) from None
        except exceptions.RayError as error:
            raise LostError(_reason(error)) from None

    def vector_ref(self, planned: PlannedCell) -> Any:
        """A cell's vector in Ray's store, put there once, from where a machine gets it once; `None`: it has none."""
        steering = planned.cell.steering
        if planned.vector is None or steering is None:
            return None
        digest = steering.vector_digest
        if digest not in self._vectors:
            self._vectors[digest] = self.ray.put(planned.vector.float().contiguous().numpy())
        return self._vectors[digest]

    def when(self, ref: Any, action: Callable[[Any], None]) -> None:
        """Do something with a reference once it is ready, or has failed: getting it raises then."""
        self._actions[ref] = action

    def turn(self, seconds: float) -> None:
        """Do what is due; waits for the first such thing, but not longer than that."""
        refs = list(self._actions)
        if not refs:
            time.sleep(min(seconds, 0.05))
            return
        ready, _ = self.ray.wait(refs, num_returns=1, timeout=seconds, fetch_local=False)
        if ready:
            ready, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        for ref in ready:
            if action := self._actions.pop(ref, None):
                action(ref)

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


def _node(told: dict[str, Any]) -> Node:
    cpus, gpus = (float(told["Resources"].get(name, 0)) for name in ("CPU", "GPU"))
    return Node(told["NodeID"], told["NodeManagerHostname"], told["NodeManagerAddress"], cpus, gpus)


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


def _reason(error: BaseException) -> str:
    """Why an actor failed, of the many lines in which Ray says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    dead = next((line for line in lines if line.startswith(("The actor is dead", "The actor died"))), "")
    detail = next((line for line in lines if "Worker exit type" in line or "node" in line.lower()), "")
    return f"{type(error).__name__}: {(detail or dead or (lines[0] if lines else ''))[:300]}"


def reason(error: BaseException) -> str:
    """Why something failed, in a line."""
    return str(error if isinstance(error, ActorError) else FailedError(error))
