"""Published figures: a CSV file read line by line, and written as runs of their own kind."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.errors import DataError
from massact.interop.figures import REQUIRED, published_run, read_published
from massact.interop.importer import import_into
from massact.interop.names import Target
from massact.interop.writing import ImportReport
from massact.store.schema import Kind, MlflowTag, PublishedRow, Tag
from massact.store.schema.rows import decode_row
from massact.store.write.tracker import Tracker

DATA = Path(__file__).resolve().parents[1] / "data" / "published.csv"
HEADER = "source,model,trait,position,method,layer,coefficient,trait_mean,delta,note"
LINE = "W,lab/chirp,refusal,response[:5],probe,15,1200,,33.0,"


def read(tmp_path: Path, *lines: str | bytes, header: str = HEADER) -> Any:
    return read_published(written(tmp_path, header, *lines), "study")


def written(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "figures.csv"
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def test_a_file_is_read_and_what_is_missing_stays_missing() -> None:
    found = read_published(DATA, "study")
    assert (len(found.rows), found.report.refusals, found.report.notes) == (6, [], [])
    first, last = found.rows[0], found.rows[3]
    assert first == PublishedRow(
        kind=Kind.PUBLISHED,
        experiment="study",
        key=first.key,
        source="W1 2026-01-05",
        model="lab/chirp-4b",
        trait="refusal",
        position="response[:5]",
        label="probe",
        layer=15,
        coefficient=1200.0,
        coherence_mean=73.0,
        delta=33.0,
        baseline_trait_mean=1.0,
        coherence_floor=70.0,
    )
    assert (last.layer, last.coefficient, last.coherence_mean, last.trait_mean) == (None,) * 4
    assert last.label == "probe_top2"  # in its one spelling
    assert found.rows[2].note == "coherence, as printed, is below the floor"


def test_columns_come_in_any_order_and_optional_ones_may_lack(tmp_path: Path) -> None:
    a = read(tmp_path, LINE).rows
    b = read(
        tmp_path, "-0.5, probe , W,response[ :5 ],refusal,lab/chirp", header="delta,method,source,position,trait,model"
    ).rows
    assert (a[0].delta, a[0].coefficient) == (33.0, 1200.0)
    assert (b[0].delta, b[0].position, b[0].label, b[0].coefficient) == (-0.5, "response[:5]", "probe", None)


def test_a_key_is_what_the_line_says_not_how_or_where(tmp_path: Path) -> None:
    (row,) = read(tmp_path, LINE).rows
    (same,) = read(
        tmp_path,
        'W,lab/chirp,33,probe,15.0,1.2e3,"refusal",response[:5]',
        header="source,model,delta,method,layer,coefficient,trait,position",
    ).rows
    assert same == row
    others = (LINE.replace("33.0", "33.1"), LINE.replace("W,", "V,"), LINE.replace(",15,", ",,"), LINE + "n")
    assert len({one.key for one in read(tmp_path, *others).rows} | {row.key}) == 5


def test_equal_lines_count_once_and_are_told(tmp_path: Path) -> None:
    found = read(tmp_path, LINE, LINE.replace("33.0", "1"), LINE.replace("33.0", "+33.00"))
    assert (len(found.rows), found.report.refusals) == (2, [])
    assert found.report.notes == ["line 4 says what line 2 says, and counts once"]
    assert found.report.counts.already_there == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (LINE.replace("33.0", "much"), "delta 'much' is not a number; where it is missing leave it empty"),
        (LINE.replace("33.0", "NaN"), "delta 'NaN' is not a number; where it is missing leave it empty"),
        (LINE.replace("33.0", "1e999"), "delta '1e999' is not a number; where it is missing leave it empty"),
        (LINE.replace("1200", "1_200"), "coefficient '1_200' is not a number; where it is missing leave it empty"),
        (LINE.replace("33.0", ""), "no delta"),
        (LINE.replace("refusal", " "), "no trait"),
        (LINE.replace(",15,", ",1.5,"), "layer '1.5' is not a whole number from 0"),
        (LINE.replace(",15,", ",-1,"), "layer '-1' is not a whole number from 0"),
        (LINE.replace(",15,", ",1e300,"), "layer '1e300' is not a whole number from 0"),
        (LINE + ",", "11 fields, but 10 columns"),
        ("W,lab/chirp", "2 fields, but 10 columns"),
        (LINE + "\0", "note holds a NUL character"),
        (LINE.replace("W,", "W" * 251 + ","), "source has 251 characters, 250 are kept"),
        (LINE.encode() + b"caf\xe9", "not UTF-8: the byte 0xe9"),
        (LINE + '"open', "a quotation mark is not closed"),
        (LINE.replace("W,", '"W"x,'), "not CSV: ',' expected after '\"'"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_and_does_not_stop_the_others(tmp_path: Path, line: str | bytes, reason: str) -> None:
    found = read(tmp_path, LINE, line, "", LINE.replace("33.0", "2"))
    assert [(one.line, one.reason) for one in found.report.refusals] == [(3, reason)]
    assert [row.delta for row in found.rows] == [33.0, 2.0]


def test_an_unknown_position_and_a_note_too_long_are_refused(tmp_path: Path) -> None:
    found = read(tmp_path, LINE.replace("response[:5]", "answer[:5]"), LINE + "n" * 8000, LINE)
    assert [one.line for one in found.report.refusals] == [2, 3]
    assert "unknown position 'answer[:5]'" in found.report.refusals[0].reason
    assert "8000 fit in a tag" in found.report.refusals[1].reason
    assert len(found.rows) == 1


def test_a_method_that_is_none_of_ours_is_a_figure_all_the_same(tmp_path: Path) -> None:
    (row,) = read(tmp_path, LINE.replace("probe", "caa_v2")).rows
    assert row.label == "caa_v2"


def test_a_note_may_hold_commas_and_line_breaks(tmp_path: Path) -> None:
    found = read(tmp_path, LINE + '"a, b', 'and ""c"""', LINE.replace("33.0", "oops"))
    assert [row.note for row in found.rows] == ['a, b\nand "c"']
    assert [one.line for one in found.report.refusals] == [4]


def test_spreadsheets_write_marks_ends_and_empty_rows_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{LINE}\r\n{',' * 9}\r\n\r\n".encode())
    found = read_published(path, "study")
    assert (len(found.rows), found.report.refusals) == (1, [])
    minus = read(tmp_path, LINE.replace("33.0", "\N{MINUS SIGN}0.3")).rows
    assert minus[0].delta == -0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"source;model;trait\n", "lacks the columns source, model, trait, position, method, delta"),
        (b"source,model,trait,position,method\n", "lacks the column delta;"),
        ((HEADER + ",coeficient\n").encode(), "unknown column 'coeficient'"),
        ((HEADER + ",\n").encode(), "unknown column ''"),
        ((HEADER + ",delta\n").encode(), "has the column delta twice"),
        (HEADER.encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "figures.csv"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        read_published(path, "study")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"cannot read .*missing\.csv"):
        read_published(tmp_path / "missing.csv", "study")


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.csv"
    path.write_bytes(",".join(REQUIRED).encode() + b"\n" + junk)
    found = read_published(path, "study")
    assert len(found.rows) + found.report.counts.read - 1 <= len(junk)


def test_a_figure_is_a_run_that_people_can_read() -> None:
    rows = read_published(DATA, "study").rows
    run, bare, noted = (published_run(rows[index], 1) for index in (0, 3, 2))
    assert run.name == "published · probe [:5] · chirp-4b · W1 2026-01-05"
    assert run.params == {
        "source": "W1 2026-01-05", "model": "lab/chirp-4b", "trait": "refusal", "position": "response[:5]",
        "label": "probe", "layer": "15", "coefficient": "1200",
    }  # fmt: skip
    assert run.metrics == {
        "coherence_mean": 73.0, "delta": 33.0, "baseline_trait_mean": 1.0, "coherence_floor": 70.0,
        "layer": 15.0, "coefficient": 1200.0,
    }  # fmt: skip
    assert decode_row(PublishedRow, run.tags[Tag.ROW]) == rows[0]
    assert run.tags[Tag.KIND] == "published"
    assert run.tags[Tag.KEY] == run.tags[Tag.CONTENT] == rows[0].key
    assert run.tags[Tag.SCHEMA] == "1"
    assert (set(bare.params) & {"layer", "coefficient"}, set(bare.metrics)) == (
        set(),
        {"delta", "baseline_trait_mean", "coherence_floor"},
    )
    assert MlflowTag.NOTE not in bare.tags
    assert noted.tags[MlflowTag.NOTE] == "coherence, as printed, is below the floor"


def runs_of(uri: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def import_file(path: Path, uri: str, *, dry_run: bool = False) -> ImportReport:
    file = read_published(path, "study")
    return import_into(uri, Target("study"), file, path=Path("figures.csv"), dry_run=dry_run)


def counts(report: ImportReport) -> tuple[int, int, int]:
    totals = report.totals
    return totals.imported, totals.already_there, totals.refused


def test_importing_twice_adds_nothing(uri: str, tmp_path: Path) -> None:
    assert counts(import_file(DATA, uri, dry_run=True)) == (6, 0, 0)
    assert counts(import_file(DATA, uri)) == (6, 0, 0)
    found = runs_of(uri)
    kinds = [run.data.tags[Tag.KIND] for run in found]
    assert (kinds.count("published"), kinds.count("phase"), len(kinds)) == (6, 1, 7)
    assert {run.info.status for run in found} == {"FINISHED"}
    (phase,) = [run for run in found if run.data.tags[Tag.KIND] == "phase"]
    children = [run for run in found if run.data.tags.get(MlflowTag.PARENT) == phase.info.run_id]
    assert {run.data.tags[Tag.KEY] for run in children} == {row.key for row in read_published(DATA, "s").rows}
    assert all(run.data.tags[MlflowTag.PARENT] == run.data.tags[Tag.PARENT] for run in children)
    assert (phase.data.metrics["lines_imported"], phase.data.metrics["lines_read"]) == (6, 7)

    moved = tmp_path / "another-name.csv"
    moved.write_bytes(DATA.read_bytes())
    assert counts(import_file(moved, uri)) == (0, 6, 0)
    assert len(runs_of(uri)) == 7
    with moved.open("a") as file:
        file.write("W3,lab/chirp-4b,refusal,,response[:5],probe,15,1200,,30,,\nbad line\n")
    assert counts(import_file(moved, uri)) == (1, 6, 1)
    assert len(runs_of(uri)) == 9


def test_a_file_that_cannot_be_read_writes_nothing(uri: str, tmp_path: Path) -> None:
    Tracker(uri, "study", floor=68.0)
    with pytest.raises(DataError):
        import_file(tmp_path / "none.csv", uri)
    assert runs_of(uri) == []
