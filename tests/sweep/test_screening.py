"""Cells given up on a part of their questions: never one that could still win, at the confidence that is said."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Response, Setting, Timing
from massact.evaluation import (
    Evaluation,
    Part,
    PlannedCell,
    Screening,
    coherence_bound,
    first_asked,
    joined,
    stop_reason,
)
from massact.keys import screening_key
from massact.sweep.driver import Driver

FLOOR = 68.0
SCREENING = Screening(4, FLOOR)
SETTING = Setting(
    ModelIdentity("m", "r", "float32"), "refusal", "t", "q", 0, "c", Generation(8), JudgeIdentity("j", "m", "p")
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


def lost(scores: list[float], n_asked: int = 4) -> float:
    """How often a cell is given up, over all ways in which the questions may be drawn."""
    ways = list(combinations(scores, n_asked))
    return sum(coherence_bound(asked, len(scores), 0.99) < FLOOR for asked in ways) / len(ways)


@pytest.mark.parametrize(
    "scores",
    [
        [0] * 3 + [100] * 7,
        [45] * 5 + [100] * 5,
        [36] * 5 + [100] * 5,
        [30] * 4 + [92, 93, 94, 95, 95, 95],
        [20, 30, 40, 50, 80, 90, 90, 95, 95, 95],
        [10] * 8 + [97] * 16,
        [14] * 8 + [96] * 16,
    ],
)
def test_a_cell_that_reaches_the_floor_is_hardly_ever_given_up(scores: list[float]) -> None:
    assert math.fsum(scores) / len(scores) >= FLOOR
    assert lost(scores) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("n_questions", [8, 10, 24])
@pytest.mark.parametrize("low", [0, 20, 45, 60])
def test_in_no_world_more_than_one_cell_of_a_hundred_is_lost(low: int, n_questions: int) -> None:
    """Cells of two-valued scores, as many of them high as the floor needs, with a judge's noise and without."""
    n_low = int(n_questions * (100 - FLOOR) / (100 - low))
    random = np.random.default_rng(low + n_questions)
    for noise in (0.0, 3.0, 15.0):
        scores = np.array([low] * n_low + [100] * (n_questions - n_low)) - noise * random.random(n_questions)
        scores = np.clip(scores + max(0.0, FLOOR - scores.mean()), 0, 100)
        while scores.mean() < FLOOR:  # what was cut off at 100
            scores = np.minimum(scores + 0.5, 100)
        given_up = sum(
            coherence_bound(random.permutation(scores)[:4].tolist(), n_questions, 0.99) < FLOOR for _ in range(1500)
        )
        assert given_up <= 15 + 12, "1 in 100, and three standard errors"


def test_which_questions_are_asked_first_hangs_on_their_texts_alone() -> None:
    questions = [f"question {n}" for n in range(10)]
    first = first_asked(questions, 4)
    assert first == sorted(first)
    assert len(set(first)) == 4
    assert {questions[n] for n in first} == {questions[::-1][n] for n in first_asked(questions[::-1], 4)}
    assert first != [0, 1, 2, 3]
    assert set(first) <= set(first_asked(questions, 5))


def test_the_bound_can_be_checked_by_hand() -> None:
    # 210 ways; in 1 of them all six others are greater than the four, in 5 at least five: 0.024 of the ways
    assert coherence_bound([30] * 4, 10, 0.99) == pytest.approx((5 * 30 + 5 * 100) / 10)
    assert coherence_bound([30] * 4, 10, 0.97) == pytest.approx((6 * 30 + 4 * 100) / 10)
    assert coherence_bound([30] * 4, 10, 0.999) == pytest.approx((4 * 30 + 6 * 100) / 10)


def test_a_broken_cell_is_given_up_and_the_reason_has_the_numbers() -> None:
    reason = stop_reason(responses(2, 0, 5, 1), 10, SCREENING)
    assert reason is not None
    assert reason.startswith("coherence 2.0 over 4 of 10 questions: over all of them it is at most ")
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


def test_two_parts_make_one_evaluation_in_the_order_of_the_questions() -> None:
    first = Evaluation(PLANNED, tuple(responses(1, 3)), Timing(1.0, 0.5, 10))
    rest = Evaluation(PLANNED, tuple(responses(0, 2, 4)), Timing(2.0, 0.25, 5))
    whole = joined(first, rest, [1, 3])
    assert [one.coherence for one in whole.responses] == [0, 1, 2, 3, 4]
    assert whole.timing == Timing(3.0, 0.75, 15)


class Answering:
    """Stands in for a driver: every cell is answered with the texts and the numbers of its questions."""

    def __init__(self, coherence: float) -> None:
        self.coherence, self.parts = coherence, list[Part]()
        self._source = SimpleNamespace(questions=[f"question {n}" for n in range(10)])
        self._session = SimpleNamespace(interruption=SimpleNamespace(is_requested=False))

    @contextmanager
    def _results(self, cells: Sequence[PlannedCell], part: Part) -> Iterator[Iterator[Evaluation]]:
        self.parts.append(part)
        answers = tuple(Response(question, question, 50.0, self.coherence) for question in part.questions)
        yield (Evaluation(cell, answers, Timing(1.0, 1.0, 1)) for cell in cells)

    def screened(self) -> list[Any]:
        return list(Driver._screened(self, [PLANNED], SCREENING))  # type: ignore[arg-type]


def test_a_sweep_asks_drawn_questions_first_and_keeps_their_order() -> None:
    sweep = Answering(80.0)
    (whole,) = sweep.screened()
    assert [one.question for one in whole.responses] == sweep._source.questions
    first, rest = sweep.parts
    assert list(first.numbers or ()) == first_asked(sweep._source.questions, 4) != [0, 1, 2, 3]
    assert sorted([*(first.numbers or ()), *(rest.numbers or ())]) == list(range(10))
    for part in sweep.parts:
        assert part.questions == [f"question {n}" for n in part.numbers or ()]


def test_a_sweep_asks_a_broken_cell_no_more() -> None:
    sweep = Answering(3.0)
    (stopped,) = sweep.screened()
    assert isinstance(stopped, Evaluation)
    assert (stopped.given_up or "").startswith("coherence")
    assert len(stopped.responses) == 4
    assert len(sweep.parts) == 1


def test_a_cell_and_its_giving_up_have_two_keys() -> None:
    assert screening_key("a") != "a"
    assert screening_key("a") == screening_key("a") != screening_key("b")
