"""What ended processes left in the spool: told, sent once when asked, and a journal in use left alone."""

from contextlib import closing
from pathlib import Path

import pytest

from massact.store.spool.journal import open_journal
from tests.support.doctor_leftovers import leave
from tests.support.doctor_store import Made, answers, look, make_store, told


@pytest.fixture
def made(uri: str) -> Made:
    return make_store(uri)


def test_leftovers_are_told_and_sent_once(made: Made, tmp_path: Path) -> None:
    path = leave(made, tmp_path / "spool", 20, 21)
    before, content = answers(made.uri), path.read_bytes()
    (found,) = look(made.uri, spool=tmp_path / "spool")
    assert told([found]) == [("found", "spool")]
    assert f"{path} of an ended process holds 2 finished results" in found.finding.what
    assert path.read_bytes() == content
    assert answers(made.uri) == before
    (mended,) = look(made.uri, spool=tmp_path / "spool", fix=True)
    assert (mended.state, mended.said) == ("mended", "2 sent")
    assert not path.exists()
    new = {one.row.layer for one in answers(made.uri)["evaluations"]} - {0, 2}
    assert new == {20, 21}
    assert look(made.uri, spool=tmp_path / "spool", fix=True) == []


def test_several_journals_are_each_told(made: Made, tmp_path: Path) -> None:
    for layer in (20, 21, 22):
        leave(made, tmp_path / "spool", layer)
    leave(made, tmp_path / "spool")  # of a process that had nothing to send
    outcomes = look(made.uri, spool=tmp_path / "spool", fix=True)
    assert [one.said for one in outcomes] == ["1 sent"] * 3
    assert look(made.uri, spool=tmp_path / "spool", fix=True) == []


def test_what_arrived_before_is_not_sent_again(made: Made, tmp_path: Path) -> None:
    path = leave(made, tmp_path / "spool", 20)
    content = path.read_bytes()
    look(made.uri, spool=tmp_path / "spool", fix=True)
    path.write_bytes(content)  # as if the process had died before it marked them
    (mended,) = look(made.uri, spool=tmp_path / "spool", fix=True)
    assert mended.said == "0 sent, 1 there already"
    assert len([one for one in answers(made.uri)["evaluations"] if one.row.layer == 20]) == 1


def test_a_journal_that_a_process_works_on_is_left_alone(made: Made, tmp_path: Path) -> None:
    path = leave(made, tmp_path / "spool", 20)
    held = open_journal(path)
    assert held is not None
    with closing(held):
        assert look(made.uri, spool=tmp_path / "spool", fix=True) == []
    assert told(look(made.uri, spool=tmp_path / "spool")) == [("found", "spool")]


def test_damaged_lines_are_lost_and_the_others_are_sent(made: Made, tmp_path: Path) -> None:
    path = leave(made, tmp_path / "spool", 20, 21, 22)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"probe", b"prob0", 1)
    path.write_bytes(b"".join(lines) + b"0123456789abcdef {half a li")
    (outcome,) = look(made.uri, spool=tmp_path / "spool", fix=True)
    assert outcome.state == "remains"
    assert "damaged lines (3)" in outcome.finding.what
    assert "line 3 cannot be read and is lost" in outcome.said
    assert {one.row.layer for one in answers(made.uri)["evaluations"]} == {0, 2, 20, 22}
    (note,) = look(made.uri, spool=tmp_path / "spool", fix=True)
    assert note.state == "note"
    assert ".damaged was set aside" in note.finding.what


def test_what_cannot_be_sent_stays_and_remains(made: Made, tmp_path: Path) -> None:
    gone = f"sqlite:///{tmp_path}/no/such/folder/store.db"
    path = leave(made, tmp_path / "spool", 20, store=gone)
    content = path.read_bytes()
    (outcome,) = look(made.uri, spool=tmp_path / "spool", fix=True)
    assert outcome.state == "remains"
    assert "1 left" in outcome.said
    assert path.read_bytes() == content
