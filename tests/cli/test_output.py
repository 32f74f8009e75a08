"""How answers are written: chosen columns, LaTeX, CSV, and one answer over several experiments."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from massact.cli.questions import FORMATS, render
from massact.errors import UsageError
from massact.query import Answers, Evaluations
from massact.query.questions.best import ask_best
from massact.query.questions.runs import ask_runs
from tests.support.report_rows import scored


@pytest.fixture
def answers() -> Answers:
    rows = [scored(30.0, 90.0), scored(20.0, 95.0, label="mean_diff")]
    return Answers(evaluations=Evaluations.of(tuple(rows)), coefficient_ranges={})


@pytest.fixture
def two(answers: Answers) -> tuple[object, object]:
    first = ask_best.of(answers, 68.0)
    other = Answers(
        evaluations=Evaluations.of((scored(12.0, 80.0, judge="another", setting="s2"),)), coefficient_ranges={}
    )
    return replace(first, experiment="one"), replace(ask_best.of(other, 50.0), experiment="two")


def test_columns_are_chosen_by_header_or_by_field(answers: Answers) -> None:
    answer = ask_best.of(answers, 68.0)
    lines = render(answer, "table", columns=("label", "coherence", "trait_mean", "floor")).splitlines()
    assert lines[0].split() == ["label", "coherence", "trait", "mean", "floor"]
    assert {tuple(line.split()) for line in lines[1:]} == {
        ("probe", "90.0", "31.5", "68"), ("mean_diff", "95.0", "21.5", "68"),
    }  # fmt: skip
    assert render(answer, "csv", columns=("delta", "label")).splitlines() == [
        "delta,label",
        "20.0,mean_diff",
        "30.0,probe",
    ]
    for output_format in ("table", "csv", "markdown", "latex"):
        with pytest.raises(UsageError, match="'nothing'"):
            render(answer, output_format, columns=("nothing",))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="JSON holds every field"):
        render(answer, "json", columns=("label",))


def test_latex_is_a_tabular_whose_special_characters_are_escaped(answers: Answers) -> None:
    shown = render(ask_best.of(answers, 68.0), "latex")
    assert shown.startswith("% model toy-gemma-3, ")
    body = shown.splitlines()[1:]
    assert body[0].startswith(r"\begin{tabular}{l")
    assert body[-1] == r"\end{tabular}"
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 3
    assert len({len(re.split(r"(?<!\\)&", row)) for row in rows}) == 1
    assert any(row.startswith(r"mean\_diff & ") for row in rows)
    assert not re.search(r"(?<!\\)[_%#$]", "".join(rows))


def test_csv_says_of_which_experiment_floor_and_setting_a_row_is(two: tuple[object, object]) -> None:
    rows = list(csv.DictReader(io.StringIO(render(two[0], "csv", two[1]))))  # type: ignore[arg-type]
    assert [(row["experiment"], row["floor"], row["label"]) for row in rows] == [
        ("one", "68.0", "mean_diff"), ("one", "68.0", "probe"), ("two", "50.0", "probe"),
    ]  # fmt: skip
    assert len({row["setting"] for row in rows}) == 2


def test_one_table_over_several_experiments_has_them_as_a_column(two: tuple[object, object]) -> None:
    first, second = two
    lines = [line.split() for line in render(first, "table", second).splitlines()]  # type: ignore[arg-type]
    head = next(line for line in lines if line and line[0] == "experiment" and "label" in line)
    assert [line[0] for line in lines[lines.index(head) + 1 :]] == ["one", "one", "two"]
    both = json.loads(render(first, "json", second))  # type: ignore[arg-type]
    assert [one["experiment"] for one in both] == ["one", "two"]
    assert json.loads(render(first, "json"))["experiment"] == "one"  # type: ignore[arg-type]


@pytest.mark.parametrize("output_format", FORMATS)
def test_experiments_whose_settings_differ_in_other_fields_are_one_answer(answers: Answers, output_format: str) -> None:
    """Of one the rows differ in the judge, of the other in nothing."""
    rows = (scored(30.0, 90.0), scored(31.0, 90.0, judge="another", setting="s2"))
    mixed = ask_runs.of(Answers(evaluations=Evaluations.of(rows), coefficient_ranges={}), 68.0)
    plain = ask_runs.of(answers, 68.0)
    shown = render(replace(mixed, experiment="one"), output_format, replace(plain, experiment="two"))  # type: ignore[arg-type]
    assert all(row.differs for row in mixed.rows)
    assert not any(row.differs for row in plain.rows)
    for said in ("one", "two", "another", "mean_diff"):
        assert said in shown.replace("\\_", "_")
