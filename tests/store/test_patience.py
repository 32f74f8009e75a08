"""Waiting for a store that went away, and for nothing else."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from massact.errors import RunRefusedError, StoreError, UnusableStoreError
from massact.store import retry as module
from massact.store.databases import passes_by_itself
from massact.store.read import open_patient_store
from massact.store.retry import Patience, StoreLostError, is_outage
from massact.store.schema import Tag
from massact.store.spool import Spool
from massact.store.write.client import connect
from massact.store.write.run_writer import evaluation_run
from massact.store.write.tracker import Tracker
from tests.support.store_fixtures import evaluation_row


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)


class Flaky:
    """Fails some times with an error."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def __call__(self, *_: object, **__: object) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


def _server_error() -> Exception:
    from mlflow.exceptions import MlflowException

    return MlflowException("the database went away")


def _refusal() -> Exception:
    from mlflow.exceptions import MlflowException

    return MlflowException.invalid_parameter_value("no such param")  # type: ignore[no-any-return, no-untyped-call]


def test_an_outage_is_waited_for_and_told_once() -> None:
    said: list[str] = []
    patience, flaky = Patience(60, say=said.append), Flaky(_server_error(), 3)
    patience.is_under_way = True
    assert patience.ask(flaky) == "done"
    assert flaky.calls == 4
    assert len(said) == 2
    assert "the database went away" in said[0]
    assert said[1] == "the tracking store is back"


def test_before_work_is_under_way_it_is_tried_once() -> None:
    flaky = Flaky(error := _server_error(), 1)
    with pytest.raises(type(error)):
        Patience(60).ask(flaky)
    assert flaky.calls == 1


def test_patience_ends() -> None:
    patience = Patience(0.05)
    patience.is_under_way = True
    with pytest.raises(StoreLostError, match="massact sync") as caught:
        patience.ask(Flaky(_server_error(), 1000))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "error",
    [_refusal(), TypeError("a fault"), FileNotFoundError("gone"), RunRefusedError("never")],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_outage_is_raised_at_once(error: Exception) -> None:
    patience, flaky = Patience(60), Flaky(error, 1)
    patience.is_under_way = True
    with pytest.raises(type(error)):
        patience.ask(flaky)
    assert flaky.calls == 1


def test_a_broken_connection_is_an_outage_under_whatever_name() -> None:
    import requests

    missing = requests.Response()
    missing.status_code = 404
    chained = StoreError("gone")
    chained.__cause__ = ConnectionResetError()
    assert is_outage(requests.ConnectionError())
    assert is_outage(chained)
    assert not is_outage(requests.HTTPError(response=missing))


def test_a_run_whose_answer_was_lost_is_not_made_twice(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(uri, "study", floor=68.0, patience=Patience(60))
    client: Any = tracker._client
    real, lost = client.create_run, list[str]()

    def create_run(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        if not lost:
            lost.append(made.info.run_id)
            raise ConnectionResetError("the answer never came")
        return made

    monkeypatch.setattr(client, "create_run", create_run)
    tracker._patience.is_under_way = True
    with tracker.phase("phase1", params={}) as run:
        pass
    runs = connect(uri).search_runs([tracker.experiment_id])
    assert [one.info.run_id for one in runs] == [run.run_id] == lost
    assert runs[0].data.tags[Tag.PHASE] == "phase1"


def test_two_that_make_the_experiment_at_once_share_it(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    first = Tracker(uri, "study", floor=68.0)
    real, asked = MlflowClient.get_experiment_by_name, []

    def not_yet(self: MlflowClient, name: str) -> Any:
        asked.append(name)
        return None if len(asked) == 1 else real(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", not_yet)
    assert Tracker(uri, "study", floor=68.0).experiment_id == first.experiment_id


def test_a_phase_whose_store_is_gone_keeps_its_own_error(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(uri, "study", floor=68.0, patience=Patience(60))
    monkeypatch.setattr(tracker, "_end", Flaky(_server_error(), 9))
    with pytest.raises(ValueError, match="mine"), tracker.phase("phase1", params={}):
        raise ValueError("mine")


def test_a_reading_is_tried_again(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Tracker(uri, "study", floor=68.0)
    patience = Patience(60)
    store = open_patient_store(uri, patience)
    patience.is_under_way = True
    inner: Any = store
    flaky = Flaky(StoreError("does not answer"), 2)
    monkeypatch.setattr(inner._store, "finished_keys", flaky)
    assert store.finished_keys("study") == {}, "the third reading asks a store that was opened anew"
    assert flaky.calls == 1
    store.close()


def test_a_store_that_is_not_there_holds_nothing_before_work_is_under_way(tmp_path: Path) -> None:
    uri, patience = f"sqlite:///{tmp_path}/none.db", Patience(60)
    assert open_patient_store(uri, patience).finished_keys("study") == {}
    assert list(tmp_path.iterdir()) == []
    patience.is_under_way = True
    with pytest.raises(UnusableStoreError, match="no run store at"):
        open_patient_store(uri, patience)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE experiment_tags", "no table 'experiment_tags'"),
        ("ALTER TABLE tags RENAME COLUMN value TO text", "no column 'value'"),
    ],
)
def test_a_store_that_no_longer_fits_is_not_waited_for(uri: str, change: str, said: str) -> None:
    patience, lines = Patience(60, say=list[str]().append), list[str]()
    tracker = Tracker(uri, "study", floor=68.0, patience=patience, say=lines.append)
    with tracker.phase("phase1", params={}):
        pass
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute(change)
    with pytest.raises(UnusableStoreError, match=said):
        open_patient_store(uri, patience)
    with pytest.raises(UnusableStoreError, match=r"no such table|no column"), tracker.phase("phase2", params={}):
        pass
    assert lines == []


def test_a_spool_whose_store_never_takes_anything_says_so_at_once(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri, "study", floor=68.0)
    spool = Spool(tmp_path / "spool", uri, "study")
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("ALTER TABLE tags RENAME COLUMN value TO text")
    row = evaluation_row()
    spool.put(evaluation_run(row, None, name="one", started_at=1, finished_at=2), experiment_id=tracker.experiment_id)
    with pytest.raises(UnusableStoreError, match="no run was written"):
        spool.flush(60)
    assert spool.close() == 1, "it is kept on the disk"


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (psycopg.errors.AdminShutdown("terminating connection"), True),
        (psycopg.errors.LockNotAvailable("locked"), True),
        (psycopg.OperationalError("connection refused"), True),
        (psycopg.errors.UndefinedColumn("column does not exist"), False),
        (psycopg.errors.InsufficientPrivilege("permission denied"), False),
        (psycopg.OperationalError('FATAL: password authentication failed for user "ada"'), False),
        (psycopg.OperationalError('FATAL: database "runs" does not exist'), False),
    ],
    ids=str,
)
def test_what_of_a_database_passes_by_itself(error: Exception, passes: bool) -> None:
    assert passes_by_itself(error) is passes
    wrapped = sa.exc.DBAPIError("SELECT 1", {}, error)
    assert passes_by_itself(wrapped) is passes
    outer = StoreError("said")
    outer.__cause__ = wrapped
    assert is_outage(outer) is passes
