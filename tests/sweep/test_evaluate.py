"""Evaluating a batch of cells: each keeps its own result, and a bad one fails alone."""

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Recipe, Setting, Steering
from massact.errors import JudgeError, PluginError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.judges import Exchange, Verdict
from massact.models.load import SteerableModel
from massact.models.operators import find_operator
from massact.plugins import declare_own, forget_own
from massact.sweep.executors.local import evaluate_cells
from tests.support.tiny import tiny_model, unit

QUESTIONS = ("t5 t6 t7", "t9 t11", "t20 t21 t22 t23")
IDENTITY = JudgeIdentity("counting", "m", "p")
SETTING = Setting(ModelIdentity("tiny", "0", "float32"), "trait", "t", "q", 0, "c", Generation(6), IDENTITY)


class Judge:
    """Scores a response by its length, and raises when it sees a poisoned one."""

    identity = IDENTITY

    def __init__(self, poison: str | None = None, error: Exception | None = None) -> None:
        self.poison, self.error = poison, error

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        if self.error and any(one.response == self.poison for one in exchanges):
            raise self.error
        return [Verdict(float(len(one.response)), 50.0) for one in exchanges]


def _cells() -> list[PlannedCell]:
    cells = []
    for i, coefficient in enumerate((0.0, 2.0, 4.0, 8.0, 16.0)):
        steering = Steering(str(i), "response[:5]", Recipe("probe"), 1, coefficient, "positive")
        cells.append(PlannedCell(Cell(SETTING, steering), unit(3)))
    return cells


def _evaluate(judge: Judge, batch_rows: int = 15) -> list[Evaluation | FailedCell]:
    return list(evaluate_cells(tiny_model("llama"), _cells(), QUESTIONS, judge, batch_rows=batch_rows))


def test_results_come_in_order_and_do_not_depend_on_the_batch() -> None:
    together, alone = _evaluate(Judge()), _evaluate(Judge(), batch_rows=1)
    assert [one.planned.cell for one in together] == [one.cell for one in _cells()]
    for a, b in zip(together, alone, strict=True):
        assert isinstance(a, Evaluation)
        assert isinstance(b, Evaluation)
        assert a.responses == b.responses
        assert tuple(one.question for one in a.responses) == QUESTIONS


def test_a_poisoned_cell_fails_alone_with_its_reason() -> None:
    clean = _evaluate(Judge())
    bad = clean[-1]
    assert isinstance(bad, Evaluation)
    poison = bad.responses[0].response
    results = _evaluate(Judge(poison, ValueError("cannot read this")))
    assert isinstance(results[-1], FailedCell)
    assert results[-1].error == "ValueError: cannot read this"
    for before, after in zip(clean[:-1], results[:-1], strict=True):
        assert isinstance(before, Evaluation)
        assert isinstance(after, Evaluation)
        assert after.responses == before.responses


@pytest.mark.parametrize("batch_rows", [1, 15])
def test_a_cell_that_overflows_fails_with_layer_and_coefficient_and_the_others_count(batch_rows: int) -> None:
    half = deepcopy(tiny_model("llama"))
    model = SteerableModel(half.model.half(), half.tokenizer, replace(half.identity, dtype="float16"))
    cells = _cells()
    expected = list(evaluate_cells(model, cells, QUESTIONS, Judge(), batch_rows=batch_rows))
    too_strong = [_with_coefficient(cells[2], one) for one in (1e6, -1e6)]
    mixed = [*cells[:2], *too_strong, *cells[2:]]
    results = list(evaluate_cells(model, mixed, QUESTIONS, Judge(), batch_rows=batch_rows))
    assert [one.planned.cell for one in results] == [one.cell for one in mixed]
    for failed, coefficient in zip(results[2:4], ("1e+06", "-1e+06"), strict=True):
        assert isinstance(failed, FailedCell)
        assert failed.error.startswith(f"not finite in float16 at layer 1, coefficient {coefficient}: ")
    for before, after in zip(expected, [*results[:2], *results[4:]], strict=True):
        assert isinstance(before, Evaluation)
        assert isinstance(after, Evaluation)
        assert after.responses == before.responses


BAD = """\
def bad(p, q, c):
    return p.missing, c
def odd(p, q, c):
    return (c,)
def full(p, q, c):
    raise MemoryError
"""


def test_an_operator_of_somebody_else_that_fails_is_named_with_its_line_and_its_cell_fails_alone(
    tmp_path: Path,
) -> None:
    (tmp_path / "bad_operators.py").write_text(BAD)
    for name in ("bad", "odd", "full"):
        declare_own("operators", f"bad_operators:{name}", tmp_path)
    try:
        with pytest.raises(MemoryError):  # so that fewer rows are tried
            find_operator("full")(*torch.ones(3, 1))
        with pytest.raises(PluginError, match="the operator odd failed: ValueError: not enough values"):
            find_operator("odd")(*torch.ones(3, 1))
        cells, steering = _cells(), _cells()[2].cell.steering
        assert steering is not None
        bad = replace(steering, recipe=Recipe("probe", operator="bad"))
        cells[2] = replace(cells[2], cell=Cell(SETTING, bad))
        results = list(evaluate_cells(tiny_model("llama"), cells, QUESTIONS, Judge(), batch_rows=15))
    finally:
        forget_own()
        sys.path.remove(str(tmp_path))
    failed = results[2]
    assert isinstance(failed, FailedCell)
    assert failed.error == (
        "the operator bad failed: AttributeError: 'Tensor' object has no attribute 'missing' "
        f"({tmp_path}/bad_operators.py, line 2)"
    )
    assert [isinstance(one, Evaluation) for one in results] == [True, True, False, True, True]


def _with_coefficient(planned: PlannedCell, coefficient: float) -> PlannedCell:
    assert planned.cell.steering is not None
    steering = replace(planned.cell.steering, coefficient=coefficient)
    return replace(planned, cell=replace(planned.cell, steering=steering))


def test_a_judge_that_cannot_be_used_at_all_stops_the_sweep() -> None:
    first = _evaluate(Judge())[0]
    assert isinstance(first, Evaluation)
    with pytest.raises(JudgeError, match="no such key"):
        _evaluate(Judge(first.responses[0].response, JudgeError("no such key")))
