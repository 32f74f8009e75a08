"""The report: what it says, what it ticks, and that nothing of a model's text becomes markup."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from massact.query import Answers, Evaluations
from massact.query.questions.compare import ComparisonRow
from massact.query.stats.paired import QuestionScores
from massact.report import page, style
from massact.report.before_after import BeforeAfter, before_after_table, comparison_verdict
from massact.report.checks import top2_shape
from massact.report.coefficients import coefficients_section
from massact.report.curve import cleaning_curves, curve_section
from massact.report.evidence import Evidence, Provenance
from massact.report.page import Report, build_report
from massact.report.results import best_section, gap_matrix
from massact.report.section import Picture, Section, pictures
from massact.report.summary import answers_in_short
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Scores
from massact.vectors.massive_dims import Magnitudes
from tests.support.report_rows import (
    behaves,
    calibration,
    evidence,
    experiment,
    report_input,
    row,
    sample,
    scored,
    toy_rows,
)

Rows = list[Stored[EvaluationRow]]
HOSTILE = "<script>alert(1)</script> `x` ```` | [a](http://b) ![i](http://c/i.png) **bold**"


@pytest.fixture(scope="module")
def rows() -> Rows:
    return toy_rows()


@pytest.fixture(scope="module")
def report(rows: Rows) -> Report:
    part = [one for one in rows if one.row.model == "toy-gemma-3" and one.row.position == "response[:5]"]
    samples = (sample(), sample(title=HOSTILE, question=HOSTILE, response=HOSTILE, trait=None))
    return build_report(
        report_input(
            part,
            calibrations={"toy-gemma-3": calibration()},
            samples=samples,
            run_link=lambda run: f"http://ui/runs/{run}?a=1&b=2",
        )
    )


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value or "")


@pytest.mark.slow
def test_model_text_stays_text(report: Report) -> None:
    page = _Tags()
    page.feed(report.html)
    assert page.tags.count("script") == 1, "the one that sorts tables"
    assert "img" not in page.tags
    assert "&lt;script&gt;alert(1)" in report.html
    # in Markdown it stands in a fence longer than its own backticks; its title and table cells are escaped
    assert f"`````text\n{HOSTILE}\n\n{HOSTILE}\n`````" in report.markdown
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", report.markdown)
    assert "<script" not in outside
    assert "](http://b)" not in outside


def test_page_needs_nothing_else(report: Report) -> None:
    page = _Tags()
    page.feed(report.html)
    assert all(address.startswith(("#", "http://ui/runs/")) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    for reference in re.findall(r"url\(#([^)]+)\)", report.html):
        assert reference in page.ids
    assert report.html.count('<svg role="img" aria-label=') == len(report.figures) == 8


def test_toys_are_named_as_such(report: Report, rows: Rows) -> None:
    for text in (report.html, report.markdown):
        assert "say nothing about Gemma" in text
        assert "planted" in text
    real = build_report(report_input([], toy=False))
    assert "say nothing about Gemma" not in real.markdown


@pytest.mark.slow
def test_the_same_input_gives_the_same_report() -> None:
    given = report_input([scored(50.0, 90.0)], calibrations={"toy-gemma-3": calibration()})
    first, second = build_report(given), build_report(given)
    assert first == second
    assert (first.html, first.markdown) == (second.html, second.markdown)


def test_figures_are_kept_until_they_would_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, drawn = tmp_path / "figures" / "toys.json", list[Any]()

    def draw(*given: Any) -> Iterator[Picture]:
        drawn.append(given)
        return pictures(*given)

    monkeypatch.setattr(page, "pictures", draw)
    given, later = [scored(50.0, 90.0)], datetime(2027, 1, 1, tzinfo=UTC)
    first = build_report(report_input(given), kept)
    n_sections = len(drawn)
    again = build_report(report_input(given, generated_at=later, provenance=Provenance(n_evaluations=7)), kept)
    assert len(drawn) == n_sections > 0
    assert again.pictures == first.pictures
    assert again.pictures["glance"][0].svg
    for number, changed in enumerate(
        (report_input([scored(60.0, 90.0)]), report_input(given, calibrations={"toy-gemma-3": calibration()})), 2
    ):
        fresh = build_report(changed)
        assert build_report(changed, kept).pictures == fresh.pictures
        assert len(drawn) > n_sections * number
    kept.write_text("{")
    assert build_report(report_input(given), kept).pictures == first.pictures


def test_figures_of_other_code_are_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, code = report_input(toy_rows()), tmp_path / "report" / "page.py"
    code.parent.mkdir()
    monkeypatch.setattr(page, "__file__", str(code))
    seen = set()
    for name in ("report/page.py", "words.py", "domain.py", "models/load.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
        seen.add(page.drawn_from(given))
    assert len(seen | {page.drawn_from(given)}) == 4
    assert None not in seen


def test_massive_dims_at_every_token_stand_beside_those_of_the_first() -> None:
    old = calibration()
    at_all, at_first = (
        Magnitudes((43,), (800.0,), (900.0,), 3.0, 430.0),
        Magnitudes((7, 43), (8_000.0, 900.0), (8_100.0, 950.0), 5.0, 8_050.0),
    )
    layer = replace(old.layers[0], response=at_all, first=at_first, sink_dims=(7,))
    new = replace(old, layers=(layer, *old.layers[1:]))
    text = build_report(report_input([], calibrations={"toy-gemma-3": new})).markdown
    (line,) = [line for line in text.splitlines() if "43 (2,604)" in line]
    assert [cell.strip() for cell in line.strip("|").split("|")][2:] == [
        "300", "430.0", "10.0", "0.90", "8,050.0", "7",
    ]  # fmt: skip
    assert (
        "Massive at the first token alone: dim 7 at layer 0; the norm of the first token is up to 19 times that of "
        "response tokens." in text
    )
    before = build_report(report_input([], calibrations={"toy-gemma-3": old})).markdown
    assert "Massive at the first token alone: not measured." in before


def test_figures_of_the_markdown_exist(report: Report) -> None:
    assert set(re.findall(r"\(figures/([^)]+)\.svg\)", report.markdown)) == set(report.figures)


def test_empty_store_cannot_say_and_names_the_commands() -> None:
    report = build_report(report_input([]))
    assert {one.verdict for one in (*report.criteria, *report.sanity)} == {"cannot say"}
    assert not any(one.ok for one in (*report.criteria, *report.sanity))
    for one, phase in zip(report.criteria, ("phase1", "phase2", "phase3", "phase1"), strict=True):
        assert one.detail.startswith("cannot say")
        assert f"massact {phase} --experiment {experiment().file}" in one.detail
    assert report.figures == {}
    assert not re.search(r"\b0\.0|@ 0", report.markdown)


def test_failed_and_unscored_are_neither_zero_nor_missing() -> None:
    lost = row(label="mean_diff")
    failure = Stored(lost.run_id, "FAILED", 5, lost.row, "out of <memory>")
    unscored = row(n_scored=0, n_unscored=10)
    given = experiment()
    answers = Answers(
        evaluations=Evaluations.of((unscored,)), failures=(failure,), groups=given.groups(), coefficient_ranges={}
    )
    report = build_report(report_input([unscored], answers=answers))
    table = {cells[0].text: cells[1] for cells in gap_matrix(evidence([unscored], (failure,)), "refusal").rows}
    assert table["mean_diff"].text == "failed"
    assert table["probe"].text == "unscored"
    assert table["probe_top1"].text == "\N{EM DASH}"
    assert re.search(r"\| failed \| +out of &lt;memory> ", report.markdown)
    assert "out of &lt;memory&gt;" in report.html


def test_same_direction_gives_no_difference() -> None:
    rows = [scored(28.3, 71.0, label="mean_diff_cleaned"), scored(19.2, 70.0, label="mean_diff_preclean")]
    found = evidence(rows)
    cells = [cell.text for cell in before_after_table(found).rows[0]]
    assert "same direction by algebra" in cells
    assert not any("9.1" in cell for cell in cells)
    short = next(one for one in answers_in_short(found) if "before extraction" in one.question)
    assert "same direction by algebra" in short.lines[0]


def test_bests_at_different_layers_of_one_vector_are_noise_too() -> None:
    rows = [scored(28.3, 71.0, label="mean_diff_cleaned"), scored(19.2, 70.0, label="mean_diff_preclean", layer=3)]
    assert "same direction by algebra at every layer" in str(before_after_table(evidence(rows)).rows)
    probes = [scored(28.3, 71.0, label="probe_cleaned"), scored(19.2, 70.0, label="probe_preclean", layer=3)]
    assert "cannot say: not compared: not all are coherent at layers" in str(before_after_table(evidence(probes)).rows)


def test_one_vector_is_not_ahead_of_itself_for_having_more_evaluations() -> None:
    layers, coefficients = (2, 3, 4, 5), (4.0, 8.0, 12.0, 16.0, 20.0, 24.0)
    wide = [
        scored(layer * 10 + c, 90.0, label=label, layer=layer, coefficient=c)
        for label in ("probe_cleaned", "probe_top1", "probe_top2", "probe_top3", "probe")
        for layer in layers
        for c in coefficients
    ]
    narrow = [
        scored(20 + c, 90.0, label=label, layer=2, coefficient=c)
        for label in ("probe_preclean", "probe_top5")
        for c in (8.0, 12.0, 16.0)
    ]
    found = evidence([*wide, *narrow])
    row = next(row for row in before_after_table(found).rows if row[1].text == "probe_preclean")
    texts = [cell.text for cell in row]
    assert texts[2:6] == ["+36.0 @ 90", "+36.0 @ 90", "+36.0 @ 90", "tied"], "not after ahead by 38"
    assert "3 of 24 evaluations of probe_cleaned without its best (+74.0 at layer 5, 24)" in texts[6]
    assert "probe_cleaned +36.0" in BeforeAfter(found).alt()
    curve = next(
        one
        for one in cleaning_curves(found)
        if one.place.position == "response[:5]" and one.place.model == "toy-gemma-3"
    )
    assert {row.best.delta for rows in curve.lines.values() for row in rows if row.best} == {36.0}
    section = curve_section(found)
    assert {cell.text for row in section.tables[0].rows for cell in row[1:] if "@" in cell.text} == {"+36.0 @ 90"}
    assert "the steps are compared over 3 of 24 evaluations of probe" in section.bullets[0]
    assert top2_shape(found, curve.place, "probe") == "top-1, top-2 and top-3 are tied at +36.0"
    # and without any layer in common nothing is said to be ahead
    apart = evidence([one for one in wide if one.row.layer != 2] + narrow)
    assert "cannot say: not compared" in str(before_after_table(apart).rows)
    assert top2_shape(apart, curve.place, "probe") is None


def test_measured_cosine_outweighs_algebra() -> None:
    rows = [scored(28.3, 71.0, label="mean_diff_cleaned", vector_digest="a"),
            scored(19.2, 70.0, label="mean_diff_preclean", vector_digest="b")]  # fmt: skip
    given = Answers(evaluations=Evaluations.of(tuple(rows)), coefficient_ranges={})
    same, other = (Evidence.of(experiment(), replace(given, cosines={("a", "b"): one})) for one in (0.99999, 0.5))
    assert "same vector: cosine 0.99999" in str(before_after_table(same).rows)
    assert "after ahead by 9.1" in str(before_after_table(other).rows)


def test_ties_are_called_ties() -> None:
    found = evidence([scored(50.0, 90.0), scored(50.01, 90.0, label="mean_diff", coefficient=20.0)])
    answer = answers_in_short(found)[0]
    assert answer.verdict.startswith("At 1 of 6 places the largest delta is known, but not what is tied")
    assert "`mean_diff`, +50.0 @ 90" in answer.lines[0]
    assert "Uncleaned, probe against mean_diff: tied." in answer.lines[0]


def test_settings_are_never_mixed() -> None:
    old = scored(90.0, 90.0, setting="old", judge="openai:other", finished_at=2000)
    new = scored(40.0, 90.0, label="mean_diff", finished_at=1000)
    found = evidence([old, new])
    table = {cells[0].text: cells[1].text for cells in gap_matrix(found, "refusal").rows}
    # the setting that the file declares is answered in, though another was run later
    assert table["mean_diff"] == "+40.0 @ 90"
    assert table["probe"] == "\N{EM DASH} (not in this setting)"
    assert "evaluated in 2 settings" in build_report(report_input([old, new])).markdown


def test_scatter_is_measured_on_groups_with_an_effect() -> None:
    rows = [
        behaves(row(coefficient=c, label=label)) for c in (4.0, 8.0, 10.0, 16.0) for label in ("probe", "probe_top1")
    ]
    idle = scored(1.0, 95.0, label="probe_cleaned", coefficient=1.0, relative_strength=0.01)
    table = coefficients_section(evidence([*rows, idle])).tables[-1]
    assert table.caption.startswith("Scatter")
    assert [cell.text for cell in table.rows[0]][:2] == ["toy-gemma-3", "2"]


def test_report_imports_nothing_heavy() -> None:
    heavy = (
        "torch",
        "transformers",
        "mlflow",
        "click",
        "matplotlib",
        "jinja2",
        "massact.store.write",
        "massact.pipeline",
        "massact.cli",
    )
    code = f"import sys, massact.report; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Line:
    """A figure from outside the package."""

    name = "a line"
    data = (1.0, 2.0)

    def draw(self) -> Figure:
        figure, axes = style.new_figure((1, 1), (4.0, 3.0))
        axes[0, 0].plot(self.data)
        return figure

    def alt(self) -> str:
        return "from 1 to 2"

    def caption(self) -> str:
        return "A line."


def test_a_section_with_its_figure_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Section("mine", "Mine", ("words",), figures=(_Line(),))
    monkeypatch.setattr(page, "SECTIONS", (*page.SECTIONS, lambda _: mine, lambda _: None))
    report = build_report(report_input([]))
    assert "## Mine\n\nwords\n\n![from 1 to 2](figures/a-line.svg)\n\n*A line.*" in report.markdown
    assert '<svg role="img" aria-label="from 1 to 2"' in report.html
    assert '<details id="mine">\n<summary><h2>Mine</h2></summary>' in report.html
    assert set(report.figures) == {"a-line"}


def test_the_digests_of_the_provenance_are_those_that_the_rows_hold() -> None:
    told = scored(50.0, 90.0, trait_digest="d" * 64, chat_template_digest="e" * 64)
    text = build_report(report_input([told], baselines=())).markdown
    assert f"| datasets                   | refusal {'d' * 12} " in text
    assert f"| chat templates             | toy-gemma-3 {'e' * 12} " in text


def test_generated_at_and_provenance_are_shown() -> None:
    text = build_report(report_input([], generated_at=datetime(2026, 2, 5, 12, 30, tzinfo=UTC))).markdown
    assert "2026-02-05 12:30+00:00" in text


def test_with_scores_by_question_bests_have_intervals_and_differences_are_tested() -> None:
    gains = {"probe_preclean": 30.0, "probe_cleaned": 10.0}
    wave = [4.0 * ((3 * i) % 10 - 4.5) for i in range(10)]
    base = tuple(1.5 for _ in range(10))
    rows = [scored(gain, 80.0, label=label, baseline_key="base") for label, gain in gains.items()]
    by_run = {
        one.run_id: Scores(
            tuple(1.5 + gains[str(one.row.label)] + w for w in (wave if i else wave[::-1])), (80.0,) * 10
        )
        for i, one in enumerate(rows)
    }
    given = Answers(
        evaluations=Evaluations.of(tuple(rows)),
        scores=QuestionScores(by_run, {"base": Scores(base, (90.0,) * 10)}),
        coefficient_ranges={},
    )
    found = Evidence.of(experiment(), given)
    (table,) = (one for one in best_section(found).tables if "response[:5]" in one.caption)
    told = [dict(zip((column.header for column in table.columns), row, strict=True)) for row in table.rows[:2]]
    assert [[row[name].text for name in ("label", "expected", "standing")] for row in told] == [
        ["probe_preclean", "+28.7", "winner"],  # it was picked among both labels
        ["probe_cleaned", "+10.0", "behind"],
    ]
    assert re.fullmatch(r"\+\d+\.\d to \+\d+\.\d", told[0]["95 % of delta"].text)
    row = next(one for one in before_after_table(found).rows if one[1].text == "probe_preclean")
    verdict = next(cell.text for cell in row if "ahead" in cell.text)
    assert re.fullmatch(r"before ahead by 20\.0 \(95 %: \d+\.\d to \d+\.\d, p 0\.0\d+, 10 questions\)", verdict)
    short = answers_in_short(found)
    assert short[0].verdict.startswith("At 1 of 6 places one label is ahead of all others; at 5 of 6")
    assert "`probe_preclean`, +30.0 @ 80 (layer 2, 8; 95 %: +" in short[0].lines[0]
    assert "That best lies at the end of its grid" in short[0].lines[0]
    assert told[0]["coefficient"].text == "8 end"
    assert short[1].verdict.startswith("Of 4 pairs cleaned before and after: 1 ahead when cleaned before, ")
    (cell,) = (one[1] for one in gap_matrix(found, "refusal").rows if one[0].text == "probe_preclean")
    assert re.fullmatch(r"\+\d+\.\d to \+\d+\.\d, n 10", cell.detail)


def test_a_verdict_never_contradicts_its_interval() -> None:
    def row(low: float, high: float, p: float) -> ComparisonRow:
        return ComparisonRow(
            model="m", trait="t", position="response[:5]", label_a="a", label_b="b", status_a="ok", status_b="ok",
            difference=10.0, better="a", n_questions=5, difference_low=low, difference_high=high, p_value=p,
            p_corrected=p,
        )  # fmt: skip

    assert comparison_verdict(row(-2.0, 22.0, 0.3)).startswith("cannot be told apart: before ahead by 10.0")
    assert comparison_verdict(row(2.0, 18.0, 0.0625)).startswith("not significant among all pairs: before ahead")
    assert comparison_verdict(row(2.0, 18.0, 0.01)).startswith("before ahead by 10.0 (95 %: 2.0 to 18.0")
