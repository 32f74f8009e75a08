"""`massact sync` as a command: what ended processes left is sent, once, and what is left is told."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.errors import StoreError
from massact.store.schema import Tag
from massact.store.spool import Spool, send_leftovers
from massact.store.spool.journal import Home, Opening, RunRecord, create_journal, encode
from massact.store.write.client import connect
from tests.support.postgres_server import PostgresServer
from tests.support.processes import Process, run_massact
from tests.support.spool_runs import a_run, journals, names, shut

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def _sync(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sync", *arguments])


def _leave(folder: Path, uri: str, *run_names: str, marked: tuple[str, ...] = ()) -> Path:
    """A journal that a process left behind."""
    journal = create_journal(folder, encode(Opening(uri, "study", "host-1", 42, 1)))
    for name in run_names:
        run = a_run(name, tags={Tag.SPOOL.value: _id(name)})
        journal.append([encode(RunRecord(_id(name), Home(uri, "0"), run))])
    if marked:
        journal.mark_sent(tuple(map(_id, marked)))
    journal.close()
    return journal.path


def _id(name: str) -> str:
    return name.encode().hex().rjust(32, "0")


def test_without_a_spool_there_is_nothing_to_send(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _sync()
    assert (done.exit_code, done.stdout) == (0, "nothing is left in .massact/spool\n")
    monkeypatch.setenv("MASSACT_SPOOL", "elsewhere")
    assert _sync().stdout == "nothing is left in elsewhere\n"
    done = _sync("--spool", "mistyped")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: there is no folder mistyped: name the one that --spool named before\n",
    )


def test_what_was_left_is_sent_to_where_it_was_meant_for(uri: str, tmp_path: Path) -> None:
    path = _leave(tmp_path / "spool", uri, "one", "two", "three", marked=("two",))
    done = _sync("--spool", "spool", "--tracking-uri", "sqlite:///another.db")
    assert done.exit_code == 0
    assert done.stdout == (
        f"spool/{path.name} (experiment 'study', host-1, process 42): 2 sent\nnothing is left in spool\n"
    )
    assert names(uri) == ["one", "three"]
    assert connect(uri).get_run(_id("one")).info.status == "FINISHED"
    assert not path.exists()
    assert not (tmp_path / "another.db").exists()


def test_what_was_sent_before_is_not_sent_again(uri: str, tmp_path: Path) -> None:
    _leave(tmp_path / "spool", uri, "one", "two")
    again = (tmp_path / "spool" / journals(tmp_path / "spool")[0].name).read_bytes()
    assert _sync("--spool", "spool").exit_code == 0
    (tmp_path / "spool" / "copy.journal").write_bytes(again)
    done = _sync("--spool", "spool")
    assert "0 sent, 2 there already\n" in done.stdout
    assert done.exit_code == 0
    assert names(uri) == ["one", "two"]


def test_a_torn_last_line_is_told_and_costs_only_itself(uri: str, tmp_path: Path) -> None:
    path = _leave(tmp_path / "spool", uri, "one", "two")
    path.write_bytes(path.read_bytes()[:-7])
    done = _sync("--spool", "spool")
    assert done.exit_code == 0  # it had not been acknowledged to anybody
    assert "1 sent\n" in done.stdout
    assert "the last line was cut off while it was written; only that line is lost" in done.stdout
    assert (names(uri), journals(tmp_path / "spool")) == (["one"], [])


def test_a_torn_line_does_not_spoil_the_mark_that_follows_it(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _leave(tmp_path / "spool", uri, "one", "two", "torn")
    path.write_bytes(path.read_bytes()[:-7])
    monkeypatch.setattr("massact.store.spool.recover._put_away", lambda journal, *_: journal.close())
    send_leftovers(tmp_path / "spool", None, say=print)
    monkeypatch.undo()
    (report,) = send_leftovers(tmp_path / "spool", None, say=print) or [None]  # type: ignore[list-item]
    assert report is None or (report.sent, report.there, report.damaged) == (0, 0, [])


def test_a_damaged_line_is_told_and_the_journal_kept(uri: str, tmp_path: Path) -> None:
    path = _leave(tmp_path / "spool", uri, "one", "two", "three")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"two", b"TWO")
    path.write_bytes(b"".join(lines))
    done = _sync("--spool", "spool")
    assert done.exit_code == 1
    assert (
        f"damaged: line 3 cannot be read and is lost; the others can; the file is kept as spool/{path.name}.damaged"
        in done.stdout
    )
    assert done.stdout.endswith("1 damaged lines lost\n")
    assert names(uri) == ["one", "three"]
    kept = (tmp_path / "spool" / f"{path.name}.damaged").read_bytes()
    assert kept.startswith(b"".join(lines))
    assert _sync("--spool", "spool").exit_code == 0


def test_a_journal_whose_first_line_is_damaged_is_sent_all_the_same(uri: str, tmp_path: Path) -> None:
    path = _leave(tmp_path / "spool", uri, "one")
    path.write_bytes(b"X" + path.read_bytes()[1:])
    done = _sync("--spool", "spool")
    assert (done.exit_code, names(uri)) == (1, ["one"])
    assert f"spool/{path.name}: 1 sent\n" in done.stdout


def test_a_journal_of_another_version_is_left_as_it_is(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("massact.store.spool.journal.FORMAT", 2)
    path = _leave(tmp_path / "spool", uri, "one")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    before = path.read_bytes()
    _leave(tmp_path / "spool", uri, "two")
    done = _sync("--spool", "spool")
    assert done.exit_code == 1
    assert "was written by another version of massact (format 2, this one knows 1): nothing was sent" in done.stdout
    assert done.stdout.endswith("1 journals could not be read\n")
    assert (path.read_bytes(), names(uri)) == (before, ["two"])


def test_a_file_that_a_dying_process_left_empty_is_cleared_away(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    path = _leave(folder, uri)
    (folder / "empty.journal").touch()
    (folder / "half.journal").write_bytes(path.read_bytes()[:20])
    (folder / "notes.txt").write_text("not ours")
    done = _sync("--spool", "spool")
    assert done.exit_code == 0
    assert [one.name for one in folder.iterdir()] == ["notes.txt"]


def test_what_a_live_process_has_in_hand_is_left_alone(uri: str, tmp_path: Path) -> None:
    with shut(uri):
        spool = Spool(tmp_path / "spool", uri, "study")
        spool.put(a_run(), experiment_id="0")
        done = _sync("--spool", "spool")
        assert done.exit_code == 0
        assert "in use by a process at work, left alone" in done.stdout
    assert spool.close(30) == 0
    assert names(uri) == ["a run"]


def test_a_store_that_takes_nothing_is_asked_once_and_the_others_are_served(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def down(tracking_uri: str, _experiment_id: str) -> None:
        asked.append(tracking_uri)
        raise StoreError("the server is down")

    monkeypatch.setattr("massact.store.spool.spool.open_writer", down)
    for name in ("one", "two"):
        _leave(tmp_path / "spool", "http://h", name)
    done = _sync("--spool", "spool", "--tracking-uri", "http://h")
    assert (done.exit_code, asked) == (1, ["http://h"])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    _leave(tmp_path / "spool", uri, "three")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = _sync("--spool", "spool")
    assert done.exit_code == 1
    assert done.stdout.count("0 sent, 1 left") == 2
    assert done.stdout.endswith("2 left in spool: run massact sync again\n")
    assert names(uri) == ["three"]
    assert len(journals(tmp_path / "spool")) == 2


def test_only_what_is_meant_for_this_store_where_that_is_asked(uri: str, tmp_path: Path) -> None:
    _leave(tmp_path / "spool", "http://127.0.0.1:9", "elsewhere")
    _leave(tmp_path / "spool", uri, "here")
    said: list[str] = []
    (report,) = send_leftovers(tmp_path / "spool", "sqlite:///store.db", say=said.append, only_here=True)
    assert (report.sent, len(said)) == (1, 1)
    assert names(uri) == ["here"]
    assert len(journals(tmp_path / "spool")) == 1


@pytest.mark.slow
def test_a_password_comes_from_the_tracking_uri_for_the_same_place(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = postgres.migrated()
    postgres.execute("CREATE ROLE spooler LOGIN SUPERUSER PASSWORD 'hush' IN ROLE with_password")
    with_password = uri.replace("postgres@", "spooler:hush@", 1)
    monkeypatch.setattr("massact.store.spool.spool.Sender.send", _down)
    spool = Spool(tmp_path / "spool", with_password, "study")
    spool.put(a_run(), experiment_id="0")
    assert spool.close(0.1) == 1
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = _sync("--spool", "spool")
    assert done.exit_code == 1
    assert "password" in done.stdout
    done = _sync("--spool", "spool", "--tracking-uri", with_password)
    assert (done.exit_code, "hush" in done.stdout + done.stderr) == (2, False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password)
    done = _sync("--spool", "spool")
    assert (done.exit_code, "hush" in done.stdout + done.stderr) == (0, False)
    assert names(uri) == ["a run"]


def _down(*_: object, **__: object) -> None:
    raise StoreError("down")


@pytest.mark.slow
def test_what_a_killed_process_left_is_sent_by_another(uri: str, tmp_path: Path, root: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from massact.store.spool import Spool\n"
        "from tests.support.spool_runs import a_run\n"
        "spool = Spool(Path(sys.argv[1]), sys.argv[2], 'study')\n"
        "for i in range(30): spool.put(a_run(f'run {i:02}'), experiment_id='0')\n"
        "print('written', flush=True)\n"
        "time.sleep(60)\n"
    )
    with shut(uri):
        process = Process("-c", code, tmp_path / "spool", uri, cwd=root)
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = run_massact("sync", "--spool", tmp_path / "spool", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "30 sent\n" in done.stdout
    assert names(uri) == [f"run {i:02}" for i in range(30)]


@pytest.mark.slow
def test_torch_is_not_loaded(uri: str, tmp_path: Path) -> None:
    _leave(tmp_path / "spool", uri, "one")
    code = (
        "import sys\n"
        "from massact.cli.app import cli\n"
        "try: cli(['sync', '--spool', 'spool'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60
    )
    assert "1 sent" in done.stdout
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


def test_a_folder_that_cannot_be_read_is_an_error(uri: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert _sync("--spool", "file").exit_code == 2
    with pytest.raises(Exception, match="cannot be read"):
        send_leftovers(tmp_path / "file", None, say=print)
