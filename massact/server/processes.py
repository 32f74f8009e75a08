"""How a request is answered by a process, or refused with a problem (RFC 9457): what went wrong and what to do.

A thread could not be stopped, and would share Python's lock with those that take in runs. So a few processes answer,
started when needed, ended when they take too long or have nothing to do."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from multiprocessing import Pipe
from typing import Any

from massact.errors import (
    ConfigError,
    MassactError,
    NoMatrixError,
    StoreError,
    UnknownExperimentError,
    UnknownNameError,
)
from massact.floors import Floor

PROBLEM_TYPE = "application/problem+json"
ABOUT = "https://massact.invalid/problems/"  # what problem types begin with: names, which nothing has to answer at


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem: its status, its name at the end of the type, and its title."""

    status: int
    name: str
    title: str

    def body(self, detail: str) -> bytes:
        """A problem of the kind as JSON."""
        content = {"type": ABOUT + self.name, "title": self.title, "status": self.status, "detail": detail}
        return (json.dumps(content) + "\n").encode()


class Kinds:
    """Every kind there is."""

    BAD_PARAMETER = Kind(400, "bad-parameter", "A parameter is not as the description says")
    BAD_BODY = Kind(400, "bad-body", "The request's body is not as the description says")
    NOT_LOGGED_IN = Kind(401, "not-logged-in", "The login is missing or refused")
    FORBIDDEN = Kind(403, "forbidden", "This may not be read")
    UNKNOWN_EXPERIMENT = Kind(404, "unknown-experiment", "No experiment of that name that you may read")
    UNKNOWN_NAME = Kind(404, "unknown-name", "The experiment has nothing of that name")
    NOT_FOUND = Kind(404, "not-found", "There is nothing at this address")
    NOT_ALLOWED = Kind(405, "method-not-allowed", "This address is not asked in that way")
    NO_MATRIX = Kind(422, "no-matrix", "Nothing declares what should be there")
    UNANSWERABLE = Kind(422, "unanswerable", "The question cannot be answered as it is asked")
    TOO_LARGE = Kind(422, "answer-too-large", "The answer is larger than this server gives")
    BODY_TOO_LARGE = Kind(413, "body-too-large", "The request's body is too large")
    FAILED = Kind(500, "failed", "The server failed; its log says why")
    NO_DATABASE = Kind(501, "no-database", "This server's runs are not in a database that can be read")
    BUSY = Kind(503, "busy", "Too many questions at once")
    STORE_DOWN = Kind(503, "store-down", "The run store cannot be read now")
    TOO_LONG = Kind(504, "too-long", "The question took longer than this server works on one")


KINDS = tuple(kind for kind in vars(Kinds).values() if isinstance(kind, Kind))
_QUERY_CANCELED = "57014"  # PostgreSQL's state


class ProblemError(Exception):
    """A request that is refused, or cannot be answered: raised by whatever reads, admits or answers it."""

    def __init__(self, kind: Kind, detail: str, *, retry_after: int | None = None) -> None:
        """`detail`: what is wrong here, and what to do; `retry_after`: seconds after which it may go well."""
        super().__init__(detail)
        self.kind, self.detail, self.retry_after = kind, detail, retry_after

    @property
    def reply(self) -> "Reply":
        again = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return Reply(self.kind.status, {"Content-Type": PROBLEM_TYPE, **again}, self.kind.body(self.detail))


def kind_of_status(status: int) -> Kind:
    """The kind of an error that something else than the questions answered with."""
    known = {kind.status: kind for kind in KINDS if kind.status in (401, 403, 404, 405, 413)}
    return known.get(status) or Kind(status, "refused", "The server refuses this request")


def problem_of(error: MassactError, experiment: str) -> ProblemError:
    """An error of ours, as a problem. Messages that speak of files are said anew: the server reads none."""
    if isinstance(error, UnknownExperimentError):
        return ProblemError(
            Kinds.UNKNOWN_EXPERIMENT,
            f"no experiment {experiment!r} with evaluations that you may read: give the name that its file declares",
        )
    if isinstance(error, UnknownNameError):
        return ProblemError(Kinds.UNKNOWN_NAME, str(error))
    if isinstance(error, NoMatrixError):
        return ProblemError(
            Kinds.NO_MATRIX,
            f"nothing that you may read says what the experiment {experiment!r} declares: run a phase of its file "
            "once (massact evaluate, phase1 to phase3 or main), which keeps it in the store, or ask with the file "
            "(massact gaps --experiment FILE)",
        )
    if isinstance(error, StoreError):
        # PostgreSQL broke off a statement that took too long
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) == _QUERY_CANCELED:
            return ProblemError(Kinds.TOO_LONG, "the database was given up on after this server's limit: ask for less")
        # the message names the database, which is nobody's business
        return ProblemError(
            Kinds.STORE_DOWN, "the run store cannot be read now; the server's log says why", retry_after=5
        )
    return ProblemError(Kinds.UNANSWERABLE, str(error))


# how much a question may take

PREFIX = "MASSACT_SERVER_"
MAX_ROWS = 10_000  # rows of `runs` in one answer


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process of the server; `mlflow server` starts several (`--workers`)."""

    seconds: float = 60.0  # how long a question may take, its wait for a free place included
    at_once: int = 2  # questions that are worked on side by side, each in a process of its own
    waiting: int = 8
    """Questions that may wait for a place; further ones are refused. MLflow serves at most 40 requests at once."""
    megabytes: float = 64.0  # an answer's size; raw points for massact itself may have four times that

    @property
    def answer_bytes(self) -> int:
        return int(self.megabytes * 1e6)


def limits_of(environment: Mapping[str, str] = os.environ) -> Limits:
    """The limits that the environment sets, such as MASSACT_SERVER_SECONDS."""
    given = {}
    for field in fields(Limits):
        name = PREFIX + field.name.upper()
        if text := environment.get(name):
            given[field.name] = _number(name, text, type(field.default))
    return Limits(**given)


def _number(name: str, text: str, kind: type[Any]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        whole = "whole " if kind is int else ""
        raise ConfigError(f"{name} is {text!r}: write a {whole}number above 0")
    return value


# The processes that answer.

IDLE_SECONDS = 30.0
"""A process that answered about a large store keeps its memory; so it ends where no question comes for so long."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a process answers: a status, what the answer's head says, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    has_more: bool = False  # whether there may be rows beyond these


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
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Processes:
    """A few processes over one database. Threads may share it."""

    def __init__(self, database: str, limits: Limits) -> None:
        self.database, self.limits = database, limits
        self._places = threading.Semaphore(limits.at_once)
        self._lock = threading.Lock()
        self._n_present = 0
        self._idle: list[tuple[float, _Process]] = []

    def ask(self, question: Mapping[str, Any]) -> Reply:
        deadline = time.monotonic() + self.limits.seconds
        # JSON would make a floor of a metric one of coherence
        told = {key: value.rule if isinstance(value, Floor) else value for key, value in question["given"].items()}
        message = json.dumps({**question, "given": told}).encode()
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
                Kinds.TOO_LONG,
                f"the question was given up after {self.limits.seconds:g} s: ask for less with filters, or leave "
                f"intervals out; whoever runs the server may raise MASSACT_SERVER_SECONDS",
            ) from None
        except (OSError, EOFError) as error:
            process.end()
            raise ProblemError(Kinds.FAILED, "the process that answers ended unexpectedly") from error
        except BaseException:
            process.end()
            raise
        with self._lock:
            self._idle.append((time.monotonic(), process))
        return reply

    def _busy(self) -> ProblemError:
        return ProblemError(
            Kinds.BUSY,
            f"{self.limits.at_once} questions are being answered and {self.limits.waiting} wait: ask again in a moment",
            retry_after=2,
        )

    def _take(self) -> _Process:
        with self._lock:
            waiting, now = self._idle, time.monotonic()
            # one that ends itself soon is not asked any more
            self._idle = [each for each in waiting if each[1].is_alive and now - each[0] < IDLE_SECONDS / 2]
            old = [each for each in waiting if each not in self._idle]
            found = self._idle.pop()[1] if self._idle else None
        for _, process in old:
            process.end()
        return found or _Process(self.database)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for _, process in idle:
            process.end()
