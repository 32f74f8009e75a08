"""Whole runs written many at a time: the same as MLflow's client would have written, and all or none."""

import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from massact.errors import StoreError
from massact.store.databases import database_url
from massact.store.schema import MlflowTag
from massact.store.write import run_writer
from massact.store.write.client import connect, parent_tags
from massact.store.write.evaluations import Baseline, Place, RunMaker, evaluation_row, evaluation_scores
from massact.store.write.finished_run import Step
from massact.store.write.run_writer import ClientWriter, FinishedRun, evaluation_run, open_writer
from massact.store.write.tracker import Tracker
from tests.support.postgres_server import PostgresServer
from tests.support.store_fixtures import tracking_server
from tests.support.written_runs import an_evaluation, rows_in_database, seen_by_client

AWKWARD = FinishedRun(
    name="ein Lauf · Ω",
    tags={"massact.kind": "evaluation", "mlflow.user": "ada", "note": "line\nand\ttab \\ backslash"},
    params={f"param {i}": f"value {i}" for i in range(150)} | {"empty": ""},
    metrics={"mean": 12.5, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "whole": 3},
    steps=[
        *(Step("curve", i / 7, i) for i in range(1200)),
        Step("unordered", 1.0, 5),
        Step("unordered", 9.0, 2),
        Step("unordered", -1.0, 5),
        Step("repeated", 2.0, 1),
        Step("repeated", 2.0, 1),
        Step("negative", 4.0, -3),
        Step("nan last", 4.0, 0),
        Step("nan last", math.nan, 1),
        Step("nan or less", math.nan, 0),
        Step("nan or less", -4.0, 0),
        Step("mean", 99.0, 0),
    ],
    started_at=1_700_000_000_000,
    finished_at=1_700_000_001_234,
    status="FAILED",
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, uri: str) -> str:
    """The tracking URI of an empty database."""
    if request.param == "sqlite":
        return uri
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return postgres.migrated()


def _run(name: str = "a run", **changes: Any) -> FinishedRun:
    values: dict[str, Any] = {
        "tags": {"t": "1"},
        "params": {"p": "1"},
        "metrics": {"m": 1.0},
        "started_at": 1000,
        "finished_at": 2000,
    }
    return FinishedRun(name=name, **{**values, **changes})


def _count(uri: str) -> dict[str, int]:
    engine = sa.create_engine(database_url(uri))
    with engine.connect() as connection:
        counts = {
            name: connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in run_writer.COLUMNS
        }
    engine.dispose()
    return counts


def _write(uri: str, *runs: FinishedRun, experiment_id: str = "0") -> list[str]:
    writer = open_writer(uri, experiment_id)
    try:
        return writer.write(runs)
    finally:
        writer.close()


@pytest.mark.slow
@pytest.mark.parametrize("keep_responses", [False, True], ids=["scores only", "responses"])
@pytest.mark.parametrize("steered", [True, False], ids=["evaluation", "baseline"])
def test_an_evaluation_is_the_same_as_one_that_was_measured(database: str, steered: bool, keep_responses: bool) -> None:
    tracker, evaluation = Tracker(database, "study", floor=68), an_evaluation(steered=steered)
    with tracker.phase("phase1", params={}) as phase:
        place, baseline = Place("study", "tiny", "instruct", 2), Baseline("b", 4.0) if steered else None
        make = RunMaker(place=place, parent=phase, baseline=baseline, keep_responses=keep_responses)
        run, row = make(evaluation), evaluation_row(place, evaluation, baseline)
        (measured,) = ClientWriter(database, phase.experiment_id, connect(database)).write([run])
        file = "responses.json" if keep_responses else "unscored.json"
        files = {file: tracker.fetch(measured, file).read_bytes()}
        whole = evaluation_run(
            row,
            evaluation_scores(evaluation),
            started_at=1000,
            finished_at=2000,
            tags=parent_tags(phase.run_id),
            files=files,
        )
        (written,) = _write(database, whole, experiment_id=phase.experiment_id)
    assert seen_by_client(database, written) == seen_by_client(database, measured)
    info = connect(database).get_run(written).info
    assert (info.start_time, info.end_time) == (1000, 2000)


@pytest.mark.slow
def test_every_column_is_as_mlflows_own_store_writes_it(database: str) -> None:
    client = connect(database)
    (by_client,) = ClientWriter(database, "0", client).write([AWKWARD])
    (by_sql,) = _write(database, AWKWARD)
    expected, found = rows_in_database(database, by_client), rows_in_database(database, by_sql)
    for table in run_writer.COLUMNS:
        assert found[table] == expected[table], table
    latest = client.get_run(by_sql).data.metrics
    assert math.isnan(latest["nan"])
    assert (latest["unordered"], latest["nan or less"] == 0, latest["mean"]) == (1.0, False, 99.0)


@pytest.mark.slow
def test_a_server_is_given_the_same_as_its_database(uri: str, tmp_path: Path) -> None:
    run = replace(AWKWARD, files={"notes/readme.md": b"# read me\n"})
    with tracking_server(uri, tmp_path) as address:
        client = connect(address)
        experiment_id = client.create_experiment("over http")
        by_http, _ = _write(address, run, _run(), experiment_id=experiment_id)
        (by_sql,) = _write(uri, AWKWARD, experiment_id=experiment_id)
        assert [one.path for one in client.list_artifacts(by_http, "notes")] == ["notes/readme.md"]
        with pytest.raises(StoreError, match="mlflow-artifacts"):
            _write(uri, run, experiment_id=experiment_id)  # only the server knows where its artifacts lie
    assert rows_in_database(uri, by_http) == rows_in_database(uri, by_sql)


@pytest.mark.slow
def test_ids_come_in_the_order_of_the_runs(database: str) -> None:
    runs = [_run(f"run {i}") for i in range(300)]  # more than one statement holds
    Tracker(database, "study", floor=68)
    run_ids = _write(database, *runs)
    client = connect(database)
    assert [client.get_run(run_ids[i]).info.run_name for i in (0, 137, 299)] == ["run 0", "run 137", "run 299"]
    assert _count(database)["runs"] == 300
    assert _write(database) == []


@pytest.mark.slow
def test_an_error_in_the_middle_leaves_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Tracker(database, "study", floor=68)

    metric_rows = run_writer.metric_rows

    def twice(*arguments: Any) -> Any:
        rows, latest = metric_rows(*arguments)
        return rows * 2, latest

    monkeypatch.setattr("massact.store.write.run_writer.metric_rows", twice)
    with pytest.raises(StoreError, match=r"^no run was written: .*(UNIQUE|duplicate key)"):
        _write(database, _run("one"), _run("two"))
    assert set(_count(database).values()) == {0}
    monkeypatch.undo()
    _write(database, _run("one"), _run("two"))
    assert set(_count(database).values()) == {2, 4}  # two tags each, the name among them


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupt_in_the_middle_leaves_nothing(
    database: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    Tracker(database, "study", floor=68)
    execute: Callable[..., Any] = sa.Connection.exec_driver_sql

    def cut(self: sa.Connection, statement: str, *about: Any) -> Any:
        result = execute(self, statement, *about)
        if statement.startswith("INSERT INTO metrics"):
            raise error
        return result

    monkeypatch.setattr(sa.Connection, "exec_driver_sql", cut)
    with pytest.raises(error):
        _write(database, _run())
    assert set(_count(database).values()) == {0}


def test_files_are_there_before_the_run_is(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"responses.json": b"{}", "deep/er/bytes.bin": bytes(range(256))}
    (run_id,) = _write(uri, _run(files=files))
    folder = Path(connect(uri).get_run(run_id).info.artifact_uri.removeprefix("file://"))
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="No space left on device"):
        _write(uri, _run(files=files))
    assert _count(uri)["runs"] == 1


def test_a_database_that_another_writer_holds_is_named(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("massact.store.databases", "massact.store.write.run_writer"):
        monkeypatch.setattr(f"{module}.LOCK_TIMEOUT_SECONDS", 0.1)
    writer = open_writer(uri, "0")
    other = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"store\.db stayed locked by another writer for 0\.1 s"):
        writer.write([_run()])
    other.execute("ROLLBACK")
    other.close()
    writer.write([_run()])
    writer.close()
    assert _count(uri)["runs"] == 1


def test_a_database_that_may_only_be_read_is_named(uri: str) -> None:
    path = uri.removeprefix("sqlite:///")
    database = run_writer.SqlWriter(f"sqlite:///file:{path}?mode=ro&uri=true", "0", "")
    with pytest.raises(StoreError, match="may only be read"):
        database.insert({"params": [("key", "value", "run")]})
    database.close()


def test_a_database_of_another_schema_is_refused(tmp_path: Path) -> None:
    database = run_writer.SqlWriter(f"sqlite:///{tmp_path}/shop.db", "0", "")
    with pytest.raises(StoreError, match=r"no such table: params.*migrated by this MLflow"):
        database.insert({"params": [("key", "value", "run")]})
    database.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"params": {"long": "x" * 6001}}, "param 'long' has 6001 characters, MLflow keeps 6000"),
        ({"tags": {"long": "x" * 8001}}, "tag 'long' has 8001 characters, MLflow keeps 8000"),
        ({"name": "x" * 251}, "name has 251 characters, MLflow keeps 250"),
        ({"metrics": {"a=b": 1.0}}, "'a=b'"),
        ({"steps": [Step("", 1.0, 0)]}, "''"),
        ({"files": {"../../passwd": b""}}, "passwd"),
        ({"files": {"/etc/passwd": b""}}, "passwd"),
        ({"status": "RUNNING"}, "status 'RUNNING' is not an end"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_mlflow_would_cut_or_refuse_is_refused_at_once(uri: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(StoreError) as refused:
        _write(uri, _run("good"), replace(_run(), **changes))
    assert reason in str(refused.value)
    assert _count(uri)["runs"] == 0


@pytest.mark.parametrize("where", ["mysql://u:secret@h/db", "/tmp/mlruns", "databricks", ""])
def test_other_kinds_of_store_are_refused(where: str) -> None:
    with pytest.raises(StoreError, match="names no run store that can be written") as refused:
        open_writer(where, "0")
    assert "secret" not in str(refused.value)


def test_an_experiment_that_is_not_there_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="77"):
        open_writer(uri, "77")
    tracker = Tracker(uri, "study", floor=68)
    connect(uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(StoreError, match="'study' was deleted"):
        open_writer(uri, tracker.experiment_id)


@pytest.mark.parametrize(
    ("uri", "used"),
    [
        ("postgres://u@h/db", "postgresql+psycopg://u@h/db"),
        ("postgresql://u@h/db", "postgresql+psycopg://u@h/db"),
        ("postgresql+psycopg2://u@h/db", "postgresql+psycopg://u@h/db"),
        ("sqlite:////a.db", "sqlite:////a.db"),
    ],
)
def test_postgresql_is_always_psycopg_3(uri: str, used: str) -> None:
    assert database_url(uri).render_as_string() == used


@pytest.mark.slow
def test_a_store_can_be_made_to_measure(uri: str, root: Path) -> None:
    command = [sys.executable, root / "benchmarks/make_store.py", "--evaluations", "950", "--tracking-uri", uri]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "25 baselines" in done.stdout
    assert _count(uri)["runs"] == 950 + 25 + 4
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (again.returncode, "has runs already" in again.stderr) == (1, True)
    client = connect(uri)
    (newest,) = client.search_runs([client.get_experiment_by_name("made-to-measure").experiment_id], max_results=1)
    assert MlflowTag.PARENT in newest.data.tags
