"""A sweep through a tracking server that is killed in the middle and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from massact.store.read import open_store
from tests.small_plan import EXPERIMENT, ROOT
from tests.store_fixtures import _wait_for

pytestmark = pytest.mark.slow

COEFFICIENTS = "coefficients: [4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34]"
N_CELLS = 2 * 16


class Server:
    """A real tracking server on loopback that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.database = f"sqlite:///{folder}/server.db"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self.folder / "server.log"
        with log.open("a") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env=environment, cwd=self.folder, start_new_session=True
            )
        _wait_for(f"{self.address}/health", self.process, log)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
        self.process = None


class Place:
    """A folder with an experiment, a server beside it, and how commands run there."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        (folder / "small.yaml").write_text(EXPERIMENT.replace("coefficients: [16, 24]", COEFFICIENTS))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "massact", *arguments, "--experiment", "small.yaml"]
        return subprocess.Popen(
            [*command, "--tracking-uri", self.server.address],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        return errors

    def keys(self) -> list[str]:
        """Of every finished evaluation, straight from the database: two of one key come twice."""
        import sqlite3

        connection = sqlite3.connect(self.folder / "server.db")
        rows = connection.execute(
            "select k.value from runs r join tags k on k.run_uuid = r.run_uuid and k.key = 'massact.key' "
            "join tags t on t.run_uuid = r.run_uuid and t.key = 'massact.kind' "
            "where r.status = 'FINISHED' and t.value = 'evaluation'"
        ).fetchall()
        connection.close()
        return [key for (key,) in rows]

    def sweep_until(self, n: int, *options: str) -> "subprocess.Popen[str]":
        """Phase 1, a cell a batch, until the store has so many evaluations."""
        process = self.start("phase1", "--batch-rows", "2", "--max-rounds", "0", *options)
        deadline = time.monotonic() + 120
        while len(self.keys()) < n and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        return process


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    server = Server(tmp_path)
    server.start()
    made = Place(tmp_path, server)
    try:
        made.run("calibrate")
        made.run("extract")
        yield made
    finally:
        server.kill()


def test_a_sweep_outlives_its_server(place: Place) -> None:
    process = place.sweep_until(3)
    place.server.kill()
    time.sleep(4)
    assert process.poll() is None
    place.server.start()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    keys = place.keys()
    assert len(keys) == len(set(keys)) == N_CELLS
    store = open_store(place.server.address)
    assert [one.status for one in store.phases("small") if one.phase == "phase1"] == ["FINISHED"]
    assert not list((place.folder / ".massact/spool").iterdir())

    # and a server that does not come back costs the wait alone: what was evaluated is sent by the next command
    (place.folder / "small.yaml").write_text(
        EXPERIMENT.replace("coefficients: [16, 24]", COEFFICIENTS + '\n    layers: "4"').replace(
            '    layers: "3"\n', ""
        )
    )
    process = place.sweep_until(N_CELLS + 3, "--store-timeout", "3")
    place.server.kill()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert "massact sync sends them" in errors
    assert list((place.folder / ".massact/spool").iterdir())
    place.server.start()
    errors = place.run("phase1", "--max-rounds", "0")
    assert f"{N_CELLS} cells: {N_CELLS} finished already, 0 evaluated" in errors
    keys = place.keys()
    assert len(keys) == len(set(keys)) == 2 * N_CELLS
