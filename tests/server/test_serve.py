"""`massact serve` as a process: it says where it is, serves, and leaves nothing behind."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from massact.service.settings import free_port
from massact.store.write.database import _head
from tests.support.composed import ROOT, descendants
from tests.support.processes import run_massact

PASSWORD = "correct-horse-battery"


class Served:
    """A service in a folder, on a database that is there already unless `new`."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.port = free_port("127.0.0.1")
        self.address = f"http://127.0.0.1:{self.port}"
        self.out, self.errors = folder / "out", folder / "errors"
        own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}
        with self.out.open("w") as out, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "massact", "serve", "--port", str(self.port), *options],
                cwd=folder,
                env=own,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )
        self.family: list[int] = []

    def wait(self) -> None:
        """Until it says that it serves."""
        deadline = time.monotonic() + 120
        while "stop:" not in self.out.read_text():
            assert self.process.poll() is None, self.errors.read_text()[-3000:]
            assert time.monotonic() < deadline, self.errors.read_text()[-3000:]
            time.sleep(0.05)
        self.family = descendants(self.process.pid)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def left(self) -> list[int]:
        """Of its processes those that still run, after a moment to go."""
        deadline = time.monotonic() + 15
        while (found := [pid for pid in self.family if _runs(pid)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found


def refused(folder: Path, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A service that is over before it serves."""
    port = str(free_port("127.0.0.1"))
    return run_massact("serve", "--port", port, *options, cwd=folder, env={**os.environ, **environment}, timeout=60)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def folder(migrated_database: Path, tmp_path: Path) -> Path:
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    made = Served(folder)
    try:
        made.wait()
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()


@pytest.mark.slow
def test_it_serves_runs_and_artifacts_and_stops_when_told(served: Served, folder: Path) -> None:
    from mlflow import MlflowClient

    lines = served.out.read_text()
    assert f"UI:      {served.address}\n" in lines
    assert f"export MLFLOW_TRACKING_URI={served.address}\n" in lines
    client = MlflowClient(tracking_uri=served.address)
    run = client.create_run(client.create_experiment("seen")).info
    client.log_text(run.run_id, "hello", "note.txt")
    assert run.artifact_uri.startswith("mlflow-artifacts:/")
    (file,) = (folder / "mlartifacts").rglob("note.txt")
    assert file.read_text() == "hello"
    page = requests.get(f"{served.address}/", timeout=10)
    assert "<title>MLflow</title>" in page.text
    assert requests.get(served.address, headers={"Host": "evil.example"}, timeout=10).status_code == 403
    assert len(served.family) == 3  # massact, mlflow's own, one worker

    assert served.end(signal.SIGINT) == 0
    assert served.left() == []
    assert "Traceback" not in served.errors.read_text()


@pytest.mark.slow
def test_users_are_there_before_the_first_worker_and_a_weak_password_is_refused(folder: Path) -> None:
    weak = refused(folder, "--auth", MLFLOW_AUTH_ADMIN_PASSWORD="short")
    assert weak.returncode == 2
    said = weak.stderr
    assert "at least 12 characters" in said
    assert "MLFLOW_AUTH_ADMIN_PASSWORD_FILE" in said
    assert "Traceback" not in said

    (folder / "password").write_text(PASSWORD + "\n")
    two = Served(folder, "--auth", "--workers", "2", MLFLOW_AUTH_ADMIN_PASSWORD_FILE=str(folder / "password"))
    try:
        two.wait()
        url = f"{two.address}/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert requests.get(url, timeout=30).status_code == 401
        assert requests.get(url, auth=("admin", PASSWORD), timeout=30).status_code == 200
        with sqlite3.connect(folder / "mlflow-users.db") as users:
            assert users.execute("SELECT username, is_admin FROM users").fetchall() == [("admin", 1)]
        for pid in two.family:
            assert PASSWORD not in Path(f"/proc/{pid}/cmdline").read_text()
        workers = [pid for pid in two.family if pid != two.process.pid]
        assert not [pid for pid in workers if PASSWORD in Path(f"/proc/{pid}/environ").read_text()]
        two.process.kill()  # and then nobody is left to stop it
        two.process.wait()
        assert two.left() == []
    finally:
        if two.process.poll() is None:
            two.process.kill()
            two.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--host=127.0.0.1", "--tune"])
def test_an_older_schema_is_refused_with_what_to_do(folder: Path, option: str) -> None:
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '75868b020152'")
        database.execute("INSERT INTO experiments (experiment_id, name) VALUES (7, 'old')")
    before = (folder / "mlflow.db").read_bytes()
    done = refused(folder, option)
    assert done.returncode == 2
    said = done.stderr
    assert "mlflow db upgrade" in said
    assert "Back it up" in said
    assert (folder / "mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    done = refused(tmp_path)
    assert done.returncode == 2
    assert "not MLflow's" in done.stderr
    assert not (tmp_path / "mlartifacts").exists()


@pytest.mark.slow
def test_ctrl_c_while_the_first_tables_are_made_leaves_whole_ones(tmp_path: Path) -> None:
    made = Served(tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "mlflow.db.new").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(made.process.pid, signal.SIGINT)  # as a terminal does
    assert made.process.wait(60) == 0
    assert "UI:" not in made.out.read_text()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(_head(),)]
