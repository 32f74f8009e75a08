"""Imports into one experiment go one after the other, and one that died keeps nobody waiting."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from massact.errors import StoreError
from massact.interop.names import Target
from massact.interop.writing import ImportWriter, open_import
from massact.store import claims as sharing
from massact.store.read import open_source, stored_contents
from massact.store.schema import Kind, Tag
from massact.store.write.client import process_tag
from massact.store.write.tracker import OpenRun, Tracker
from tests.support.postgres_server import PostgresServer
from tests.support.processes import massact
from tests.support.store_fixtures import tracking_server
from tests.support.transfer_files import (
    EXPERIMENT,
    PLACE,
    baseline,
    evaluation,
    header,
    stored_lines,
    vector,
    write_lines,
)


def opened(uri: str, said: list[str] | None = None) -> AbstractContextManager[ImportWriter]:
    return open_import(uri, Target(EXPERIMENT), {}, ([] if said is None else said).append)


def phases(uri: str, *statuses: str) -> list[str]:
    source = open_source(uri)
    try:
        return [run.run_id for run in source.runs(EXPERIMENT, kind=Kind.PHASE, statuses=statuses, tags=())]
    finally:
        source.close()


def leave(uri: str, **changes: Any) -> None:
    """An import as a process leaves it that was killed."""
    tracker = Tracker(uri, EXPERIMENT, floor=68)
    run = tracker._open_phase("import", Kind.PHASE, None)
    sign = json.dumps({"since": 0, "sign": int(time.time() * 1000)})
    process = json.dumps({**json.loads(process_tag()), **changes})
    tags = {sharing.KEY_TAGS[0]: "importing"[:8], Tag.SWEEP.value: sign, Tag.PROCESS.value: process}
    tracker.set_tags(run, tags)


def test_imports_go_one_at_a_time_and_leave_nothing_where_they_bring_nothing(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.1)
    Tracker(uri, EXPERIMENT, floor=68)  # the store is made once
    held, bad = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal held, bad
        with opened(uri):
            with lock:
                held += 1
                bad += held > 1
            time.sleep(0.05)
            with lock:
                held -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert bad == 0
    assert phases(uri) == []


def test_an_import_waits_for_a_store_that_is_down_and_begins_with_its_claim_in_it(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    down, write = [True], Tracker.set_tags

    def set_tags(tracker: Tracker, run: OpenRun, tags: Mapping[str, str]) -> None:
        if sharing.KEY_TAGS[0] in tags and down:
            down.clear()
            raise ConnectionError("refused")
        write(tracker, run, tags)

    monkeypatch.setattr(Tracker, "set_tags", set_tags)
    with opened(uri, said) as writer:
        held = Tracker(uri, EXPERIMENT, floor=68).tags(writer.parent.run_id)
    assert held[sharing.KEY_TAGS[0]] == "importing"[:8]
    assert said[-1] == "the tracking store is back"


def test_an_import_whose_process_has_ended_holds_nobody_up(uri: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from massact.store.write.client import process_tag; print(process_tag())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    leave(uri, **json.loads(ended.stdout))
    said: list[str] = []
    with opened(uri, said):
        assert len(phases(uri, "RUNNING")) == 2
    assert said == []


def test_an_import_on_another_machine_is_waited_for_until_it_is_silent(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.1)
    leave(uri, host="elsewhere", machine="another", pid=7)
    said: list[str] = []
    with opened(uri, said):
        pass
    waiting, free = said
    who = "another command (process 7 on elsewhere, since 1970-01-01 00:00 UTC)"
    assert waiting == f"waiting for the import that {who} has in hand"
    assert free.startswith(f"{who} gives no sign of life any more")


def test_an_import_that_was_taken_for_dead_writes_nothing_more(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "BEAT_SECONDS", 1000.0)
    first = opened(uri)
    writer = first.__enter__()
    writer.write([])
    monkeypatch.setattr(sharing, "LEASE_SECONDS", 0.0)  # both are silent for too long at once
    monkeypatch.setattr(sharing, "is_alive", lambda _process: None)
    with opened(uri):
        monkeypatch.setattr(sharing, "LEASE_SECONDS", 60.0)
        writer.sharing._wrote_at = (0.0, 0.0)
        with pytest.raises(StoreError, match="another began in its place"):
            writer.write([None])  # type: ignore[list-item]
    first.__exit__(None, None, None)


def import_at_once(uri: str, tree: Path, n: int) -> list[str]:
    command = ("import", tree, "--experiment", EXPERIMENT, "--tracking-uri", uri)
    begun = [massact(*command, cwd=tree) for _ in range(n)]
    return [one.communicate(timeout=240)[0] for one in begun]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    lines = [evaluation(30, vectors=[vector(layer=layer)]) for layer in range(8)]
    write_lines(tmp_path / "old" / PLACE / "results.jsonl", [header(), baseline(), *lines])
    return tmp_path / "old"


def check_once(uri: str, outputs: list[str]) -> None:
    assert sorted(output.rstrip().splitlines()[-1].split()[0] for output in outputs) == [
        *["0"] * (len(outputs) - 1),
        "9",
    ]
    assert len(stored_lines(uri)) == len(list(stored_contents(uri, EXPERIMENT))) == 9


@pytest.mark.slow
def test_three_imports_at_once_store_each_result_once(uri: str, tree: Path) -> None:
    check_once(uri, import_at_once(uri, tree, 3))


@pytest.mark.slow
def test_two_imports_at_once_into_postgresql(postgres: PostgresServer, tree: Path) -> None:
    uri = postgres.migrated()
    check_once(uri, import_at_once(uri, tree, 2))
    assert len(phases(uri)) == 1


@pytest.mark.slow
def test_two_imports_at_once_over_a_server(uri: str, tmp_path: Path, tree: Path) -> None:
    with tracking_server(uri, tmp_path) as server:
        check_once(server, import_at_once(server, tree, 2))
        assert {row.kind for row, _ in stored_lines(server).values()} == {Kind.EVALUATION, Kind.BASELINE}
