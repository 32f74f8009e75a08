"""The report's first screen: the matrix, at most five sentences, and what a terminal is told."""

import pytest

from massact.query import Answers, Evaluations
from massact.query.questions.costs import CostRow
from massact.query.stats.paired import QuestionScores
from massact.report.evidence import Evidence
from massact.report.glance import MOST_SENTENCES, AtAGlance, glance_section
from massact.report.page import build_report
from massact.report.phase_notes import phase_brief
from massact.report.results import best_section, gap_matrix
from massact.report.section import drawing
from massact.report.summary import answers_in_short, brief, leads
from massact.store.schema import Scores
from tests.support.report_rows import evidence, experiment, report_input, scored, toy_rows

DELTAS = {"probe": (30.0, 12.0), "probe_top1": (29.0, 12.0), "mean_diff": (6.0, 1.0)}
"""By label the delta, and how far questions scatter around it."""


def judge(*labels: str) -> Evidence:
    """Labels at one place with scores by question, and one below the floor."""
    rows = [scored(DELTAS[label][0], 80.0, label=label, baseline_key="base") for label in labels]
    by_run = {}
    for index, one in enumerate(rows):
        delta, scatter = DELTAS[str(one.row.label)]
        wave = [scatter * ((3 * i + index) % 10 - 4.5) / 4.5 for i in range(10)]
        by_run[one.run_id] = Scores(tuple(1.5 + delta + w for w in wave), (80.0,) * 10)
    rows.append(scored(50.0, 40.0, label="mean_diff_cleaned", baseline_key="base"))
    scores = QuestionScores(by_run, {"base": Scores((1.5,) * 10, (90.0,) * 10)})
    return Evidence.of(experiment(), Answers(evaluations=Evaluations.of(tuple(rows)), scores=scores))


@pytest.fixture(scope="module")
def judged() -> Evidence:
    return judge(*DELTAS)


def test_the_matrix_marks_winners_ties_and_gaps_and_has_intervals_on_one_scale(judged: Evidence) -> None:
    table = gap_matrix(judged, "refusal")
    assert "at coherence 68 or more" in table.caption
    cells = {row[0].text: row[1] for row in table.rows}
    assert {label: cells[label].standing for label in DELTAS} == {
        "probe": "winner", "probe_top1": "tied", "mean_diff": "behind",
    }  # fmt: skip
    assert cells["mean_diff_cleaned"].state == "below_floor"
    assert cells["mean_diff_cleaned"].bar is None
    bars = {label: cells[label].bar for label in DELTAS}
    assert all(bar is not None and 0 <= bar[0] <= bar[2] <= bar[1] <= 1 for bar in bars.values())
    assert bars["probe"][2] > bars["mean_diff"][2]  # type: ignore[index]
    lines = table.markdown().splitlines()
    assert any(line.startswith("| probe ") and "**+30.0 @ 80**" in line for line in lines)
    assert any(line.startswith("| probe_top1 ") and "+29.0 @ 80 =" in line for line in lines)


def test_a_matrix_of_many_places_says_how_many_it_shows() -> None:
    whole = evidence(toy_rows())
    table = gap_matrix(whole, "refusal", 2)
    assert len(table.columns) == 3
    assert "(2 of 6 places)" in table.caption
    assert {column.header.split()[0] for column in table.columns[1:]} == {"toy-gemma-3", "toy-gemma-2"}


@pytest.mark.parametrize("rows", [toy_rows, list], ids=["the toys", "an empty store"])
def test_it_has_at_most_five_sentences(rows: object) -> None:
    section = glance_section(report_input(rows()))  # type: ignore[operator]
    assert 1 <= len(section.text) <= MOST_SENTENCES == 5
    for sentence in section.text:
        assert sentence.count(". ") == 0, sentence
        assert sentence[0].isupper()
        assert sentence.endswith(".")


def test_means_without_scores_by_question_say_what_cannot_be_known() -> None:
    section = glance_section(evidence([scored(50.0, 90.0), scored(40.0, 90.0, label="mean_diff")]))
    assert "no interval, tie or test can be known" in section.text[-1]
    (cell,) = (row[1] for row in section.tables[0].rows if row[0].text == "probe")
    assert (cell.text, cell.standing) == ("+50.0 @ 90", "")


@pytest.mark.parametrize("smaller", ["probe", "mean_diff"])
def test_of_equal_deltas_the_figure_marks_the_winner_of_the_table(smaller: str) -> None:
    coefficients = {"probe": 9.0, "mean_diff": 9.0, smaller: 8.0}
    tied = evidence([scored(10.0, 90.0, label=label, coefficient=c) for label, c in coefficients.items()])
    (place,) = tied.run_places
    assert tied.top(place, tied.bests(place)) == smaller
    (table,) = best_section(tied).tables
    names = [column.header for column in table.columns]
    assert table.rows[0][names.index("label")].text == smaller, "and it comes first"


def test_every_label_is_a_curve_and_the_floor_a_line(judged: Evidence) -> None:
    whole = evidence([one for one in toy_rows() if one.row.position == "response[:5]"])
    figure = AtAGlance(whole)
    drawn = drawing(figure)
    assert drawn is not None
    panels = [axes for axes in drawn.axes if axes.get_title(loc="left")]
    assert [panel.get_title(loc="left") for panel in panels] == [
        "toy-gemma-3, response[:5]",
        "toy-gemma-2, response[:5]",
    ]
    for panel, lines in zip(panels, figure.data.values(), strict=True):
        curves = [line for line in panel.lines if line.get_marker() == "o"]
        assert len(curves) == len(lines) >= 6
        assert any(list(line.get_xdata()) == [68.0, 68.0] for line in panel.lines)
    assert "floor 68" in figure.alt()
    assert drawing(AtAGlance(evidence([]))) is None


def test_the_page_is_folded_but_for_the_first_screen_and_markdown_begins_with_it(judged: Evidence) -> None:
    report = build_report(report_input([], answers=judged.answers))
    main = report.html.partition("<main>")[2]
    assert main.index('id="glance"') < main.index("<details")
    assert "<details open" not in main
    assert main.count("<details id=") == len(report.sections) + 2
    assert 'class="winner"' in main
    for text in (report.markdown, report.findings):
        assert text.index("At a glance") < text.index("**+30.0 @ 80**") < text.index("Success criteria")
    # the matrix is shown once
    assert report.markdown.count("Best delta @ coherence, at coherence") == 1


def test_a_terminal_is_told_what_leads_and_how_many_checks_hold(judged: Evidence) -> None:
    (lead,) = leads(judge("probe", "probe_top1"))
    assert lead == "toy-gemma-3, response[:5]: probe leads, tied with 1 other label, +30.0 @ 80 (layer 2, 8)"
    (lead,) = leads(judged)
    assert lead == ("toy-gemma-3, response[:5]: probe leads, tied with 1 of 2 other labels, +30.0 @ 80 (layer 2, 8)")
    report = build_report(judged)
    checks = [*report.criteria, *report.sanity]
    said = brief(judged, report.answers, checks)
    assert lead in said
    assert f"{sum(check.ok for check in checks)} of {len(checks)} hold" in said
    assert all(answer.verdict.split()[0] in said for answer in answers_in_short(judged)[1:])
    assert len(said.splitlines()) <= 40
    assert max(map(len, said.splitlines())) <= 120
    assert "`" not in said


@pytest.mark.parametrize("phase", ["phase1", "phase2", "phase3", "phase4"])
def test_a_phase_ends_with_a_screen(phase: str) -> None:
    said = phase_brief(phase, evidence(toy_rows()))  # type: ignore[arg-type]
    lines = said.splitlines()
    assert lines[0].startswith(f"Phase {phase[-1]}: ")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120


def test_it_says_what_else_would_have_done() -> None:
    known = evidence(toy_rows())
    at, stratum = next(iter(known.strata.items()))
    place = {"model": at.model, "trait": at.trait, "position": at.position, "status": "ok", "setting": stratum.setting}

    def told(prompt: float, p_value: float) -> list[str]:
        rows = [
            CostRow(what=what, label=what, layer=None, coefficient=None, delta=delta, coherence_mean=90.0, run_id="r",
                    n_random=n_random, p_value=p, direction="positive", **place)  # type: ignore[arg-type]
            for what, delta, n_random, p in (("winner", 60.0, None, p_value), ("prompt", prompt, None, None),
                                             ("random", 1.0, 19, None))
        ]  # fmt: skip
        sentences = glance_section(evidence(toy_rows(), costs=tuple(rows))).text
        assert len(sentences) <= 5
        return [text for text in sentences if text.startswith("Winners against")]

    assert told(90.0, 0.4) == [
        "Winners against what else would have done: at 1 of 1 place a prompt or examples move more, coherently; "
        "at 0 of 1 place no random direction does as well."
    ]
    assert "at 0 of 1 place a prompt" in told(30.0, 0.05)[0]
    assert "at 1 of 1 place no random" in told(30.0, 0.05)[0]
    assert not any(text.startswith("Winners against") for text in glance_section(known).text)
