"""Brackets and the coefficients to try next."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.domain import Group
from massact.query.questions.gaps import Bracket, ask_gaps
from tests.support.store_fixtures import answers_of, evaluated

GROUP = Group("gemma", "refusal", "response[:5]", "probe")


def brackets(
    *points: tuple[int, float, float | None], allowed: tuple[float, float] | None = None, has_delta: bool = True
) -> tuple[Bracket, ...]:
    """Of a group with these (layer, coefficient, coherence)."""
    changes = {} if has_delta else {"delta": None}
    rows = [evaluated("probe", layer, c, coherence_mean=h, **changes) for layer, c, h in points]
    ranges = {"gemma": allowed} if allowed else {}
    (row,) = ask_gaps.of(answers_of(rows, groups=(GROUP,), coefficient_ranges=ranges), 68).rows
    return row.brackets


def test_below_all_that_was_tried_only_the_baseline_is_coherent() -> None:
    (found,) = brackets((15, 1000, 60.0), (15, 1200, 40.0), (15, 2000, 10.0))
    # a quarter of 1000, then steps of 4 ** (1/3) = 1.587
    assert (found.layer, found.low, found.high) == (15, None, 1000)
    assert found.try_next == (250, 397, 630)
    assert found.reason is None


def test_each_layer_has_its_bracket() -> None:
    found = brackets((16, 800, 60.0), (15, 1000, 60.0))
    assert [(one.layer, one.high, one.try_next) for one in found] == [
        (15, 1000, (250, 397, 630)),
        (16, 800, (200, 317, 504)),
    ]


def test_between_a_coherent_and_an_incoherent_coefficient() -> None:
    # coherent, but without a delta, so that it is no best: 1000 * 2 ** (1/4, 2/4, 3/4)
    (found,) = brackets((15, 1000, 70.0), (15, 2000, 60.0), (15, 800, 40.0), has_delta=False)
    assert (found.low, found.high, found.try_next) == (1000, 2000, (1190, 1410, 1680))


def test_a_group_that_has_a_best_inside_its_grid_shows_its_bracket_and_suggests_nothing() -> None:
    (found,) = brackets((15, 800, 40.0), (15, 1000, 70.0), (15, 1200, 75.0), (15, 2000, 60.0))
    assert (found.low, found.high, found.try_next, found.reason) == (1200, 2000, (), None)
    (open_ended,) = brackets((15, 1000, 70.0))
    assert (open_ended.low, open_ended.high) == (1000, None)


def test_a_best_at_the_end_of_its_grid_is_widened_beyond_it_within_the_models_range() -> None:
    (largest,) = brackets((15, 60, 97.0), (15, 30, 40.0))
    assert largest.try_next == (75.6, 95.2, 120), "steps of 2 ** (1/3)"
    (bounded,) = brackets((15, 60, 97.0), (15, 30, 40.0), allowed=(4, 80))
    assert bounded.try_next == (66, 72.7, 80)
    (shut,) = brackets((15, 60, 97.0), (15, 30, 40.0), allowed=(4, 60))
    assert (shut.try_next, shut.reason) == ((), "nothing between 60 and 151.191 lies within the allowed 4 to 60")
    (below,) = brackets((15, -60, 97.0), (15, -120, 40.0))
    assert below.try_next == (-15, -23.8, -37.8)


def test_negative_coefficients_keep_their_sign_and_side() -> None:
    found = brackets((15, -1000, 60.0), (15, -2000, 20.0), (15, 400, 60.0))
    assert [(one.low, one.high, one.try_next) for one in found] == [
        (None, 400, (100, 159, 252)),
        (None, -1000, (-250, -397, -630)),
    ]


def test_what_was_tried_is_not_suggested_again() -> None:
    # 397 was tried but could not be scored, so it bounds nothing
    (found,) = brackets((15, 1000, 60.0), (15, 397, None))
    assert found.try_next == (250, 630)


def test_the_models_range_bounds_the_ladder() -> None:
    (low,) = brackets((15, 1000, 60.0), allowed=(800, 2500))
    assert low.try_next == (800, 862, 928)
    (high,) = brackets((15, 1000, 60.0), allowed=(10, 400))
    assert high.try_next == (100, 200, 400)


def test_the_models_range_is_one_of_lengths_and_bounds_no_share_nor_angle() -> None:
    for label, tried in (("probe+ablate", (0.125, 0.198, 0.315)), ("probe+clamp", ())):
        rows = [evaluated(label, 15, c, coherence_mean=97.0) for c in (0.5, 1)]
        groups = (Group("gemma", "refusal", "response[:5]", label),)
        (row,) = ask_gaps.of(answers_of(rows, groups=groups, coefficient_ranges={"gemma": (800, 2500)}), 68).rows
        assert row.brackets[0].try_next == tried


@pytest.mark.parametrize("allowed", [(1000, 2500), (1200, 2500), (10, 400), (10, 500)])
def test_a_range_that_forbids_all_is_said(allowed: tuple[float, float]) -> None:
    (found,) = brackets((15, 1000, 60.0), (15, 500, 70.0), allowed=allowed, has_delta=False)
    assert found.try_next == ()
    assert found.reason == f"nothing between 500 and 1000 lies within the allowed {allowed[0]:g} to {allowed[1]:g}"


def test_a_bracket_too_narrow_is_said() -> None:
    (found,) = brackets((15, 1000, 70.0), (15, 1002, 60.0), has_delta=False)
    assert (found.try_next, found.reason) == ((), "everything between 1000 and 1002 is tried, to 3 digits")


def test_an_unscored_point_bounds_nothing_and_zero_is_the_baseline() -> None:
    assert brackets((15, 0.0, 60.0)) == ()
    found = brackets((15, 500, None), (16, 900, 60.0))
    assert [(one.layer, one.high, one.reason) for one in found] == [
        (15, None, "nothing that was scored here is below the floor"),
        (16, 900, None),
    ]


SIZES = st.floats(0.01, 1e5, allow_nan=False)


@given(
    st.lists(st.tuples(st.integers(0, 2), SIZES, st.sampled_from([None, 30.0, 80.0])), min_size=1, max_size=12),
    st.one_of(st.none(), st.tuples(SIZES, SIZES).map(lambda ends: (min(ends), max(ends)))),
    st.sampled_from([1.0, -1.0]),
)
def test_suggestions_lie_inside_the_bracket_and_the_range_and_are_new(
    points: list[tuple[int, float, float | None]], allowed: tuple[float, float] | None, sign: float
) -> None:
    signed = [(layer, sign * size, coherence) for layer, size, coherence in points]
    for found in brackets(*signed, allowed=allowed, has_delta=False):
        tried = [abs(c) for layer, c, _ in signed if layer == found.layer]
        least, most = allowed or (0.0, math.inf)
        for value in found.try_next:
            assert math.copysign(1.0, value) == sign
            assert found.high is not None
            assert abs(found.low or 0.0) < abs(value) < abs(found.high)
            assert least <= abs(value) <= most
            assert not any(math.isclose(abs(value), one, rel_tol=1e-9) for one in tried)
            assert float(f"{value:.2e}") == value
        assert list(found.try_next) == sorted(set(found.try_next), key=abs)
