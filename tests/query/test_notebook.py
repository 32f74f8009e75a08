"""Answers as notebooks show them: the tables of the commands, escaped, whole enough and quick."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import massact
from massact.cli.questions import render
from massact.interop.figures import read_published
from massact.query import Answer, Answers, Evaluations
from massact.query.questions.curve import ask_curve
from massact.query.questions.judges import ask_judges
from massact.query.rows import MOST_ROWS
from tests.support.browser import chromium, needs_chromium
from tests.support.report_rows import experiment, row, scored, toy_rows
from tests.support.store_fixtures import answers_of

HOSTILE = "<script>window.ran = 1</script>"


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers(evaluations=Evaluations.of(toy_rows()), groups=experiment().groups(), coefficient_ranges={})


def all_answers(answers: Answers) -> list[Answer[Any]]:
    figures = read_published(Path(__file__).resolve().parents[1] / "data" / "published_results.csv", "study").rows
    return [
        *(ask.of(answers, 68.0) for ask in (massact.gaps, massact.best, massact.compare, massact.coefficients)),
        *(ask.of(answers, 68.0) for ask in (ask_judges, massact.runs, massact.confirmations)),
        massact.curve.of(answers, 68.0, method="probe"),
        massact.sensitivity.of(answers, 68.0),
        massact.compare_published.of(answers_of((), published=tuple(figures)), 68.0),
    ]


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(answer: Answer[Any]) -> _Cells:
    found = _Cells()
    found.feed(answer._repr_html_())
    return found


def test_every_answer_shows_what_its_command_prints(answers: Answers) -> None:
    for answer in all_answers(answers):
        shown = parsed(answer)
        assert shown.tags <= {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code"}
        assert shown.texts[0] == answer.question
        heads, *rows = render(answer, "markdown").splitlines() or [""]
        if answer.rows:
            texts = set(shown.texts)
            # a column that says nothing, or the same in every row, is not printed row by row
            cells = [cell.strip().replace("\\|", "|") for cell in rows[1].strip("| ").split(" | ")]
            assert sum(cell in texts for cell in cells if cell) >= 3, (answer.question, heads)
        for note in answer.notes:
            assert note in shown.texts
        assert str(answer) == render(answer, "table") + "".join(f"note: {note}\n" for note in answer.notes)
        assert "Row(" not in str(answer)


def test_a_long_answer_is_cut_and_says_by_how_much(answers: Answers) -> None:
    answer = massact.runs.of(answers, 68.0)
    html = answer._repr_html_()
    assert html.count("<tr>") == 1 + MOST_ROWS
    assert f"{len(answer.rows) - MOST_ROWS} more rows: <code>.rows</code> has all" in html
    assert "more row" not in replace(answer, rows=answer.rows[:MOST_ROWS])._repr_html_()


def test_numbers_stand_to_the_right_and_no_colour_is_set(answers: Answers) -> None:
    html = massact.best.of(answers, 68.0)._repr_html_()
    assert '<th style="text-align: right">delta</th>' in html
    assert not re.search(r"color|background|<style", html)


def test_an_answer_without_rows_says_why() -> None:
    html = ask_curve.of(answers_of([row(label="probe")]), 68.0, method="gradient")._repr_html_()
    assert "<strong>curve</strong>, coherence floor 68: 0 rows" in html
    assert "<table>" not in html


def test_what_is_missing_is_empty_never_zero() -> None:
    stored = row(coefficient=8.0)
    html = massact.runs.of(Answers(evaluations=Evaluations.of([stored]), coefficient_ranges={}), 68.0)._repr_html_()
    assert "unscored" in html
    assert "+0.0" not in html


def _hostile() -> Answer[Any]:
    rows = [scored(50.0, 90.0, model=HOSTILE), scored(40.0, 90.0, model=HOSTILE, layer=3)]
    answer = massact.runs.of(Answers(evaluations=Evaluations.of(rows), coefficient_ranges={}), 68.0)
    return replace(answer, notes=(HOSTILE,))


def test_a_name_of_markup_is_text() -> None:
    html = _hostile()._repr_html_()
    assert "<script" not in html
    assert html.count("<p>model &lt;script&gt;") == 1
    assert html.count("<li>&lt;script&gt;") == 1


@pytest.mark.slow
@needs_chromium
def test_in_a_browser_a_name_of_markup_stays_text(tmp_path: Path) -> None:
    page_file = tmp_path / "cell.html"
    page_file.write_text(f"<body style='background: #111; color: #eee'>{_hostile()._repr_html_()}</body>")
    with chromium(tmp_path) as page:
        page.show(1280, 900, dark=True)
        page.open(page_file.as_uri())
        assert page.run("window.ran") is None
        assert page.run("document.querySelectorAll('script').length") == 0
        assert HOSTILE in page.run("document.body.textContent")
        assert page.run("document.querySelectorAll('tbody tr').length") == 2
        colours = "[...document.querySelectorAll('td, th, p, li')].map(one => getComputedStyle(one).color)"
        assert set(json.loads(page.run(f"JSON.stringify({colours})"))) == {"rgb(238, 238, 238)"}
        assert page.requests == [page_file.as_uri()]
        assert page.console == []
