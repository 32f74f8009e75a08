"""What the tests of the spool share: runs, a store that can be held shut, and a proxy that fails on purpose."""

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from massact.store.schema import Tag
from massact.store.write.client import connect
from massact.store.write.finished_run import FinishedRun, Step
from massact.store.write.run_writer import open_writer
from massact.store.write.tracker import OpenRun, Tracker

SUFFIX = ".journal"
Mode = Literal["pass", "refuse", "error", "hang", "cut"]


def a_run(name: str = "a run", **changes: Any) -> FinishedRun:
    """A run with something of everything."""
    values: dict[str, Any] = {
        "tags": {"massact.key": f"key of {name}", "note": "Ω\n\t\\"},
        "params": {"label": "probe"},
        "metrics": {"delta": 12.5},
        "steps": [Step("trait_score", 10.0, 0), Step("trait_score", 30.0, 2)],
        "started_at": 1_700_000_000_000,
        "finished_at": 1_700_000_001_234,
        "files": {"responses.json": b'{"name": "' + name.encode() + b'"}', "bytes.bin": bytes(range(256))},
    }
    return FinishedRun(name=name, **{**values, **changes})


def logged(tracker: Tracker, phase: OpenRun, run: FinishedRun) -> str:
    """Write a run where a phase's runs lie, at once. Returns its id."""
    writer = open_writer(tracker.tracking_uri, phase.experiment_id)
    try:
        return writer.write([run])[0]
    finally:
        writer.close()


def names(uri: str) -> list[str]:
    """The names of all finished and failed runs in a store; a run that is there twice comes twice."""
    client = connect(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    keys = [run.data.tags[Tag.SPOOL] for run in runs if Tag.SPOOL in run.data.tags]
    assert len(keys) == len(set(keys))
    return sorted(run.info.run_name for run in runs)


def journals(folder: Path) -> list[Path]:
    """The journals in a spool."""
    return sorted(folder.glob(f"*{SUFFIX}"))


@contextmanager
def shut(uri: str) -> Iterator[Callable[[], None]]:
    """A SQLite store that takes nothing until the function given is called, or the block ends."""
    other = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    def let_go() -> None:
        if other.in_transaction:
            other.execute("ROLLBACK")

    try:
        yield let_go
    finally:
        let_go()
        other.close()


class Proxy:
    """Stands before a tracking server on loopback, and passes on what its mode lets through.

    `cut` passes a request on and breaks the connection instead of answering, as a network may.
    """

    def __init__(self, address: str) -> None:
        self._target = urlsplit(address)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.mode: Mode = "pass"
        self.fail_at: int | None = None
        """Number of the request, from 0, at which the mode changes to `then` for that one request."""
        self.then: Mode = "cut"
        self.n_requests = 0
        self._released = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections, and let go of those that hang."""
        self._released.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            request = _read_message(connection)
            if not request:
                return
            mode = self.then if self.n_requests == self.fail_at else self.mode
            self.n_requests += 1
            if mode == "hang":
                self._released.wait(60)
            if mode == "error":
                connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            if mode in ("pass", "cut"):
                answer = self._ask(request)
                if mode == "pass":
                    connection.sendall(answer)

    def _ask(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"host:", b"connection:"))]
        host = f"Host: {self._target.netloc}".encode()
        with socket.create_connection((self._target.hostname, self._target.port)) as server:
            server.sendall(b"\r\n".join([*lines, host, b"Connection: close"]) + b"\r\n\r\n" + body)
            parts = []
            while part := server.recv(65536):
                parts.append(part)
        return b"".join(parts).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


def _read_message(connection: socket.socket) -> bytes:
    """A request with its body, which has a length or comes in chunks."""
    data = b""
    while not _is_whole(data):
        part = connection.recv(65536)
        if not part:
            return b""
        data += part
    return data


def _is_whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        return body.endswith(b"0\r\n\r\n")
    return bool(end) and len(body) >= int(fields.get(b"content-length", b"0"))
