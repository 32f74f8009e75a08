"""What `massact serve` takes, refuses, and hands on, before anything is started."""

import configparser
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from massact.addresses import artifacts_shown, shown_uri
from massact.cli.app import cli
from massact.errors import UsageError
from massact.service.serving import _command, _environment, allowed_hosts, introduction, write_users_file
from massact.service.settings import Settings, check, check_shown, is_loopback, with_secrets
from massact.store.databases import sqlite_path


def serve(*options: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["serve", *options], env=environment)


def settings(**changes: Any) -> Settings:
    return Settings(**{"database": "sqlite:////tmp/runs.db", "artifacts": "/tmp/artifacts", **changes})


def test_a_secret_comes_from_its_file_without_the_end_of_line(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s e cret\n")
    found = with_secrets({"PGPASSWORD_FILE": str(tmp_path / "password"), "HOME": "/"})
    assert found == {"PGPASSWORD": "s e cret", "HOME": "/"}
    assert with_secrets({"PGPASSWORD": "x", "PGPASSWORD_FILE": ""}) == {"PGPASSWORD": "x"}


@pytest.mark.parametrize(
    ("content", "environment", "says"),
    [
        (b"", {}, "is empty"),
        (b"\xff\xfe", {}, "not UTF-8"),
        (None, {}, "No such file"),
        (b"x", {"PGPASSWORD": "y"}, "both PGPASSWORD and PGPASSWORD_FILE"),
    ],
)
def test_a_secrets_file_that_is_no_use_is_refused(
    tmp_path: Path, content: bytes | None, environment: dict[str, str], says: str
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        with_secrets({"PGPASSWORD_FILE": str(path), **environment})


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://ada:hunter2@host/runs",
        "postgresql://host/runs?user=ada&password=hunter2",
        "postgresql+psycopg://host/runs?sslpassword=hunter2",
        "postgresql://host/runs?PASSWORD=hunter2",
        "postgresql://ada:hunter2#]/?@host/runs",
    ],
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UsageError, match="can be read by everybody"):
        check_shown(uri, "--backend-store-uri")
    done = serve("--backend-store-uri", uri)
    assert done.exit_code == 2
    assert "PGPASSWORD" in done.output
    assert "hunter2" not in done.output
    assert "hunter2" not in shown_uri(uri)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mlartifacts", "mlartifacts"),
        ("/srv/a@b?c", "/srv/a@b?c"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://KEY:s3cret@bucket/prefix", "s3://***@bucket/prefix"),
        ("sftp://ada@host/place", "sftp://***@host/place"),
        ("wasbs://box@host/p?sig=s3cret&v=s3cret", "wasbs://***@host/p?sig=***&v=***"),
        ("https://host/p#s3cret", "https://host/p"),
    ],
)
def test_a_place_of_artifacts_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    settings = Settings("sqlite:///mlflow.db", uri)
    assert artifacts_shown(uri) == shown
    assert f"artifacts in {shown}" in introduction(settings)
    assert "s3cret" not in "\n".join(_command(settings))
    if shown != uri:
        result = CliRunner().invoke(cli, ["serve", "--artifacts-destination", uri])
        assert result.exit_code == 2
        assert "everybody on the machine" in result.output
        assert "s3cret" not in result.output


def test_a_password_in_the_environment_reaches_the_server_by_the_environment_alone() -> None:
    uri = "postgresql://ada:hunter2@host/runs"
    one = settings(database=uri, auth=True)
    assert "hunter2" not in " ".join(_command(one))
    assert "hunter2" not in "".join(introduction(one))
    own = _environment(one, {"MLFLOW_BACKEND_STORE_URI": uri}, Path("/x/auth.ini"))
    assert own["MLFLOW_BACKEND_STORE_URI"] == uri
    assert len(own["MLFLOW_FLASK_SERVER_SECRET_KEY"]) >= 64


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_network_is_not_let_in_without_users(host: str) -> None:
    done = serve("--host", host, "--port", "0")
    assert done.exit_code == 2
    assert "--auth" in done.output
    assert "--allow-no-auth" in done.output


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("127.8.8.8", True), ("0.0.0.0", False), ("::", False), ("", False)],
)
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_an_address_that_is_none_is_refused() -> None:
    done = serve("--host", "no-such-host.invalid")
    assert done.exit_code == 2
    assert "no-such-host.invalid" in done.output


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve("--port", str(port))
    assert done.exit_code == 2
    assert f"port {port}" in done.output
    assert f"such as {port + 1}" in done.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--backend-store-uri", "mysql://host/runs"), "is no database that can be served"),
        (("--backend-store-uri", "http://host:5000"), "is no database that can be served"),
        (("--backend-store-uri", "sqlite:////no/such/folder/runs.db"), "no folder /no/such/folder"),
        (("--backend-store-uri", "sqlite://"), "in memory"),
        (("--private", "--backend-store-uri", "sqlite:////tmp/none.db"), "add --auth"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_what_cannot_be_served_is_refused(options: tuple[str, ...], says: str) -> None:
    done = serve(*options)
    assert done.exit_code == 2
    assert says in done.output


def test_a_free_port_and_a_folder_are_enough(tmp_path: Path) -> None:
    check(settings(database=f"sqlite:///{tmp_path}/runs.db", port=0))


def test_names_count_with_every_port_and_this_machine_always_passes() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    patterns = allowed_hosts(("lab.example", "10.0.0.1:8443", "*.lab.example")).split(",")
    for host in ("lab.example", "lab.example:5000", "10.0.0.1:8443", "a.lab.example", "127.0.0.1:5000", "[::1]:5000"):
        assert is_allowed_host_header(patterns, host), host
    for host in ("evil.example", "lab.example.evil.example", "10.0.0.1:8444", "10.0.0.1"):
        assert not is_allowed_host_header(patterns, host), host


def test_mlflow_reads_the_users_file_as_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.server.auth.config import read_auth_config

    path, uri = tmp_path / "auth.ini", "postgresql://ada:100%25@host/runs?host=%2Ftmp"
    write_users_file(path, uri, "READ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(path))
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_AUTH_ADMIN_{name}", raising=False)
    found = read_auth_config()
    assert (found.database_uri, found.default_permission) == (uri, "READ")
    assert found.auth_cache_ttl_seconds > 0
    assert found.admin_password is None
    assert configparser.ConfigParser().read(path)


def test_users_lie_beside_a_sqlite_database_and_in_a_postgresql_one() -> None:
    assert settings().users_database == "sqlite:////tmp/mlflow-users.db"
    assert settings(database="postgresql://host/runs").users_database == "postgresql://host/runs"
    assert sqlite_path("sqlite:///runs.db") == Path(os.getcwd()) / "runs.db"


def test_the_server_does_not_see_what_is_a_clients() -> None:
    given = {"MLFLOW_TRACKING_URI": "http://elsewhere", "MLFLOW_UVICORN_OPTS": "--backlog 10"}
    own = _environment(settings(allowed_hosts=("lab.example",)), given, None)
    assert own["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert own["MLFLOW_SERVER_ALLOWED_HOSTS"].startswith("lab.example,lab.example:*,")
    assert own["MLFLOW_UVICORN_OPTS"].endswith("--backlog 10")
    assert "--no-access-log" in own["MLFLOW_UVICORN_OPTS"]
    assert "MLFLOW_AUTH_CONFIG_PATH" not in own
