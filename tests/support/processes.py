"""Commands in processes of their own that begin at once: forks of a parent that has imported everything.

A process of `python -m massact` takes seconds until it has imported what it needs. These are as real (a pid, signals,
pipes, an environment and a working directory of their own, killed with -9 like any other), but are forked from a parent
that is started once for all tests of a process. What tests what a process imports starts one by `subprocess`.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock, Thread
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
_PARENT = Path(__file__).with_name("process_parent.py")
_ONE_AT_A_TIME = Lock()
"""Two threads that begin at once share the parent."""


class Process:
    """`python -m MODULE ARGUMENTS`, used like `subprocess.Popen` in text mode."""

    def __init__(
        self,
        module: str,
        *arguments: str | Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] | IO[str] = subprocess.PIPE,
        stderr: int | IO[bytes] | IO[str] = subprocess.PIPE,
        start_new_session: bool = False,
    ) -> None:
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout)
        self.stderr, errors = (None, os.dup(out)) if stderr == subprocess.STDOUT else _stream(stderr)
        self._status, status = os.pipe()
        asked = {
            "module": module,
            "arguments": [str(word) for word in arguments],
            "folder": str(cwd),
            "environment": dict(os.environ if env is None else env),
            "new_session": start_new_session,
        }
        fds = [out, errors, status]
        with _ONE_AT_A_TIME:
            socket.send_fds(_parent(), [json.dumps(asked).encode()], fds)
        for fd in fds:
            os.close(fd)
        self.pid = self._number()

    def _number(self) -> int:
        """The next that the parent tells: the pid first, then the exit code."""
        told = os.read(self._status, 4)
        if len(told) != 4:
            raise RuntimeError("the parent of the tests' processes is gone")
        return int.from_bytes(told, "big", signed=True)

    def poll(self) -> int | None:
        """The exit code; `None` while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = self._number()
            os.close(self._status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        if self.returncode is None:
            select.select([self._status], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("massact", timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to stdout and to stderr, once it has ended."""
        texts = ["", ""]

        def read(place: int, stream: IO[str]) -> None:
            with stream:
                texts[place] = stream.read()

        streams = enumerate((self.stdout, self.stderr))
        readers = [Thread(target=read, args=one, daemon=True) for one in streams if one[1] is not None]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts[0], texts[1]

    def read_until(self, words: str) -> str:
        """What it writes to stderr until it has said some words; `communicate` gives the rest."""
        assert self.stderr is not None
        said = ""
        while words not in said:
            line = self.stderr.readline()
            assert line, f"it never said {words!r}:\n{said}"
            said += line
        return said

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self, number: int = signal.SIGKILL) -> None:
        """A signal to all of its session; it was started in a new one."""
        if self.poll() is None:
            os.killpg(self.pid, number)


def massact(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Process:
    """A command of massact, its output in pipes."""
    return Process("massact", *arguments, cwd=cwd, env=env)


def run_module(
    module: str, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 900
) -> "subprocess.CompletedProcess[str]":
    """`python -m MODULE ARGUMENTS`, or with the module `-c` some code, run to its end."""
    process = Process(module, *arguments, cwd=cwd, env=env)
    try:
        out, errors = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess([module, *map(str, arguments)], process.wait(), out, errors)


def run_massact(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 900
) -> "subprocess.CompletedProcess[str]":
    """A command of massact, run to its end."""
    return run_module("massact", *arguments, cwd=cwd, env=env, timeout=timeout)


def _stream(asked: int | IO[bytes] | IO[str]) -> tuple[IO[str] | None, int]:
    """Our end of a stream, where there is a pipe, and the process's."""
    if asked == subprocess.PIPE:
        ours, theirs = os.pipe()
        return os.fdopen(ours, encoding="utf-8"), theirs
    if asked == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    return None, os.dup(asked if isinstance(asked, int) else asked.fileno())


@cache
def _parent() -> socket.socket:
    """The connection to the parent of all; it ends with the last of them.

    Processes of one test session share the parent: whoever takes its name first starts it.
    """
    name = f"\0massact-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID') or os.getpid()}"
    listener, link = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    with listener, contextlib.suppress(OSError):  # another has the name
        listener.bind(name)
        listener.listen()
        _start_parent(listener)
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):  # the other does not listen yet
            link.connect(name)
            break
        time.sleep(0.01)
    else:
        raise RuntimeError("the parent of the tests' processes did not start")
    atexit.register(link.close)
    return link


def _start_parent(listener: socket.socket) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.Popen(
        [sys.executable, str(_PARENT), str(listener.fileno())],
        pass_fds=[listener.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests
    )
