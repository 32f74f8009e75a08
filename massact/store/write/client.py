"""MLflow's client of a tracking store: set up, tried once, and explained where it fails."""

import getpass
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from massact.addresses import first_line, hide_passwords, is_database, shown_uri
from massact.errors import RunRefusedError, StoreError, UnusableStoreError
from massact.json_text import parse_json, read_as
from massact.store.credentials import find_login
from massact.store.retry import is_final
from massact.store.schema import TAG_LIMIT, Artifact, Kind, MlflowTag, Tag, encode_row
from massact.store.schema.names import SCHEMA_VERSION
from massact.store.schema.rows import Row
from massact.store.write.database import TrackingDatabase
from massact.store.write.finished_run import FinishedRun, Step

_ENVIRONMENT = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # over a server it would print two lines on standard output for each run that ends
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # bounded retries: the default waits four minutes for a server that is not there
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}
"""Defaults for MLflow's client; what the user has set stays."""


def connect(tracking_uri: str, *, say: Callable[[str], None] = lambda _line: None) -> Any:
    """MLflow's client of a tracking store that answers, made where it is a database that is not there; StoreError else.
    `say` is told where a half-made one was set aside."""
    set_up_client()
    if tracking_uri.startswith(("http://", "https://")):
        find_login()  # MLflow's own error about a credentials file quotes it
    elif is_database(tracking_uri):
        with closing(TrackingDatabase(tracking_uri, shown_uri(tracking_uri))) as database:
            database.make_ready(None, say)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        # MLflow lets SQLAlchemy's, requests' and its own errors through here, and a driver's that is not installed;
        # anything else is a bug of ours
        is_known = isinstance(error, MlflowException | OSError | ImportError)
        if not is_known and "sqlalchemy" not in type(error).__module__:
            raise
        raise (UnusableStoreError if isinstance(error, ImportError) else StoreError)(
            f"tracking store {shown_uri(tracking_uri)} cannot be used: {without_password(error, tracking_uri)} "
            "Check --tracking-uri or MLFLOW_TRACKING_URI, and that the server runs"
        ) from error
    return client


@cache
def set_up_client() -> None:
    """Import MLflow with few retries and without its chatter."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  sets up the loggers that are turned down next

    # they tell of every migration step and download
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # every attempt to reach a database, with SQLAlchemy's whole text; what came of them is raised
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # every retry; what came of them is raised


def without_password(error: Exception, tracking_uri: str) -> str:
    """The first line of an error, without the passwords that the URI may hold."""
    return hide_passwords(first_line(error), tracking_uri)


@contextmanager
def explained(tracking_uri: str) -> Iterator[None]:
    """MLflow's errors and the system's in one line: RunRefusedError where they would come again, else StoreError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = f"tracking store {shown_uri(tracking_uri)}: {without_password(error, tracking_uri)}"
        raise (RunRefusedError if is_final(error) else StoreError)(reason) from error


# Who ran what: the tags that MLflow's client leaves to its caller.


@lru_cache(maxsize=1)
def provenance_tags() -> dict[str, str]:
    """User, source, git commit and whether the tree was dirty, read once per process."""
    tags = {
        MlflowTag.USER.value: _user(),
        MlflowTag.SOURCE.value: Path(sys.argv[0]).name or "massact",
        MlflowTag.SOURCE_TYPE.value: "LOCAL",
        Tag.SCHEMA.value: str(SCHEMA_VERSION),
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags[MlflowTag.GIT_COMMIT.value] = commit
        tags[Tag.GIT_DIRTY.value] = "true" if _git("status", "--porcelain", "--untracked-files=no") else "false"
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "unknown"


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# Making a run so that it is made once: a request whose answer was lost is not made again unseen.

_PLACE = "/api/2.0/mlflow/runs/create"


def make_run(
    client: Any, tracking_uri: str, experiment_id: str, *, name: str, started_at: int, tags: Mapping[str, str]
) -> tuple[str, str]:
    """Make a run, on a tracking server by one request. Returns its id and artifact URI. MLflow's client would ask a
    server again after a time-out or an error 500, and so make a second run; here the caller looks what is there
    first."""
    uri = tracking_uri.strip()
    if not uri.lower().startswith(("http://", "https://")):
        made = client.create_run(experiment_id, start_time=started_at, tags=dict(tags), run_name=name)
        return str(made.info.run_id), str(made.info.artifact_uri)
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    body = {
        "experiment_id": experiment_id,
        "user_id": tags.get(MlflowTag.USER, "unknown"),
        "start_time": started_at,
        "run_name": name,
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    answer = http_request(credentials, _PLACE, "POST", max_retries=0, json=body)  # type: ignore[no-untyped-call]
    content = verify_rest_response(answer, _PLACE).json()
    try:
        return str(content["run"]["info"]["run_id"]), str(content["run"]["info"]["artifact_uri"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"tracking store {shown_uri(uri)} answers, but not as MLflow does") from error


def find_run(
    client: Any, experiment_id: str, *, name: str, started_at: int, tags: Mapping[str, str]
) -> tuple[str, str] | None:
    """The run that an earlier `make_run` made: a process makes no two of one name in one millisecond."""
    runs = client.search_runs([experiment_id], filter_string=f"attributes.start_time = {started_at}", max_results=1000)
    for run in runs:
        if run.info.run_name == name and run.data.tags.get(Tag.PROCESS) == tags.get(Tag.PROCESS):
            return str(run.info.run_id), str(run.info.artifact_uri)
    return None


_MAX_METRICS, _MAX_PARAMS = 1000, 100


def log_in_batches(client: Any, run_id: str, params: Mapping[str, str], steps: Iterable[Step], *, at: int) -> None:
    """Log params and metrics in as few requests as the server's limits allow; `at` in ms since 1970."""
    from mlflow.entities import Metric, Param

    all_metrics = [Metric(step.name, step.value, at, step.step) for step in steps]
    all_params = [Param(key, value) for key, value in params.items()]
    while all_metrics or all_params:
        params_now, all_params = all_params[:_MAX_PARAMS], all_params[_MAX_PARAMS:]
        room = _MAX_METRICS - len(params_now)
        metrics_now, all_metrics = all_metrics[:room], all_metrics[room:]
        client.log_batch(run_id, metrics=metrics_now, params=params_now)


# Which process works on a run that is open, and whether that process still lives.

_PROC = Path("/proc")
_ENDED = ("Z", "X", "x")  # states of a process that runs no more: one that nobody has waited for yet, and dead ones


@dataclass(frozen=True, slots=True)
class Process:
    """A process, so that no other is taken for it. Empty and `None` where the system does not tell."""

    host: str
    machine: str  # digest of the machine's id: two machines may have one name
    boot: str  # of this boot of the machine
    space: str  # the namespace in which the pid counts: each container may have its own
    pid: int
    started: int | None  # clock ticks between the boot and the process's start


def process_tag() -> str:
    """This process, for the tag `massact.process` of a run that it opens."""
    return json.dumps(asdict(this_process()), separators=(",", ":"))


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()  # asked each time: after a fork it is another one
    state = _state(pid)
    return Process(*_surroundings(), pid, state[1] if state else None)


def read_process(text: str | None) -> Process | None:
    """The process in a tag's text; `None` where there is none or it cannot be read."""
    try:
        process: Process = read_as(Process, parse_json(text or ""))
    except (ValueError, TypeError):
        return None
    return process


def is_alive(process: Process) -> bool | None:
    """Whether a process still runs; `None` where that cannot be known from here."""
    host, machine, boot, space = _surroundings()
    if (process.host, process.machine) != (host, machine):
        return None
    if process.boot != boot:
        # a machine without an id may be another one of the same name
        return False if machine and process.boot and boot else None
    if process.space != space:
        return None
    return _runs(process)


def _runs(process: Process) -> bool | None:
    if process.pid <= 0:
        return None
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's, or none at all: what the system tells of it decides
    state = _state(process.pid)
    if state is None:
        # no /proc, or one that hides what others run: then the pid alone says that it lives
        return True if process.started is None else None
    letter, started = state
    return letter not in _ENDED and process.started in (None, started)


def _state(pid: int) -> tuple[str, int] | None:
    """State and start of a process; `None` where the system does not tell."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name before may hold anything
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def _surroundings() -> tuple[str, str, str, str]:
    """Host, machine, boot and namespace of pids."""
    machine = _text(Path("/etc/machine-id")) or _text(Path("/var/lib/dbus/machine-id"))
    # systemd wants the id itself kept on the machine
    digest = sha256(f"massact {machine}".encode()).hexdigest()[:16] if machine else ""
    try:
        space = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        space = ""
    return socket.gethostname(), digest, _text(_PROC / "sys/kernel/random/boot_id"), space


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


# Tags of the runs we write, and how long one may be.


def run_tags(kind: Kind, experiment: str, name: str) -> dict[str, str]:
    """Tags that every run of ours has."""
    tags = {Tag.KIND.value: kind.value, Tag.EXPERIMENT.value: experiment, MlflowTag.NAME.value: name}
    return provenance_tags() | tags


def row_tags(row: Row) -> dict[str, str]:
    """Tags of a run that holds a row."""
    tags = {Tag.KEY.value: row.key, Tag.ROW.value: encode_row(row)}
    if row.cell is not None and len(row.cell) <= TAG_LIMIT:
        tags[Tag.CELL.value] = row.cell
    return tags


def row_run(
    row: Row, name: str, *, ended_at: int, started_at: int | None = None, tags: Mapping[str, str] = {},
    files: Mapping[str, bytes] = {}, **fields: Any,
) -> FinishedRun:  # fmt: skip
    """The run that holds a row; without a start it took no time. Raises ValueError: the row does not fit in a tag."""
    cell = (row.cell or "").encode()  # where it is too long for its tag
    return FinishedRun(
        name=name,
        tags=run_tags(row.kind, row.experiment, name) | row_tags(row) | dict(tags),
        started_at=ended_at if started_at is None else started_at,
        finished_at=ended_at,
        files={**({Artifact.CELL.value: cell} if len(cell) > TAG_LIMIT else {}), **files},
        **fields,
    )


def parent_tags(run_id: str) -> dict[str, str]:
    """Tags of a run that lies under another in the UI."""
    return {MlflowTag.PARENT.value: run_id, Tag.PARENT.value: run_id}


def fit_tag(text: str) -> str:
    """A text as long as a tag may be: MLflow would cut it anywhere, without a word."""
    if len(text) <= TAG_LIMIT:
        return text
    mark = "\n\n(cut: the rest is in the run's artifacts)"
    kept = text[: TAG_LIMIT - len(mark)]
    return (kept.rpartition("\n")[0] or kept) + mark
