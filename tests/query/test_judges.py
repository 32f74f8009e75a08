"""judges: the same responses under two judges, only what both scored, and where the winner flips."""

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import massact
import massact.api
from massact.errors import MassactError
from massact.query.questions.judges import ask_judges
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from tests.support.store_fixtures import answers_of, evaluated

FLOOR = 68.0


def by(
    judge: str, label: str = "probe", layer: int = 15, coefficient: float = 1000.0, *, at: int = 1, **fields: Any
) -> Stored[EvaluationRow]:
    """An evaluation of one vector a label, scored by a judge."""
    named = {
        "key": f"{judge}-{label}-{layer}-{coefficient:g}",
        "judge": judge,
        "setting": f"setting of {judge}",
        "vector_digest": f"vector of {label}",
    }
    return replace(evaluated(label, layer, coefficient, **{**named, **fields}), finished_at=at)


def both(
    label: str, coefficient: float, first: tuple[float, float], second: tuple[float, float]
) -> list[Stored[EvaluationRow]]:
    """One evaluation under judges A and B, each with (delta, coherence)."""
    (delta_a, coherence_a), (delta_b, coherence_b) = first, second
    return [
        by("A", label, coefficient=coefficient, delta=delta_a, trait_mean=delta_a, coherence_mean=coherence_a, at=1),
        by("B", label, coefficient=coefficient, delta=delta_b, trait_mean=delta_b, coherence_mean=coherence_b, at=2),
    ]  # fmt: skip


def test_the_winner_of_a_label_flips_and_what_it_costs_is_told() -> None:
    rows = [
        *both("probe", 1000, (30.0, 90.0), (35.0, 85.0)),
        *both("probe", 1200, (40.0, 80.0), (30.0, 75.0)),
        *both("probe", 1500, (50.0, 60.0), (20.0, 40.0)),
    ]
    (row,) = ask_judges.of(answers_of(rows), FLOOR).rows
    assert (row.judge_a, row.judge_b, row.n_shared) == ("A", "B", 3)
    assert row.best_a is not None
    assert row.best_b is not None
    assert (row.best_a.coefficient, row.best_b.coefficient) == (1200, 1000)
    assert row.flips
    assert row.loss == 5.0
    assert row.trait_shift == pytest.approx((5 - 10 - 30) / 3)
    assert row.coherence_shift == pytest.approx((-5 - 5 - 20) / 3)
    assert row.rank_correlation == pytest.approx(-1.0)


def test_the_winning_label_flips() -> None:
    rows = [*both("probe", 1000, (40.0, 90.0), (20.0, 90.0)), *both("mean_diff", 1000, (30.0, 90.0), (30.0, 90.0))]
    answer = ask_judges.of(answers_of(rows), FLOOR)
    (winner,) = answer.winners
    assert (winner.label_a, winner.label_b, winner.flips) == ("probe", "mean_diff", True)
    assert answer.notes == ("gemma, refusal, response[:5]: the winner flips from probe under A to mean_diff under B",)


def test_another_label_of_the_same_vector_is_no_flip() -> None:
    rows = [
        *both("mean_diff_cleaned", 1000, (40.0, 90.0), (20.0, 90.0)),
        *both("mean_diff_preclean", 1000, (30.0, 90.0), (30.0, 90.0)),
    ]
    answer = ask_judges.of(answers_of(rows), FLOOR)
    (winner,) = answer.winners
    assert (winner.label_a, winner.label_b, winner.flips) == ("mean_diff_cleaned", "mean_diff_preclean", False)
    assert any(
        "mean_diff_cleaned under A and mean_diff_preclean, of the same vector, under B" in note for note in answer.notes
    )


def test_what_one_judge_alone_scored_does_not_count() -> None:
    rows = [
        *both("probe", 1000, (30.0, 90.0), (30.0, 90.0)),
        by("A", coefficient=1100.0, delta=90.0, coherence_mean=90.0, at=1),
        by("B", coefficient=1300.0, delta=95.0, coherence_mean=90.0, at=2),
    ]
    answer = ask_judges.of(answers_of(rows), FLOOR)
    (row,) = answer.rows
    assert (row.n_shared, row.flips, row.loss) == (1, False, 0.0)
    assert "2 evaluations left out, which one judge of a pair alone has scored" in answer.notes
    assert answer.winners[0].label_a == answer.winners[0].label_b == "probe"


def test_another_vector_of_the_same_label_is_another_evaluation() -> None:
    rows = [by("A", at=1), by("B", at=2, vector_digest="another")]
    answer = ask_judges.of(answers_of(rows), FLOOR)
    assert answer.rows == ()
    assert answer.notes == ("2 evaluations left out, which one judge of a pair alone has scored",)


def test_where_nothing_is_coherent_for_one_judge_the_label_flips_to_nothing() -> None:
    answer = ask_judges.of(answers_of(both("probe", 1000, (30.0, 90.0), (30.0, 50.0))), FLOOR)
    (row,) = answer.rows
    assert (row.status_a, row.status_b, row.flips, row.loss) == ("ok", "below_floor", True, None)
    assert answer.winners[0].label_b is None
    assert answer.winners[0].flips
    assert "to nothing at the floor under B" in answer.notes[-1]


def test_settings_that_differ_in_more_than_the_judge_are_no_pair() -> None:
    rows = [by("A", at=1), by("B", at=2, max_new_tokens=128)]
    answer = ask_judges.of(answers_of(rows), FLOOR)
    assert answer.rows == ()
    assert "massact rejudge" in answer.notes[0]


def test_one_name_with_two_prompts_is_two_judges() -> None:
    rows = [
        by("A", at=at, judge_prompt=prompt, setting=prompt, key=prompt)
        for at, prompt in enumerate(("1111111122", "3333333344"))
    ]
    (row,) = ask_judges.of(answers_of(rows), FLOOR).rows
    assert (row.judge_a, row.judge_b) == ("A (prompt 11111111)", "A (prompt 33333333)")


def test_a_third_judge_is_compared_with_the_last_one_too() -> None:
    rows = [by("A", at=1), by("B", at=2), by("C", at=3)]
    assert [(row.judge_a, row.judge_b) for row in ask_judges.of(answers_of(rows), FLOOR).rows] == [
        ("A", "C"),
        ("B", "C"),
    ]


scores = st.tuples(st.floats(-100, 100).map(lambda x: round(x, 2)), st.floats(0, 100).map(lambda x: round(x, 2)))


@pytest.mark.slow
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=8), st.randoms())
def test_a_loss_is_never_negative_and_order_does_not_matter(
    cells: list[tuple[tuple[float, float], tuple[float, float]]], random: Any
) -> None:
    rows = [row for i, (a, b) in enumerate(cells) for row in both("probe", 100.0 + i, a, b)]
    answer = ask_judges.of(answers_of(rows), FLOOR)
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert ask_judges.of(answers_of(shuffled), FLOOR) == answer
    (row,) = answer.rows
    assert row.n_shared == len(cells)
    assert row.loss is None or row.loss >= 0
    if row.best_a == row.best_b is None:
        assert not row.flips


def test_the_question_is_asked_the_same_whether_or_not_its_package_was_imported() -> None:
    asked_of: list[Any] = [massact.api.question("judges"), import_module("massact.judges"), massact.judges]
    for asked in asked_of:
        assert asked.of == ask_judges.of
        with pytest.raises(MassactError, match="absent"):
            asked("absent.yaml")
