"""The report's section on what was confirmed: both figures, what was lost, and how to get it where it is absent."""

from dataclasses import replace
from typing import Any

import pytest

from massact.query import Answers, Evaluations
from massact.report.evidence import Evidence
from massact.report.page import build_report
from massact.report.phase_notes import NOTE_LIMIT, confirm_markdown, confirm_verdicts
from massact.report.results import confirmed_section
from tests.support.confirmation_rows import Scored, all_confirmed, chosen, confirmed, rows_of, scores_of
from tests.support.report_rows import experiment, report_input

NAMES: dict[str, Any] = {"experiment": experiment().name, "model": "toy-gemma-3"}
PROBE = chosen("probe", 1000, (30, 36, 33, 28, 34, 31), **NAMES)
MEAN_DIFF = chosen("mean_diff", 1200, (25, 40, 30, 20, 36, 35), **NAMES)
GRID = [PROBE, MEAN_DIFF]
SPLIT = replace(experiment(), confirm_share=0.4)
TITLE = "Confirmed on other questions"


def given(*cells: Scored, is_split: bool = True, grid: list[Scored] | None = None) -> Evidence:
    found = GRID if grid is None else grid
    answers = Answers(
        evaluations=Evaluations.of(rows_of(found)),
        groups=experiment().groups(),
        confirmed=all_confirmed(*cells),
        choosing_scores=scores_of(found),
        coefficient_ranges={},
    )
    return report_input([], experiment=SPLIT if is_split else experiment(), answers=answers)


def section(*cells: Scored, **options: Any) -> str:
    """What the Markdown report says in the section; empty where there is none."""
    text = build_report(given(*cells, **options)).markdown
    return text.partition(f"## {TITLE}\n")[2].partition("\n## ")[0]


def test_a_confirmed_delta_links_to_the_run_that_confirms() -> None:
    found = confirmed_section(given(confirmed(PROBE, (20, 30, 25, 25))))
    assert found is not None
    (table,) = found.tables
    headers = [column.header for column in table.columns]
    (row,) = [row for row in table.rows if row[headers.index("label")].text == "probe"]
    selected, confirming = (row[headers.index(name)].run_id for name in ("label", "confirmed"))
    assert None not in (selected, confirming)
    assert selected != confirming


@pytest.mark.slow
def test_both_figures_and_what_was_lost_are_shown() -> None:
    text = section(confirmed(PROBE, (20, 30, 25, 25)), confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    assert "Mean shrinkage: winners +7.0 (1), labels tied with them +0.0 (1)." in text
    (probe,) = [line for line in text.splitlines() if line.startswith("|") and " probe " in line]
    cells = [cell.strip() for cell in probe.split("|")]
    assert cells[2:6] == ["winner", "15", "1000", "+32.0"]
    assert cells[7:12] == ["+25.0", "-3.1 to +66.5", "+7.0", "80.0 / 80.0", "6 / 4"]
    assert "`probe` was chosen; `mean_diff`, tied with it, is ahead on these questions; corrected" in text
    assert "corrected for the picking its delta is +30.8 (" in text


@pytest.mark.slow
def test_a_winner_that_wins_again_is_said_to() -> None:
    text = section(confirmed(PROBE, (40, 40, 41, 39)), confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    assert "`probe` wins again, ahead of 1 label tied with it; corrected" in text
    alone = section(confirmed(PROBE, (40, 40, 41, 39)), grid=[PROBE])
    assert "`probe` wins again, with no label tied with it." in alone
    below = section(confirmed(PROBE, (40, 40, 41, 39), coherence=50.0), grid=[PROBE])
    assert "`probe` falls below the floor, and so does all that was confirmed." in below
    assert "| below floor |" in below
    assert "| 80.0 / 50.0 |" in below


@pytest.mark.slow
def test_absent_confirmations_are_asked_for_only_where_questions_are_kept_for_them() -> None:
    assert "Winners were not confirmed on other questions yet: `massact confirm --experiment" in section()
    unsplit = [chosen("probe", 1000, (30, 36, 33, 28, 34, 31), confirm_share=None, **NAMES)]
    assert TITLE not in build_report(given(is_split=False, grid=unsplit)).markdown
    assert TITLE in build_report(given(confirmed(PROBE, (1, 2, 3, 4)), is_split=False)).html


@pytest.mark.slow
def test_what_is_still_open_is_said_with_the_rest() -> None:
    text = section(confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    assert "1 winner or tied label is not confirmed yet: `massact confirm --experiment" in text
    assert "`probe` is not confirmed." in text
    assert "unconfirmed" in next(line for line in text.splitlines() if line.startswith("|") and "winner" in line)


def test_a_phase_s_note_and_verdicts_say_the_same() -> None:
    it = given(confirmed(PROBE, (20, 30, 25, 25)), confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    note = confirm_markdown(it.experiment, it.answers)
    assert "winners +7.0 (1)" in note
    assert len(note) <= NOTE_LIMIT
    assert confirm_verdicts(it.experiment, it.answers) == {
        "winners": "0 of 1 win again",
        "mean_shrinkage": "winners +7.0 (1), labels tied with them +0.0 (1)",
    }
    assert confirm_verdicts(it.experiment, given().answers) == {}
