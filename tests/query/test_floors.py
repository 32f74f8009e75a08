"""Floors of metrics: what counts, what is the nearest miss, how results are compared, and what is refused."""

import copy
import pickle
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.domain import Group, Response
from massact.errors import UsageError
from massact.evaluation import Screening, stop_reason
from massact.floors import Floor
from massact.query.groups import slices, strata
from massact.query.questions.best import BestAnswer, ask_best
from massact.query.questions.compare import ask_compare
from massact.query.questions.curve import ask_curve
from massact.query.questions.gaps import ask_gaps
from massact.query.rows import from_content, to_content
from massact.query.stats.coherent import coherent_chances
from massact.query.stats.paired import QuestionScores
from massact.store.schema import Scores
from massact.store.schema.declared import decode_declared, encode_declared
from tests.support.store_fixtures import answers_of, evaluated

KL = Floor.of("kl", 0.3, is_most=True)
GROUP = Group("gemma", "refusal", "response[:5]", "probe")


def at(coefficient: float, kl: float | None, delta: float, label: str = "probe", **changes: Any) -> Any:
    metrics = None if kl is None else {"kl": kl, "distinct_2": 1 - kl / 10}
    return evaluated(
        label, coefficient=coefficient, delta=delta, metrics=metrics, **{"coherence_mean": 90.0, **changes}
    )


LADDER = [at(100, 0.1, 5.0), at(200, 0.3, 20.0), at(400, 0.31, 60.0), at(800, 2.0, 80.0)]


@pytest.mark.parametrize(
    ("text", "rule", "reach"),
    [
        ("68", "coherence>=68", "coherence 68"),
        ("kl<=0.3", "kl<=0.3", "kl 0.3 or less"),
        (" distinct_2 >= 6e-1 ", "distinct_2>=0.6", "distinct_2 0.6 or more"),
        ("coherence>=70.5", "coherence>=70.5", "coherence 70.5"),
    ],
)
def test_a_floor_is_read_and_written(text: str, rule: str, reach: str) -> None:
    floor = Floor.read(text)
    assert (floor.rule, floor.reach) == (rule, reach)
    for again in (Floor.read(rule), copy.deepcopy(floor), pickle.loads(pickle.dumps(floor))):
        assert again == floor
        assert again.rule == rule
        assert hash(again) == hash(floor)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "101",
        "-1",
        "nan",
        "kl<0.3",
        "kl<=0",
        "kl<=-1",
        "kl<=nan",
        "kl<=1e999",
        "kl>=1e-320",
        "coherence<=3",
        "KL<=1",
        "kl",
    ],
)
def test_what_is_no_floor_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="floor"):
        Floor.read(text)


@pytest.mark.parametrize("rule", ["kl>=1e-30", "kl<=1e-30", "kl<=1e300"])
def test_numbers_hold_out_at_the_smallest_and_the_largest_limit(rule: str) -> None:
    floor, rows = Floor.read(rule), [*LADDER, at(150, 1e4, 9.0, "mean_diff")]
    scored = {
        r.run_id: Scores((1.0,) * 4 + (3.0,) * 4, (90.0,) * 8, {"kl": (r.row.metrics["kl"],) * 7 + (1e6,)})
        for r in rows
    }
    scores = QuestionScores(scored, {"baseline": Scores((0.0,) * 8, (95.0,) * 8)}, floor)
    asked = replace(answers_of(rows, groups=(GROUP,)), scores=scores)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statuses = {
            one.status for ask in (ask_best, ask_gaps) for one in ask.of(asked, floor).rows if one.label == "probe"
        }
    assert statuses == {"below_floor" if rule == "kl<=1e-30" else "ok"}


def test_a_floor_of_a_metric_is_none_of_coherence() -> None:
    assert float(KL) == float(Floor(68.0)) == 68.0
    assert Floor(68.0) != KL
    assert KL != 68.0
    assert Floor(68.0) == 68.0
    assert Floor.of("kl", 0.3) != KL


@given(st.floats(1e-3, 1e3), st.floats(0, 1e4), st.booleans())
def test_the_scale_keeps_the_order_and_the_limit(limit: float, value: float, is_most: bool) -> None:
    floor = Floor.of("own", limit, is_most=is_most)
    assert floor.measure(limit) == float(floor)
    if abs(value - limit) < 1e-9 * limit:
        return
    assert (floor.measure(value) >= floor) == (value <= limit if is_most else value >= limit)
    assert floor.value_at(floor.measure(value)) == pytest.approx(value, rel=1e-6, abs=1e-6 * limit)
    assert floor.measure(np.array([value]))[0] == floor.measure(value)


def test_best_is_the_best_delta_within_the_limit() -> None:
    (row,) = ask_best.of(answers_of(LADDER), KL).rows
    assert (row.status, row.coefficient, row.delta, row.metrics) == ("ok", 200, 20.0, {"kl": 0.3, "distinct_2": 0.97})
    (row,) = ask_best.of(answers_of(LADDER), Floor.read("distinct_2>=0.96")).rows
    assert row.coefficient == 400
    (row,) = ask_best.of(answers_of(LADDER), 68.0).rows
    assert row.coefficient == 800  # all are coherent


def test_the_nearest_miss_is_the_one_nearest_to_the_limit_and_gaps_try_below_it() -> None:
    floor = Floor.of("kl", 0.05, is_most=True)
    answer = ask_gaps.of(answers_of(LADDER, groups=(GROUP,)), floor)
    (row,) = answer.rows
    assert row.status == "below_floor"
    assert row.nearest_miss is not None
    assert row.nearest_miss.coefficient == 100
    assert all(abs(value) < 100 for bracket in row.brackets for value in bracket.try_next)
    assert answer.verdict() == (False, "1 of 1 group is a gap at kl 0.05 or less")
    assert "miss: kl" in str(answer)
    assert "0.1 (layer 15, 100)" in str(answer)


def test_an_evaluation_without_the_metric_is_neither_at_the_floor_nor_a_miss() -> None:
    (row,) = ask_gaps.of(answers_of([at(100, None, 50.0)], groups=(GROUP,)), KL).rows
    assert row.status == "missing"
    (best,) = ask_best.of(answers_of([at(100, None, 50.0), at(50, 0.2, 3.0)]), KL).rows
    assert best.coefficient == 50


def test_answers_keep_their_floor_and_metrics_as_json() -> None:
    answer = ask_best.of(answers_of([*LADDER, at(7, None, 1.0, "mean_diff")]), KL)
    content = to_content(answer)
    assert (content["floor"], content["floor_rule"]) == (0.3, "kl<=0.3")
    rows = {row["label"]: row for row in content["rows"]}
    assert (rows["probe"]["kl"], rows["probe"]["perplexity"]) == (0.3, None)
    assert rows["mean_diff"]["kl"] is None
    assert "metrics" not in rows["probe"]
    again = from_content(BestAnswer, content, ())
    assert again == answer
    assert again.floor == KL
    assert 0.3 in [*answer.to_frame()["kl"]]


def test_labels_are_compared_at_equal_kl() -> None:
    """The less steered best is read off the other's curve where both are as far from the unsteered model."""

    def many(label: str, kls: dict[float, float], slope: float) -> list[Any]:
        return [at(c, kl, slope * kl, label) for c, kl in kls.items()]

    rows = many("probe", {100: 0.05, 200: 0.1, 300: 0.15}, 100) + many("mean_diff", {100: 0.1, 200: 0.2, 300: 0.3}, 80)
    questions = np.arange(8)
    scores = QuestionScores(
        {
            one.run_id: Scores(
                tuple(10 + one.row.delta + 3 * np.sin(np.arange(8) + one.row.coefficient)),
                (90.0,) * 8,
                {"kl": tuple(one.row.metrics["kl"] + 0.01 * np.sin(questions * len(one.row.label)))},
            )
            for one in rows
        },
        {"baseline": Scores((10.0,) * 8, (95.0,) * 8)},
        KL,
    )
    answers = answers_of(rows, scores=scores)
    (row,) = ask_compare.of(answers, KL, pairs=[("probe", "mean_diff")]).rows
    assert row.best_a is not None
    assert row.best_b is not None
    assert (row.best_a.coefficient, row.best_b.coefficient) == (300, 300)
    assert row.matched_coherence == pytest.approx(0.15)
    # 15 against 12, where mean_diff has that kl; a little less, since of six evaluations some is taken for luck
    assert row.matched_difference == pytest.approx(3, abs=0.5)
    assert any(warning.startswith("kl differs: 0.15 and 0.3") for warning in row.warnings)


def test_the_curve_and_chances_follow_the_values_by_question() -> None:
    rows = [at(c, kl, 10.0, "mean_diff") for c, kl in ((100, 0.1), (200, 0.29), (300, 0.5))]
    answer = ask_curve.of(answers_of(rows), KL)
    assert next(row for row in answer.rows if row.label == "mean_diff").best.coefficient == 100  # type: ignore[union-attr]
    spread = np.linspace(-0.3, 0.3, 8)
    scores = QuestionScores(
        {r.run_id: Scores((1.0,) * 8, (90.0,) * 8, {"kl": tuple(r.row.metrics["kl"] + spread)}) for r in rows}, {}, KL
    )
    (place,) = strata(slices(answers_of(rows).evaluations))
    chances = coherent_chances(place, KL, scores)
    first, second = (chances[one.run_id] for one in rows[:2])
    assert 0.5 < second < first < 1
    assert rows[2].run_id not in chances


def test_screening_gives_up_what_cannot_come_within_the_limit() -> None:
    def said(kl: float) -> list[Response]:
        return [Response("q", "r", 1.0, 90.0, metrics={"kl": kl + i / 100}) for i in range(8)]

    hopeless = stop_reason(said(9.0), 10, Screening(8, KL))
    assert hopeless is not None
    assert hopeless.startswith("kl 9.04 over 8 of 10 questions: over all of them it is at least ")
    assert hopeless.endswith("beyond the floor of kl 0.3 or less")
    assert stop_reason(said(0.2), 10, Screening(8, KL)) is None
    assert stop_reason(said(0.0), 10, Screening(8, Floor.read("kl>=5"))) is None


def test_the_store_keeps_which_floor_a_file_declares() -> None:
    from massact.store.schema.declared import Declared

    declared = Declared("study", KL, ("refusal",), (), {})
    _, again = decode_declared("study", encode_declared(declared, at=1)) or (0, declared)
    assert again.floor == KL
