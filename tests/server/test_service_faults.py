"""The service as docker/ describes it, under a sweep: killed, its database killed, backed up, destroyed, restored.

One story, told once and looked at by several tests: two writers sweep through the server; in the middle a backup is
made, then the server is killed, then PostgreSQL. Afterwards everything is backed up, destroyed and brought back.
"""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from massact.store.schema import Artifact
from tests.support.composed import DOCKER, Composed
from tests.support.faults import EXPERIMENT, Worker
from tests.support.postgres_server import PostgresServer, postgres_server

pytestmark = pytest.mark.slow

LABELS = (("probe", "probe_top1"), ("mean_diff", "mean_diff_top1"))
COEFFICIENTS = (12, 14, 16, 18, 20, 24)
N_CELLS = 4 * 2 * len(COEFFICIENTS)
QUESTIONS = ("gaps", "best", "runs")
FINISHED = """
    SELECT k.value, r.run_uuid, r.artifact_uri FROM runs r
    JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'massact.key'
    JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'massact.kind' AND t.value = 'evaluation'
    WHERE r.status = 'FINISHED' AND r.lifecycle_stage = 'active'
"""


@dataclass
class Story:
    """What there is when the sweep has ended."""

    service: Composed
    postgres: PostgresServer
    worker: Worker
    folder: Path
    codes: list[int] = field(default_factory=list)
    """Exit codes of the two sweeps."""
    backup: Path = Path()
    """Made in the middle of them."""

    def finished(self, database: str = "massact") -> list[tuple[str, str, str]]:
        """Key, run and artifacts of every finished evaluation, straight from the database."""
        with psycopg.connect(self.postgres.uri(database)) as connection:
            return connection.execute(FINISHED).fetchall()

    def said(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")[-3000:]

    def keep(self, script: str, *words: str | Path, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run backup.sh or restore.sh with the environment that compose gives it."""
        environment = self.service.environment(script) | {"PG_BIN": str(self.postgres.programs), **more}
        return subprocess.run(
            ["bash", DOCKER / f"{script}.sh", *words], env=environment, capture_output=True, text=True, check=False
        )

    def back_up(self) -> Path:
        done = self.keep("backup", self.folder / "backups")
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def new_database(self, name: str) -> str:
        """An empty one; its URI, without a password."""
        self.postgres.execute(f"CREATE DATABASE {name} OWNER massact")
        return self.postgres.uri(name, "massact")

    def answers(self) -> dict[str, Any]:
        """What the questions say, as JSON, asked through the server."""
        found = {}
        for question in QUESTIONS:
            output = self.folder / f"{question}.json"
            code = self.worker.run(question, "--format", "json", "--output", str(output))
            assert code in (0, 1), self.said()
            found[question] = json.loads(output.read_text(encoding="utf-8"))
            assert found[question]["rows"], question
        return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    (folder / "experiments").mkdir()
    text = EXPERIMENT.replace('layers: "2-4"', 'layers: "2-3"').replace("[12, 16, 24]", str(list(COEFFICIENTS)))
    (folder / "experiments" / "toy.yaml").write_text(text, encoding="utf-8")
    workers: list[Worker] = []
    with postgres_server() as postgres:
        service = Composed(folder, postgres.uri("massact", "massact"))
        postgres.execute(f"CREATE ROLE massact LOGIN PASSWORD '{service.secret('database_password')}'")
        postgres.execute("GRANT with_password TO massact")
        postgres.execute("CREATE DATABASE massact OWNER massact")
        try:
            with ThreadPoolExecutor(3) as pool:
                making = [pool.submit(Worker, folder, service.login) for _ in range(2)]
                service.start()
                workers += [one.result() for one in making]
                told = Story(service, postgres, workers[0], folder)
                for command in ("calibrate", "extract"):
                    assert workers[0].run(command) == 0, told.said()
                _sweep(told, workers, pool)
            yield told
        finally:
            for one in workers:
                one.close()
            service.kill()


def _sweep(story: Story, workers: list[Worker], pool: ThreadPoolExecutor) -> None:
    """Two writers, each with its own labels, one cell at a time."""
    rest = ("--position", "response[:5]", "--batch-rows", "3", "--alike", "off")
    sweeps = [
        pool.submit(one.run, "evaluate", "--method", ",".join(labels), *rest)
        for one, labels in zip(workers, LABELS, strict=True)
    ]

    def until(n: int) -> None:
        wait_for(lambda: len(story.finished()) >= n, f"{n} evaluations are finished:\n{story.said()}")
        _still_at_it(sweeps, story)

    until(3)
    story.backup = story.back_up()
    story.service.kill()
    time.sleep(1)
    _still_at_it(sweeps, story)
    story.service.start()
    until(len(story.finished()) + 3)
    story.postgres.kill()
    time.sleep(1)
    _still_at_it(sweeps, story)
    story.postgres.start()
    story.codes = [one.result(timeout=200) for one in sweeps]


def _still_at_it(sweeps: list["Future[int]"], story: Story) -> None:
    assert not all(one.done() for one in sweeps), f"too late: the sweeps have ended\n{story.said()}"


def test_the_sweep_ends_with_everything_there_once(story: Story) -> None:
    assert story.codes == [0, 0], story.said()
    assert "Traceback" not in story.said()
    keys = Counter(key for key, _, _ in story.finished())
    assert len(keys) == N_CELLS
    assert set(keys.values()) == {1}
    assert not [path for path in (story.folder / ".massact/spool").iterdir() if path.is_dir() and any(path.iterdir())]
    assert story.worker.run("doctor", "--fix", "--stale-after", "0") == 0, story.said()
    assert story.worker.run("doctor") == 0, story.said()


def test_nobody_gets_in_without_a_password_and_no_command_line_shows_one(story: Story) -> None:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{story.service.address}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=10)
    secrets = [path.read_text() for path in (story.folder / "secrets").iterdir()]
    pids = story.service.processes()
    assert len(pids) >= 3
    for pid in pids:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert not [one for one in secrets if one in line]


def test_a_backup_made_while_writers_wrote_has_every_file_of_what_it_calls_finished(story: Story) -> None:
    target = story.folder / "in-the-middle"
    new = story.new_database("middle")
    done = story.keep("restore", story.backup, MLFLOW_BACKEND_STORE_URI=new, MASSACT_ARTIFACTS=str(target))
    assert done.returncode == 0, done.stderr
    found = story.finished("middle")
    assert 3 <= len(found) < N_CELLS
    for _, run_id, place in found:
        (files,) = target.glob(place.removeprefix("mlflow-artifacts:/"))
        assert (files / Artifact.VECTOR).stat().st_size > 0, run_id
        assert len(json.loads((files / Artifact.RESPONSES).read_text(encoding="utf-8"))["data"]) == 3, run_id


def test_what_was_destroyed_is_restored_to_the_letter(story: Story) -> None:
    before = story.answers()
    users = _users(story)
    backup = story.back_up()
    pids = story.service.processes()
    users_file = _users_file(pids[-1])
    assert users_file.exists()
    assert story.service.stop() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not users_file.parent.exists()
    story.postgres.execute("DROP DATABASE massact")
    shutil.rmtree(story.service.artifacts)
    story.new_database("massact")
    done = story.keep("restore", backup)
    assert done.returncode == 0, done.stderr
    story.service.start()
    assert story.answers() == before
    assert _users(story) == users
    assert story.worker.run("doctor") == 0, story.said()  # reads every vector and every response
    # and again is refused: there is something now
    done = story.keep("restore", backup)
    assert (done.returncode, "not empty" in done.stderr) == (2, True)


def _users_file(pid: int) -> Path:
    """What the server reads of users, with a password in it perhaps."""
    variables = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
    return Path(next(one for one in variables if one.startswith("MLFLOW_AUTH_CONFIG_PATH=")).partition("=")[2])


def _users(story: Story) -> list[Any]:
    with psycopg.connect(story.postgres.uri("massact")) as connection:
        return connection.execute("SELECT * FROM users ORDER BY id").fetchall()


def test_a_restore_that_was_cut_off_begins_anew_and_one_that_fails_leaves_nothing(story: Story) -> None:
    target = story.folder / "cut-off"
    (target / ".massact-restore" / "1").mkdir(parents=True)
    (target / "1").mkdir()
    new = story.new_database("cut_off")
    story.postgres.execute("ALTER DATABASE cut_off SET default_transaction_read_only = on")
    where = {"MLFLOW_BACKEND_STORE_URI": new, "MASSACT_ARTIFACTS": str(target)}
    done = story.keep("restore", story.backup, **where)
    assert done.returncode != 0
    assert "removing what it had put there" in done.stderr
    assert list(target.iterdir()) == []
    story.postgres.execute("ALTER DATABASE cut_off RESET default_transaction_read_only")
    (target / ".massact-restore").mkdir()
    (target / "left-by-it").write_text("")
    done = story.keep("restore", story.backup, **where)
    assert done.returncode == 0, done.stderr
    assert not (target / "left-by-it").exists()
    assert len(story.finished("cut_off")) >= 3


@pytest.mark.parametrize("fault", ["cut off", "a byte changed", "a file missing", "sums missing", "not named"])
def test_a_damaged_backup_is_refused_and_nothing_is_touched(story: Story, fault: str, tmp_path: Path) -> None:
    backup = tmp_path / ("copy.partial" if fault == "cut off" else "copy")
    shutil.copytree(story.backup, backup)
    if fault == "a byte changed":
        with (backup / "artifacts.tar").open("r+b") as file:
            file.seek(-2000, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    elif fault == "a file missing":
        (backup / "database.dump").unlink()
    elif fault == "sums missing":
        (backup / "SHA256SUMS").unlink()
    elif fault == "not named":
        lines = (backup / "SHA256SUMS").read_text().splitlines(keepends=True)
        (backup / "SHA256SUMS").write_text("".join(line for line in lines if "artifacts" not in line))
        (backup / "artifacts.tar").unlink()
    done = story.keep("restore", backup, MASSACT_ARTIFACTS=str(tmp_path / "target"))
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert not (tmp_path / "target").exists()


def test_the_schema_is_upgraded_without_a_password_on_the_command_line(story: Story) -> None:
    done = story.service.run("upgrade")
    assert done.returncode == 0, done.stderr
    done = story.service.run("upgrade", MLFLOW_BACKEND_STORE_URI="postgresql://massact:hunter2@/massact")
    assert (done.returncode, "hunter2" in done.stderr) == (2, False)
