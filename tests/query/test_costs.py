"""What evaluations cost: read by key, in the answer of `best`, and as its limit."""

import numpy as np
import pytest

from massact.query.costs import Cost
from massact.query.question import Question
from massact.query.questions.best import BestAnswer, BestRow, ask_best
from massact.query.rows import Answer
from massact.query.stats.means import matched_interval
from tests.support.store_fixtures import answers_of, evaluated

FLOOR = 68.0


def _cost(task: str, delta: float) -> Cost:
    ends = {"delta_low": delta - 1, "delta_high": delta + 1}
    return Cost(
        task=task, metric="acc", n_documents=50, value=60 + delta, unsteered=60.0, delta=delta, **ends, run_id="c"
    )


ROWS = [
    evaluated(coefficient=500, delta=10.0),
    evaluated(coefficient=1000, delta=20.0),
    evaluated(coefficient=1500, delta=30.0),
    evaluated(coefficient=2000, delta=40.0),
    evaluated(coefficient=3000, delta=90.0, coherence_mean=10.0),
]
COSTS = {
    "probe-15-500": (_cost("hellaswag", 0.0), _cost("mmlu", -1.0)),
    "probe-15-1000": (_cost("hellaswag", -2.0),),
    "probe-15-1500": (_cost("hellaswag", -9.0), _cost("mmlu", 0.0)),
    "probe-15-3000": (_cost("hellaswag", 0.0),),
}


def _asked(*limits: tuple[str, float]) -> Answer[BestRow]:
    return ask_best.of(answers_of(ROWS, costs=COSTS), FLOOR, costs=limits)


@pytest.mark.parametrize(
    ("limits", "coefficient"),
    [
        ((), 2000),  # whose cost is not known
        ((("hellaswag", -2.0),), 1000),
        ((("hellaswag", -1.9),), 500),
        ((("hellaswag", -100.0),), 1500),
        ((("hellaswag", -100.0), ("mmlu", -0.5)), 1500),
        ((("mmlu", -1.0), ("hellaswag", -5.0)), 500),
    ],
)
def test_the_best_delta_within_the_cost_wins(limits: tuple[tuple[str, float], ...], coefficient: float) -> None:
    (row,) = _asked(*limits).rows
    assert (row.status, row.coefficient) == ("ok", coefficient)
    assert row.costs == COSTS.get(f"probe-15-{coefficient:g}", ())


def test_it_is_said_what_is_not_known_and_what_costs_more() -> None:
    notes = _asked(("hellaswag", -2.0)).notes
    assert "1 coherent evaluation costs more" in notes[0]
    assert "1 coherent evaluation never run on hellaswag, not counted; the best of them is probe" in notes[1]
    assert "massact capability --run run-setting-1-probe-15-2000 --tasks hellaswag" in notes[1]


def test_what_a_best_costs_is_printed_however_wide_the_table_is() -> None:
    answer = _asked(("mmlu", -1.0), ("hellaswag", -5.0))
    (row,) = answer.rows
    costs = "; ".join(map(str, row.costs))
    assert "hellaswag" in costs
    assert f"{row.place}, probe: {costs}" in " ".join(str(answer).split())


def test_where_nothing_is_cheap_enough_nothing_counts() -> None:
    (row,) = _asked(("hellaswag", 5.0)).rows
    assert (row.status, row.nearest_miss) == ("missing", None)
    (row,) = _asked(("arc", -100.0)).rows
    assert row.status == "missing"


def test_a_limit_is_written_as_it_is_read() -> None:
    question: Question[..., BestAnswer] = ask_best
    parameter = next(one for one in question.own if one.name == "cost")
    assert parameter.write(parameter.read("mmlu_stem:-2.5")) == "mmlu_stem:-2.5"
    for wrong in ("mmlu:little", "mmlu:nan", "mmlu", ":-2", "mmlu:1e3"):
        with pytest.raises(ValueError, match="is no task with points"):
            parameter.read(wrong)


def test_intervals_of_matched_marks_hold_the_truth() -> None:
    """Marks of 0 and 1: of those that change 2 % gain and 6 % lose."""
    rng = np.random.default_rng(4)
    held, n = 0, 400
    for _ in range(n):
        deltas = 100.0 * rng.choice([1, -1, 0], size=200, p=[0.02, 0.06, 0.92])
        low, high = matched_interval(list(deltas), 100.0)
        held += low <= -4.0 <= high
    assert 0.93 <= held / n <= 0.99
    low, high = matched_interval([0.0] * 50, 100.0)
    assert -6 < low < 0 < high < 6
    assert matched_interval([-100.0] * 3, 100.0)[0] == -100.0
