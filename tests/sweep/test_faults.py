"""What a sweep survives: processes killed at any moment, a full disk, three others on the same store.

After each of these the same command is run to its end, and then every planned cell must be finished exactly
once for the queries, no run may be left RUNNING once doctor has mended, and no file may be missing.
"""

import json
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from massact.query import Answers
from massact.store.read import open_store
from massact.store.schema import Artifact, Kind
from tests.support.faults import EXPERIMENT, Worker, uri
from tests.support.prepared import PreparedStores

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
N_KILLS = 30
LABELS = ("probe", "probe_top1", "probe_top2", "probe_preclean", "mean_diff", "mean_diff_top1", "mean_diff_top2")
N_CELLS = len(LABELS) * 3 * 3
SWEEP = (
    "evaluate", "--method", ",".join(LABELS), "--position", "response[:5]", "--batch-rows", "6", "--alike", "off",
)  # fmt: skip


@pytest.fixture
def folder(prepared_stores: PreparedStores, tmp_path: Path) -> Path:
    """A folder with an experiment file that is calibrated and extracted."""
    (tmp_path / "experiments").mkdir()
    prepared_stores.copy(EXPERIMENT, tmp_path, file="experiments/toy.yaml")
    return tmp_path


@pytest.fixture
def worker(folder: Path) -> Iterator[Worker]:
    made = Worker(folder)
    yield made
    made.close()


def said(folder: Path) -> str:
    """What the commands wrote, its end."""
    return (folder / "output.txt").read_text(encoding="utf-8")[-30_000:]


@dataclass(frozen=True)
class Found:
    """What a store holds in the end."""

    n_finished: int
    """Cells that a query counts."""
    n_runs: int
    """Finished runs of evaluations, superseded ones too."""
    statuses: set[str]
    """Of all runs."""


def look(folder: Path) -> Found:
    """Look into the store, and see that every evaluation has its files and every cell its one answer."""
    store = open_store(uri(folder))
    answers = Answers.from_store(store, "small")
    assert store.warnings == []
    points = list(answers.evaluations)
    assert len({point.key for point in points}) == len(points)
    store.close()
    with sqlite3.connect(folder / "mlflow.db") as database:
        kinds = "select run_uuid from tags where key = 'massact.kind' and value = ?"
        runs = database.execute(
            f"select run_uuid, status, artifact_uri from runs where run_uuid in ({kinds})",  # constants
            (Kind.EVALUATION.value,),
        ).fetchall()
        statuses = {status for (status,) in database.execute("select distinct status from runs")}
    finished = {run_id: Path(place.removeprefix("file://")) for run_id, status, place in runs if status == "FINISHED"}
    for point in points:
        files = finished[point.run_id]
        assert (files / Artifact.VECTOR).stat().st_size > 0
        table = json.loads((files / Artifact.RESPONSES).read_text(encoding="utf-8"))
        assert len(table["data"]) == 3
    return Found(len(points), len(finished), statuses)


def assert_whole(folder: Path, worker: Worker) -> Found:
    """Everything is there once, and doctor has nothing left to mend."""
    assert worker.run("doctor", "--fix", "--stale-after", "0") == 0, said(folder)
    assert worker.run("doctor") == 0, said(folder)
    found = look(folder)
    assert found.n_finished == N_CELLS
    assert "RUNNING" not in found.statuses
    assert worker.run(*SWEEP) == 0, said(folder)
    assert f"{N_CELLS} cells: {N_CELLS} finished already, 0 evaluated" in said(folder)
    return found


def test_a_sweep_killed_at_thirty_moments_is_whole_in_the_end(folder: Path, worker: Worker) -> None:
    moments = random.Random(7)
    codes = [worker.run(*SWEEP, kill_after=moments.uniform(0.2, 1.6)) for _ in range(N_KILLS)]
    assert codes.count(-9) >= N_KILLS // 2, said(folder)
    assert worker.run(*SWEEP) == 0, said(folder)
    found = assert_whole(folder, worker)
    assert found.n_runs == N_CELLS  # what was sent but not marked as sent was not sent again


def test_a_full_disk_stops_the_sweep_and_corrupts_nothing(folder: Path, worker: Worker) -> None:
    spool = folder / "small-disk"
    spool.mkdir()
    with small_disk(spool):
        code = worker.run(*SWEEP, "--spool", str(spool))
        text = said(folder)
        assert code == 1, text
        assert "No space left" in text
        assert str(spool) in text
        assert "Traceback" not in text
        assert worker.run("sync", "--spool", str(spool)) == 0, said(folder)
    before = look(folder).n_finished
    assert before < N_CELLS
    assert worker.run(*SWEEP) == 0, said(folder)
    assert f"{before} finished already, {N_CELLS - before} evaluated" in said(folder)
    assert assert_whole(folder, worker).n_runs == N_CELLS


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 64 kB at that place; where none can be mounted the test is skipped."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(
            "a small disk cannot be mounted here; tests/store/test_spool_journal.py limits the file's size instead"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_four_sweeps_at_once_lose_and_double_nothing_that_counts(folder: Path, worker: Worker) -> None:
    others = [Worker(folder) for _ in range(3)]
    try:
        processes = [worker, *others]
        with ThreadPoolExecutor(len(processes)) as pool:
            codes = list(pool.map(lambda one: one.run(*SWEEP), processes))
        assert codes == [0] * 4, said(folder)
    finally:
        for one in others:
            one.close()
    assert_whole(folder, worker)
