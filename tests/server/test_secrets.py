"""Passwords, tokens and keys stay where they were given: nothing that massact writes or prints holds one."""

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from massact.service.users import Role
from tests.support.access_server import AccessServer, access_server
from tests.support.faults import Worker
from tests.support.judge_server import JudgeServer, error
from tests.support.postgres_server import PostgresServer
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow

PASSWORD, TOKEN, KEY, DATABASE = ("canary-pass/word%41", "canary-token-4242", "sk-canary-key-4242", "canary+data@base")
SMALL = """
phases:
  phase1: {labels: [probe], positions: ["response[:5]"]}
  phase2: {labels: [probe], positions: ["response[:5]"]}
  phase3: {labels: [probe], positions: ["response[:5]"]}
"""


def _forms(secret: str) -> set[bytes]:
    """A secret as it is, quoted for an address, and in base64 wherever in a text it begins."""
    plain = secret.encode()
    encoded = {base64.b64encode(b"x" * shift + plain)[4 if shift else 0 : -4] for shift in range(3)}
    return {plain, quote(secret, safe="").encode(), *encoded, base64.b64encode(f"ada:{secret}".encode())}


FORMS = set().union(*map(_forms, (PASSWORD, TOKEN, KEY, DATABASE)))


def _found(content: bytes) -> set[bytes]:
    return {form for form in FORMS if form in content}


class Place:
    """A folder in which commands run with secrets in their environment; what they print stays in it."""

    def __init__(self, folder: Path, server: AccessServer, judge: str) -> None:
        self.folder, self.server = folder, server
        small = EXPERIMENT.partition("phases:")[0].replace("[16, 24]", "[16]") + SMALL.lstrip()
        own = f'judge: {{name: "openai:gpt", base_url: "{judge}"}}'
        (folder / "small.yaml").write_text(small.replace("judge: likelihood", own))
        self._secrets = {
            "MLFLOW_TRACKING_URI": server.url,
            "MLFLOW_TRACKING_USERNAME": "ada",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "MLFLOW_TRACKING_TOKEN": TOKEN,
            "OPENAI_API_KEY": KEY,
            "MLFLOW_LOGGING_LEVEL": "DEBUG",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        self._worker = Worker(folder)

    def run(self, *arguments: str, **changed: str) -> tuple[int, str]:
        """The exit code of a command, and what it printed."""
        log = self.folder / "output.txt"
        begin = len(log.read_text()) if log.exists() else 0
        code = self._worker.run(*arguments, environment={**self._secrets, **changed})
        return code, log.read_text()[begin:]

    def close(self) -> None:
        self._worker.close()


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, judge: JudgeServer) -> Iterator[Place]:
    with access_server(tmp_path_factory.mktemp("server")) as server:
        with server.users() as known:
            known.add("ada", PASSWORD, Role.WRITER)
        made = Place(tmp_path_factory.mktemp("work"), server, judge.url)
        yield made
        made.close()


SMALL_YAML = ("--experiment", "small.yaml")


def test_no_secret_is_written(place: Place, judge: JudgeServer, postgres: PostgresServer) -> None:
    for arguments in (["main"], ["best", "--format", "json"], ["export", "--output", "exported"], ["doctor"]):
        code, printed = place.run(*arguments, *SMALL_YAML)
        assert code == 0, printed
    asked = {name.lower(): value for request in judge.requests for name, value in request.headers.items()}
    assert asked["authorization"] == f"Bearer {KEY}"
    _fail(place)
    judge.answer = lambda request: error(401, f"Incorrect API key provided: {KEY} in {request.headers}")
    experiment = place.folder / "small.yaml"
    experiment.write_text(experiment.read_text().replace("subset: 2", "subset: 4"))
    code, printed = place.run("phase1", *SMALL_YAML)
    assert (code, "it refuses the key" in printed) == (1, True), printed
    _check(place, _in_postgres(place, postgres))


def _fail(place: Place) -> None:
    """Another password, no server, a credentials file that is none, addresses with a password."""
    (place.folder / "home/.mlflow").mkdir(parents=True)
    (place.folder / "home/.mlflow/credentials").write_text("mlflow_tracking_password = broken line")
    login = f"ada:{quote(DATABASE, safe='')}"
    no_file = {"MLFLOW_TRACKING_PASSWORD": "", "HOME": str(place.folder / "home")}
    faults = [{"MLFLOW_TRACKING_PASSWORD": f"{PASSWORD}-wrong"}, no_file] + [
        {"MLFLOW_TRACKING_URI": uri}
        for uri in (
            "http://127.0.0.1:9",
            f"http://{login}@127.0.0.1:9",
            f"postgresql://{login}@127.0.0.1:9/mlflow",
            f"postgresql://ada@127.0.0.1:9/mlflow?password={quote(DATABASE, safe='')}",
            f"mysql://{login}@127.0.0.1:9/mlflow",
        )
    ]
    for changed in faults:
        # (MLflow's client asks a database that does not answer for two minutes)
        is_slow = changed.get("MLFLOW_TRACKING_URI", "").startswith("postgresql")
        writing = [] if is_slow else [["phase1", *SMALL_YAML]]
        for arguments in (["best", *SMALL_YAML], ["doctor", *SMALL_YAML], ["users", "list"], *writing):
            code, printed = place.run(*arguments, **changed)
            assert (code, "Traceback" in printed) == (2, False), (arguments, changed, printed)
            assert "broken line" not in printed
    for option in (f"postgresql://{login}@h/db", f"http://{login}@h"):
        code, printed = place.run("best", *SMALL_YAML, "--tracking-uri", option)
        assert (code, "holds a" in printed) == (2, True), printed


def _in_postgres(place: Place, postgres: PostgresServer) -> str:
    """Commands straight into a database whose address holds a password."""
    uri = postgres.migrated()
    postgres.execute(f"CREATE ROLE canary LOGIN SUPERUSER PASSWORD '{DATABASE}' IN ROLE with_password")
    with_password = uri.replace("postgres@", f"canary:{quote(DATABASE, safe='')}@", 1)
    for command in ("calibrate", "extract", "status"):
        code, printed = place.run(command, *SMALL_YAML, MLFLOW_TRACKING_URI=with_password)
        assert (code, "Traceback" in printed) == (int(command == "status"), False), printed
    return uri


def _check(place: Place, postgres_uri: str) -> None:
    files = [path for folder in (place.folder, place.server.folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert {path.name for path in files} >= {"report.html", "report.md", "results.jsonl", "log", "output.txt"}
    found = {str(path): _found(path.read_bytes()) for path in files}
    for name in ("tracking.db", "users.db"):
        with closing(sqlite3.connect(place.server.folder / name)) as database:
            found[name] = _found("\n".join(database.iterdump()).encode())
    with psycopg.connect(postgres_uri) as connection:
        tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname='public'")]
        rows = [str(row) for table in tables for row in connection.execute(f'SELECT * FROM "{table}"')]
        assert len(rows) > 100
        found["PostgreSQL"] = _found("\n".join(rows).encode())
    assert {name: forms for name, forms in found.items() if forms} == {}


@pytest.mark.parametrize("secret", [PASSWORD, TOKEN, KEY, DATABASE])
def test_the_search_finds_a_secret(secret: str) -> None:
    for text in (secret, quote(secret, safe="")):
        assert _found(f"…{text}…".encode())
    for before in ("", "a", "ab", "abc"):
        assert _found(base64.b64encode(f"{before}{secret} and more".encode()))
