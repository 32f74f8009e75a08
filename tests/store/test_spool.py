"""The spool of one process: nothing blocks, nothing is lost, and each result reaches the store once."""

import errno
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from massact.errors import RunRefusedError, SpoolError, SpoolFolderError, StoreError
from massact.evaluation import FailedCell
from massact.store import retry as patience
from massact.store.read import open_store
from massact.store.schema import Tag
from massact.store.spool import Spool, send_leftovers
from massact.store.spool import spool as outbox
from massact.store.spool.journal import open_journal, read_contents
from massact.store.write.client import connect
from massact.store.write.evaluations import Baseline, Place, RunMaker, evaluation_row
from massact.store.write.run_writer import ClientWriter, open_writer
from massact.store.write.tracker import Tracker
from tests.support.spool_runs import a_run, journals, names, shut
from tests.support.written_runs import an_evaluation, rows_in_database, seen_by_client

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr("massact.store.databases.LOCK_TIMEOUT_SECONDS", 0.1)


@pytest.fixture
def said() -> list[str]:
    """What the spool told a person."""
    return []


@pytest.fixture
def spool(uri: str, tmp_path: Path, said: list[str]) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool", uri, "study", say=said.append)
    yield opened
    opened.abandon()


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_put_arrives_and_nothing_stays_behind(spool: Spool, uri: str, tmp_path: Path) -> None:
    ids = [spool.put(a_run(f"run {i:03}"), experiment_id="0") for i in range(120)]
    assert spool.flush(60) == spool.waiting == 0
    assert names(uri) == [f"run {i:03}" for i in range(120)]
    assert connect(uri).get_run(ids[7]).data.tags[Tag.SPOOL] == ids[7]
    (journal,) = journals(tmp_path / "spool")
    assert spool.close() == spool.close() == 0
    assert not journal.exists()
    with pytest.raises(RuntimeError, match="closed"):
        spool.put(a_run(), experiment_id="0")


@pytest.mark.parametrize("keep_responses", [False, True], ids=["scores only", "responses"])
@pytest.mark.parametrize("steered", [True, False], ids=["evaluation", "baseline"])
def test_an_evaluation_is_the_same_as_one_that_was_logged(
    spool: Spool, uri: str, steered: bool, keep_responses: bool
) -> None:
    tracker, evaluation = Tracker(uri, "study", floor=68), an_evaluation(steered=steered)
    place, baseline = Place("study", "tiny", "instruct", 2), Baseline("b", 4.0) if steered else None
    options: dict[str, Any] = {"baseline": baseline, "keep_responses": keep_responses}
    with tracker.phase("phase1", params={}) as phase:
        make = RunMaker(place=place, parent=phase, finished_at=1_700_000_002_500, **options)
        whole, row = make(evaluation), evaluation_row(place, evaluation, baseline)
        (logged,) = ClientWriter(uri, phase.experiment_id, connect(uri)).write([whole])
        spooled = spool.put(whole, experiment_id=phase.experiment_id)
        assert spool.flush(30) == 0
    seen = seen_by_client(uri, spooled)
    assert seen["tags"].pop(Tag.SPOOL) == spooled
    assert seen == seen_by_client(uri, logged)
    spooled_rows, logged_rows = rows_in_database(uri, spooled), rows_in_database(uri, logged)
    for table in ("params", "latest_metrics", "metrics"):
        assert _timeless(spooled_rows[table]) == _timeless(logged_rows[table])
    info = connect(uri).get_run(spooled).info
    assert (info.start_time, info.end_time) == (1_700_000_000_000, 1_700_000_002_500)  # 2 s and 0.5 s
    for name in seen["files"]:
        assert tracker.fetch(spooled, name).read_bytes() == tracker.fetch(logged, name).read_bytes()
    with_store = open_store(uri)
    kept = with_store.evaluations("study") if steered else with_store.baselines("study")
    with_store.close()
    assert [one.row for one in kept] == [row]


def _timeless(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows of params or metrics without the third column, of metrics the time."""
    return sorted(row[:2] + row[3:] for row in rows)


def test_a_failure_is_the_same_as_one_that_was_logged(spool: Spool, uri: str) -> None:
    tracker, place = Tracker(uri, "study", floor=68), Place("study", "tiny", "instruct", 2)
    failed = FailedCell(an_evaluation(steered=True).planned, "RuntimeError: out of memory" * 100)
    with tracker.phase("phase1", params={}) as phase:
        whole = RunMaker(place=place, parent=phase)(failed)
        (logged,) = ClientWriter(uri, phase.experiment_id, connect(uri)).write([whole])
        spooled = spool.put(whole, experiment_id=phase.experiment_id)
        assert spool.flush(30) == 0
    seen = seen_by_client(uri, spooled)
    assert seen["tags"].pop(Tag.SPOOL) == spooled
    assert seen == seen_by_client(uri, logged)
    with_store = open_store(uri)
    assert [one.error for one in with_store.failures("study")] == [failed.error[:1000]]
    with_store.close()


def test_a_store_that_takes_nothing_for_a_while_costs_only_the_delay(
    spool: Spool, uri: str, said: list[str], tmp_path: Path
) -> None:
    with shut(uri) as let_go:
        spool.put(a_run("first"), experiment_id="0")
        _wait_for(lambda: said)
        began = time.monotonic()
        for i in range(200):
            spool.put(a_run(f"run {i:03}"), experiment_id="0")
        assert time.monotonic() - began < 10  # each attempt to reach the store takes 0.1 s
        assert spool.flush(0.5) == spool.waiting == 201
        let_go()
        assert spool.flush(60) == 0
    assert names(uri) == ["first", *(f"run {i:03}" for i in range(200))]
    down, up = said
    assert "results wait in" in down
    assert "stayed locked by another writer" in down
    assert up == "the tracking store takes results again: 201 waited"


def test_what_cannot_be_sent_in_time_stays_on_the_disk(spool: Spool, uri: str, said: list[str], tmp_path: Path) -> None:
    with shut(uri):
        for i in range(3):
            spool.put(a_run(f"run {i}"), experiment_id="0")
        assert spool.close(0.3) == 3
        assert said[-1] == f"3 runs are waiting in {tmp_path}/spool: massact sync sends them"
        _wait_for(lambda: not _is_locked(journals(tmp_path / "spool")[0]))
    (report,) = send_leftovers(tmp_path / "spool", None, say=said.append)
    assert (report.sent, report.there, report.left, report.is_clear) == (3, 0, 0, True)
    assert names(uri) == ["run 0", "run 1", "run 2"]
    assert journals(tmp_path / "spool") == []


def _is_locked(path: Path) -> bool:
    journal = open_journal(path)
    if journal is not None:
        journal.close()
    return journal is None


def test_abandoning_keeps_what_was_put_and_sends_no_more(spool: Spool, uri: str, tmp_path: Path) -> None:
    with shut(uri):
        for i in range(50):
            spool.put(a_run(f"run {i:02}"), experiment_id="0")
        spool.abandon()
    assert spool.waiting == 50
    _wait_for(lambda: not _is_locked(journals(tmp_path / "spool")[0]))
    journal = open_journal(journals(tmp_path / "spool")[0])
    assert journal is not None
    assert len(read_contents(journal).waiting) == 50
    journal.close()
    assert names(uri) == []


def test_leftovers_of_a_live_process_are_left_alone(spool: Spool, uri: str, tmp_path: Path, said: list[str]) -> None:
    with shut(uri):
        spool.put(a_run(), experiment_id="0")
        (report,) = send_leftovers(tmp_path / "spool", None, say=said.append)
        assert (report.in_use, report.sent) == (True, 0)
    assert spool.flush(30) == 0
    assert names(uri) == ["a run"]


def test_what_one_run_is_refused_for_does_not_hold_up_the_others(
    spool: Spool, uri: str, said: list[str], tmp_path: Path
) -> None:
    with shut(uri):  # so that all go in one transaction
        spool.put(a_run("warm-up"), experiment_id="0")
        for i in range(5):
            spool.put(a_run(f"good {i}"), experiment_id="0")
        spool.put(a_run("bad", tags={"long": "x" * 8001}), experiment_id="0")
        spool.put(a_run("worse", params={"half": "\ud800"}), experiment_id="0")
        spool.put(a_run("last"), experiment_id="0")
    assert spool.flush(30) == 2
    assert names(uri) == [*(f"good {i}" for i in range(5)), "last", "warm-up"]
    assert spool.close() == 2
    assert "2 runs are refused by the tracking store and kept in" in said[-1]
    assert "tag 'long' has 8001 characters" in said[-1]
    (report,) = send_leftovers(tmp_path / "spool", None, say=said.append)
    assert (report.sent, report.left, report.is_clear) == (0, 2, False)
    assert [reason.partition("the run")[0] for reason in report.refused] == ["bad: ", "worse: "]


@pytest.mark.slow
def test_what_only_the_database_refuses_is_told_from_an_outage(
    spool: Spool, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: Any = __import__("massact.store.write.run_writer", fromlist=["x"]).metric_rows

    def twice(run_id: str, steps: Any, timestamp: int) -> Any:
        rows, latest = put(run_id, steps, timestamp)
        return (rows * 2 if timestamp == 13 else rows), latest

    monkeypatch.setattr("massact.store.write.run_writer.metric_rows", twice)
    with shut(uri):
        spool.put(a_run("one"), experiment_id="0")
        spool.put(replace(a_run("twice"), finished_at=13), experiment_id="0")
        spool.put(a_run("two"), experiment_id="0")
    assert spool.flush(30) == 1
    assert names(uri) == ["one", "two"]


def test_a_fault_of_ours_is_raised_where_the_results_are_waited_for(
    spool: Spool, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check: Any = __import__("massact.store.write.run_writer", fromlist=["x"]).check_runs

    def broken(runs: Any) -> None:
        if any(run.name == "odd" for run in runs):
            raise TypeError("odd")
        check(runs)

    monkeypatch.setattr("massact.store.write.run_writer.check_runs", broken)
    for name in ("one", "odd", "two"):
        spool.put(a_run(name), experiment_id="0")
    with pytest.raises(TypeError, match="odd"):
        spool.flush(30)
    assert spool.flush(30) == 1  # the others arrive
    assert names(uri) == ["one", "two"]
    assert spool.close() == 1


def test_a_sender_that_breaks_down_is_told_and_keeps_nobody_waiting(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("massact.store.spool.spool.open_writer", broken)
    spool.put(a_run("one"), experiment_id="0")
    with pytest.raises(ZeroDivisionError):
        spool.flush(30)
    spool.put(a_run("two"), experiment_id="0")
    assert spool.flush(30) == 2
    assert spool.close() == 2
    assert len(journals(tmp_path / "spool")) == 1


def test_a_value_that_cannot_be_kept_is_refused_at_once(spool: Spool) -> None:
    with pytest.raises(TypeError):
        spool.put(a_run(metrics={"m": object()}), experiment_id="0")
    assert spool.flush(10) == 0


def test_an_mlflow_experiment_that_takes_nothing_does_not_hold_up_another(
    spool: Spool, uri: str, said: list[str]
) -> None:
    client = connect(uri)
    gone = client.create_experiment("gone")
    client.delete_experiment(gone)
    spool.put(a_run("waits"), experiment_id=gone)
    spool.put(a_run("arrives"), experiment_id="0")
    _wait_for(lambda: names(uri) == ["arrives"])
    assert spool.flush(0.3) == 1
    assert "'gone' was deleted: restore it" in said[0]
    client.restore_experiment(gone)
    assert spool.flush(30) == 0
    assert names(uri) == ["arrives", "waits"]


def test_numbers_that_json_lacks_arrive(spool: Spool, uri: str) -> None:
    id_ = spool.put(a_run(metrics={"nan": math.nan, "inf": math.inf}), experiment_id="0")
    assert spool.flush(30) == 0
    metrics = connect(uri).get_run(id_).data.metrics
    assert math.isnan(metrics["nan"])
    assert metrics["inf"] > 1e308


def test_a_long_journal_of_which_all_was_sent_begins_anew(
    spool: Spool, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CUT_BACK_BYTES", 10_000)
    (journal,) = journals(tmp_path / "spool")
    opening = journal.read_bytes()
    for i in range(10):
        spool.put(a_run(f"run {i}", files={"f": bytes(5000)}), experiment_id="0")
        assert spool.flush(30) == 0
        assert journal.stat().st_size < 20_000
    assert journal.read_bytes().startswith(opening)
    with shut(uri):
        spool.put(a_run("waits", files={"f": bytes(50_000)}), experiment_id="0")
        assert journal.stat().st_size > 50_000
    assert spool.flush(30) == 0
    assert len(names(uri)) == 11


@pytest.mark.slow
def test_what_waits_is_not_kept_in_memory(spool: Spool, uri: str) -> None:
    with shut(uri):
        spool.put(a_run("first"), experiment_id="0")
        tracemalloc.start()
        for i in range(2000):
            spool.put(a_run(str(i), files={"f": os.urandom(20_000)}), experiment_id="0")
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert spool.waiting == 2001
        spool.abandon()
    # 40 MB of content: what is kept is where each lies, and one batch in the sender's hand
    assert kept < 12_000_000


@pytest.mark.slow
def test_an_end_of_the_interpreter_loses_nothing(uri: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from massact.store.spool import Spool\n"
        "from tests.support.spool_runs import a_run\n"
        "spool = Spool(Path(sys.argv[1]), sys.argv[2], 'study')\n"
        "for i in range(100): spool.put(a_run(str(i)), experiment_id='0')\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "spool", uri], check=True, timeout=60, cwd=_root())
    send_leftovers(tmp_path / "spool", None, say=print)
    assert len(names(uri)) == 100


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("uri_form", ["postgresql://ada:hush@h/db?password=hush", "http://ada:hush@h:1"])
def test_no_password_reaches_the_disk(tmp_path: Path, uri_form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> None:
        raise StoreError("down")

    monkeypatch.setattr("massact.store.spool.spool.open_writer", down)
    spool = Spool(tmp_path, uri_form, "study")
    spool.put(a_run(), experiment_id="0")
    spool.abandon()
    (journal,) = journals(tmp_path)
    assert b"ada@h" in journal.read_bytes()
    assert b"hush" not in journal.read_bytes()
    assert "hush" not in journal.name


# --- folders that cannot be written to


_FILLING = """
import resource, subprocess, sys
from pathlib import Path
from massact.errors import SpoolError
from massact.store.spool import Spool
from tests.support.spool_runs import a_run

folder, uri, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
spool = Spool(folder, uri, "study", say=print)
try:
    for i in range(1000):
        spool.put(a_run(f"run {i:03}", files={"f": bytes(50_000)}), experiment_id="0")
except SpoolError as error:
    print("FULL AFTER", i, error.exit_code, error)
    spool.close(0)
"""


def _fill(folder: Path, uri: str, limit: int) -> str:
    with shut(uri):  # else the store would take it all
        done = subprocess.run(
            [sys.executable, "-c", _FILLING, folder, uri, str(limit)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=_root(),
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _check_full(output: str, folder: Path, uri: str, reason: str) -> None:
    """What was journalled is safe, and what was not is named as lost."""
    assert reason in output
    assert f"the spool {folder} cannot be written to" in output
    assert "free space there, or name a folder on another disk with --spool" in output
    assert "1 run is lost" in output
    found = re.search(r"FULL AFTER (\d+) (\d)", output)
    assert found is not None
    n_written = int(found[1])
    assert n_written > 2
    assert found[2] == "1"  # the exit code: work was under way
    (path,) = journals(folder)
    journal = open_journal(path)
    assert journal is not None
    contents = read_contents(journal)
    journal.close()
    assert (len(contents.waiting), contents.damaged, contents.torn_at) == (n_written, [], None)
    (report,) = send_leftovers(folder, None, say=print)
    assert (report.sent, report.left) == (n_written, 0)
    assert names(uri) == [f"run {i:03}" for i in range(n_written)]


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_costs_nothing_that_was_written(uri: str, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the kernel cuts the last write short in the same way."""
    output = _fill(tmp_path / "spool", uri, 400_000)
    _check_full(output, tmp_path / "spool", uri, os.strerror(errno.EFBIG))


@pytest.mark.slow
def test_a_file_system_that_is_full_is_one_clear_error(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can only be mounted as root")
    try:
        output = _fill(folder, uri, 0)
        _check_full(output, folder, uri, os.strerror(errno.ENOSPC))
    finally:
        subprocess.run(["umount", folder], check=True)


def test_what_a_full_disk_does_not_take_is_still_sent(
    spool: Spool, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool.put(a_run("written"), experiment_id="0")
    assert spool.flush(30) == 0
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(SpoolError, match="No space left"):
        spool.put(a_run("not written"), experiment_id="0")
    with pytest.raises(SpoolError, match="No space left"):
        spool.put(a_run("too late"), experiment_id="0")
    with pytest.raises(SpoolError, match="No space left"):
        spool.flush(30)
    assert spool.close() == 0
    assert names(uri) == ["not written", "written"]


def test_a_disk_that_takes_nothing_is_told_where_a_run_is_put(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(SpoolError, match="No space left"):
        spool.put(a_run(), experiment_id="0")
    assert spool.close() == 0  # the store has it


def test_a_folder_that_cannot_be_used_is_refused_before_anything_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SpoolFolderError, match="--spool") as refused:
            Spool(folder, "http://h", "study")
        assert refused.value.exit_code == 2


def test_a_folder_that_may_only_be_read_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)  # root may write anywhere
        try:
            with pytest.raises(SpoolFolderError, match=r"Permission denied.*--spool"):
                Spool(folder, "http://h", "study")
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
        assert list(folder.iterdir()) == []


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", without)
    with pytest.raises(SpoolFolderError, match="knows no locks"):
        Spool(tmp_path, "http://h", "study")
    assert journals(tmp_path) == []


def test_a_refusal_is_an_error_of_the_store(uri: str) -> None:
    writer = open_writer(uri, "0")
    with pytest.raises(RunRefusedError, match="8001"):
        writer.write_once({"a" * 32: a_run(tags={"long": "x" * 8001})}, look=False)
    writer.close()
