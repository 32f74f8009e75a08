"""How noisy the cells of a place are, what they have in common, and what is expected of their means."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from massact.query.stats.intervals import Cells, Picked, _limits, _simultaneous
from massact.query.stats.noise import Spots, expected, moments

Numbers = NDArray[np.float64]
SHAPE = (6, 4, 7)
"""Labels, layers, coefficients."""
LABELS, LAYERS, COEFFICIENTS = np.array(list(product(*map(range, SHAPE)))).T
SPOTS = Spots(LABELS, LAYERS, 10.0 * (COEFFICIENTS + 1))
N_CELLS = len(LABELS)


def observe(rng: np.random.Generator, *, n: int = 10, noise: Numbers | float = 20.0, along: float = 0.0) -> Numbers:
    """Deltas with mean 0, of which neighbouring coefficients correlate."""
    own = rng.standard_normal((*SHAPE, n))
    for at in range(1, SHAPE[2]):
        own[:, :, at] = along * own[:, :, at - 1] + np.sqrt(1 - along**2) * own[:, :, at]
    return own.reshape(N_CELLS, n) * np.reshape(noise, (-1, 1))


def test_variances_are_those_of_cells_of_the_same_label_and_coefficient() -> None:
    rng = np.random.default_rng(1)
    noise = 10.0 * np.where(COEFFICIENTS == 6, 5, 1) * np.where(LABELS == 0, 0.5, 1)
    found = moments(observe(rng, noise=noise, n=24), SPOTS).variances
    for cells in (noise == 5, noise == 10, noise == 25, noise == 50):
        assert found[cells].mean() == pytest.approx((noise[cells] ** 2).mean() / 24, rel=0.4)
    alike = moments(observe(rng), SPOTS).variances
    assert 0.7 * 40 < alike.min() < alike.max() < 1.4 * 40, "where they are alike each is that of all"


def test_variances_that_differ_are_told_apart_without_spots_too() -> None:
    noise = np.where(COEFFICIENTS == 6, 50.0, 5.0)
    found = moments(observe(np.random.default_rng(8), noise=noise)).variances
    assert found[COEFFICIENTS == 6].mean() > 20 * found[COEFFICIENTS < 6].mean() / 5


def test_what_all_cells_share_and_what_neighbours_do() -> None:
    rng = np.random.default_rng(2)
    found = moments(observe(rng, along=0.8, n=24) + 10 * rng.standard_normal(24), SPOTS)
    assert found.shared == pytest.approx(100 / 24, rel=0.8)
    assert found.along[0] > found.along[1] > found.along[2] > 0.1
    assert 0.5 < found.along[0] + found.shared / found.variances.mean() < 0.85
    slopes = found.slopes(0)
    assert slopes[1] == pytest.approx(found.shared / found.variances[0] + found.along[0], abs=0.15)
    assert slopes[7] == pytest.approx(found.shared / found.variances[0]), "of another layer"
    alone = moments(observe(rng), SPOTS)
    assert max(alone.along) < 0.1


def test_the_skewness_of_a_mean_is_that_of_its_values_over_the_root_of_their_number() -> None:
    values = np.random.default_rng(3).exponential(10, (N_CELLS, 24))
    assert moments(values, SPOTS).skewness == pytest.approx(2 / 24**0.5, rel=0.25)
    assert abs(moments(observe(np.random.default_rng(3)), SPOTS).skewness) < 0.05


def test_two_valued_scores_that_share_nothing_may_by_chance() -> None:
    rng = np.random.default_rng(4)
    known = moments(100.0 * (rng.random((N_CELLS, 10)) < 0.5), SPOTS)
    own = 2500 / 10
    # a question that was not seen has 1/12: 4 * 1/12 * 11/12 of the noise of a score
    assert known.shared == pytest.approx(own * 4 * 11 / 144, rel=0.15)
    assert known.variances.mean() == pytest.approx(own * (1 + 4 * 11 / 144), rel=0.15)


def test_a_cell_that_stands_out_in_all_labels_is_expected_where_it_is() -> None:
    rng = np.random.default_rng(5)
    deltas = observe(rng, n=5) + np.where((LAYERS == 3) & (COEFFICIENTS == 6), 30.0, 0.0)[:, None]
    known = moments(deltas, SPOTS)
    spikes = (LAYERS == 3) & (COEFFICIENTS == 6)
    assert known.expected()[spikes].mean() == pytest.approx(30, abs=6)
    assert np.abs(known.expected()[~spikes]).max() < 12 < known.means[~spikes].max()
    assert moments(deltas).expected()[spikes].mean() < known.expected()[spikes].mean() - 4, "alone they look lucky"


def test_means_no_further_apart_than_noise_are_one_mean() -> None:
    means = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert expected(means, np.full(5, 1e4), 5) == pytest.approx(np.full(5, 2.0), abs=0.2)
    assert expected(means, np.full(5, 1e-4), 5) == pytest.approx(means, abs=0.01)


def test_equal_rows_are_one_cell() -> None:
    deltas = observe(np.random.default_rng(6))
    twice = Cells.of(np.concatenate([deltas, deltas[:3]]))
    assert len(twice.cells) == N_CELLS
    picked = twice.picked([0, 1, N_CELLS], 0)
    assert len(picked.cells) == 2
    assert picked.known.means[picked.selected] == pytest.approx(deltas[0].mean())


def test_equal_rows_of_which_a_response_is_unscored_are_one_cell() -> None:
    deltas = observe(np.random.default_rng(6))
    deltas[0, 4] = np.nan
    twice, once = Cells.of(np.concatenate([deltas, deltas[:1]])), Cells.of(deltas)
    assert len(twice.cells) == N_CELLS
    assert np.isnan(twice.cells).sum() == 1
    assert twice.picked(range(N_CELLS + 1), 0).interval() == once.picked(range(N_CELLS), 0).interval()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 2])
def test_a_cell_of_which_two_responses_were_scored_at_most_has_no_interval(n: int) -> None:
    deltas = observe(np.random.default_rng(6))
    deltas[0, n:] = np.nan
    cells = Cells.of(deltas)
    assert cells.picked([0], 0).interval() is None
    assert cells.picked(range(7), 0).interval() is None
    assert cells.picked(range(7), 1).interval() is not None


def test_one_that_leads_by_far_has_the_usual_interval_within_the_simultaneous_bound() -> None:
    from scipy.special import ndtr, ndtri

    low, high, middle = _limits(50.0, 2, 0.0, 0.05)
    bound, rest = _simultaneous(2, 0.0, 0.02), 0.03 / 0.98
    assert ndtr(bound) ** 2 == pytest.approx(0.98)
    assert low == pytest.approx(-ndtri((1 - rest / 2) * ndtr(bound)), abs=1e-6)
    assert high == pytest.approx(-ndtri(rest / 2 * ndtr(bound)), abs=1e-6)
    assert abs(middle) < 0.05


def test_a_truth_below_what_another_cell_had_may_only_be_missed_on_one_side() -> None:
    from scipy.special import ndtr

    low, _, _ = _limits(0.5, 30, 0.0, 0.05)
    bound, rest = _simultaneous(30, 0.0, 0.02), 0.03 / 0.98
    assert -bound < low < -0.5
    beyond = (ndtr(bound) - ndtr(-low)) / (ndtr(bound) - ndtr(-0.5 - low))
    assert beyond == pytest.approx(rest, rel=1e-3), "so all of the error is spent there"


def test_a_skewed_cell_reaches_further_down() -> None:
    rng = np.random.default_rng(7)
    skewed = rng.exponential(20, (36, 10))
    best = int(skewed.mean(1).argmax())
    right, left = Picked.of(skewed, best).interval(), Picked.of(-skewed, int((-skewed).mean(1).argmax())).interval()
    assert right is not None
    assert left is not None
    assert skewed.mean(1)[best] - right.low > (-skewed).mean(1).max() - left.low


@pytest.mark.parametrize("n_yes", [0, 1, 2])
def test_a_baseline_of_few_yeses_may_be_worse_than_it_came_out(n_yes: int) -> None:
    rng = np.random.default_rng(9)
    baseline = np.where(np.arange(24) < n_yes, 100.0, 0.0)
    steered = 100.0 * (rng.random((N_CELLS, 24)) < 0.5)
    found = moments(steered - baseline, SPOTS)
    share = (n_yes + 2) / 28  # Agresti and Coull's
    assert (found.shared + found.unseen) ** 0.5 == pytest.approx(100 * (share * (1 - share) / 24) ** 0.5, rel=0.2)
    assert found.unseen > 0.3 * found.shared
    assert moments(rng.integers(0, 101, (N_CELLS, 24)) - baseline, SPOTS).unseen == 0.0, "scores on a scale"
