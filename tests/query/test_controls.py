"""What winners are held against, as labels of their place, and the p-value of a winner among random directions."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from massact.domain import Recipe
from massact.floors import Floor
from massact.query import Answers, Evaluations, Filters
from massact.query.controls import random_p
from massact.query.costs import Cost
from massact.query.groups import Currency
from massact.query.questions.best import BestRow, ask_best, winners
from massact.query.questions.compare import ask_compare
from massact.query.questions.costs import CostRow, ask_costs
from massact.query.rows import at_floor, printed
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind
from massact.store.schema.declared import DeclaredSetting
from massact.vectors.methods import extract_vector
from massact.workflow import steered, vectors
from tests.support.report_rows import behaves, row

FLOOR = 68.0
PROMPTED = dict.fromkeys(("position", "method", "cleaning", "n_dims", "layer", "coefficient", "vector_digest"))


def control(label: str, delta: float, coherence: float = 90.0, **values: object) -> Stored[EvaluationRow]:
    told = {"delta": delta, "coherence_mean": coherence, "trait_mean": 1.5 + delta, "kind": Kind.CONTROL, **values}
    if label in ("prompt", "few_shot"):
        stored = row(key=f"control-{label}", **told)
        return replace(stored, row=replace(stored.row, label=label, prompting_digest="p", **PROMPTED))
    return row(label=label, vector_seed=1, **told)


def answers(*controls: Stored[EvaluationRow]) -> Answers:
    grid = [behaves(row(label=label, coefficient=c)) for label in ("probe", "mean_diff") for c in (8.0, 10.0)]
    return Answers(evaluations=Evaluations.of(grid), controls=controls)


def random(*deltas: float) -> list[Stored[EvaluationRow]]:
    """Beside the winner, which is probe at 10."""
    labels = (f"random_baseline_seed{seed}" for seed in range(1, len(deltas) + 1))
    return [control(label, delta, layer=2, coefficient=10.0) for label, delta in zip(labels, deltas, strict=True)]


def test_costs_set_winner_prompt_examples_and_random_directions_side_by_side() -> None:
    asked = answers(control("prompt", 40.0), control("few_shot", 99.0, 50.0), *random(1.0, -2.0, 7.0))
    winner, prompt, few_shot, directions = ask_costs.of(asked, FLOOR).rows
    assert (winner.what, winner.label, winner.layer, winner.coefficient) == ("winner", "probe", 2, 10.0)
    assert winner.p_value == pytest.approx(1 / 4)
    assert (prompt.what, prompt.delta, prompt.layer, prompt.coefficient) == ("prompt", 40.0, None, None)
    assert (few_shot.what, few_shot.status, few_shot.coherence_mean) == ("few_shot", "below_floor", 50.0)
    assert (directions.what, directions.n_random) == ("random", 3)
    assert directions.run_id == asked.controls[2].run_id  # the median of them
    assert directions.delta == pytest.approx(2.0)


def test_what_each_costs_on_tasks_is_told_below_the_table() -> None:
    figures = {"value": 58.0, "unsteered": 60.0, "delta": -2.0, "delta_low": -3.0, "delta_high": -1.0}
    cost = Cost(task="hellaswag", metric="acc", n_documents=50, run_id="c", **figures)
    asked = replace(answers(control("prompt", 40.0)), costs={"control-prompt": (cost,)})
    told = str(ask_costs.of(asked, FLOOR)).splitlines()
    assert [line for line in told if "hellaswag" in line] == [
        "- toy-gemma-3, refusal, response[:5], prompt: hellaswag -2.0 (-3.0 to -1.0)"
    ]


def test_random_directions_are_told_by_their_means_in_whatever_order_they_came() -> None:
    def several(*coherences: float) -> list[Stored[EvaluationRow]]:
        labels = (f"random_baseline_seed{seed}" for seed in range(1, len(coherences) + 1))
        pairs = zip(labels, coherences, strict=True)
        return [control(label, 0.0, coherence, layer=2, coefficient=10.0) for label, coherence in pairs]

    found = several(80.0, 60.0, 70.0)
    for given in (found, found[::-1]):
        row = ask_costs.of(answers(*given), FLOOR).rows[1]
        assert (row.coherence_mean, row.status, row.run_id) == (pytest.approx(70.0), "ok", found[1].run_id)
    assert ask_costs.of(answers(*several(60.0, 72.0, 50.0)), FLOOR).rows[1].status == "below_floor"


def test_only_random_directions_of_the_winners_norm_place_and_setting_count() -> None:
    others = [
        control("random_baseline_seed1", 99.0, layer=3, coefficient=10.0),
        control("random_baseline_seed2", 99.0, layer=2, coefficient=8.0),
        control("random_baseline_seed3", 99.0, layer=2, coefficient=10.0, setting="another"),
        control("random_baseline_seed4+ablate", 99.0, layer=2, coefficient=10.0),
    ]
    (winner,) = ask_costs.of(answers(*others), FLOOR).rows
    assert winner.p_value is None
    found = ask_costs.of(answers(*others, *random(1.0)), FLOOR).rows
    assert found[0].p_value == pytest.approx(1 / 2)


def test_labels_and_controls_are_answered_and_compared_side_by_side() -> None:
    asked = answers(control("prompt", 40.0), *random(1.0, 3.0, 8.0))
    best = {one.label: one for one in ask_best.of(asked, FLOOR).rows}
    assert list(best) == ["mean_diff", "probe", "prompt", "random"]
    assert (best["prompt"].delta, best["prompt"].layer, best["prompt"].at_grid_end) == (40.0, None, False)
    assert best["random"].delta == 3.0  # the median of them
    (compared,) = ask_compare.of(asked, FLOOR, pairs=[("probe", "prompt")]).rows
    assert compared.best_a
    assert compared.best_b
    assert compared.better == "probe"
    assert compared.difference == pytest.approx((compared.best_a.delta or 0) - 40.0)
    assert not any("layers" in warning for warning in compared.warnings)


def test_controls_are_current_as_the_labels_beside_them_are() -> None:
    declared = DeclaredSetting("", 3, 64, 0.0, 0, {"refusal": "positive"})
    old = [
        replace(one, row=replace(one.row, setting="old", max_new_tokens=32, key=f"old-{n}"))
        for n, one in enumerate([behaves(row(coefficient=8.0)), control("prompt", 40.0)])
    ]
    new = [
        replace(one, row=replace(one.row, max_new_tokens=64))
        for one in (behaves(row(coefficient=8.0)), control("prompt", 9.0))
    ]
    asked = Answers(
        evaluations=Evaluations.of([old[0], new[0]]), controls=(old[1], new[1]), currency=Currency(declared)
    )
    found = {(one.label, one.setting): one.is_current for one in ask_best.of(asked, FLOOR).rows}
    new_setting = new[0].row.setting
    assert found == {
        ("probe", "old"): False,
        ("probe", new_setting): True,
        ("prompt", "old"): False,
        ("prompt", new_setting): True,
    }


def test_the_p_value_counts_the_winner_and_goes_by_direction() -> None:
    assert random_p(5.0, [1.0, 5.0, 9.0], "positive") == pytest.approx(3 / 4)
    assert random_p(5.0, [1.0, 5.0, 9.0], "negative") == pytest.approx(3 / 4)
    assert random_p(-9.0, [1.0, -2.0], "negative") == pytest.approx(1 / 3)
    assert random_p(5.0, [], "positive") is None


def test_the_p_value_of_a_random_direction_is_uniform_over_seeds() -> None:
    """A delta that depends on the direction alone: its projection on a planted one."""
    planted, n = torch.randn(64, generator=torch.Generator().manual_seed(7)), 9
    sides = (torch.zeros(2, 64), torch.zeros(2, 64))
    of_seed = [
        float(extract_vector(Recipe("random_baseline"), *sides, dims=(), seed=seed) @ planted) for seed in range(4000)
    ]
    p = [random_p(of_seed[i], of_seed[i + 1 : i + 1 + n], "positive") for i in range(0, 4000, n + 1)]
    counts = np.bincount(np.round(np.array(p, dtype=float) * (n + 1)).astype(int), minlength=n + 2)[1:]
    assert counts.sum() == 400
    assert len(counts) == n + 1
    assert chisquare(counts).pvalue > 0.01


def test_a_control_below_the_floor_of_a_metric_is_shown_without_a_place() -> None:
    asked = answers(control("prompt", 40.0, metrics={"kl": 2.0}))
    answer = ask_best.of(asked, Floor.of("kl", 1.0, is_most=True))
    table = printed(at_floor(BestRow.columns, answer.floor), [one for one in answer.rows if one.label == "prompt"])
    assert [text for (text,) in zip(*table.cells, strict=True)][-1] == "2"


def test_a_control_is_no_winner_whatever_its_delta() -> None:
    rows = ask_best.of(answers(control("prompt", 1000.0), *random(999.0)), FLOOR).rows
    assert {one.label for one in rows if one.is_control} == {"prompt", "random"}
    assert [one.label for one in winners(rows).values()] == ["probe"]


def test_a_control_counts_within_a_cost_where_it_was_run_on_the_task() -> None:
    ends = {"n_documents": 9, "value": 60.0, "unsteered": 61.0, "delta": -1.0, "delta_low": -2.0, "delta_high": 0.0}
    cost = Cost(task="hellaswag", metric="acc", run_id="c", **ends)
    asked = answers(control("prompt", 40.0), control("few_shot", 50.0))
    found = ask_best.of(replace(asked, costs={"control-prompt": (cost,)}), FLOOR, costs=[("hellaswag", -2.0)])
    assert [(one.label, one.costs) for one in found.rows if one.is_control] == [("prompt", (cost,))]
    table = at_floor((*CostRow.columns,), Floor.of("kl", 1.0, is_most=True))
    assert [one.header for one in table].count("kl") == 1


def test_no_command_takes_a_control_for_the_best_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask_best.of(answers(control("few_shot", 1000.0), *random(999.0)), FLOOR)
    (winner,) = winners(answer.rows).values()
    for module in (vectors, steered):
        monkeypatch.setattr(module, "question", lambda _: SimpleNamespace(ask=lambda *_: answer))
    assert vectors.best_run("small", "", Filters()) == winner.run_id
    bests = steered.Stored(cast(Any, None), "toy-gemma-3", "small", "").bests()
    place = "toy-gemma-3/refusal"
    assert set(bests) == {place, f"{place}/response[:5]/probe", f"{place}/response[:5]/mean_diff"}
    assert bests[place] == winner.run_id


def test_of_equal_deltas_every_command_takes_the_one_that_best_calls_the_winner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = ask_best.of(answers(), FLOOR)
    alike = [replace(row, delta=30.0, coefficient=10.0 + 5 * i) for i, row in enumerate(reversed(answer.rows))]
    for rows in (alike, alike[::-1]):
        answer = replace(answer, rows=tuple(rows))
        for module in (vectors, steered):
            monkeypatch.setattr(module, "question", lambda _, answer=answer: SimpleNamespace(ask=lambda *_: answer))
        (winner,) = winners(answer.rows).values()
        assert winner.coefficient == 10.0
        assert vectors.best_run("small", "", Filters()) == winner.run_id
        assert (
            steered.Stored(cast(Any, None), "toy-gemma-3", "small", "").bests()["toy-gemma-3/refusal"] == winner.run_id
        )
