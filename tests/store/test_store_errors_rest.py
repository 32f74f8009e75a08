"""A tracking server that is down, slow, foreign or refuses: one line each, and within the time allowed."""

import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from massact.errors import StoreError
from massact.store.credentials import find_login
from massact.store.read import open_store
from tests.support.store_errors import gaps, refusal


@pytest.fixture(autouse=True)
def _no_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massact.store.read.http.TIMEOUT_SECONDS", (5.0, 20.0))


class Scripted(BaseHTTPRequestHandler):
    """Answers every request as the test says and keeps its Authorization."""

    protocol_version = "HTTP/1.1"
    status, body = 200, b""
    headers_sent: dict[str, str] = {}  # noqa: RUF012  # every server has a class of its own
    authorizations: list[str | None] = []  # noqa: RUF012
    delay = 0.0
    """Seconds before each byte of the body."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.authorizations.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        for name, value in {"Content-Length": str(len(self.body)), **self.headers_sent}.items():
            self.send_header(name, value)
        self.end_headers()
        if not self.delay:
            self.wfile.write(self.body)
        else:
            self._trickle()
        self.close_connection = True

    do_GET = do_POST  # noqa: N815

    def _trickle(self) -> None:
        try:
            for byte in self.body:
                time.sleep(self.delay)
                self.wfile.write(bytes([byte]))
        except OSError:
            """The client has gone."""

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def scripted() -> Iterator[tuple[str, type[Scripted]]]:
    handler = type("Handler", (Scripted,), {"authorizations": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def listening() -> Iterator[tuple[str, Callable[[bytes], None]]]:
    """A port that takes connections; what it says to them, if anything, is up to the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(said: bytes) -> None:
            def serve() -> None:
                for _ in range(2):  # a connection that breaks off is tried once more
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(said)

            threading.Thread(target=serve, daemon=True).start()

        yield f"127.0.0.1:{server.getsockname()[1]}", answer


def test_a_server_that_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refusal(f"http://127.0.0.1:{port}") == (
        f"the tracking server http://127.0.0.1:{port} does not answer (Connection refused): "
        "start it or pass another --tracking-uri"
    )


@pytest.mark.parametrize("login", ["user:secret", "user", "user:se@secret"])
def test_an_address_with_a_login_in_it(login: str) -> None:
    assert refusal(f"http://{login}@host:5000/prefix").startswith(
        "the tracking URI of http://host:5000 holds a login: write it without, and set MLFLOW_TRACKING_USERNAME"
    )


def test_a_name_that_no_host_has() -> None:
    message = refusal("http://nowhere.invalid:5000")
    assert message.startswith("the tracking server http://nowhere.invalid:5000 does not answer (")
    assert message.endswith("): start it or pass another --tracking-uri")
    assert "name" in message.lower()  # the resolver's own words


@pytest.mark.parametrize("address", ["http://", "http://user:se/secret@host", "http://[::1", "http://a b/"])
def test_what_is_no_address(address: str) -> None:
    message = refusal(address)
    assert "cannot be asked" in message
    assert "write http://HOST:PORT" in message


def test_a_server_that_never_answers(
    listening: tuple[str, Callable[[bytes], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.5")
    began = time.monotonic()
    assert refusal(f"http://{listening[0]}") == (
        f"the tracking server http://{listening[0]} gives no whole answer within 0.5 s: try again when it is "
        "less busy, or give it more seconds in MLFLOW_HTTP_REQUEST_TIMEOUT"
    )
    assert time.monotonic() - began < 2


def test_an_answer_that_trickles(scripted: tuple[str, type[Scripted]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, handler = scripted
    handler.body, handler.delay = b"{}" + b" " * 1000, 0.1
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "0.5")
    began = time.monotonic()
    assert "gives no whole answer within 0.5 s" in refusal(address)
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_slow_answer_is_an_answer(scripted: tuple[str, type[Scripted]]) -> None:
    address, handler = scripted
    handler.body, handler.delay = b"{}", 0.1
    result = gaps(address)
    assert result.exit_code == 1, result.stderr
    assert "note: the run store holds no evaluation of experiment" in result.stderr


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", text)
    assert refusal("http://127.0.0.1:1") == (
        f"MLFLOW_HTTP_REQUEST_TIMEOUT is '{text}': write a number of seconds up to 86400"
    )


REFUSED = json.dumps({"error_code": "BAD", "message": "no such\nthing"}).encode()
HTML = b"<html><title>Internal Server Error</title></html>"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"You are not authenticated", "refuses the login (401): set MLFLOW_TRACKING_USERNAME"),
        (403, b"{}", "forbids reading (403): ask for the right to read, or for this host name"),
        (404, HTML, "is not an MLflow server (answer 404): check the tracking URI"),
        (200, HTML, "is not an MLflow server (answer 200)"),
        (200, b"[]", "is not an MLflow server (answer 200)"),
        (200, b'{"status":"ok"}', "is not an MLflow server (answer 200)"),
        (200, b'{"experiments":"none"}', "is not an MLflow server (answer 200)"),
        (200, b"", "is not an MLflow server (answer 200)"),
        (200, b"\xff\xfe\xfd", "is not an MLflow server (answer 200)"),
        (200, b"[" * 100_000, "is not an MLflow server (answer 200)"),
        (200, b'{"experiments":[{"exper', "broke off its answer: see its log, try again"),
        (429, b"slow down", "fails (429): see its log, try again"),
        (500, HTML, "fails (500): see its log, try again"),
        (502, HTML, "fails (502)"),
        (400, REFUSED, "refuses experiments/search: no such thing"),
    ],
)
def test_what_a_server_answers_is_explained(
    scripted: tuple[str, type[Scripted]], status: int, body: bytes, said: str
) -> None:
    address, handler = scripted
    handler.status, handler.body = status, body
    assert refusal(address).startswith(f"the tracking server {address} {said}")


@pytest.mark.parametrize(
    "headers",
    [{"Content-Length": "5000"}, {"Content-Encoding": "gzip"}],
    ids=["shorter than promised", "not packed as promised"],
)
def test_an_answer_that_is_broken_off(scripted: tuple[str, type[Scripted]], headers: dict[str, str]) -> None:
    address, handler = scripted
    handler.body, handler.headers_sent = b'{"experiments":[]}', headers
    assert refusal(address) == f"the tracking server {address} broke off its answer: see its log, try again"


def test_redirects_in_a_circle(scripted: tuple[str, type[Scripted]]) -> None:
    address, handler = scripted
    handler.status, handler.headers_sent = 307, {"Location": "/again"}
    assert refusal(address) == f"the tracking server {address} redirects in a circle: check the tracking URI"


def test_a_redirect_to_a_login_page(scripted: tuple[str, type[Scripted]]) -> None:
    address, handler = scripted
    other = type("Other", (Scripted,), {"body": HTML})
    page = ThreadingHTTPServer(("127.0.0.1", 0), other)
    threading.Thread(target=page.serve_forever, args=(0.02,), daemon=True).start()
    target = f"127.0.0.1:{page.server_port}"
    handler.status, handler.headers_sent = (302, {"Location": f"http://user:secret@{target}/login?token=secret"})
    assert refusal(address) == (
        f"the tracking server {address} leads to http://{target}, which does not answer as an MLflow server "
        "(200): check the tracking URI, it may have to be that address"
    )
    # after a redirect that turns POST into GET even a fitting answer is one to another question
    other.body = b'{"experiments":[]}'  # type: ignore[attr-defined]
    assert "leads to" in refusal(address)
    page.shutdown()
    page.server_close()


def test_tls_where_there_is_none(scripted: tuple[str, type[Scripted]]) -> None:
    address = scripted[0].replace("http:", "https:")
    message = refusal(address)
    assert message.startswith(f"the tracking server {address} does not speak TLS as it should (")
    assert "write http:// if it has no TLS" in message


def test_a_certificate_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "/no/such/file.pem")
    assert "invalid path: /no/such/file.pem): check MLFLOW_TRACKING_SERVER_CERT_PATH" in refusal("https://127.0.0.1:1")


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x15\x03\x01\x00\x02\x02\x46"])
def test_a_port_that_speaks_something_else(listening: tuple[str, Callable[[bytes], None]], said: bytes) -> None:
    address, answer = listening
    answer(said)
    assert refusal(f"http://{address}").startswith(f"the tracking server http://{address} does not answer (")


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({"USERNAME": "ada", "PASSWORD": "love", "TOKEN": "t"}, "Basic YWRhOmxvdmU="),
        ({"USERNAME": "ada", "PASSWORD": "żółw"}, "Basic YWRhOsW8w7PFgnc="),
        ({"TOKEN": "t0ken"}, "Bearer t0ken"),
        ({}, None),
    ],
)
def test_the_login_is_mlflows(
    scripted: tuple[str, type[Scripted]], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sent: str | None
) -> None:
    address, handler = scripted
    handler.body = b"{}"
    for name, value in environment.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    open_store(address).evaluations("toy")
    assert set(handler.authorizations) == {sent}


FILE = "[mlflow]\nmlflow_tracking_username = ada\nMLFLOW_TRACKING_PASSWORD = lo%%ve\n"


@pytest.mark.parametrize(
    ("content", "environment"),
    [
        (FILE, {}),
        (FILE, {"TOKEN": "t0ken"}),
        (FILE, {"USERNAME": "grace"}),
        (FILE, {"PASSWORD": "other"}),
        (FILE, {"USERNAME": "grace", "PASSWORD": "other"}),
        ("[mlflow]\nmlflow_tracking_username = ada\n", {"TOKEN": "t0ken"}),
        ("[DEFAULT]\nmlflow_tracking_username = ada\n[mlflow]\nmlflow_tracking_password = love\n", {}),
        ("[other]\nmlflow_tracking_username = ada\nmlflow_tracking_password = love\n", {}),
        ("", {"TOKEN": "t0ken"}),
    ],
)
def test_the_reader_and_the_writer_find_the_same_login(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, environment: dict[str, str]
) -> None:
    from mlflow.utils.credentials import get_default_host_creds

    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    theirs = get_default_host_creds("http://h")
    ours = find_login()
    assert (ours.username, ours.password, ours.token) == (theirs.username, theirs.password, theirs.token)
    assert "lo%ve" not in repr(ours)


@pytest.mark.parametrize(
    "content",
    ["mlflow_tracking_password = hush", "[mlflow]\nmlflow_tracking_password = hush%\n", "[mlflow]\nhush", "\0[x"],
)
def test_a_credentials_file_that_cannot_be_read_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text(content)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="not MLflow's credentials file") as caught:
        open_store("http://127.0.0.1:1")
    shown = "".join(traceback.format_exception(caught.value))
    assert "hush" not in shown


@pytest.mark.parametrize("token", ["secret\nsecret", "secret ż"])
def test_a_login_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    assert "check the MLFLOW_TRACKING_ variables of the login" in refusal("http://127.0.0.1:1")
