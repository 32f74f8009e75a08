"""Cells given up on a part of their questions: never one that could still win, at the confidence that is said."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Response, Setting, Timing
from massact.evaluation import Evaluation, PlannedCell, Screening, coherence_bound, joined, stop_reason
from massact.keys import screening_key

FLOOR = 68.0
SCREENING = Screening(4, FLOOR)
SETTING = Setting(
    ModelIdentity("m", "r", "float32"),
    "refusal",
    "t",
    "q",
    0,
    "c",
    Generation(8),
    JudgeIdentity("j", "m", "p"),
)
PLANNED = PlannedCell(Cell(SETTING, None), None)


def responses(*coherences: float | None) -> list[Response]:
    return [Response("question", "text", None if c is None else 50.0, c) for c in coherences]


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=9), st.integers(1, 20))
def test_the_bound_lies_between_the_mean_and_what_is_certain(asked: list[float], n_more: int) -> None:
    n = len(asked) + n_more
    bound = coherence_bound(asked, n, 0.99)
    certain = (math.fsum(asked) + 100 * n_more) / n
    assert bound <= certain + 1e-9
    assert bound >= min(math.fsum(asked) / len(asked), certain) - 1e-9
    assert coherence_bound(asked, n, 0.999) >= bound


def test_a_cell_that_reaches_the_floor_is_hardly_ever_given_up() -> None:
    """Ten questions whose scores scatter as real ones do, with the floor just reached: 1 in 100 at most."""
    random = np.random.default_rng(0)
    given_up = 0
    for _ in range(2000):
        scores = np.clip(random.normal(75, random.choice([5.0, 15.0, 25.0]), 10), 0, 100)
        scores += FLOOR - scores.mean()  # exactly at the floor over all ten
        scores = np.clip(scores, 0, 100)
        if scores.mean() < FLOOR:
            continue
        given_up += stop_reason(responses(*scores[:4].tolist()), 10, SCREENING) is not None
    assert given_up <= 20


def test_a_broken_cell_is_given_up_and_the_reason_has_the_numbers() -> None:
    reason = stop_reason(responses(2, 0, 5, 1), 10, SCREENING)
    assert reason is not None
    assert reason.startswith(
        "coherence 2.0 over the first 4 of 10 questions: over all of them it is at most "
    )
    assert reason.endswith("(confidence 0.99), below the floor of 68")


@pytest.mark.parametrize(
    ("coherences", "why"),
    [
        ((90, 80, 95, 70), "coherent"),
        ((60, 70, 50, 65), "near the floor"),
        ((0, 100, 0, 100), "scattered"),
        ((0, 0, None, 0), "one was not scored"),
        ((0,), "one answer says nothing of the scatter"),
    ],
)
def test_a_cell_that_could_still_win_goes_on(coherences: tuple[float | None, ...], why: str) -> None:
    assert stop_reason(responses(*coherences), 10, SCREENING) is None, why


def test_what_cannot_be_reached_even_with_full_marks_is_given_up_at_any_confidence() -> None:
    surest = Screening(9, FLOOR, confidence=1 - 1e-12)
    assert stop_reason(responses(*[0.0, 100.0] * 4, 0.0), 10, surest) is not None


def test_two_parts_make_one_evaluation() -> None:
    first = Evaluation(PLANNED, tuple(responses(1, 2)), Timing(1.0, 0.5, 10))
    rest = Evaluation(PLANNED, tuple(responses(3)), Timing(2.0, 0.25, 5))
    whole = joined(first, rest)
    assert [one.coherence for one in whole.responses] == [1, 2, 3]
    assert whole.timing == Timing(3.0, 0.75, 15)


def test_a_cell_and_its_giving_up_have_two_keys() -> None:
    assert screening_key("a") != "a"
    assert screening_key("a") == screening_key("a") != screening_key("b")
