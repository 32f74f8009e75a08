"""A sweep of the toy on two nodes of Ray's, a worker and then a node killed: equal to the local one, cell by cell."""

import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from massact.config import load_experiment
from massact.labels import parse_label
from massact.metrics import DEFAULT_METRICS
from massact.store.read import open_store, stored_runs
from massact.store.responses import read_responses
from massact.store.schema import Artifact, Kind, Tag, WorkerMetric
from massact.store.tensors import read_tensor
from massact.sweep.context import Session, Workload
from massact.sweep.executors import RayOptions
from massact.sweep.planner import Overrides
from massact.workflow.steps import Request, run_calibrate, run_evaluate, run_extract
from tests.support import ray_cluster

pytestmark = pytest.mark.slow
EXPERIMENT = """\
name: cluster
traits:
  refusal: {dataset: "toy:refusal"}
models:
  toy:
    base: {variant: base, model: "toy:gemma-3-base"}
    instruct: {variant: instruct, model: "toy:gemma-3-instruct"}
    dtype: float32
    layers: "2-4"
    coefficients: [8, 12, 16, 24, 30, 38]
calibration: {prompts: "toy:calibration", max_new_tokens: 4}
extraction: {positions: ["response[:5]"], methods: [mean_diff, probe], uniform_dims: [1, all], max_new_tokens: 8}
generation: {max_new_tokens: 24}
judge: likelihood
subset: 3
phases:
  phase1: {labels: [probe, mean_diff], positions: ["response[:5]"]}
  phase2: {labels: [probe], positions: ["response[:5]"]}
  phase3: {labels: [mean_diff], positions: ["response[:5]"]}
"""
LABELS = ("probe", "mean_diff", "mean_diff_top1")
N_CELLS = len(LABELS) * 3 * 6


@pytest.fixture(scope="module")
def prepared(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store has the vectors."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "cluster.yaml").write_text(EXPERIMENT)
    (folder / "base.db").write_bytes(migrated_database.read_bytes())
    session = _session(folder, "base", None)
    run_calibrate(session)
    run_extract(session)
    session.stores.close()
    return folder


@pytest.fixture(scope="module")
def local(prepared: Path) -> dict[str, Any]:
    """What the local executor makes of it."""
    return _evaluated(prepared, "local", None)


@contextmanager
def _within(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _session(folder: Path, name: str, ray: RayOptions | None, say: Callable[[str], None] = print) -> Session:
    # the run of MLflow's own default artifact root lies in the working directory
    with _within(folder):
        workload = Workload(spool=folder / f"spool-{name}", alike=None, batch_rows=9, ray=ray)
        experiment = load_experiment(str(folder / "cluster.yaml"))
        experiment = replace(experiment, judge=replace(experiment.judge, cache="off"))
        return Session(experiment, f"sqlite:///{folder}/{name}.db", workload=workload, say=say)


def _evaluated(
    folder: Path, name: str, ray: RayOptions | None, meanwhile: Callable[[Session], Any] | None = None
) -> dict[str, Any]:
    """Evaluate the grid into a store of its own. Returns what it holds, by key."""
    (folder / f"{name}.db").write_bytes((folder / "base.db").read_bytes())
    session = _session(folder, name, ray)
    model, trait = session.experiment.models[0], session.experiment.traits[0]
    request = Request(
        model, trait, tuple(map(parse_label, LABELS)), "response[:5]", "2-4", model.grid.coefficients, Overrides()
    )
    with _within(folder):
        try:
            session.models.executor  # noqa: B018  made here, before somebody else looks at it
            threads = [] if meanwhile is None else [threading.Thread(target=meanwhile, args=(session,))]
            for one in threads:
                one.start()
            tally, _ = run_evaluate(session, request)
            for one in threads:
                one.join()
        finally:
            left = session.stores.close()
    assert left == 0
    assert (tally.evaluated, tally.failed) == (N_CELLS, 0)
    return _held(folder, f"sqlite:///{folder}/{name}.db")


def _held(folder: Path, uri: str) -> dict[str, Any]:
    """What must not depend on who ran a cell: its row, scores and responses."""
    found: dict[str, Any] = {}
    with _within(folder):
        for kind in (Kind.BASELINE, Kind.EVALUATION):
            for run in stored_runs(uri, "cluster", kind, tags=(Tag.ROW, Tag.SCORES)):
                responses = read_responses(Path(run.artifact_uri) / Artifact.RESPONSES)
                vector = Path(run.artifact_uri) / Artifact.VECTOR
                values = read_tensor(vector, "vector").tolist() if kind is Kind.EVALUATION else None
                found[run.run_id] = (run.tags[Tag.SCORES], responses, values)
        store = open_store(uri)
        try:
            rows = {one.run_id: one.row for one in (*store.baselines("cluster"), *store.evaluations("cluster"))}
        finally:
            store.close()
    held: dict[str, Any] = {}
    for run_id, row in rows.items():
        assert row.key not in held, "a cell was finished twice"
        plain = replace(row, generation_seconds=None, judge_seconds=None, tokens_per_second=None, metrics=None)
        scores, responses, values = found[run_id]
        assert row.metrics is not None
        assert len(row.metrics) == len(DEFAULT_METRICS)
        measured = [_near(one) for one in (row.metrics, *(said.metrics for said in responses))]
        held[row.key] = (plain, scores, [replace(said, metrics={}) for said in responses], values, measured)
    return held


def _near(metrics: Mapping[str, float | None]) -> dict[str, Any]:
    """Metrics that hang in their last digits on which rows were in a batch, and so on who was at work when: compared
    within a tolerance, since a rounded one may lie at the edge of its digit."""
    return {name: _Near(value or 0.0) for name, value in metrics.items()}


class _Near(float):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=1e-3, abs_tol=1e-4)

    __hash__ = float.__hash__


def _steps(path: Path, run_id: str, metric: WorkerMetric) -> int:
    import sqlite3

    with sqlite3.connect(path) as database:
        query = "SELECT count(DISTINCT step) FROM metrics WHERE run_uuid = ? AND key = ?"
        return int(database.execute(query, (run_id, metric.value)).fetchone()[0])


@contextmanager
def _node(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node of Ray's, a process with processes of its own; what is left of it is killed in the end."""
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ray_cluster.ROOT),
        # a machine is dead after ten seconds without an answer: a busy one may be silent for two
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "10",
    }
    command = [
        sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", "--num-cpus=1",
        "--object-store-memory=100000000", "--disable-usage-stats", *arguments,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Everything that a node has started, at once."""
    try:
        own = psutil.Process(process.pid)
        for one in (own, *own.children(recursive=True)):
            one.kill()
    except psutil.NoSuchProcess:
        pass
    process.wait()


@contextmanager
def _two_nodes() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a cluster of two nodes, and the second node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with _node("--head", f"--port={port}", "--include-dashboard=false", "--node-ip-address=127.0.0.1"):
        _wait_for_port(port)
        with _node(f"--address={address}", "--node-ip-address=127.0.0.1") as second:
            yield address, second


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(2)
                return
        time.sleep(0.2)
    raise TimeoutError("the head does not start")


class _Destroyer:
    """Kills a worker at a random moment, and then a whole node once both have given something."""

    def __init__(self, second: subprocess.Popen[bytes]) -> None:
        self._second = second
        self.killed: list[int] = []
        self.has_killed_node = False

    def __call__(self, session: Session) -> None:
        chance, deadline = random.Random(7), time.monotonic() + 600
        while not self.has_killed_node and time.monotonic() < deadline:
            time.sleep(chance.uniform(0.01, 0.2))
            tools = getattr(session.models.executor, "_tools", None)
            workers = list(tools.worker_pool.workers) if tools else []
            at_work = [one.about.pid for one in workers if one.about and one.loaded and one.tasks]
            if not self.killed:
                if at_work:
                    self.killed.append(chance.choice(at_work))
                    os.kill(self.killed[0], signal.SIGKILL)
            elif len({one.about.node for one in workers if one.about and one.report.cells}) == 2:
                _kill(self._second)
                self.has_killed_node = True


def test_a_worker_and_then_a_node_that_are_killed_change_nothing(prepared: Path, local: dict[str, Any]) -> None:
    with _two_nodes() as (address, second):
        destroyer = _Destroyer(second)
        options = RayOptions(address, workers=2, gpus_per_worker=0)
        held = _evaluated(prepared, "killed", options, destroyer)
    assert destroyer.killed
    assert destroyer.has_killed_node
    assert held == local
    uri = f"sqlite:///{prepared}/killed.db"
    phases = stored_runs(uri, "cluster", Kind.PHASE, tags=(Tag.EXECUTOR, Tag.PHASE))
    (phase,) = (one for one in phases if Tag.EXECUTOR in one.tags)
    assert "2 of them lost" in phase.tags[Tag.EXECUTOR]
    assert _steps(prepared / "killed.db", phase.run_id, WorkerMetric.UTILISATION) >= 3
