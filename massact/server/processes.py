"""The processes that answer: a few, started when needed, ended when they take too long or have nothing to do.

A thread could not be stopped, and would share Python's lock with those that take in runs.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

from massact.server.problems import BUSY, FAILED, TOO_LONG, Limits, ProblemError

IDLE_SECONDS = 30.0
"""A process that answered about a large store keeps its memory; so none waits longer for the next question."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a process answers: a status, what the answer's head says, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    has_more: bool = False
    """Whether there may be rows beyond these."""


class _Process:
    """One process and the connection to it."""

    def __init__(self, database: str) -> None:
        self._connection, there = Pipe()
        command = [sys.executable, "-m", "massact.server.answering", str(there.fileno())]
        environment = {**os.environ, "MASSACT_SERVER_DATABASE": database}
        with there:
            self._process = subprocess.Popen(
                command, pass_fds=(there.fileno(),), env=environment, stdin=subprocess.DEVNULL
            )

    def ask(self, message: bytes, deadline: float) -> Reply:
        """Its answer. Raises OSError or EOFError where none comes in time, or the process ends."""
        self._connection.send_bytes(message)
        if not self._connection.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        head = json.loads(self._connection.recv_bytes())
        return Reply(**head, body=self._connection.recv_bytes())

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked: it may have been ended for want of memory while it waited."""
        return self._process.poll() is None

    def end(self) -> None:
        """Stop it, whatever it is at."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Processes:
    """A few processes over one database. Threads may share it."""

    def __init__(self, database: str, limits: Limits) -> None:
        self._database, self.limits = database, limits
        self._places = threading.Semaphore(limits.at_once)
        self._lock = threading.Lock()
        self._n_present = 0
        self._idle: list[tuple[float, _Process]] = []
        self._reaper: threading.Thread | None = None

    def ask(self, question: Mapping[str, Any]) -> Reply:
        """The answer to a question.

        Raises:
            ProblemError: too many ask at once, it takes too long, or the process failed.
        """
        deadline = time.monotonic() + self.limits.seconds
        message = json.dumps(question).encode()
        with self._lock:
            if self._n_present >= self.limits.at_once + self.limits.waiting:
                raise self._busy()
            self._n_present += 1
        try:
            if not self._places.acquire(timeout=self.limits.seconds):
                raise self._busy()
            try:
                return self._ask(message, deadline)
            finally:
                self._places.release()
        finally:
            with self._lock:
                self._n_present -= 1

    def _ask(self, message: bytes, deadline: float) -> Reply:
        process = self._take()
        try:
            reply = process.ask(message, deadline)
        except TimeoutError:
            process.end()
            raise ProblemError(
                TOO_LONG,
                f"the question was given up after {self.limits.seconds:g} s: ask for less with filters, or leave "
                f"intervals out; whoever runs the server may raise MASSACT_SERVER_SECONDS",
            ) from None
        except (OSError, EOFError) as error:
            process.end()
            raise ProblemError(FAILED, "the process that answers ended unexpectedly") from error
        except BaseException:
            process.end()
            raise
        with self._lock:
            self._idle.append((time.monotonic(), process))
            if self._reaper is None:
                self._reaper = threading.Thread(target=self._reap, daemon=True)
                self._reaper.start()
        return reply

    def _busy(self) -> ProblemError:
        return ProblemError(
            BUSY,
            f"{self.limits.at_once} questions are being answered and {self.limits.waiting} wait: ask again in a moment",
            retry_after=2,
        )

    def _take(self) -> _Process:
        with self._lock:
            waiting = [self._idle.pop()[1] for _ in range(len(self._idle))]
            found = next((one for one in waiting if one.is_alive), None)
            now = time.monotonic()
            self._idle = [(now, one) for one in waiting if one is not found and one.is_alive]
        for one in waiting:
            if not one.is_alive:
                one.end()
        return found or _Process(self._database)

    def _reap(self) -> None:
        """End those that were not asked for a while; ends itself when none is left."""
        while True:
            time.sleep(IDLE_SECONDS / 4)
            with self._lock:
                before = time.monotonic() - IDLE_SECONDS
                old = [process for since, process in self._idle if since < before]
                self._idle = [one for one in self._idle if one[0] >= before]
                is_done = not self._idle
                if is_done:
                    self._reaper = None
            for process in old:
                with suppress(OSError):
                    process.end()
            if is_done:
                return

    def close(self) -> None:
        """End the processes that have nothing to do."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, process in idle:
            process.end()
