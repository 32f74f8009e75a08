"""Each record arrives once: over crashes, broken connections and servers that are down, on every kind of store."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from massact.addresses import stored_uri
from massact.errors import StoreError
from massact.store import retry as patience
from massact.store.schema import Tag
from massact.store.spool import Spool, send_leftovers
from massact.store.spool.journal import Home, Opening, RunRecord, create_journal, encode
from massact.store.write import run_writer
from massact.store.write.client import connect
from massact.store.write.finished_run import FinishedRun
from massact.store.write.run_writer import open_writer
from massact.store.write.tracker import Tracker
from tests.support.postgres_server import PostgresServer
from tests.support.spool_runs import Mode, Proxy, a_run, journals, names
from tests.support.store_fixtures import tracking_server
from tests.support.written_runs import seen_by_client

IDS = [f"{i:032x}" for i in range(1, 6)]


@dataclass(frozen=True)
class Store:
    """A store to send to, and an MLflow experiment in it that keeps artifacts."""

    uri: str
    experiment_id: str


@pytest.fixture(scope="module")
def server(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Callable[[], str]]]:
    """The address of a real MLflow server, and what makes an experiment of a test's own in it."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "store.db").write_bytes(migrated_database.read_bytes())
    with tracking_server(f"sqlite:///{folder}/store.db", folder) as address:
        numbers = iter(range(1000))
        yield address, lambda: str(connect(address).create_experiment(f"of test {next(numbers)}"))


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.slow),
        pytest.param("server", marks=pytest.mark.slow),
    ]
)
def store(request: pytest.FixtureRequest, uri: str) -> Store:
    if request.param == "server":
        address, fresh = request.getfixturevalue("server")
        return Store(address, fresh())
    if request.param == "postgresql":
        uri = request.getfixturevalue("postgres").migrated()
    return Store(uri, Tracker(uri, "study", floor=68).experiment_id)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.2)
    # attempts of its own are the spool's business here, not of MLflow's client
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def _tagged(id_: str, **changes: Any) -> FinishedRun:
    run = a_run(f"run {int(id_, 16)}", **changes)
    return replace(run, tags={**run.tags, Tag.SPOOL.value: id_})


def _left_behind(folder: Path, store: Store) -> None:
    """A journal without a mark: its process died before it could say what had arrived."""
    place = stored_uri(store.uri)
    lines = [encode(Opening(place, "study", "host", 42, 1))]
    lines += [encode(RunRecord(id_, Home(place, store.experiment_id), _tagged(id_))) for id_ in IDS]
    journal = create_journal(folder, lines[0])
    journal.append(lines[1:])
    journal.close()


def _sent_by_hand(store: Store, *ids: str) -> None:
    writer = open_writer(store.uri, store.experiment_id)
    writer.write_once({id_: _tagged(id_) for id_ in ids}, look=False)
    writer.close()


def _runs(store: Store) -> dict[str, Any]:
    """What the store holds by record: exactly one run each."""
    found = connect(store.uri).search_runs([store.experiment_id])
    by_record = {run.data.tags[Tag.SPOOL]: _content(store, run.info.run_id) for run in found}
    assert len(by_record) == len(found)
    return by_record


def _content(store: Store, run_id: str) -> dict[str, Any]:
    """A run with the bytes of its artifacts; without what says by whom it was written."""
    from mlflow.artifacts import download_artifacts

    seen = seen_by_client(store.uri, run_id)
    seen["files"] = {
        path: Path(download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=store.uri)).read_bytes()
        for path in seen["files"]
    }
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("n_arrived", [0, 2, 5])
def test_a_crash_between_sending_and_marking_makes_no_second_run(store: Store, tmp_path: Path, n_arrived: int) -> None:
    _left_behind(tmp_path / "spool", store)
    _sent_by_hand(store, *IDS[:n_arrived])
    (report,) = send_leftovers(tmp_path / "spool", None, say=print)
    assert (report.sent, report.there, report.left) == (5 - n_arrived, n_arrived, 0)
    runs = _runs(store)
    assert sorted(runs) == IDS
    for id_ in IDS:
        assert runs[id_]["status"] == "FINISHED"
        assert runs[id_]["files"] == dict(_tagged(id_).files)
        assert runs[id_]["histories"] == {"delta": [(0, 12.5)], "trait_score": [(0, 10.0), (2, 30.0)]}
    assert journals(tmp_path / "spool") == []


@pytest.mark.slow
def test_what_was_deleted_since_is_not_brought_back(store: Store, tmp_path: Path) -> None:
    _left_behind(tmp_path / "spool", store)
    _sent_by_hand(store, *IDS)
    client = connect(store.uri)
    for run in client.search_runs([store.experiment_id])[:2]:
        client.delete_run(run.info.run_id)
    (report,) = send_leftovers(tmp_path / "spool", None, say=print)
    assert (report.sent, report.there, report.left) == (0, 5, 0)
    assert len(_runs(store)) == 3


@pytest.mark.slow
def test_a_run_that_was_cut_off_is_completed(server: tuple[str, Callable[[], str]], tmp_path: Path, uri: str) -> None:
    store = Store(server[0], server[1]())
    client = connect(store.uri)
    made = {}
    for id_, stage in zip(IDS, ("made", "params", "metrics", "files", "killed"), strict=True):
        run = _tagged(id_)
        created = client.create_run(
            store.experiment_id, start_time=run.started_at, tags=run.all_tags, run_name=run.name
        )
        made[id_] = created.info.run_id
        if stage != "made":
            client.log_param(created.info.run_id, "label", "probe")
        if stage in ("metrics", "files"):
            client.log_metric(created.info.run_id, "delta", 12.5, timestamp=run.finished_at, step=0)
        if stage == "files":
            client.log_text(created.info.run_id, "cut", "responses.json")
        if stage == "killed":  # by somebody who found it open and nobody at work on it
            client.set_terminated(created.info.run_id, "KILLED")
    _left_behind(tmp_path / "spool", store)
    (report,) = send_leftovers(tmp_path / "spool", None, say=print)
    assert (report.sent, report.left) == (5, 0)
    completed = _runs(store)
    assert {run.info.run_id for run in client.search_runs([store.experiment_id])} == set(made.values())
    fresh = Store(server[0], server[1]())
    _sent_by_hand(fresh, *IDS)
    whole = _runs(fresh)
    for id_ in IDS:
        for seen in (completed[id_], whole[id_]):
            del seen["experiment"], seen["artifacts"]
        assert completed[id_] == whole[id_]


@pytest.mark.slow
def test_of_two_halves_and_a_whole_the_whole_counts(
    server: tuple[str, Callable[[], str]], tmp_path: Path, uri: str
) -> None:
    """A server that is asked twice to make a run, since its first answer was lost, makes two."""
    store = Store(server[0], server[1]())
    client, run = connect(store.uri), _tagged(IDS[0])
    halves = [
        client.create_run(store.experiment_id, start_time=run.started_at, tags=run.all_tags).info.run_id
        for _ in range(2)
    ]
    client.delete_run(halves[1])
    _sent_by_hand(store, IDS[0])
    _left_behind(tmp_path / "spool", store)
    (report,) = send_leftovers(tmp_path / "spool", None, say=print)
    assert (report.sent, report.there) == (4, 1)
    finished = client.search_runs([store.experiment_id], "attributes.status = 'FINISHED'")
    assert sorted(one.data.tags[Tag.SPOOL] for one in finished) == IDS


@pytest.mark.slow
@pytest.mark.parametrize("then", ["cut", "error", "refuse"])
def test_a_request_that_goes_wrong_at_any_point_makes_no_second_run(
    server: tuple[str, Callable[[], str]], tmp_path: Path, uri: str, then: Mode
) -> None:
    address, fresh = server
    proxy, said = Proxy(address), list[str]()
    try:
        for number in range(9):  # to connect, of one run, and the look at what is there
            store = Store(address, fresh())
            proxy.n_requests, proxy.fail_at, proxy.then = 0, number, then
            spool = Spool(tmp_path / "spool", proxy.address, "study", say=said.append)
            id_ = spool.put(a_run(), experiment_id=store.experiment_id)
            assert spool.flush(60) == 0
            assert spool.close() == 0
            (run,) = _runs(store).values()
            assert (run["status"], run["files"]) == ("FINISHED", dict(a_run().files))
            assert run["tags"][Tag.SPOOL] == id_
            assert run["histories"]["trait_score"] == [(0, 10.0), (2, 30.0)]
    finally:
        proxy.close()
    assert len(said) >= 14  # at seven requests at least it said that it waits, and that it goes on


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "error", "hang"])
def test_a_server_that_is_down_for_a_while_costs_only_the_delay(
    server: tuple[str, Callable[[], str]], tmp_path: Path, uri: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    address, fresh = server
    store, proxy, said = Store(address, fresh()), Proxy(address), list[str]()
    spool = Spool(tmp_path / "spool", proxy.address, "study", say=said.append)
    slowest = 0.0
    try:
        spool.put(a_run("before"), experiment_id=store.experiment_id)
        assert spool.flush(60) == 0
        proxy.mode = mode
        for i in range(20):
            began = time.monotonic()
            spool.put(a_run(f"during {i:02}"), experiment_id=store.experiment_id)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.1)
        assert spool.flush(0.5) == 20
        proxy.mode = "pass"
        assert spool.flush(120) == 0
    finally:
        proxy.close()
        assert spool.close() == 0
    assert slowest < 1  # of itself a hundredth of that; a request takes the whole second
    found = connect(address).search_runs([store.experiment_id])
    assert sorted(run.info.run_name for run in found) == ["before", *(f"during {i:02}" for i in range(20))]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(said) == 2


@pytest.mark.slow
def test_what_a_server_refuses_does_not_hold_up_the_others(
    server: tuple[str, Callable[[], str]], tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("massact.store.write.run_writer.check_runs", lambda _: None)  # so that the server must
    store = Store(server[0], server[1]())
    spool = Spool(tmp_path / "spool", store.uri, "study")
    for name, params in (("one", {}), ("bad", {"no=key": "x"}), ("two", {})):
        spool.put(a_run(name, params=params), experiment_id=store.experiment_id)
    assert spool.flush(60) == 1
    assert spool.close() == 1
    finished = connect(store.uri).search_runs([store.experiment_id], "attributes.status = 'FINISHED'")
    assert sorted(run.info.run_name for run in finished) == ["one", "two"]


@pytest.mark.slow
def test_a_database_server_that_is_restarted_costs_only_the_delay(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = postgres.migrated()
    experiment_id = Tracker(uri, "study", floor=68).experiment_id
    said: list[str] = []
    spool = Spool(tmp_path / "spool", uri, "study", say=said.append)
    spool.put(a_run("before", files={}), experiment_id=experiment_id)
    assert spool.flush(60) == 0
    postgres.stop()
    try:
        for i in range(20):
            spool.put(a_run(f"during {i:02}", files={}), experiment_id=experiment_id)
        assert spool.flush(0.5) == 20
    finally:
        postgres.start()
    assert spool.flush(60) == 0
    assert spool.close() == 0
    assert names(uri) == ["before", *(f"during {i:02}" for i in range(20))]
    assert len(said) == 2


@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_an_answer_lost_at_the_commit_makes_no_second_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the database has written, before it could say so."""
    insert, broken = run_writer.SqlWriter.insert, list[bool]()

    def breaks_once(self: run_writer.SqlWriter, tables: run_writer.Tables) -> None:
        insert(self, tables)
        if not broken:
            broken.append(True)
            raise StoreError("the connection broke")

    monkeypatch.setattr(run_writer.SqlWriter, "insert", breaks_once)
    spool = Spool(tmp_path / "spool", store.uri, "study")
    for i in range(5):
        spool.put(a_run(f"run {i}"), experiment_id=store.experiment_id)
    assert spool.flush(60) == 0
    assert spool.close() == 0
    assert broken
    assert len(_runs(store)) == 5
