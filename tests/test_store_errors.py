"""A run store that cannot be read says in one line what to do, and nothing is created on the way."""

import json
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from massact.errors import StoreError
from massact.store import open_store


def refusal(uri: str) -> str:
    with pytest.raises(StoreError) as refused:
        open_store(uri).evaluations("toy")
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_missing_file_is_named_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "no such" / "runs.db"
    assert refusal(f"sqlite:///{path}") == (
        f"no run store at {path} yet: run `massact main` or pass --tracking-uri"
    )
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "uri", ["/tmp/mlruns", "file:///tmp/mlruns", "mysql://u:secret@h/db", "databricks", ""]
)
def test_other_kinds_of_store_are_refused_with_what_is_allowed(uri: str) -> None:
    message = refusal(uri)
    assert "sqlite:///PATH, postgresql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST" in message
    assert "secret" not in message


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(uri: str) -> None:
    assert "write sqlite:///PATH" in refusal(uri)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have a header" * 20)
    assert refusal(f"sqlite:///{path}").startswith(f"{path} is not a database: pass the tracking URI")


def test_a_database_that_is_not_mlflows(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (id INTEGER)")
        connection.execute("CREATE TABLE experiments (id INTEGER)")
    message = refusal(f"sqlite:///{path}")
    assert message.startswith(f"{path} is a database, but not MLflow's (it has no table 'tags')")


def test_a_database_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        for name in ("runs", "experiments", "tags", "metrics"):
            connection.execute(f"CREATE TABLE {name} (id INTEGER)")
    assert "no such column" in refusal(f"sqlite:///{path}")


def test_a_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massact.store.sql.LOCK_TIMEOUT_SECONDS", 0.1)
    path = tmp_path / "a b#c.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("CREATE TABLE runs (id INTEGER)")
    writer.execute("BEGIN EXCLUSIVE")
    assert "stayed locked by a writer for 0.1 s" in refusal(f"sqlite:///{path}")
    writer.close()


def test_postgresql_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = refusal("postgres://user:secret@127.0.0.1:1/mlflow")
    assert message == (
        "reading postgresql://user:***@127.0.0.1:1/mlflow needs psycopg: pip install 'massact[postgres]'"
    )


def test_a_database_server_that_is_down_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    message = refusal("postgresql://user:secret@127.0.0.1:1/mlflow")
    assert message.startswith("cannot read the run store postgresql://user:***@127.0.0.1:1/mlflow:")


def test_a_tracking_server_that_is_down_is_named_without_its_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = refusal(f"http://user:secret@127.0.0.1:{port}")
    assert message == (
        f"the tracking server http://127.0.0.1:{port} does not answer (ConnectionError): "
        "start it or pass another --tracking-uri"
    )


class Scripted(BaseHTTPRequestHandler):
    """Answers every request as the test says and keeps its Authorization."""

    status, body, authorizations = 200, b"", []  # type: ignore[var-annotated]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        type(self).authorizations.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def scripted() -> Iterator[tuple[str, type[Scripted]]]:
    handler = type("Handler", (Scripted,), {"authorizations": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"You are not authenticated", "refuses the login (401): set MLFLOW_TRACKING_USERNAME"),
        (403, b"{}", "refuses the login (403)"),
        (404, b"<html>", "is not an MLflow server (answer 404)"),
        (200, b"<html>", "is not an MLflow server (answer 200)"),
        (200, b"[]", "is not an MLflow server (answer 200)"),
        (502, b"<html>", "fails (502): see its log"),
        (
            400,
            json.dumps({"error_code": "BAD", "message": "no such\nthing"}).encode(),
            "refuses experiments/search",
        ),
    ],
)
def test_what_a_server_answers_is_explained(
    scripted: tuple[str, type[Scripted]], status: int, body: bytes, said: str
) -> None:
    address, handler = scripted
    handler.status, handler.body = status, body
    assert said in refusal(address)


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({"USERNAME": "ada", "PASSWORD": "love", "TOKEN": "t"}, "Basic YWRhOmxvdmU="),
        ({"TOKEN": "t0ken"}, "Bearer t0ken"),
        ({}, None),
    ],
)
def test_the_login_is_mlflows(
    scripted: tuple[str, type[Scripted]],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    sent: str | None,
) -> None:
    address, handler = scripted
    handler.body = b"{}"
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    open_store(address).evaluations("toy")
    assert set(handler.authorizations) == {sent}
