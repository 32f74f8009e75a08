"""Imports into one experiment go one after the other, and one that died keeps nobody waiting."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from massact.errors import StoreError
from massact.interop.writing import ImportClaim
from massact.store.read import stored_contents
from massact.store.schema import Kind
from massact.store.schema.names import IMPORTING_TAG
from massact.store.write.client import connect, process_tag
from massact.store.write.tracker import ensure_experiment
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


def claims(uri: str) -> dict[str, str]:
    tags = connect(uri).get_experiment_by_name(EXPERIMENT).tags
    return {key: text for key, text in tags.items() if key.startswith(IMPORTING_TAG) and text}


def leave(uri: str, **changes: object) -> None:
    """A claim as a process leaves it that was killed."""
    client = connect(uri)
    text = json.dumps({**json.loads(process_tag()), "since": "then", **changes})
    client.set_experiment_tag(ensure_experiment(client, uri, EXPERIMENT, ""), f"{IMPORTING_TAG}.left", text)


def overlaps(uri: str, n: int) -> int:
    """How often one of `n` claims was held while another was."""
    held, bad = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal held, bad
        with ImportClaim(uri, EXPERIMENT):
            with lock:
                held += 1
                bad += held > 1
            time.sleep(0.05)
            with lock:
                held -= 1

    threads = [threading.Thread(target=work) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return bad


def test_claims_are_held_one_at_a_time_and_taken_back(uri: str) -> None:
    connect(uri)  # the store is made once
    assert overlaps(uri, 4) == 0
    assert claims(uri) == {}


def test_who_is_waited_for_is_said(uri: str) -> None:
    said: list[str] = []
    second = ImportClaim(uri, EXPERIMENT, say=said.append)
    with ImportClaim(uri, EXPERIMENT):
        thread = threading.Thread(target=second.__enter__)
        thread.start()
        while not said:
            time.sleep(0.01)
        assert thread.is_alive()
    thread.join(timeout=30)
    second.__exit__(None, None, None)
    [line] = said
    assert f"process {os.getpid()} on " in line
    assert f"imports into the experiment {EXPERIMENT!r}" in line


def test_a_claim_whose_process_has_ended_is_void(uri: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from massact.store.write.client import process_tag; print(process_tag())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    leave(uri, **json.loads(ended.stdout))
    with ImportClaim(uri, EXPERIMENT):
        assert len(claims(uri)) == 1
    assert claims(uri) == {}


def test_a_claim_of_another_machine_is_void_when_it_is_silent(uri: str) -> None:
    leave(uri, host="elsewhere", machine="another", pid=7)
    said: list[str] = []
    with ImportClaim(uri, EXPERIMENT, say=said.append, silent_seconds=0.5):
        assert len(claims(uri)) == 1
    assert said == [f"waiting: process 7 on elsewhere (since then) imports into the experiment {EXPERIMENT!r}"]


@pytest.mark.parametrize("can_delete", [True, False])
def test_a_claim_that_another_has_removed_is_lost(uri: str, monkeypatch: pytest.MonkeyPatch, can_delete: bool) -> None:
    if not can_delete:  # as a server of an MLflow that is too old

        def refuse(*_: object) -> None:
            raise MlflowException("no such endpoint")

        monkeypatch.setattr(MlflowClient, "delete_experiment_tag", refuse)
    # removed well before the first beat: a beat that is under way would write it again
    with ImportClaim(uri, EXPERIMENT, beat_seconds=2.0) as claim:
        claim.check()
        [key] = claims(uri)
        other = ImportClaim(uri, EXPERIMENT)
        other._client, other._experiment_id = claim._client, claim._experiment_id
        other._remove(key)
        with pytest.raises(StoreError, match="another began in its place"):  # noqa: PT012  it notices at its next beat
            for _ in range(1000):
                claim.check()
                time.sleep(0.01)
        assert claims(uri) == {}, "it does not renew itself"
    assert claims(uri) == {}


def test_a_claim_is_renewed_while_it_is_held(uri: str) -> None:
    with ImportClaim(uri, EXPERIMENT, beat_seconds=0.05):
        first = claims(uri)
        while claims(uri) == first:
            time.sleep(0.01)


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
    assert claims(uri) == {}


@pytest.mark.slow
def test_two_imports_at_once_over_a_server(uri: str, tmp_path: Path, tree: Path) -> None:
    with tracking_server(uri, tmp_path) as server:
        check_once(server, import_at_once(server, tree, 2))
        assert {row.kind for row, _ in stored_lines(server).values()} == {Kind.EVALUATION, Kind.BASELINE}
