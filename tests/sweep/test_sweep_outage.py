"""A sweep through a tracking server that is killed in the middle and started again."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from massact.store.read import open_store
from tests.support.prepared import PreparedStores
from tests.support.processes import Process, massact
from tests.support.small_plan import EXPERIMENT
from tests.support.store_fixtures import Server

pytestmark = pytest.mark.slow

COEFFICIENTS = "coefficients: [4, 8, 12, 16, 20, 24, 28, 32]"
N_CELLS = 2 * 8


class Place:
    """A folder with an experiment, a server beside it, and how commands run there."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server

    def start(self, *arguments: str) -> Process:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        more = ("--experiment", "small.yaml", "--tracking-uri", self.server.address)
        return massact(*arguments, *more, cwd=self.folder, env=environment)

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        return errors

    def keys(self) -> list[str]:
        """Of every finished evaluation, straight from the database: two of one key come twice."""
        import sqlite3

        connection = sqlite3.connect(self.folder / "mlflow.db")
        rows = connection.execute(
            "select k.value from runs r join tags k on k.run_uuid = r.run_uuid and k.key = 'massact.key' "
            "join tags t on t.run_uuid = r.run_uuid and t.key = 'massact.kind' "
            "where r.status = 'FINISHED' and t.value = 'evaluation'"
        ).fetchall()
        connection.close()
        return [key for (key,) in rows]

    def sweep_until(self, n: int, *options: str) -> Process:
        """Phase 1, a cell a batch, until the store has so many evaluations."""
        process = self.start("phase1", "--batch-rows", "2", "--max-rounds", "0", *options)
        deadline = time.monotonic() + 120
        while len(self.keys()) < n and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        return process


@pytest.fixture
def place(prepared_stores: PreparedStores, tmp_path: Path) -> Iterator[Place]:
    text = EXPERIMENT.replace("coefficients: [16, 24]", COEFFICIENTS)
    prepared_stores.copy(text, tmp_path, served=True)
    server = Server(tmp_path)
    server.start()
    try:
        yield Place(tmp_path, server)
    finally:
        server.kill()


def test_a_sweep_outlives_its_server(place: Place) -> None:
    process = place.sweep_until(3)
    place.server.kill()
    time.sleep(2)  # of an outage
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
