"""The interval of a mean between two ends."""

from math import comb
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from massact.query.stats.means import bounded_mean_interval, delta_ends, pulled_mean

LEVEL = 0.04
"""Both sides together: 0.8 of the error that is asked for."""


def interval(values: list[float], low: float = 0.0, high: float = 100.0) -> tuple[float, float]:
    return bounded_mean_interval(values, low, high, confidence=0.95)


@pytest.mark.parametrize("n", [3, 4, 10])
def test_equal_values_leave_room_for_what_was_not_seen(n: int) -> None:
    share = 1 - LEVEL ** (1 / n)  # half of the distribution is without the end, so 0.02 becomes 0.04
    low, high = interval([30.0] * n, -100, 100)
    assert low == pytest.approx(30 - 130 * share, abs=0.01)
    assert high == pytest.approx(30 + 70 * share, abs=0.01)


def test_two_valued_scores_weigh_as_beta_distributions_say() -> None:
    low, high = interval([0, 100, 0, 0, 100])
    below = [beta.cdf(low / 100, 2, 4), beta.cdf(low / 100, 2, 3)]  # with an unseen 0, and without
    above = [beta.sf(high / 100, 3, 3), beta.sf(high / 100, 2, 3)]  # with an unseen 100, and without
    assert sum(below) / 2 == pytest.approx(LEVEL / 2, abs=1e-5)
    assert sum(above) / 2 == pytest.approx(LEVEL / 2, abs=1e-5)


def test_it_mirrors_and_moves_with_the_values() -> None:
    values = [3.0, 17.0, 17.0, 60.0]
    low, high = interval(values)
    mirrored = interval([100 - value for value in values])
    assert mirrored == pytest.approx((100 - high, 100 - low), abs=0.01)
    assert interval([v - 50 for v in values], -50, 50) == pytest.approx((low - 50, high - 50), abs=0.01)


def test_it_has_a_width_unless_the_ends_are_one() -> None:
    assert interval([0.0, 0.0, 0.0]) == pytest.approx((0.0, 65.8), abs=0.01)
    assert interval([100.0] * 3)[1] == 100
    assert interval([5.0, 5.0], 5, 5) == (5.0, 5.0)


def test_values_beyond_the_ends_move_them() -> None:
    assert interval([0.0, 101.0, 50.0])[1] > interval([0.0, 100.0, 50.0])[1]


def test_many_values_give_about_students_interval() -> None:
    values = np.random.default_rng(0).normal(50, 10, 200).tolist()
    low, high = interval(values)
    assert high - low == pytest.approx(2 * 2.05 * 10 / 200**0.5, rel=0.15)


@pytest.mark.parametrize("n", [3, 5, 7, 10, 24])
def test_it_holds_the_share_of_two_valued_scores_whatever_it_is(n: int) -> None:
    limits = [interval([0.0] * (n - k) + [100.0] * k) for k in range(n + 1)]
    for share in np.linspace(0.005, 0.995, 199):
        held = sum(
            comb(n, k) * share**k * (1 - share) ** (n - k)
            for k, (low, high) in enumerate(limits)
            if low <= 100 * share <= high
        )
        assert held >= 0.93


def test_a_delta_ends_where_its_baseline_leaves_no_room() -> None:
    # mean 20, standard deviation 10, Student's of 2 degrees 4.3027: another baseline may score 20 + 49.7
    steered = [50, 60, 70]
    assert delta_ends([10, 20, 30], steered, "positive") == pytest.approx((-69.7, 100), abs=0.1)
    assert delta_ends([90, 80, 70], steered, "negative") == pytest.approx((-100, 69.7), abs=0.1)
    assert delta_ends([10, 95, 99, 40], [50] * 4, None) == (-100, 100)


def test_where_the_judge_says_no_or_yes_another_baseline_may_have_any_score() -> None:
    assert delta_ends([0, 0, 0, 0], [50] * 4, "positive") == (-100, 100)
    assert delta_ends([0, 5, 0, 5], [50] * 4, "negative") == (-100, 100)
    assert delta_ends([1, 3, 2, 4], [95, 3, 4, 98], "positive") == (-100, 100)


def test_a_picked_mean_is_pulled_towards_the_others_by_what_is_noise() -> None:
    values = np.array([[10.0, 30, 20], [20.0, 10, 30], [60.0, 40, 50]])
    # means 20, 20, 50: variance 300; noise 1600 / 36
    assert pulled_mean(values, 2) == pytest.approx(30 + (1 - (1600 / 36) / 300) * 20)
    assert pulled_mean(values[:1], 0) == 20
    assert pulled_mean(np.array([[np.nan, 1.0, 2.0], [3.0, np.nan, 2.0]]), 0) is None


def two_valued(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    return 100.0 * (random.random(n) < 0.6), 100.0 * (random.random(n) < 0.1), 50.0


def rare(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    base = random.uniform(10, 30, n)
    return base + np.where(random.random(n) < 0.1, 45, -5) + random.uniform(-5, 5, n), base, 0.0


def at_the_ceiling(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    base = random.choice([20.0, 90.0, 95.0, 99.0], n, p=[0.1, 0.3, 0.3, 0.3])
    return np.full(n, 100.0), base, 100 - 0.1 * 20 - 0.3 * (90 + 95 + 99)


def normal(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    base = random.uniform(20, 30, n)
    return base + 25 + 15 * random.standard_normal(n).clip(-3, 3), base, 25.0


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("world", [two_valued, rare, at_the_ceiling, normal])
def test_a_confirmed_delta_lies_in_its_interval_wherever(world: Any, n: int) -> None:
    random, held = np.random.default_rng(n), 0
    for _ in range(300):
        steered, base, true = world(random, n)
        ends = delta_ends(base.tolist(), steered.tolist(), "positive")
        low, high = bounded_mean_interval(steered - base, *ends, confidence=0.95)
        held += low <= true <= high
    assert held >= 0.95 * 300
