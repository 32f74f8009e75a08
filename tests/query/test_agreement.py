"""How well two readers agree: figures against scikit-learn and scipy, intervals, and what is said of them."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score

from massact.query.stats.agreement import _correlations, _ranks, agreement, banded

RNG = np.random.default_rng(3)
A = RNG.integers(0, 101, 80).astype(float)
B = np.clip(A + RNG.normal(0, 25, 80), 0, 100).round()
QUESTIONS = [f"question {i % 16}" for i in range(80)]


@pytest.mark.parametrize("n_bands", [2, 5, 101])
def test_kappas_are_scikit_learns(n_bands: int) -> None:
    found = agreement(A, B, QUESTIONS, n_bands)
    a, b, labels = banded(A, n_bands), banded(B, n_bands), list(range(n_bands))
    assert found.kappa.value == pytest.approx(cohen_kappa_score(a, b, labels=labels), abs=1e-12)
    weighted = cohen_kappa_score(a, b, labels=labels, weights="quadratic")
    assert found.weighted_kappa.value == pytest.approx(weighted, abs=1e-12)


def test_correlations_are_scipys() -> None:
    found = agreement(A, B, QUESTIONS, 5)
    assert found.pearson.value == pytest.approx(pearsonr(A, B).statistic, abs=1e-12)
    assert found.spearman.value == pytest.approx(spearmanr(A, B).statistic, abs=1e-12)


def test_a_draw_counts_as_the_responses_in_it() -> None:
    weights = RNG.integers(0, 4, 80).astype(float)
    a, b = np.repeat(A, weights.astype(int)), np.repeat(B, weights.astype(int))
    found = _correlations(weights[None], _ranks(weights[None], A), _ranks(weights[None], B))
    assert found[0] == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_the_interval_is_that_of_questions() -> None:
    """Responses to one question that are scored alike add no certainty: five times the responses, the same interval."""
    once = agreement(A[:16], B[:16], QUESTIONS[:16], 5)
    five = agreement(np.tile(A[:16], 5), np.tile(B[:16], 5), QUESTIONS[:16] * 5, 5)
    for name in ("pearson", "spearman", "kappa", "weighted_kappa"):
        a, b = getattr(once, name), getattr(five, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)
        assert a.low < a.value < a.high


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held, truth = np.random.default_rng(5), 0, 0.8
    for _ in range(100):
        x = rng.normal(size=60)
        y = truth * x + np.sqrt(1 - truth**2) * rng.normal(size=60)
        found = agreement(50 + 10 * x, 50 + 10 * y, [str(i) for i in range(60)], 5).pearson
        held += found.low is not None and found.high is not None and found.low <= truth <= found.high
    assert 88 <= held <= 99


def test_it_is_said_who_disagrees() -> None:
    assert agreement(A, B, QUESTIONS, 5).verdict == "agrees"
    assert agreement(A, 100 - B, QUESTIONS, 5).verdict == "disagrees"
    assert agreement(A, RNG.permutation(B), QUESTIONS, 5).verdict == "disagrees"


def test_too_little_says_nothing() -> None:
    assert agreement(A[:16], A[:16], QUESTIONS[:16], 5).verdict == "cannot say"
    few = agreement(A[:4], B[:4], QUESTIONS[:4], 5)
    assert few.pearson.value is not None
    assert few.pearson.low is None
    flat = agreement(A, [70.0] * 80, QUESTIONS, 5)
    assert (flat.pearson.value, flat.spearman.value, flat.verdict) == (None, None, "disagrees")
    same = agreement([90.0] * 80, [95.0] * 80, QUESTIONS, 5)
    assert (same.kappa.value, same.weighted_kappa.value, same.verdict) == (None, None, "cannot say")
