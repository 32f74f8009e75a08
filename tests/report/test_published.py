"""The report on published figures alone says where the published versions disagree, and mixes none with ours."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from massact.cli.app import cli
from massact.interop.figures import read_published
from massact.report.curve import CleaningCurve, cleaning_curves
from massact.report.published import Published, printed_places, published_section
from massact.report.section import Section, drawing
from massact.store.schema import PublishedRow
from tests.support.report_rows import evidence, scored

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parents[1] / "data" / "published_results.csv"
"""Three published versions of one study, as they were printed."""


def figures(**values: object) -> tuple[PublishedRow, ...]:
    rows = read_published(DATA, "study").rows
    return tuple(replace(row, **values) for row in rows) if values else tuple(rows)  # type: ignore[arg-type]


def section(printed: tuple[PublishedRow, ...], rows: list[Any] | None = None) -> Section:
    made = published_section(evidence(rows or [], published=printed))
    assert made is not None
    return made


@pytest.fixture(scope="module")
def markdown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a store that holds nothing but the figures."""
    folder = tmp_path_factory.mktemp("published")
    where = ["--experiment", str(ROOT / "experiments/massive-activations.yaml"),
             "--tracking-uri", f"sqlite:///{folder}/store.db"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)  # artifacts go there too
        for arguments in (["import", "--published", str(DATA)], ["report", "--output", str(folder)]):
            done = CliRunner().invoke(cli, [*arguments, *where])
            assert done.exit_code == 0, done.output
    assert {file.stem for file in folder.glob("*/figures/*.svg")} == {"published", "published-2"}
    (html,) = folder.glob("*/report.html")
    assert html.read_text().count('<svg role="img" aria-label="Published deltas, a dot per source.') == 2
    (report,) = folder.glob("*/report.md")
    return report.read_text()


@pytest.mark.slow
def test_the_report_of_published_figures_alone_shows_where_they_disagree(markdown: str) -> None:
    first, _, rest = markdown.partition("## Answers in short")
    assert "What cannot be known: these are means as printed, without scores by question" in first
    assert "**Deltas as printed" in first
    assert "figures/published-2.svg" in first
    assert "## Where the published versions disagree" in rest
    assert "77 published figures of 3 sources" in markdown
    assert "16 labels are printed by two sources at one place; 14 of them differ by more than rounding." in markdown
    assert "| mean_diff " in markdown
    assert "+26.6" in markdown
    assert "+93.2" in markdown
    assert "0 evaluations in the store" in markdown


@pytest.mark.slow
def test_where_the_winner_flips(markdown: str) -> None:
    flip = "the winner flips between sources: S1 2026-01-29 mean_diff (+33.4) and S2 2026-01-30 probe (+49.4)"
    assert f"gemma-3-4b, refusal, response[:20]: {flip}" in markdown
    assert "S2 2026-01-30 mean_diff_top2 (+72.1). Among the 6 labels that all print it is probe in each." in markdown


def test_one_vector_that_was_printed_twice(markdown: str) -> None:
    assert markdown.count("mean_diff_preclean (+19.2) and mean_diff_cleaned (+28.3) are the same direction by algebra, "
                          "printed 9.1 apart") == 1  # fmt: skip


def test_one_vector_that_two_sources_print_under_two_labels() -> None:
    labels = ("mean_diff_preclean", "mean_diff_cleaned")
    printed = [row for row in figures() if row.source.startswith("S2") and row.label in labels]
    apart = [replace(row, source="S9") if row.label == labels[0] else row for row in printed]
    said = "mean_diff_preclean and mean_diff_cleaned are one vector by algebra, printed with different numbers"
    (line,) = (line for line in section(tuple(apart)).bullets if said in line)
    assert "mean_diff_preclean +19.2 in S9" in line
    assert "mean_diff_cleaned +28.3 in S2 2026-01-30" in line
    assert not any(said in line for line in section(tuple(printed)).bullets), "of one source the flags tell"


def test_baselines_and_floors_that_differ(markdown: str) -> None:
    assert "gemma-3-4b, sycophancy: the unsteered trait mean is printed as 56.1 (S1 2026-01-29) and 71.8" in markdown
    assert "picked at different coherence floors: 68 (S2 2026-01-30 and S3 2026-02-04) and 70" in markdown


def test_figures_that_do_not_add_up(markdown: str) -> None:
    assert "the note gives trait 46.3; less the baseline 11.2 that is +35.1, printed +39.0" in markdown


def test_a_source_keeps_its_best_and_shows_the_others() -> None:
    table = next(one for one in section(figures()).tables if "gemma-3-4b, refusal, response[:5]" in one.caption)
    cells = next(row for row in table.rows if row[0].text == "mean_diff")
    assert cells[1].text == "+27.1 @ 73 (2500); also -0.3 @ 93.4 (layer 15, 1200)"
    assert cells[2].text == "+26.2 @ 82.1 (2500)"
    assert cells[3].text == "0.9"
    assert [column.header for column in table.columns][1] == "S1 2026-01-29, floor 70, baseline 0.3"
    assert "ours" not in [column.header for column in table.columns], "a column that says nothing"


def test_ours_stand_beside_and_stay_apart() -> None:
    ours_rows = [scored(44.0, 90.0, label="probe"), scored(12.0, 95.0, label="mean_diff")]
    rows = tuple(replace(row, model="toy-gemma-3") for row in figures() if row.model.endswith("3-4b"))
    table = next(one for one in section(rows, ours_rows).tables if "refusal, response[:5]" in one.caption)
    ours = [column.header for column in table.columns].index("ours")
    cell = next(row for row in table.rows if row[0].text == "probe")[ours]
    assert (cell.text, cell.state) == ("+44.0 @ 90 (layer 2, 8)", "ok")
    figure = drawing(Published(evidence(ours_rows, published=rows)))
    assert figure is not None
    stars = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "*"]
    assert sorted(float(np.asarray(line.get_xdata())[0]) for line in stars) == [12.0, 44.0]
    assert "ours" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_words_of_the_figure_have_its_numbers() -> None:
    text = Published(evidence([], published=figures())).alt()
    assert re.search(r"response\[:10\]: probe: S1 \S+ \+26\.6 and S2 \S+ \+93\.2: 66\.6 points", text)


def test_nothing_published_is_no_section() -> None:
    assert published_section(evidence([])) is None
    assert drawing(Published(evidence([]))) is None
    assert drawing(Published(evidence([], published=figures(source="one")))) is None


def test_the_cleaning_curve_has_the_published_values_beside_it() -> None:
    rows = tuple(replace(row, model="toy-gemma-3") for row in figures() if row.model.endswith("3-4b"))
    found = evidence([scored(44.0, 90.0, label="mean_diff"), scored(40.0, 90.0, label="mean_diff_top1"),
                      scored(30.0, 90.0, label="mean_diff_top2")], published=rows)  # fmt: skip
    figure = drawing(CleaningCurve(found))
    assert figure is not None
    curve = next(one for one in cleaning_curves(found) if one.place.position == "response[:5]")
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    drawn = sorted((float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0])) for line in hollow)
    steps = {step: curve.steps.index(step) + 0.14 for step in curve.steps}
    assert (steps[0], 27.1) in drawn
    assert (steps[2], 72.1) in drawn
    assert any("published: S2" in text.get_text() for text in figure.legends[0].get_texts())


def test_a_model_that_is_spelled_in_two_ways_is_one_place() -> None:
    rows = tuple(replace(row, model=row.model.upper()) if row.source.startswith("S2") else row for row in figures())
    places = printed_places(evidence([], published=rows))
    assert sum(one.has_several for one in places) == 6
