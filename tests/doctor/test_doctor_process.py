"""Whether the process that opened a run still lives: never a guess that could end a live one's run."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from massact.store.schema import Tag
from massact.store.write import client as process
from massact.store.write.client import Process, is_alive, process_tag, read_process, this_process
from massact.store.write.tracker import Tracker

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def _of(pid: int) -> Process:
    state = process._state(pid)
    return replace(this_process(), pid=pid, started=state[1] if state else None)


def test_the_process_that_asks_lives() -> None:
    assert is_alive(this_process()) is True
    assert read_process(process_tag()) == this_process()


def test_another_process_lives_until_it_is_killed_even_before_it_is_waited_for() -> None:
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        there = _of(child.pid)
        assert there.started is not None
        assert is_alive(there) is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has waited for it
        assert is_alive(there) is False
    assert is_alive(there) is False


def test_a_pid_that_another_process_has_now_is_a_dead_process() -> None:
    mine = this_process()
    assert mine.started is not None
    assert is_alive(replace(mine, started=mine.started - 1)) is False


@pytest.mark.parametrize("name", ["host", "machine", "space"])
def test_of_another_host_or_container_nothing_is_known(name: str) -> None:
    assert is_alive(replace(this_process(), **{name: "another"})) is None  # type: ignore[arg-type]  # all are texts


def test_another_boot_of_this_machine_is_a_dead_process(monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("host", "machine", "boot 2", "space")
    monkeypatch.setattr(process, "_surroundings", lambda: where)
    old = Process("host", "machine", "boot 1", "space", os.getpid(), 1)
    assert is_alive(old) is False
    # machines without an id may share a name: nothing is known then
    monkeypatch.setattr(process, "_surroundings", lambda: ("host", "", "boot 2", "space"))
    assert is_alive(replace(old, machine="")) is None


def test_without_proc_the_pid_alone_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "_PROC", tmp_path)
    mine = this_process()
    assert mine.started is None
    assert is_alive(mine) is True
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert is_alive(replace(mine, pid=child.pid)) is False


def test_a_proc_that_hides_a_process_does_not_make_it_a_dead_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = this_process()
    monkeypatch.setattr(process, "_PROC", tmp_path)
    assert is_alive(mine) is None


@pytest.mark.parametrize(
    "text", [None, "", "{}", "[]", "null", '{"pid":"x"}', json.dumps({**asdict(this_process()), "pid": "x"})]
)
def test_what_names_no_process_is_none(text: str | None) -> None:
    assert read_process(text) is None


@pytest.mark.parametrize("pid", [0, -1, 2**80])
def test_a_pid_that_is_none_is_asked_of_nobody(pid: int) -> None:
    assert is_alive(replace(this_process(), pid=pid)) is None


def test_every_run_that_is_opened_names_the_process(uri: str) -> None:
    from mlflow import MlflowClient

    tracker = Tracker(uri, "study", floor=68.0)
    with tracker.phase("main", params={}) as main, tracker.phase("phase1", parent=main, params={}) as child:
        tags = [MlflowClient(tracking_uri=uri).get_run(one.run_id).data.tags for one in (main, child)]
    assert [read_process(one[Tag.PROCESS.value]) for one in tags] == [this_process()] * 2


def test_the_run_of_mlflow_run_names_the_process(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    made = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    with Tracker(uri, "study", floor=68.0).phase("main", params={}):
        assert read_process(client.get_run(made).data.tags[Tag.PROCESS.value]) == this_process()


def test_a_machines_id_is_not_told() -> None:
    path = Path("/etc/machine-id")
    own = path.read_text().strip() if path.is_file() else ""
    assert not own or own not in process_tag()
