"""The journal: what was written is read back, and what was damaged costs itself alone."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.addresses import stored_uri, usable_uri
from massact.store.spool.journal import (
    DamagedLineError,
    Home,
    Journal,
    Opening,
    OtherFormatError,
    RunRecord,
    Sent,
    create_journal,
    decode,
    encode,
    open_journal,
    read_contents,
)
from massact.store.write.finished_run import FinishedRun, Step
from tests.support.spool_runs import a_run

OPENING = Opening("sqlite:////a/store.db", "study", "host", 42, 1_700_000_000_000)
HOME = Home("sqlite:////a/store.db", "7")

_texts = st.dictionaries(st.text(), st.text(), max_size=3)
_numbers = st.floats() | st.integers(-(2**60), 2**60)
RUNS = st.builds(
    FinishedRun,
    name=st.text(),
    tags=_texts,
    params=_texts,
    metrics=st.dictionaries(st.text(), _numbers, max_size=3),
    steps=st.lists(st.builds(Step, st.text(), st.floats(), st.integers()), max_size=3).map(tuple),
    started_at=st.integers(0, 2**62),
    finished_at=st.integers(0, 2**62),
    status=st.sampled_from(["FINISHED", "FAILED", "KILLED"]),
    files=st.dictionaries(st.text(), st.binary(), max_size=3),
)


@given(run=RUNS, id_=st.uuids(), store=st.text(), experiment_id=st.text())
def test_a_run_is_read_back_as_it_was(run: FinishedRun, id_: object, store: str, experiment_id: str) -> None:
    record = RunRecord(str(id_), Home(store, experiment_id), run)
    line = encode(record)
    assert line.count(b"\n") == 1
    assert repr(decode(line)) == repr(record)  # NaN does not equal itself


@pytest.mark.parametrize("record", [OPENING, Sent(("a", "b")), Sent(())])
def test_other_records_are_read_back_as_they_were(record: Opening | Sent) -> None:
    assert decode(encode(record)) == record


@given(record=st.builds(RunRecord, st.just("id"), st.just(HOME), RUNS), data=st.data())
def test_any_changed_byte_is_noticed(record: RunRecord, data: st.DataObject) -> None:
    line = bytearray(encode(record))
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedLineError):
        decode(bytes(line))


def test_a_sound_line_of_another_format_is_told_from_a_damaged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massact.store.spool.journal.FORMAT", 99)
    line = encode(OPENING)
    monkeypatch.undo()
    with pytest.raises(OtherFormatError, match="99"):
        decode(line)


def test_a_sound_line_that_is_none_of_ours_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massact.store.spool.journal._values", lambda record: {"kind": "run"})
    line = encode(OPENING)
    monkeypatch.undo()
    with pytest.raises(DamagedLineError):
        decode(line)


def _record(name: str) -> RunRecord:
    return RunRecord(f"id of {name}", HOME, a_run(name))


def _journal(folder: Path, *record_names: str) -> Path:
    """A journal that its process left behind."""
    journal = create_journal(folder, encode(OPENING))
    for name in record_names:
        journal.append([encode(_record(name))])
    journal.close()
    return journal.path


def _reopened(path: Path) -> Journal:
    journal = open_journal(path)
    assert journal is not None
    return journal


def test_a_line_torn_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    path = _journal(tmp_path, "one", "two", "three")
    whole = path.read_bytes()
    begin = len(whole) - len(encode(_record("three")))
    for end in range(begin, len(whole) + 1):
        path.write_bytes(whole[:end])
        journal = _reopened(path)
        contents = read_contents(journal)
        expected = ["id of one", "id of two"] + (["id of three"] if end == len(whole) else [])
        assert list(contents.waiting) == expected
        assert contents.torn_at == (begin if begin < end < len(whole) else None)
        assert (contents.damaged, contents.opening, contents.other_format) == ([], OPENING, None)
        journal.close()


@pytest.mark.parametrize(("line", "kept"), [(1, ["a", "b", "c"]), (2, ["b", "c"]), (3, ["a", "c"]), (4, ["a", "b"])])
def test_a_damaged_line_costs_only_itself(tmp_path: Path, line: int, kept: list[str]) -> None:
    path = _journal(tmp_path, "a", "b", "c")
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines[line - 1]) // 2
    lines[line - 1] = lines[line - 1][:middle] + b"\0" + lines[line - 1][middle + 1 :]
    path.write_bytes(b"".join(lines))
    journal = _reopened(path)
    contents = read_contents(journal)
    assert (list(contents.waiting), contents.damaged) == ([f"id of {name}" for name in kept], [line])
    assert contents.torn_at is None
    for name in kept:
        home, slot = contents.waiting[f"id of {name}"]
        assert (home, decode(journal.read(slot))) == (HOME, decode(encode(_record(name))))
    journal.close()


def test_zeros_where_lines_were_cost_those_lines(tmp_path: Path) -> None:
    """A power cut may leave a file longer than what of it reached the disk."""
    path = _journal(tmp_path, "a", "b", "c", "d")
    lines = path.read_bytes().splitlines(keepends=True)
    zeros = b"\0" * (len(lines[2]) + 20)
    path.write_bytes(b"".join([*lines[:2], zeros, lines[3][20:], lines[4], b"\0" * 500]))
    journal = _reopened(path)
    contents = read_contents(journal)
    assert list(contents.waiting) == ["id of a", "id of d"]
    assert (contents.damaged, contents.torn_at) == ([3], path.stat().st_size - 500)
    journal.close()


def test_what_is_marked_as_sent_waits_no_more(tmp_path: Path) -> None:
    path = _journal(tmp_path, "a", "b", "c")
    journal = _reopened(path)
    journal.mark_sent(("id of b", "id of a"))
    assert list(read_contents(journal).waiting) == ["id of c"]
    journal.close()


def test_a_journal_in_use_cannot_be_opened_by_another_process(tmp_path: Path) -> None:
    journal = create_journal(tmp_path, encode(OPENING))
    code = (
        "import sys; from pathlib import Path\n"
        "from massact.store.spool.journal import open_journal\n"
        "print(open_journal(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, journal.path], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "None\n"
    assert open_journal(journal.path) is None
    journal.close()
    again = _reopened(journal.path)
    again.remove()
    assert open_journal(journal.path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_renamed_while_its_lock_was_waited_for_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _journal(tmp_path, "a")
    monkeypatch.setattr("fcntl.flock", lambda *_: path.exists() and path.rename(path.with_suffix(".damaged")))
    assert open_journal(path) is None


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = create_journal(tmp_path, encode(OPENING))
    journal.append([encode(_record("before"))])
    before = journal.path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        journal.append([encode(_record("lost")), encode(_record("lost too"))])
    assert journal.path.read_bytes() == before
    monkeypatch.setattr("os.ftruncate", full)
    with pytest.raises(OSError, match="No space"):
        journal.append([encode(_record("lost"))])
    monkeypatch.undo()
    with pytest.raises(OSError, match="could not be undone"):
        journal.append([encode(_record("after"))])
    journal.mark_sent(("id of before",))  # may be lost, and is
    assert list(read_contents(journal).waiting) == ["id of before", "id of lost"]
    journal.close()


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("postgresql://ada:secret@host:5432/db", "postgresql://ada@host:5432/db"),
        ("postgresql+psycopg://ada:se/cr?e#t@host/db", "postgresql+psycopg://ada@host/db"),
        ("postgresql://ada@/db?host=%2Ftmp%2Fx&password=secret", "postgresql://ada@/db?host=%2Ftmp%2Fx"),
        ("postgresql:///db?sslpassword=secret", "postgresql:///db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("http://ada:secret@host:5000/", "http://ada@host:5000"),
        ("https://host:5000/a:b@c", "https://host:5000/a:b@c"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:///file:x.db?mode=ro&uri=true", "sqlite:///file:x.db?mode=ro&uri=true"),
        ("sqlite://", "sqlite:///"),
    ],
)
def test_a_place_is_kept_without_its_password(uri: str, stored: str) -> None:
    assert stored_uri(uri) == stored
    assert stored_uri(stored) == stored
    assert usable_uri(stored, uri) == uri
    assert usable_uri(stored, "http://elsewhere") == usable_uri(stored, None) == stored


def test_a_relative_path_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert stored_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
