"""sensitivity: the winner at every coherence floor, and where it flips."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.domain import Group
from massact.errors import UsageError
from massact.query import Filters
from massact.query.questions.sensitivity import FLOORS, SensitivityRow, ask_sensitivity
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from tests.support.store_fixtures import answers_of, evaluated

PLACE = "gemma, refusal, response[:5]"


def asked(rows: list[Stored[EvaluationRow]], **changes: Any) -> list[tuple[Any, ...]]:
    """(floor_from, floor_to, label, key, flips, status) of every row."""
    return [
        (row.floor_from, row.floor_to, row.label, row.key, row.flips, row.status)
        for row in ask_sensitivity.of(answers_of(rows), 68.0, **changes).rows
    ]


def test_the_floors_run_from_60_to_80_in_steps_of_1() -> None:
    assert (FLOORS[0], FLOORS[-1], len(FLOORS)) == (60.0, 80.0, 21)


def test_a_flip_is_where_another_label_takes_over() -> None:
    rows = [
        evaluated("probe", coefficient=1500, delta=40.0, coherence_mean=69.5),
        evaluated("probe", coefficient=1200, delta=20.0, coherence_mean=90.0),
        evaluated("mean_diff_top1", delta=30.0, coherence_mean=77.0),
    ]
    answer = ask_sensitivity.of(answers_of(rows), 68.0)
    assert asked(rows) == [
        (60.0, 69.0, "probe", "probe-15-1500", False, "ok"),
        (70.0, 77.0, "mean_diff_top1", "mean_diff_top1-15-1000", True, "ok"),
        (78.0, 80.0, "probe", "probe-15-1200", True, "ok"),
    ]
    assert answer.notes == (
        f"{PLACE}: the best label flips 2 times: at floor 70 from probe to mean_diff_top1, "
        "at floor 78 from mean_diff_top1 to probe",
    )
    first = answer.rows[0]
    assert first.winner is not None
    assert (first.layer, first.coefficient, first.delta, first.coherence_mean, first.run_id) == (
        15,
        1500,
        40.0,
        69.5,
        first.winner.run_id,
    )
    assert (first.judge, first.direction, first.setting) == ("likelihood", "positive", "setting-1")
    assert (answer.question, answer.floor, answer.floors) == ("sensitivity", 60.0, FLOORS)


def test_one_flip_is_told_in_words() -> None:
    rows = [
        evaluated("probe", delta=40.0, coherence_mean=69.9),
        evaluated("mean_diff_top1", delta=30.0, coherence_mean=90.0),
    ]
    assert ask_sensitivity.of(answers_of(rows), 68.0).notes == (
        f"{PLACE}: the best label flips at floor 70 from probe to mean_diff_top1",
    )


@pytest.mark.parametrize(
    ("labels", "digests", "flips"),
    [
        (("mean_diff_cleaned", "mean_diff_preclean"), ("a", "b"), False),
        (("mean_diff_top1", "mean_diff_postclean_la1"), ("a", "a"), False),
        (("mean_diff_top1", "mean_diff_postclean_la1"), ("a", "b"), True),
    ],
    ids=["algebra", "equal digest", "two vectors"],
)
def test_another_label_of_the_same_vector_is_no_flip(
    labels: tuple[str, str], digests: tuple[str, str], flips: bool
) -> None:
    rows = [
        evaluated(labels[0], delta=40.0, coherence_mean=69.5, vector_digest=digests[0]),
        evaluated(labels[1], delta=39.0, coherence_mean=72.0, vector_digest=digests[1]),
    ]
    answer = ask_sensitivity.of(answers_of(rows), 68.0, floors=(68, 70))
    assert [(row.label, row.flips) for row in answer.rows] == [(labels[0], False), (labels[1], flips)]
    words = (
        f"the best label flips at floor 70 from {labels[0]} to {labels[1]}"
        if flips
        else f"no flip between 68 and 70; the best label is {labels[0]}, or {labels[1]} of the same vector"
    )
    assert answer.notes == (f"{PLACE}: {words}",)


def test_another_evaluation_of_the_winning_label_is_a_row_but_no_flip() -> None:
    rows = [
        evaluated("probe", coefficient=1500, delta=40.0, coherence_mean=70.0),
        evaluated("probe", coefficient=1200, delta=30.0, coherence_mean=80.0),
    ]
    assert asked(rows) == [
        (60.0, 70.0, "probe", "probe-15-1500", False, "ok"),
        (71.0, 80.0, "probe", "probe-15-1200", False, "ok"),
    ]
    assert ask_sensitivity.of(answers_of(rows), 68.0).notes == (
        f"{PLACE}: no flip between 60 and 80; the best label is probe",
    )


def test_floors_at_which_nothing_qualifies_have_a_row_without_a_winner() -> None:
    rows = [evaluated("probe", coherence_mean=75.0), evaluated("mean_diff", delta=1.0, coherence_mean=75.5)]
    answer = ask_sensitivity.of(answers_of(rows), 68.0)
    assert asked(rows) == [
        (60.0, 75.0, "probe", "probe-15-1000", False, "ok"),
        (76.0, 80.0, None, None, False, "below_floor"),
    ]
    last = answer.rows[-1]
    assert (last.winner, last.layer, last.coefficient, last.delta, last.run_id) == (None,) * 5
    assert last.nearest_miss is not None
    assert (last.nearest_miss_label, last.nearest_miss.coherence_mean) == ("mean_diff", 75.5)
    assert answer.rows[0].nearest_miss is None
    assert answer.notes[0].endswith("no flip between 60 and 80; the best label is probe; "
                                    "nothing that can be ranked reaches floor 76 or more")  # fmt: skip
    (low,) = ask_sensitivity.of(answers_of([evaluated("probe", coherence_mean=59.9)]), 68.0).rows
    assert (low.floor_from, low.floor_to, low.label, low.status) == (60.0, 80.0, None, "below_floor")


def test_what_was_not_run_or_not_scored_is_missing() -> None:
    groups = [Group("gemma", "refusal", "response[:5]", "probe")]
    (row,) = ask_sensitivity.of(answers_of([], groups=tuple(groups)), 68.0).rows
    assert (row.status, row.label, row.setting, row.floor_to) == ("missing", None, None, 80.0)
    assert ask_sensitivity.of(answers_of([]), 68.0).rows == ()
    # a coherence without a delta does not win, and is a miss only where it is below the floor
    rows = [evaluated("probe", delta=None, coherence_mean=70.0)]
    assert asked(rows) == [(60.0, 70.0, None, None, False, "missing"), (71.0, 80.0, None, None, False, "below_floor")]


def test_labels_tie_as_evaluations_do() -> None:
    def winner(*rows: Stored[EvaluationRow]) -> SensitivityRow:
        (row,) = ask_sensitivity.of(answers_of(rows), 68.0).rows
        return row

    a = evaluated("probe", 15, 1000, delta=20.0)
    assert winner(a, evaluated("mean_diff", 15, -900, delta=20.0)).label == "mean_diff"
    assert winner(a, evaluated("mean_diff", 16, 1000, delta=20.0)).label == "probe"
    assert winner(a, evaluated("mean_diff", 15, 1000, delta=20.0)).label == "mean_diff"
    negative = {"direction": "negative"}
    less = evaluated("mean_diff", delta=-30.0, **negative)
    assert winner(evaluated("probe", delta=20.0, **negative), less).label == "mean_diff"


def test_settings_and_baselines_are_answered_separately() -> None:
    rows = [
        evaluated("probe", delta=20.0),
        evaluated("mean_diff", delta=30.0, setting="other", judge="openai:x", key="o"),
        evaluated("gradient", delta=90.0, baseline_trait_mean=0.0, key="b"),
    ]
    answer = ask_sensitivity.of(answers_of(rows), 68.0)
    assert [(row.setting, row.baseline_trait_mean, row.label) for row in answer.rows] == [
        ("other", 10.0, "mean_diff"),
        ("setting-1", 0.0, "gradient"),
        ("setting-1", 10.0, "probe"),
    ]
    assert any("evaluated in 2 settings" in note for note in answer.notes)
    assert f"{PLACE}, setting setting-, baseline 10: no flip between 60 and 80; the best label is probe" in (
        answer.notes
    )


def test_only_the_labels_asked_for_compete() -> None:
    rows = [evaluated("probe", delta=20.0), evaluated("mean_diff", delta=30.0)]
    assert [row.label for row in ask_sensitivity.of(answers_of(rows).only(Filters(labels=("probe",))), 68.0).rows] == [
        "probe"
    ]


def test_floors_that_are_none_are_refused() -> None:
    assert asked([evaluated("probe")], floors=(81, 70, 70)) == [
        (70.0, 70.0, "probe", "probe-15-1000", False, "ok"),
        (81.0, 81.0, None, None, False, "below_floor"),
    ]
    for floors in ((), (101,), (float("nan"),), (-1, 60)):
        with pytest.raises(UsageError, match="floor"):
            ask_sensitivity.of(answers_of([]), 68.0, floors=floors)


def test_the_answer_becomes_a_frame() -> None:
    frame = ask_sensitivity.of(answers_of([evaluated("probe", coherence_mean=70.0)]), 68.0).to_frame()
    assert list(frame["floor_to"]) == [70.0, 80.0]
    assert "winner_delta" in frame.columns


@st.composite
def stores(draw: st.DrawFn) -> list[Stored[EvaluationRow]]:
    return [
        evaluated(
            draw(st.sampled_from(["probe", "mean_diff", "gradient"])),
            draw(st.integers(14, 15)),
            draw(st.sampled_from([-300.0, 300.0, 1000.0])),
            key=f"key-{index:02}",
            delta=draw(st.sampled_from([None, -20.0, 5.0, 5.5])),
            coherence_mean=draw(st.sampled_from([None, 55.0, 65.0, 70.0, 72.5, 90.0])),
        )
        for index in range(draw(st.integers(1, 10)))
    ]


@pytest.mark.slow
@given(stores(), st.randoms(use_true_random=False))
def test_every_floor_has_one_row_and_the_winner_that_no_other_beats(
    rows: list[Stored[EvaluationRow]], rng: random.Random
) -> None:
    shuffled = list(rows)
    rng.shuffle(shuffled)
    answer = ask_sensitivity.of(answers_of(rows), 68.0)
    assert ask_sensitivity.of(answers_of(shuffled), 68.0) == answer
    spans = [(row.floor_from, row.floor_to) for row in answer.rows]
    assert [floor for a, b in spans for floor in FLOORS if a <= floor <= b] == list(FLOORS)
    for one in answer.rows:
        for floor in (f for f in FLOORS if one.floor_from <= f <= one.floor_to):
            allowed = [s.row for s in rows if (s.row.coherence_mean or 0.0) >= floor and s.row.delta is not None]
            best = sorted(
                allowed, key=lambda r: (-(r.delta or 0), abs(r.coefficient or 0), r.layer or 0, r.label or "", r.key)
            )
            assert (one.label, one.key) == ((best[0].label, best[0].key) if best else (None, None))
