"""Whatever is asked, rows of several settings say in which fields these differ."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from massact.cli.questions import render
from massact.domain import Group
from massact.query import Answer
from massact.query.questions.best import ask_best
from massact.query.questions.coefficients import ask_coefficients
from massact.query.questions.compare import ask_compare
from massact.query.questions.confirmations import ask_confirmations
from massact.query.questions.curve import ask_curve
from massact.query.questions.gaps import ask_gaps
from massact.query.questions.judges import ask_judges
from massact.query.questions.runs import ask_runs
from massact.query.questions.sensitivity import ask_sensitivity
from massact.query.rows import shortened
from massact.query.settings import differing_fields
from massact.store.read.base import Stored
from tests.support.confirmation_rows import all_confirmed, chosen, confirmed, rows_of, scores_of
from tests.support.store_fixtures import answers_of, evaluated, evaluation_row

FLOOR = 68.0


def both(**changes: Any) -> list[Stored[Any]]:
    """Two labels in each of two prompt sets."""
    return [
        evaluated(label, key=f"{label} {prompts}", setting=f"setting-{prompts}", prompt_set=prompts, **changes)
        for prompts in ("pv", "v3c")
        for label in ("probe", "mean_diff")
    ]


JUDGED = [
    evaluated(
        key=f"{judge} {prompts}", setting=f"{prompts} {judge}", prompt_set=prompts, judge=judge, vector_digest="v"
    )
    for judge in ("one", "two")
    for prompts in ("pv", "v3c")
]
GROUPS = [Group("gemma", "refusal", "response[:5]", label) for label in ("probe", "mean_diff")]
ANSWERS: dict[str, Callable[[], Answer[Any]]] = {
    "best": lambda: ask_best.of(answers_of(both()), FLOOR),
    "coefficients": lambda: ask_coefficients.of(answers_of(both()), FLOOR),
    "compare": lambda: ask_compare.of(answers_of(both()), FLOOR, pairs=[("probe", "mean_diff")]),
    "curve": lambda: ask_curve.of(answers_of(both()), FLOOR, method="probe"),
    "gaps": lambda: ask_gaps.of(answers_of(both(), groups=tuple(GROUPS)), FLOOR),
    "judges": lambda: ask_judges.of(answers_of(JUDGED), FLOOR),
    "runs": lambda: ask_runs.of(answers_of(both()), FLOOR),
    "sensitivity": lambda: ask_sensitivity.of(answers_of(both()), 68.0, floors=(68.0, 70.0)),
}


@pytest.mark.parametrize("question", ANSWERS)
def test_every_question_tells_its_rows_apart(question: str) -> None:
    answer = ANSWERS[question]()
    assert {row.differs["prompt_set"] for row in answer.rows} == {"pv", "v3c"}
    assert all(set(row.differs) == {"prompt_set"} for row in answer.rows)
    rows = json.loads(render(answer, "json"))["rows"]
    assert {list(row)[-1] for row in rows} == {"prompt_set"}
    for output in ("table", "markdown", "csv"):
        lines = render(answer, output).splitlines()  # type: ignore[arg-type]  # a format
        assert sum("v3c" in line for line in lines) >= len(rows) / 2, output


def test_confirmations_tell_their_places_apart() -> None:
    one = chosen("probe", 1000, (30, 36, 33, 28, 34, 31), setting="a", prompt_set="pv")
    other = chosen("probe", 1200, (25, 40, 30, 20, 36, 35), setting="b", prompt_set="v3c")
    answer = ask_confirmations.of(
        answers_of(
            rows_of([one, other]),
            confirmed=all_confirmed(confirmed(one, (20, 30, 25, 25))),
            choosing_scores=scores_of([one, other]),
        ),
        FLOOR,
    )
    for rows in (answer.rows, answer.places):
        assert sorted(row.differs["prompt_set"] for row in rows) == ["pv", "v3c"]


def test_winners_under_two_judges_are_picked_within_a_setting() -> None:
    answer = ask_judges.of(answers_of(JUDGED), FLOOR)
    assert [one.differs["prompt_set"] for one in answer.winners] == ["pv", "v3c"]
    assert [row.n_shared for row in answer.rows] == [1, 1], "of two prompt sets nothing is shared"


def test_rows_of_one_setting_need_no_more_columns() -> None:
    answer = ask_best.of(
        answers_of([evaluated(), evaluated(model="other", key="o", setting="s2", model_id="other/model")]), FLOOR
    )
    assert [row.differs for row in answer.rows] == [{}, {}]
    assert answer.notes == ()


def test_a_wide_table_keeps_what_tells_the_settings_apart() -> None:
    rows = [
        evaluated(),
        evaluated(
            key="n", setting="s2", prompt_set="a prompt set of a long name", question_set="q" * 64, seed=1,
            judge_prompt="p" * 64, model_revision="r" * 40, chat_template_digest="c" * 64, trait_digest="t" * 64,
            temperature=0.7, max_new_tokens=128, dtype="bfloat16", model_variant="a variant of a long name",
        ),
    ]  # fmt: skip
    lines = render(ask_best.of(answers_of(rows), FLOOR), "table").splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert "model variant" in lines[2]
    frame = ask_best.of(answers_of(rows), FLOOR).to_frame()
    assert {"prompt_set", "question_set", "seed", "model_revision", "dtype"} <= set(frame.columns) | {"prompt_set"}


def test_what_only_one_setting_tells_is_a_difference_where_nothing_else_is() -> None:
    untold, told = evaluation_row(n_questions=None), evaluation_row(n_questions=100)
    assert differing_fields([untold, told]) == ("n_questions",)
    assert differing_fields([untold, evaluation_row(n_questions=100, seed=1)]) == ("seed",)


def test_short_values_stay_distinct() -> None:
    assert shortened(["a" * 64, "b" * 64]) == {"a" * 64: "a" * 8, "b" * 64: "b" * 8}
    judges = ["likelihood", "trait=classifier,coherence=perplexity"]
    assert shortened([*judges, "c" * 40]) == {**{one: one for one in judges}, "c" * 40: "c" * 8}
    ends = ["x" * 60 + "1", "x" * 60 + "2"]
    assert shortened(ends) == {ends[0]: "xxxxxxxx...xxxxxxx1", ends[1]: "xxxxxxxx...xxxxxxx2"}
    middles = ["x" * 30 + one + "x" * 60 for one in "12"]
    assert shortened(middles) == {one: one for one in middles}


def test_what_an_earlier_version_did_not_keep_parts_no_judges() -> None:
    old, new = (evaluated(key=judge, setting=judge, judge=judge, vector_digest="v") for judge in ("one", "two"))
    new = replace(new, row=replace(new.row, trait_digest="d", chat_template_digest="t"))
    [row] = ask_judges.of(answers_of([old, new]), FLOOR).rows
    assert (row.n_shared, {row.judge_a, row.judge_b}) == (1, {"one", "two"})
