"""Start a service, say how to use it, watch over its processes, and end them with all their children.

Run as `python -m massact.service.serving PARENT COMMAND…` it becomes a command that is told to end when its parent
dies: a killed `massact serve` would otherwise leave a server behind that nobody watches."""

import configparser
import ctypes
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from massact.addresses import artifacts_shown, local_folder
from massact.errors import MassactError, UsageError
from massact.names import visible
from massact.service.settings import (
    ADMIN_PASSWORD,
    DATABASE_URI,
    LOOPBACK_HOSTS,
    SECRET_KEY,
    Settings,
    Task,
    check,
    is_loopback,
)
from massact.store.databases import address_told
from massact.store.write.tracker import EVALUATIONS, PHASES, view_link

START_SECONDS = 300.0  # how long a server may take until it answers: on a slow machine it imports for a minute
REQUEST_SECONDS = 5  # how long requests that are being answered may go on once the server is told to stop
STOP_SECONDS = 9.0  # after which what still runs is killed; `docker stop` itself waits for 10
_POLL_SECONDS = 0.1
_LINES_KEPT = 15


class Server:
    """A running server. Its log goes to stderr; the last lines are kept for when it dies."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        bound = [sys.executable, "-m", "massact.service.serving", str(os.getpid())]
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._process = subprocess.Popen(
            [*bound, *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches us alone, and one signal reaches all of them
        )
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()

    def wait_until_healthy(self, address: str, stopped: Callable[[], bool]) -> None:
        """Return when the server answers, or is to be stopped; MassactError where it died, or does not answer."""
        deadline = time.monotonic() + START_SECONDS
        while not stopped():
            self._must_live("before it answered")
            if _answers(f"{address}/health"):
                return
            if time.monotonic() > deadline:
                raise MassactError(f"the server did not answer within {START_SECONDS:g} s at {address}/health")
            time.sleep(_POLL_SECONDS)

    def watch(self, stopped: Callable[[], bool]) -> None:
        """Return when the server is to be stopped. Raises MassactError: it died."""
        while not stopped():
            self._must_live("by itself")
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """Let it finish the requests in hand, then leave none of its processes."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._signal(0) and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(_POLL_SECONDS / 2)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._relay.join(1)

    def _must_live(self, when: str) -> None:
        code = self._process.poll()
        if code is None:
            return
        self._relay.join(1)
        said = "".join(self._lines) or "(nothing)\n"
        raise MassactError(f"the server {_ended(code, when, said)}. The last that it said:\n{said.rstrip()}")

    def _signal(self, number: int) -> bool:
        """Send all of its processes a signal, 0 for none. Returns whether there is any."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _pass_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            with suppress(OSError, ValueError):  # nobody reads any more; the server must not block on that
                sys.stderr.write(line)
                sys.stderr.flush()


def _ended(code: int, when: str, said: str) -> str:
    """How a process ended, in words: a signal is named, also one that a child of it says it got."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    told = re.findall(r"[Ee]xit code:? -(\d+)", said)
    what = "was ended" if number else "ended"
    if not number and code and told:
        number, what = int(told[-1]), "ended since one of its processes was ended"
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        why = ": by the system for want of memory, or by somebody" if number == signal.SIGKILL else ""
        return f"{what} by the signal {name}, {when}{why}"
    if code == 0:
        return f"ended {when} (exit code 0), as it does when it is told to by a signal from outside"
    return f"ended {when} (exit code {code})"


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine itself
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


CACHE_SECONDS = 60  # how long a checked password is believed. Without it each request costs MLflow 0.18 s of hashing
AUTH_ENVIRONMENT = {
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    "MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH": "true",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_ENABLE_WORKSPACES": "false",
}
"""With users, whatever of MLflow's has no rules for them is off. None of it is of use here."""


def write_users_file(path: Path, database_uri: str, permission: str) -> None:
    """Write what MLflow's auth app reads, for its owner alone: the URI may hold a password. The admin's never is."""
    parser = configparser.ConfigParser()
    parser["mlflow"] = {
        "default_permission": permission,
        "database_uri": database_uri.replace("%", "%%"),  # a percent sign is a reference to configparser
        "admin_username": "admin",
        "auth_cache_ttl_seconds": str(CACHE_SECONDS),
    }
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        parser.write(file)


APP, APP_WITH_USERS = "massact", "massact-auth"
"""Names of the apps of `massact.server`, as MLflow's entry points have them."""
_DEFAULTS = {
    # a job runner that nothing here uses: half a minute at the start, and half the memory
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated",  # MLflow's business, said by each process
}
"""Of the server's environment; what the user has set stays."""
_NOT_HANDED_ON = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", ADMIN_PASSWORD)
"""What a client's environment may hold and the server must not see. The administrator is made before it starts."""

Say = Callable[[str], None]


def serve(settings: Settings, environment: Mapping[str, str], say: Say) -> None:
    """Serve until SIGINT or SIGTERM, with an environment of resolved secrets; UsageError where nothing was started."""
    check(settings)
    with _signals() as stopped, _users_file(settings) as users:
        server_environment = _environment(settings, environment, users)
        folder = local_folder(settings.artifacts)
        task = Task(settings.database, str(users) if users else None, str(folder) if folder else None)
        prepared = prepare(task, server_environment)
        for note in prepared.notes:
            say(note)
        if stopped():
            return
        for name in _NOT_HANDED_ON:
            server_environment.pop(name, None)
        server = Server(_command(settings), server_environment)
        try:
            server.wait_until_healthy(settings.local_address, stopped)
            if not stopped():
                for line in [*introduction(settings), *view_lines(settings.local_address, prepared.viewed)]:
                    say(line)
            with address_told(settings.database, settings.local_address):
                server.watch(stopped)
        finally:
            server.end()


class Prepared(NamedTuple):
    notes: list[str]  # what was done, in words
    viewed: list[tuple[int, str]]  # id and name of the experiments that have views, the newest first


def prepare(task: Task, environment: Mapping[str, str]) -> Prepared:
    """Have a child do the task. Raises MassactError: it could not be done."""
    done = subprocess.run(
        [sys.executable, "-m", "massact.service.preparing"],
        input=json.dumps(asdict(task)),
        stdout=subprocess.PIPE,
        env=dict(environment),
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C must not break a first migration off in the middle
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        how = f"exit code {done.returncode}" if done.returncode >= 0 else f"the signal {-done.returncode}"
        raise MassactError(f"setting up the service ended with {how}; see above") from None
    if "error" in answer:
        raise (UsageError if answer["exit_code"] == UsageError.exit_code else MassactError)(answer["error"])
    return Prepared(answer["notes"], [(id_, name) for id_, name in answer["viewed"]])


def introduction(settings: Settings) -> list[str]:
    """What a person needs to know once the service answers."""
    address = settings.local_address
    lines = [
        f"artifacts in {artifacts_shown(settings.artifacts)}",
        f"UI:      {address}",
        f"explore: {address}/massact/",
    ]
    clients = [f"export MLFLOW_TRACKING_URI={address}"]
    if settings.auth:
        clients.append("export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…   # or ~/.mlflow/credentials")
    clients.append("massact main --experiment experiments/toy.yaml")
    lines += [f"{'clients:' if line is clients[0] else '':<9}{line}" for line in clients]
    if not is_loopback(settings.host):
        lines.append("         (from other machines: this machine's name instead of the address)")
        if settings.auth:
            lines.append(
                "note: passwords and data cross the network as they are: put a proxy with TLS in front, or a VPN"
            )
    return [*lines, "stop:    Ctrl-C"]


_MOST_VIEWS = 4  # experiments whose views are linked


def view_lines(address: str, experiments: Sequence[tuple[int, str]]) -> list[str]:
    """Links to the views of experiments, each an id and a name."""
    lines = []
    for id_, name in experiments[:_MOST_VIEWS]:
        views = (f"{view:<12} {view_link(address, str(id_), view)}" for view in (EVALUATIONS, PHASES))
        lines += [f"views of {visible(name)}:", *(f"         {view}" for view in views)]
    more = len(experiments) - _MOST_VIEWS
    return lines + ([f"         and of {more} more"] if more > 0 else [])


def allowed_hosts(hosts: tuple[str, ...]) -> str:
    """MLflow's list of Host headers: a name counts with every port, and this machine itself always passes."""
    named = [host for name in hosts for host in ((name,) if set(name) & set(":*") else (name, f"{name}:*"))]
    return ",".join(dict.fromkeys([*named, *LOOPBACK_HOSTS]))


def _command(settings: Settings) -> list[str]:
    app = APP_WITH_USERS if settings.auth else APP
    where = ["--host", settings.host, "--port", str(settings.port), "--workers", str(settings.workers)]
    return [sys.executable, "-m", "mlflow", "server", "--app-name", app, *where]


def _environment(settings: Settings, of_user: Mapping[str, str], users: Path | None) -> dict[str, str]:
    environment = {**_DEFAULTS, **of_user}
    environment[DATABASE_URI] = settings.database
    environment["MLFLOW_ARTIFACTS_DESTINATION"] = settings.artifacts
    if settings.allowed_hosts:
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = allowed_hosts(settings.allowed_hosts)
    if settings.cors_allowed_origins:
        environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(settings.cors_allowed_origins)
    options = [f"--timeout-graceful-shutdown {REQUEST_SECONDS}", of_user.get("MLFLOW_UVICORN_OPTS", "")]
    if not settings.access_log:
        options.insert(0, "--no-access-log")
    environment["MLFLOW_UVICORN_OPTS"] = " ".join(filter(None, options))
    if users is not None:
        environment.update(AUTH_ENVIRONMENT)
        environment["MLFLOW_AUTH_CONFIG_PATH"] = str(users)
        # all workers need the same; a new one at each start only makes forms that were open be sent again
        environment.setdefault(SECRET_KEY, secrets.token_hex(32))
    return environment


@contextmanager
def _users_file(settings: Settings) -> Iterator[Path | None]:
    """The configuration of MLflow's auth app, as long as the service runs."""
    if not settings.auth:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="massact-serve-") as folder:  # for its owner alone
        path = Path(folder, "auth.ini")
        write_users_file(path, settings.users_database, "NO_PERMISSIONS" if settings.private else "READ")
        yield path


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether the service was told to stop. A signal only notes that: what runs is ended in order."""
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2); it outlives exec. Elsewhere the command runs unbound


def main() -> None:
    """Become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before this took effect
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # the command is our own parent's


if __name__ == "__main__":
    main()
