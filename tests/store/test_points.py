"""Points: what the tag says is what the row says, a bad tag costs only its own run, and columns rank as tuples do."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.domain import Direction
from massact.query.evaluations import Evaluations, PointSet
from massact.store.schema import Points, encode_point, point_of, point_tag
from massact.store.schema.points import decode_points
from tests.support.store_fixtures import EXPERIMENT, evaluation_row, stored

NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)


FIELDS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("trait_mean", "coherence_mean", "delta", "baseline_trait_mean"), NUMBER),
        "relative_strength": NUMBER,
        "coefficient": st.floats(allow_nan=False, allow_infinity=False),
        "n_scored": st.integers(0, 10**6),
        "n_unscored": st.integers(0, 10**6),
        "model": st.text(max_size=6),
        "trait": st.text(max_size=6),
        "vector_digest": st.none() | st.text(max_size=6),
        "n_dims_cleaned": st.none() | st.integers(0, 5000),
    }
)


@settings(deadline=None, max_examples=60)
@given(FIELDS)
def test_a_point_survives_its_tag_to_the_last_digit(values: dict[str, Any]) -> None:
    row = evaluation_row(key="k", **values)
    text = encode_point(row)
    assert text is not None
    points, unreadable = decode_points(EXPERIMENT, [("r", 5, text)])
    assert unreadable == []
    assert list(points) == [point_of(row, "r", 5)]


GOOD = encode_point(evaluation_row()) or ""
NUMBERS, KEY, HEAD = GOOD.split("\n")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        f"{NUMBERS}\n{KEY}",
        f"{NUMBERS[:-4]}\n{KEY}\n{HEAD}",
        f"{NUMBERS}{NUMBERS}\n{KEY}\n{HEAD}",
        f"{'!' * len(NUMBERS)}\n{KEY}\n{HEAD}",
        f"{NUMBERS}\n{KEY}\n{HEAD},{HEAD}",
        f"{NUMBERS}\n{KEY}\n{HEAD[:-1]},1]",
        f"{NUMBERS}\n{KEY}\n{HEAD.replace(EXPERIMENT, 'other')}",
        f"{NUMBERS}\n{KEY}\n{HEAD.replace(',15,', ',NaN,')}",
        f"{NUMBERS}\n{KEY}\n{HEAD.replace(',15,', ',true,')}",
        f"{NUMBERS}\n{KEY}\n" + "{}",
        f"AgAA{NUMBERS[4:]}\n{KEY}\n{HEAD}",  # version 2
    ],
)
def test_a_bad_tag_costs_only_its_own_run(bad: str) -> None:
    found = [("a", 1, GOOD), ("b", 2, bad), ("c", None, GOOD)]
    points, unreadable = decode_points(EXPERIMENT, found)
    assert unreadable == ["b"]
    assert [(p.run_id, p.finished_at, p.key) for p in points] == [("a", 1, KEY), ("c", -1, KEY)]


def test_an_infinite_number_is_neither_written_nor_read() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode_point(evaluation_row(delta=math.inf))
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode_point(evaluation_row(trait_mean=math.nan))


def test_what_is_no_point_of_the_grid_has_no_tag() -> None:
    assert encode_point(evaluation_row(layer=15, position=None)) is None
    assert point_of(replace(evaluation_row(), layer=None), "r", 1) is None


def test_the_tag_of_an_experiment_is_its_own() -> None:
    assert point_tag("a") != point_tag("b")
    assert point_tag("a").startswith("massact.point.")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("direction", ["positive", "negative"])
def test_columns_rank_as_a_loop_over_tuples_does(seed: int, direction: Direction) -> None:
    draw = random.Random(seed)
    values = [None, 10.0, 20.0, 30.0]
    rows = [
        evaluation_row(
            layer=draw.choice([14, 15]),
            coefficient=draw.choice([-800.0, 800.0, 1000.0]),
            key=f"k{draw.randrange(12)}",
            coherence_mean=draw.choice([None, 60.0, 67.0, 68.0, 90.0]),
            delta=draw.choice(values),
            baseline_trait_mean=10.0,
            direction=direction,
        )
        for _ in range(16)
    ]
    found = Evaluations.of(stored(row, run_id=f"r{i}", finished_at=draw.randrange(3)) for i, row in enumerate(rows))
    points = list(found)
    (mine,) = found.by_place.values()
    assert isinstance(mine, PointSet)
    sign = 1.0 if direction == "negative" else -1.0
    coherent = [p for p in points if (p.coherence_mean or 0) >= 68 and p.delta is not None]
    best = min(coherent, key=lambda p: (sign * (p.delta or 0), abs(p.coefficient), p.layer, p.key), default=None)
    assert mine.best(68, direction) == best
    misses = [p for p in points if p.coherence_mean is not None and p.coherence_mean < 68]
    miss = min(
        misses,
        key=lambda p: (
            -(p.coherence_mean or 0), p.delta is None, sign * (p.delta or 0), abs(p.coefficient), p.layer, p.key,
        ),
        default=None,
    )  # fmt: skip
    assert mine.nearest_miss(68, direction) == miss


def test_of_a_key_the_newest_run_counts_and_of_a_tie_the_greater_id() -> None:
    points = [
        point_of(evaluation_row(key=key), run_id, at)
        for key, run_id, at in [("a", "r1", 5), ("a", "r2", 5), ("b", "r3", 9), ("b", "r4", 2), ("c", "r5", 1)]
    ]
    newest = Points.of(point for point in points if point is not None).newest()
    assert sorted(point.run_id for point in newest) == ["r2", "r3", "r5"]
