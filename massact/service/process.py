"""The server's processes: started, waited for until they answer, watched, and ended with all their children.

Run as `python -m massact.service.process PARENT COMMAND…` it becomes a command that is told to end when its parent
dies: a killed `massact serve` would otherwise leave a server behind that nobody watches.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping

from massact.errors import MassactError

START_SECONDS = 300.0
"""How long a server may take until it answers: on a slow machine it imports for a minute."""
REQUEST_SECONDS = 5
"""How long requests that are being answered may go on once the server is told to stop."""
STOP_SECONDS = 9.0
"""After which what still runs is killed; `docker stop` itself waits for 10."""
_POLL_SECONDS = 0.1
_LINES_KEPT = 15


class Server:
    """A running server. Its log goes to stderr; the last lines are kept for when it dies."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        bound = [sys.executable, "-m", "massact.service.process", str(os.getpid())]
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
        """Return when the server answers, or when it is to be stopped.

        Raises:
            MassactError: it died, or does not answer.
        """
        deadline = time.monotonic() + START_SECONDS
        while not stopped():
            self._must_live("before it answered")
            if _answers(f"{address}/health"):
                return
            if time.monotonic() > deadline:
                raise MassactError(
                    f"the server did not answer within {START_SECONDS:g} s at {address}/health"
                )
            time.sleep(_POLL_SECONDS)

    def watch(self, stopped: Callable[[], bool]) -> None:
        """Return when the server is to be stopped.

        Raises:
            MassactError: it died.
        """
        while not stopped():
            self._must_live("by itself")
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """Let it finish the requests in hand, then leave none of its processes."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._has_processes() and time.monotonic() < deadline:
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

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _has_processes(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _pass_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            with contextlib.suppress(
                OSError, ValueError
            ):  # nobody reads any more; the server must not block on that
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


_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2); it outlives exec. Elsewhere the command runs unbound."""


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
