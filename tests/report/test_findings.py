"""The findings document: a marked section of somebody's file, and nothing else of it."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.errors import UsageError
from massact.report.page import BEGIN, END, build_report, read_for_findings, with_findings, write_findings
from tests.support.report_rows import report_input, toy_rows


def test_the_rest_of_a_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "research_findings.md"
    file.write_bytes(f"# Mine\r\n\r\nbefore {BEGIN} old {END} after\r\n".encode())
    file.chmod(0o640)
    write_findings(file, "new")
    assert file.read_bytes() == f"# Mine\r\n\r\nbefore {BEGIN}\n\nnew\n\n{END} after\r\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["research_findings.md"]


def test_a_file_without_marks_gets_the_section_at_its_end_and_keeps_one(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    write_findings(file, "first")
    assert file.read_text() == f"{BEGIN}\n\nfirst\n\n{END}\n"
    file.write_text("# Notes\n")
    write_findings(file, "one")
    write_findings(file, "two")
    assert file.read_text() == f"# Notes\n\n{BEGIN}\n\ntwo\n\n{END}\n"


text = st.text(st.characters(exclude_categories=("Cs",)), max_size=60).filter(lambda one: "massact" not in one)


@given(text, text, text, text)
def test_writing_twice_is_writing_the_second(before: str, after: str, first: str, second: str) -> None:
    marked = f"{before}{BEGIN}old{END}{after}"
    once = with_findings(marked, second)
    assert with_findings(with_findings(marked, first), second) == once
    assert once.startswith(before)
    assert once.endswith(after)
    assert second.strip() in once


@pytest.mark.parametrize("broken", [BEGIN, END, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_marks_that_are_not_one_pair_stop_it(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "f.md"
    file.write_text(broken)
    with pytest.raises(UsageError, match=r"f\.md: the marks .* nothing was written"):
        write_findings(file, "new")
    assert file.read_text() == broken


def test_what_cannot_be_written_is_said_before_anything_is_worked_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its folder does not exist"):
        read_for_findings(tmp_path / "none" / "f.md")
    binary = tmp_path / "f.md"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="as UTF-8 text"):
        read_for_findings(binary)


@pytest.mark.slow
def test_findings_are_answers_recommendations_and_tables_without_figures() -> None:
    findings = build_report(report_input(toy_rows())).findings
    assert "### Can the best coefficient be predicted?" in findings
    assert "start probe at" in findings
    assert "Ratio of the best coefficient of mean_diff to that of probe" in findings
    assert "say nothing about Gemma" in findings
    assert "![" not in findings
    assert BEGIN not in findings
