"""Intervals of a picked winner, ties and paired tests: on worlds whose truth is known."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from massact.query.stats.intervals import Interval, Picked
from massact.query.stats.noise import moments
from massact.query.stats.paired import holm, least_p, mean_interval, paired_test, tied_with_winner

Numbers = NDArray[np.float64]
QUESTION_NOISE, CELL_NOISE = 10.0, 25.0
"""Standard deviations of a judge's score: what the cells of a question share, and what they do not."""
N_CELLS = 36


def observe(truth: Numbers, n_questions: int, rng: np.random.Generator) -> Numbers:
    """Scores of cells whose true means are known."""
    shared = QUESTION_NOISE * rng.standard_normal(n_questions)
    own = CELL_NOISE * rng.standard_normal((len(truth), n_questions))
    return np.round(truth[:, None] + shared + own, 1)


def interval(scores: Numbers) -> Interval | None:
    return Picked.of(scores, int(np.nanmean(scores, axis=1).argmax())).interval()


def _grid(_rng: np.random.Generator) -> Numbers:
    """Six layers by six coefficients: the delta grows and levels off, on each layer to another height."""
    rise = 30 * np.clip(1.5 * np.linspace(0, 1, 6), 0, 1)
    return np.concatenate([rise * height for height in np.linspace(0.3, 1, 6)])


def _spread(rng: np.random.Generator) -> Numbers:
    return 30 + 10 * rng.standard_normal(N_CELLS)


def _tie(_rng: np.random.Generator) -> Numbers:
    return np.full(N_CELLS, 30.0)


def _one(_rng: np.random.Generator) -> Numbers:
    return np.array([40.0, *[10.0] * (N_CELLS - 1)])


def coverage(world: Callable[[np.random.Generator], Numbers], n_questions: int) -> tuple[float, float]:
    """How often the interval of the picked cell holds its true mean, and how often the naive one does."""
    rng = np.random.default_rng(1)
    held = naive = 0
    for _ in range(500):
        truth = world(rng)
        scores = observe(truth, n_questions, rng)
        picked = int(scores.mean(1).argmax())
        found = interval(scores)
        assert found is not None
        held += found.low <= truth[picked] <= found.high
        drawn = scores[picked][rng.integers(0, n_questions, (400, n_questions))].mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        naive += low <= truth[picked] <= high
    return held / 500, naive / 500


@pytest.mark.parametrize("world", [_grid, _spread, _tie], ids=["grid", "spread", "tie"])
def test_the_interval_of_a_picked_winner_holds_where_the_naive_one_does_not(
    world: Callable[[np.random.Generator], Numbers],
) -> None:
    held, naive = coverage(world, 10)
    assert 0.93 <= held <= 0.985
    assert naive < 0.85


def test_it_also_holds_where_picking_costs_nothing() -> None:
    held, _ = coverage(_one, 10)
    assert 0.93 <= held <= 0.98


def test_the_estimate_is_not_too_good_on_average() -> None:
    rng = np.random.default_rng(2)
    above = observed = 0
    for _ in range(300):
        truth = _grid(rng)
        scores = observe(truth, 10, rng)
        picked = int(scores.mean(1).argmax())
        found = interval(scores)
        assert found is not None
        above += found.estimate > truth[picked]
        observed += scores.mean(1).max() > truth[picked]
    assert observed / 300 > 0.8, "the picked mean itself is nearly always too good"
    assert 0.3 < above / 300 < 0.6


def test_one_cell_has_students_interval() -> None:
    from scipy.stats import t

    scores = np.array([[10.0, 20.0, 30.0, 40.0]])
    found = interval(scores)
    assert found is not None
    low, high = t.interval(0.95, 3, 25.0, scores.std(ddof=1) / 2)
    assert (found.low, found.high, found.estimate) == pytest.approx((low, high, 25.0))


def test_equal_scores_are_one_result_and_no_tie() -> None:
    one = np.array([[10.0, 20.0, 30.0, 45.0]])
    assert interval(np.repeat(one, 5, axis=0)) == interval(one)


def test_scores_that_are_all_alike_say_what_ten_of_them_can() -> None:
    found = Picked.of(np.full((3, 10), 99.0), 0).interval((0.0, 100.0))
    assert found is not None
    assert (found.high, found.estimate) == (pytest.approx(99.0, abs=1.0), 99.0)
    assert 60 < found.low < 80, "a mean of 70 often gives ten scores of 99, where the others are rare and low"


def test_a_cell_is_expected_nearer_to_the_others_than_it_looks() -> None:
    rng = np.random.default_rng(6)
    scores = observe(np.full(36, 30.0), 10, rng)
    known, best = moments(scores), int(scores.mean(1).argmax())
    assert scores.mean(1)[best] > 42
    assert abs(known.expected()[best] - 30) < 8
    far = observe(np.array([80.0, *[10.0] * 35]), 10, rng)
    assert abs(moments(far).expected()[0] - far.mean(1)[0]) < 12, "one that stands out is not taken for luck"
    alone = np.array([[10.0, 20.0, 30.0, 40.0]])
    assert moments(alone).expected()[0] == 25.0, "one cell was not picked"


def test_what_is_expected_is_less_off_than_the_picked_mean() -> None:
    rng, off = np.random.default_rng(7), []
    for _ in range(100):
        truth = _grid(rng)
        scores = observe(truth, 10, rng)
        best = int(scores.mean(1).argmax())
        off.append((scores.mean(1)[best] - truth[best], moments(scores).expected()[best] - truth[best]))
    picked, expected = np.sqrt(np.mean(np.square(off), axis=0))
    assert expected < 0.7 * picked
    assert abs(np.mean(off, axis=0)[1]) < 3 < np.mean(off, axis=0)[0]


def test_a_tie_of_means_keeps_the_observed_mean_within() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(30, 20, (2, 10))
    scores[1] += scores[0].mean() - scores[1].mean()
    found = interval(scores)
    assert found is not None
    assert found.low < found.estimate < found.high
    assert found.high >= scores[0].mean() - 1e-9


def test_two_questions_tell_nothing() -> None:
    assert interval(np.array([[1.0, 2.0], [3.0, 4.0]])) is None
    assert tied_with_winner(np.array([[1.0, 2.0], [3.0, 4.0]]), 1) is None
    assert paired_test(np.array([-2.0, -3.0])) is None


def test_unscored_responses_are_left_out() -> None:
    scores = np.array([[10.0, np.nan, 30.0, 40.0], [0.0, 10.0, 20.0, np.nan]])
    found = moments(scores)
    assert found.means == pytest.approx([80 / 3, 10.0])
    assert found.n_questions == 3
    assert interval(scores) is not None


@pytest.mark.filterwarnings("error")
def test_cells_with_one_scored_response_warn_of_nothing() -> None:
    nan = float("nan")
    found = moments(np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [nan, nan, nan, nan, 7.0]]))
    assert found.means.tolist() == [3.0, 7.0]
    assert np.isfinite(found.variances).all()
    assert found.variances[1] > found.variances[0]
    assert np.isfinite(moments(np.array([[1.0, nan], [nan, 2.0]])).means).all()


def test_a_planted_tie_is_called_a_tie_and_a_planted_winner_is_found() -> None:
    rng = np.random.default_rng(3)
    kept = alone = 0
    for _ in range(200):
        scores = observe(np.full(8, 30.0), 10, rng)
        winner = int(scores.mean(1).argmax())
        tied = tied_with_winner(scores, winner)
        assert tied is not None
        kept += winner == 0 or 0 in tied
        ahead = observe(np.array([80.0, *[30.0] * 7]), 10, rng)
        alone += tied_with_winner(ahead, int(ahead.mean(1).argmax())) == []
    assert kept / 200 >= 0.91
    assert alone / 200 >= 0.55


def test_the_same_vector_is_always_tied() -> None:
    rng = np.random.default_rng(4)
    scores = observe(np.array([60.0, 0.0]), 10, rng)
    assert tied_with_winner(np.vstack([scores, scores[0]]), 0) == [2]


def test_the_interval_of_a_difference_holds_at_ten_questions() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        # skewed as judges' differences are: most near nothing, some large
        values = np.where(rng.random(10) < 0.3, rng.normal(60, 10, 10), rng.normal(0, 5, 10))
        low, high = mean_interval(values)
        held += low <= 18 <= high
    assert 0.9 <= held / 200 <= 1.0


def test_the_sign_flips_of_few_questions_are_exact() -> None:
    found = paired_test(np.array([10.0, 12.0, 11.0, 13.0]))
    assert found is not None
    assert found.p_value == pytest.approx(2 / 2**4)
    assert found.difference == 11.5
    assert found.low < 11.5 < found.high


def test_no_difference_is_no_evidence_and_no_proof_of_none() -> None:
    found = paired_test(np.zeros(6))
    assert found is not None
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.low == pytest.approx(-found.high)
    assert 30 < found.high < 50, "a difference of 100 to every tenth question is seldom among six"


def test_a_rare_effect_that_was_not_seen_is_not_ruled_out() -> None:
    found = paired_test(np.full(10, -5.0))  # of 90 % -5 and 10 % +45 every third experiment of ten questions is this
    assert found is not None
    assert found.low < -5 < 0 < found.high
    assert found.p_value > 0.05


def test_luck_of_the_picking_stretches_an_interval_and_weakens_a_test() -> None:
    differences = np.array([14.0, 9.0, 16.0, 11.0, 8.0, 12.0, 15.0, 10.0, 13.0, 7.0])
    plain, lucky = paired_test(differences), paired_test(differences, luck=8.0)
    assert plain is not None
    assert lucky is not None
    assert (plain.difference, plain.expected) == (11.5, 11.5)
    assert (lucky.difference, lucky.expected) == (11.5, 3.5)
    assert (lucky.low, lucky.high) == (pytest.approx(plain.low - 8), plain.high)
    assert plain.p_value == pytest.approx(2 / 2**10)
    assert lucky.p_value > plain.p_value
    turned = paired_test(differences, luck=20.0)
    assert turned is not None
    assert turned.p_value == 1.0, "it would be the other way round without luck"


def test_a_label_with_more_to_pick_from_does_not_leave_others_behind_by_luck() -> None:
    wave = np.array([6.0, -6.0] * 5)
    deltas = np.array([60 + wave, 45 - wave])
    assert tied_with_winner(deltas, 0) == []
    assert tied_with_winner(deltas, 0, luck=[12.0, 0.0]) == [1]
    assert tied_with_winner(deltas, 0, luck=[0.0, 12.0]) == [], "a lead is never longer than it looks"


def test_the_least_p_value_of_few_questions() -> None:
    assert least_p(5) == 0.0625
    assert least_p(10) == 2 / 2**10
    assert least_p(60) == pytest.approx(1e-4, rel=0.01), "as many draws of the signs are made"


def test_holm_corrects_for_the_number_of_tests() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
