"""Files of people's scores: what is written is read, and what is wrong is told by line."""

from dataclasses import replace
from pathlib import Path

import pytest

from massact.data.labelled import Labelled, append_labelled, read_labelled, unlabelled
from massact.errors import DataError, UsageError

ONE = Labelled('What is, "it"?', "=1+1\nand\r\n\x1b[31mred\u202e, 'so'", "refusal", "m", "ana", 80.0, None)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    other = replace(ONE, annotator="bo", trait_score=None, coherence_score=5.5)
    append_labelled(file, ONE)
    append_labelled(file, other)
    assert read_labelled(file) == [ONE, other]
    corrected = replace(ONE, trait_score=20.0)
    append_labelled(file, corrected)
    assert read_labelled(file) == [corrected, other]


def test_a_file_of_ones_own_needs_little(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("\ufeffresponse,question,coherence_score,note\nyes,why,40,x\n", encoding="utf-8")
    assert read_labelled(file) == [Labelled("why", "yes", coherence_score=40.0)]


@pytest.mark.parametrize("between", [";", "\t"])
def test_a_file_of_excel_with_other_characters_between_is_read_and_added_to(between: str, tmp_path: Path) -> None:
    file = tmp_path / "excel.csv"
    names = ["question", "response", "trait_score", "coherence_score", "annotator", "trait", "model"]
    written = "40,5" if between == ";" else "40.5"
    lines = (names, ["why", "yes, and no", written, "", "ana", "", ""])
    file.write_bytes(("\ufeff" + "".join(f"{between.join(line)}\r\n" for line in lines)).encode())
    first = Labelled("why", "yes, and no", annotator="ana", trait_score=40.5)
    assert read_labelled(file) == [first]
    append_labelled(file, ONE)
    assert read_labelled(file) == [first, ONE]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("question,response,trait_score\nwhy,yes,101\n", "line 2, trait_score: '101' is no number from 0 to 100"),
        ("question,response,trait_score\nwhy,yes,nan\n", "line 2, trait_score: 'nan'"),
        ("question,response,trait_score\nwhy,yes,1\nwhy,no,high\n", "line 3, trait_score: 'high'"),
        ("question,trait_score\nwhy,1\n", "names no column response"),
        ("question,response\nwhy,yes\n", "names no column trait_score or coherence_score"),
        ('question,response,trait_score\nwhy,"yes\n', "cannot be read as a CSV file"),
        ("", "names no column question"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=told.replace("(", r"\(")):
        read_labelled(file)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name another file with --labels"):
        append_labelled(tmp_path / "none" / "labels.csv", ONE)


def test_what_others_scored_comes_once() -> None:
    known = [ONE, replace(ONE, annotator="bo"), replace(ONE, annotator="cy", response="other")]
    assert unlabelled(known, "dora") == [
        Labelled(ONE.question, ONE.response, "refusal", "m", "dora"),
        Labelled(ONE.question, "other", "refusal", "m", "dora"),
    ]
    assert [one.response for one in unlabelled(known, "ana")] == ["other"]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_row_is_added_under_the_columns_that_a_file_has(tmp_path: Path, end: str) -> None:
    file = tmp_path / "mine.csv"
    names = "coherence_score,trait_score,note,response,question,model,trait,annotator"
    file.write_text(f"\ufeff{names}\n40,,x,yes,why,m,refusal,bo{end}", encoding="utf-8", newline="")
    append_labelled(file, ONE)
    assert read_labelled(file) == [Labelled("why", "yes", "refusal", "m", "bo", None, 40.0), ONE]


def test_a_file_without_a_column_of_a_row_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("question,response,trait_score\nwhy,yes,40\n")
    with pytest.raises(UsageError, match="has to name the column annotator once"):
        append_labelled(file, ONE)
    assert file.read_text() == "question,response,trait_score\nwhy,yes,40\n"
