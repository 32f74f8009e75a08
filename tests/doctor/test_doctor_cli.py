"""`massact doctor` as a command: its texts, its exit codes, and a phase that was really killed."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.store.schema import Artifact
from tests.support.doctor_store import (
    HOUR,
    Made,
    break_things,
    contents,
    dead_process,
    lose,
    make_store,
    open_run,
    write,
)
from tests.support.processes import Process, massact, run_massact
from tests.support.small_plan import EXPERIMENT as SMALL_EXPERIMENT
from tests.support.store_fixtures import EXPERIMENT, evaluation_row


@pytest.fixture
def made(uri: str) -> Made:
    return make_store(uri)


def doctor(made: Made, *options: str) -> Result:
    where = {"--experiment": EXPERIMENT, "--tracking-uri": made.uri}
    asked = [one for name, value in where.items() if name not in options for one in (name, value)]
    return CliRunner().invoke(cli, ["doctor", *asked, *options])


def test_a_healthy_store_says_so_and_exits_with_0(made: Made) -> None:
    result = doctor(made)
    assert (result.exit_code, result.stdout) == (0, "9 finished runs looked at: healthy\n")


def test_findings_exit_with_1_until_they_are_mended(made: Made) -> None:
    now = int(time.time() * 1000)
    run_id = open_run(made, "main", process=dead_process(), at=now - 3 * HOUR)
    lose(made, "probe L0", Artifact.VECTOR)
    found = doctor(made)
    assert found.exit_code == 1
    first, second, blank, last = found.stdout.splitlines()
    assert re.fullmatch(
        rf"found    abandoned   run {run_id}: phase 'main' was left running by process \d+ on \S+, which ended; "
        r"last sign of life 3 h ago\. No question counts it  ->  --fix marks it as killed",
        first,
    )
    assert second == (
        f"found    vectors     run {made.runs['probe L0']}: evaluation probe L0 c=1000 has no vector; the result "
        f"itself is unharmed  ->  --fix writes it anew from the vectors of extraction {made.runs['extraction']}"
    )
    assert (blank, last) == ("", "9 finished runs looked at: 2 can be mended with --fix")
    mended = doctor(made, "--fix")
    assert mended.exit_code == 0
    assert [line.split()[:2] for line in mended.stdout.splitlines()[:2]] == [
        ["mended", "abandoned"],
        ["mended", "vectors"],
    ]
    assert mended.stdout.endswith("9 finished runs looked at: 2 mended\n")
    assert doctor(made, "--fix").stdout == "9 finished runs looked at: healthy\n"


def test_what_remains_exits_with_1_after_mending_too(made: Made) -> None:
    break_things(made)
    assert doctor(made, "--fix").exit_code == 1
    again = doctor(made, "--fix")
    assert again.exit_code == 1
    assert again.stdout.endswith("10 finished runs looked at: 2 to be seen to by hand\n")


def test_a_run_that_may_be_at_work_elsewhere_is_a_note_and_no_failure(made: Made) -> None:
    open_run(made, "old", process=None, at=int(time.time() * 1000) - 20 * HOUR)
    result = doctor(made, "--fix")
    assert result.exit_code == 0
    assert result.stdout.startswith("note     abandoned   run ")
    assert "last sign of life 20 h ago" in result.stdout
    assert result.stdout.endswith("9 finished runs looked at: healthy (1 note)\n")
    assert doctor(made, "--stale-after", "19").exit_code == 1
    assert doctor(made, "--stale-after", "19", "--fix").exit_code == 0
    assert doctor(made).stdout == "9 finished runs looked at: healthy\n"


def test_hundreds_are_counted_and_json_has_all(made: Made) -> None:
    for i in range(13):
        open_run(made, f"left {i}", process=dead_process(), at=1000 + i)
    lines = doctor(made).stdout.splitlines()
    assert [line.startswith("found    abandoned   run ") for line in lines] == [True] * 10 + [False] * 3
    assert lines[10] == "found    abandoned   and 3 more like these; --format json lists all"
    document = json.loads(doctor(made, "--format", "json", "--fix").stdout)
    own = {key: document[key] for key in ("schema_version", "experiment", "fix", "finished_runs", "counts")}
    assert own == {
        "schema_version": 1,
        "experiment": EXPERIMENT,
        "fix": True,
        "finished_runs": 9,
        "counts": {"found": 0, "mended": 13, "remains": 0, "note": 0},
    }
    assert [one["run_id"] for one in document["findings"]] == [made.runs[f"left {i}"] for i in range(13)]
    assert set(document["findings"][0]) == {"check", "run_id", "what", "state", "said"}


def test_files_are_left_out_when_asked(made: Made) -> None:
    lose(made, "probe L0", Artifact.VECTOR)
    lose(made, "probe L0", Artifact.RESPONSES)
    write(made, "again", evaluation_row("probe", 0, vector_digest=None), None)
    assert doctor(made, "--no-artifacts", "--fix").stdout.count("\nmended") == 0
    assert doctor(made, "--no-artifacts").exit_code == 0
    assert doctor(made).exit_code == 1


def test_nothing_is_written_without_fix(made: Made, tmp_path: Path) -> None:
    break_things(made)
    before = contents(tmp_path)
    for options in ((), ("--format", "json"), ("--no-artifacts",)):
        assert doctor(made, *options).exit_code == 1
    assert contents(tmp_path) == before


def test_the_spool_s_folder_comes_from_an_option_or_the_environment(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.doctor_leftovers import leave

    path = leave(made, tmp_path / "spool", 20)
    assert doctor(made).exit_code == 0
    assert str(path) in doctor(made, "--spool", str(tmp_path / "spool")).stdout
    monkeypatch.setenv("MASSACT_SPOOL", str(tmp_path / "spool"))
    assert doctor(made).exit_code == 1
    fixed = doctor(made, "--fix")
    assert fixed.exit_code == 0
    assert "->  1 sent" in fixed.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--experiment", "no-such"], "holds no run of an experiment 'no-such'"),
        (["--experiment", "no-such.yaml"], "no experiment file 'no-such.yaml'"),
        (["--tracking-uri", "sqlite:///none.db"], "no run store at"),
        (["--tracking-uri", "http://127.0.0.1:9"], "does not answer"),
        (["--spool", "no-such-folder"], "there is no folder no-such-folder"),
        (["--stale-after", "-1"], "--stale-after"),
        (["--format", "csv"], "--format"),
    ],
)
def test_usage_errors_exit_with_2(made: Made, options: list[str], said: str) -> None:
    result = doctor(made, *options)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_looking_loads_neither_torch_nor_mlflow(made: Made, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom massact.cli.app import cli\n"
        f"try: cli(['doctor', '--experiment', {EXPERIMENT!r}, '--tracking-uri', {made.uri!r}])\n"
        "except SystemExit: pass\n"
        "print('LOADED', [name for name in ('torch', 'transformers', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "9 finished runs looked at: healthy\nLOADED []\n", done.stderr


@pytest.mark.slow
def test_a_phase_that_was_killed_is_found_and_one_at_work_is_not(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    file = tmp_path / "small.yaml"
    file.write_text(SMALL_EXPERIMENT.replace("max_new_tokens: 8}", "max_new_tokens: 500}"))  # takes a while
    named = ("--experiment", file)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run_massact(*arguments, *named, cwd=tmp_path, env=environment)

    process = massact("calibrate", *named, cwd=tmp_path, env=environment)
    try:
        _wait_for_a_run(tmp_path / "mlflow.db", process)
        process.send_signal(signal.SIGSTOP)  # at work, and not to be done before we have looked
        alive = run("doctor", "--fix", "--stale-after", "0")
        assert (alive.returncode, alive.stdout) == (0, "0 finished runs looked at: healthy\n"), alive.stderr
        assert _statuses(tmp_path / "mlflow.db") == ["RUNNING"]
    finally:
        process.kill()
        process.wait()
    found = run("doctor")
    assert found.returncode == 1, found.stderr
    assert f"phase 'calibrate' was left running by process {process.pid}" in found.stdout
    assert run("doctor", "--fix").returncode == 0
    assert _statuses(tmp_path / "mlflow.db") == ["KILLED"]
    assert run("doctor", "--fix").stdout == "0 finished runs looked at: healthy\n"
    file.write_text(SMALL_EXPERIMENT)
    assert run("calibrate").returncode == 0
    assert run("doctor").returncode == 0


def _statuses(database: Path) -> list[str]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return [status for (status,) in connection.execute("SELECT status FROM runs")]
    except sqlite3.OperationalError:
        return []  # not migrated yet
    finally:
        connection.close()


def _wait_for_a_run(database: Path, process: Process) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if database.is_file() and _statuses(database) == ["RUNNING"]:
            return
        time.sleep(0.02)
    raise AssertionError("the phase never began, or was over before it was looked at")
