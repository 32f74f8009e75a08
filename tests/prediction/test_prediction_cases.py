"""Which evaluations tell where a vector's best coefficient and its cliff lie, and what is found there."""

import math
from typing import Any

import pytest

from massact.prediction.cases import (
    AT_THE_EDGE,
    NO_CLIFF,
    NO_EFFECT,
    NO_RECIPE,
    RANDOM,
    SAME_VECTOR,
    Outcomes,
    find_outcomes,
)
from massact.query import Evaluations
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from tests.support.store_fixtures import evaluated, evaluation_row

GOOD = ((100, 95.0, 5.0), (200, 90.0, 60.0), (400, 80.0, 85.0), (800, 20.0, 90.0))
"""Coefficient, coherence and delta: the best is 400, the cliff lies between 400 and 800."""


def ladder(
    *points: tuple[float, float | None, float | None], label: str = "probe", layer: int = 15, **changes: Any
) -> list[Stored[EvaluationRow]]:
    rows = []
    for coefficient, coherence, delta in points:
        values = {"coherence_mean": coherence, "delta": delta, "key": f"{label}-{layer}-{coefficient}-{changes}"}
        rows.append(evaluated(label, layer, coefficient, **values | changes))
    return rows


def found(*rows: list[Stored[EvaluationRow]], floor: float = 68) -> Outcomes:
    return find_outcomes(Evaluations.of(one for some in rows for one in some), floor)


def test_the_best_is_the_best_coherent_coefficient_and_the_cliff_the_middle_of_the_bracket() -> None:
    (one,) = found(ladder(*GOOD)).counted
    assert (one.model, one.trait, one.position, one.label, one.layer) == (
        "gemma", "refusal", "response[:5]", "probe", 15,
    )  # fmt: skip
    assert (one.best, one.low, one.high) == (400, 400, 800)
    assert one.cliff == pytest.approx(math.sqrt(400 * 800))


def test_a_coefficient_as_good_as_the_best_moves_it_to_their_middle_however_many_lie_between() -> None:
    plateau = [(c, 90.0, 84.0) for c in (225, 390, 395)]
    (one,) = found(ladder(*GOOD, *plateau)).counted
    assert one.best == pytest.approx(math.sqrt(225 * 400))
    (other,) = found(ladder(*GOOD, (300, 90.0, 82.9))).counted  # 2.1 points behind
    assert other.best == 400


def test_what_is_coherent_beyond_an_incoherent_one_moves_the_cliff() -> None:
    (one,) = found(ladder(*GOOD, (300, 50.0, 80.0))).counted
    assert (one.low, one.high) == (400, 800)


@pytest.mark.parametrize(
    ("points", "reason"),
    [(GOOD[:3], NO_CLIFF), (tuple((c, 20.0, 90.0) for c, _, _ in GOOD), NO_CLIFF)],
    ids=["all coherent", "none coherent"],
)
def test_a_ladder_that_tells_nothing_is_counted_with_the_reason(points: Any, reason: str) -> None:
    outcomes = found(ladder(*points))
    assert outcomes.counted == ()
    assert outcomes.left_out == {reason: 1}


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (tuple((c, h, d / 2) for c, h, d in GOOD), NO_EFFECT),
        (tuple((c, h, None) for c, h, _ in GOOD), NO_EFFECT),
        (GOOD[2:], AT_THE_EDGE),
    ],
    ids=["weak", "unscored", "starts at the best"],
)
def test_a_vector_without_a_best_tells_where_its_cliff_lies(points: Any, reason: str) -> None:
    outcomes = found(ladder(*points, relative_strength=None))
    (one,) = outcomes.counted
    assert (one.best, one.low, one.high) == (None, 400, 800)
    assert outcomes.left_out == {reason: 1}
    assert "only the cliff counts" in reason


def test_what_runs_tell_of_a_vectors_strength_is_taken_from_them() -> None:
    (one,) = found([evaluated("probe", 15, c, coherence_mean=h, delta=d, key=str(c), relative_strength=c / 500)
                    for c, h, d in GOOD]).counted  # fmt: skip
    assert one.unit_strength == pytest.approx(1 / 500)
    assert (one.model_id, one.judge) == (evaluation_row().model_id, evaluation_row().judge)


def test_half_of_what_the_baseline_leaves_is_enough_and_less_is_not() -> None:
    # the baseline is 10, so 90 points are possible
    half = tuple((c, h, min(d, 45.0)) for c, h, d in GOOD)
    assert found(ladder(*half)).left_out == {}
    assert found(ladder(*half, baseline_trait_mean=9.0)).left_out == {NO_EFFECT: 1}
    assert found(ladder(*GOOD, baseline_trait_mean=None)).left_out == {NO_EFFECT: 1}


def test_a_trait_to_be_lowered_is_measured_downwards_against_its_baseline() -> None:
    down = tuple((c, h, -d) for c, h, d in GOOD)
    high = {"direction": "negative", "baseline_trait_mean": 90.0}
    (one,) = found(ladder(*down, **high)).counted
    assert one.best == 400
    # of a baseline of 10 no more than 10 points can be taken, and a rise is no effect
    assert found(ladder(*GOOD, **high)).left_out == {NO_EFFECT: 1}


def test_negative_coefficients_and_the_baseline_are_no_part_of_a_ladder() -> None:
    negative = ladder(*((-c, 90.0, 95.0) for c, _, _ in GOOD), (0, 99.0, 99.0))
    (one,) = found(ladder(*GOOD), negative).counted
    assert (one.best, one.high) == (400, 800)
    assert found(negative) == Outcomes((), {})


def test_random_directions_and_unknown_labels_are_no_cases() -> None:
    foreign = ladder(*GOOD)
    rows = [evaluated(key=f"f{i}", coherence_mean=90.0) for i in range(2)]
    unknown = [Stored(o.run_id, o.status, o.finished_at, _relabelled(o.row)) for o in rows]
    outcomes = found(foreign, ladder(*GOOD, label="random_baseline"), unknown)
    assert len(outcomes.counted) == 1
    assert outcomes.left_out == {RANDOM: 1, NO_RECIPE: 1}


def _relabelled(row: EvaluationRow) -> EvaluationRow:
    from dataclasses import replace

    return replace(row, label="caa_v2")


def test_two_labels_of_one_vector_count_once() -> None:
    twice = found(ladder(*GOOD, label="mean_diff_cleaned"), ladder(*GOOD, label="mean_diff_preclean"))
    assert [one.label for one in twice.counted] == ["mean_diff_cleaned"]
    assert twice.left_out == {SAME_VECTOR: 1}
    probes = found(ladder(*GOOD, label="probe_cleaned"), ladder(*GOOD, label="probe_preclean"))
    assert len(probes.counted) == 2
    digest = {"vector_digest": "one"}
    alike = found(ladder(*GOOD, label="probe", **digest), ladder(*GOOD, label="probe_top1", **digest))
    assert [one.label for one in alike.counted] == ["probe"]


def test_vectors_of_two_extractions_settings_and_baselines_are_not_mixed() -> None:
    # the half of the ladder that breaks is of another vector, setting or baseline
    for name, other in (("vector_digest", "new"), ("setting", "s2"), ("baseline_trait_mean", 12.0)):
        assert found(ladder(*GOOD[:3]), ladder(GOOD[3], **{name: other})).counted == ()
        whole = found(ladder(*GOOD), ladder(*GOOD, **{name: other})).counted
        assert len(whole) == 2, name


def test_a_higher_floor_finds_a_lower_cliff() -> None:
    (one,) = found(ladder(*GOOD), floor=85).counted
    assert (one.best, one.low, one.high) == (200, 200, 400)
