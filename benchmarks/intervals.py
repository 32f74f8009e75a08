"""How often intervals and ties hold what they should, on made-up experiments whose truth is known.

Run from the project's root: python benchmarks/intervals.py [--draws 500]

Prints the tables of docs/statistics.md. Scores scatter by 25 points, and by 10 more that the cells of a question
share; 36 cells. Three intervals of a picked best: the one of massact.query.stats.intervals, the percentile
bootstrap of the picked cell alone, and a bootstrap over questions that repeats the picking in each draw.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from massact.query.stats.intervals import winner_interval
from massact.query.stats.paired import mean_interval, tied_with_winner

Numbers = NDArray[np.float64]
N_CELLS, SHARED, OWN, N_DRAWS = 36, 10.0, 25.0, 400
Z = float(stats.norm.ppf(0.975))


def grid(_rng: np.random.Generator) -> Numbers:
    rise = 30 * np.clip(1.5 * np.linspace(0, 1, 6), 0, 1)
    return np.concatenate([rise * height for height in np.linspace(0.3, 1, 6)])


def spread(rng: np.random.Generator) -> Numbers:
    return 30 + 10 * rng.standard_normal(N_CELLS)


def equal(_rng: np.random.Generator) -> Numbers:
    return np.full(N_CELLS, 30.0)


def one(_rng: np.random.Generator) -> Numbers:
    return np.array([40.0, *[10.0] * (N_CELLS - 1)])


WORLDS = {
    "six layers x six coefficients": grid,
    "scattered by 10": spread,
    "all equal": equal,
    "one stands out": one,
}


def observe(truth: Numbers, n: int, rng: np.random.Generator) -> Numbers:
    noise = SHARED * rng.standard_normal(n) + OWN * rng.standard_normal((len(truth), n))
    return np.round(truth[:, None] + noise, 1)


def resampled(scores: Numbers, rng: np.random.Generator) -> Numbers:
    """Means over drawn questions, `[n_cells, n_draws]`."""
    n = scores.shape[1]
    means: Numbers = scores @ rng.multinomial(n, np.full(n, 1 / n), size=N_DRAWS).T / n
    return means


def repeated(scores: Numbers, rng: np.random.Generator) -> tuple[float, float]:
    """The picking repeated inside each draw, errors widened to Student's."""
    n, means = scores.shape[1], scores.mean(1)
    widen = np.sqrt(n / (n - 1))
    drawn = means[:, None] + widen * (resampled(scores, rng) - means[:, None])
    picked = drawn.argmax(0)
    errors = drawn[picked, np.arange(N_DRAWS)] - means[picked]
    low, middle, high = np.quantile(errors, [0.025, 0.5, 0.975])
    student = float(stats.t.ppf(0.975, n - 1)) / Z
    best = float(means.max())
    return best - middle - (high - middle) * student, best - middle - (low - middle) * student


def picked_bests(draws: int) -> None:
    print(
        "| true deltas | questions | ours | naive | picking repeated | too good by | `delta_unbiased` | width |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, world in WORLDS.items():
        for n in (5, 10, 20):
            print(f"| {name} | {n} | " + " | ".join(picked_best(world, n, draws)) + " |", flush=True)


def picked_best(world: Callable[[np.random.Generator], Numbers], n: int, draws: int) -> list[str]:
    rng, held = np.random.default_rng(n), np.zeros(3)
    observed = unbiased = width = 0.0
    for _ in range(draws):
        truth = world(rng)
        scores = observe(truth, n, rng)
        picked = int(scores.mean(1).argmax())
        found = winner_interval(scores, picked)
        assert found is not None
        naive = np.quantile(resampled(scores[picked : picked + 1], rng)[0], [0.025, 0.975])
        limits = [(found.low, found.high), naive, repeated(scores, rng)]
        held += [low <= truth[picked] <= high for low, high in limits]
        observed += float(scores.mean(1)[picked] - truth[picked])
        unbiased += found.estimate - float(truth[picked])
        width += found.high - found.low
    shares = [f"{one:.3f}" for one in held / draws]
    return [*shares, f"{observed / draws:.1f}", f"{unbiased / draws:+.1f}", f"{width / draws:.0f}"]


def ties(draws: int) -> None:
    print("\n| labels | questions | the best is ahead by | best kept | labels kept | stands alone |")
    print("|---:|---:|---:|---:|---:|---:|")
    for n_labels, n, ahead in (
        (2, 10, 0),
        (8, 10, 0),
        (8, 20, 0),
        (12, 10, 0),
        (8, 10, 20),
        (8, 10, 40),
        (8, 20, 40),
    ):
        rng = np.random.default_rng(0)
        kept = size = alone = 0
        for _ in range(draws):
            truth = np.full(n_labels, 30.0)
            truth[0] += ahead
            scores = (
                truth[:, None] + SHARED * rng.standard_normal(n) + 20 * rng.standard_normal((n_labels, n))
            )
            winner = int(scores.mean(1).argmax())
            labels = {winner, *(tied_with_winner(scores, winner) or ())}
            kept, size, alone = kept + (0 in labels), size + len(labels), alone + (len(labels) == 1)
        shares = f"{kept / draws:.3f} | {size / draws:.1f} | {alone / draws:.2f}"
        print(f"| {n_labels} | {n} | {ahead} | {shares} |", flush=True)


def differences(draws: int) -> None:
    print("\n| differences | questions | Student's (ours) | BCa | bootstrap-t |\n|---|---:|---:|---:|---:|")
    kinds: dict[str, tuple[Callable[[np.random.Generator, int], Numbers], float]] = {
        "normal": (lambda rng, n: rng.normal(10, 25, n), 10),
        "most near zero, some large": (
            lambda rng, n: np.where(rng.random(n) < 0.3, rng.normal(60, 10, n), rng.normal(0, 5, n)),
            18,
        ),
        "at the ends of the scale": (
            lambda rng, n: 100 * (rng.beta(0.5, 0.5, n) - rng.beta(0.5, 0.8, n)),
            50 - 100 * 0.5 / 1.3,
        ),
    }
    for name, (draw, truth) in kinds.items():
        for n in (10, 20):
            rng, held = np.random.default_rng(n), np.zeros(3)
            for _ in range(draws):
                values = draw(rng, n)
                bca = stats.bootstrap(
                    (values,), np.mean, n_resamples=999, method="BCa", rng=rng
                ).confidence_interval
                limits = [mean_interval(values), bca, studentised(values, rng)]
                held += [low <= truth <= high for low, high in limits]
            print(f"| {name} | {n} | " + " | ".join(f"{one:.3f}" for one in held / draws) + " |", flush=True)


def studentised(values: Numbers, rng: np.random.Generator) -> tuple[float, float]:
    n, mean, error = len(values), values.mean(), values.std(ddof=1) / len(values) ** 0.5
    drawn = values[rng.integers(0, n, (999, n))]
    errors = drawn.std(axis=1, ddof=1) / n**0.5
    ratios = ((drawn.mean(axis=1) - mean) / np.where(errors > 0, errors, np.nan))[errors > 0]
    high, low = np.quantile(ratios, [0.975, 0.025])
    return mean - high * error, mean - low * error


def confirmations(draws: int) -> None:
    """A picked best on fresh questions: how far off it is before and after, and whether the interval holds."""
    print("\n| true deltas | choose | confirm | selected too good by | confirmed | interval | width |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, world in WORLDS.items():
        for n_choosing, n_confirming in ((10, 5), (10, 10)):
            rng, held = np.random.default_rng(n_choosing + n_confirming), 0
            selected = confirmed = width = 0.0
            for _ in range(draws):
                truth = world(rng)
                scores = observe(truth, n_choosing, rng)
                picked = int(scores.mean(1).argmax())
                again = observe(truth[[picked]], n_confirming, rng)[0]
                low, high = mean_interval(again)
                held += bool(low <= truth[picked] <= high)
                selected += float(scores.mean(1)[picked] - truth[picked])
                confirmed += float(again.mean() - truth[picked])
                width += high - low
            figures = f"{selected / draws:.1f} | {confirmed / draws:+.1f} | {held / draws:.3f} | {width / draws:.0f}"
            print(f"| {name} | {n_choosing} | {n_confirming} | {figures} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=500, help="made-up experiments of each kind (500)")
    n_draws = parser.parse_args().draws
    picked_bests(n_draws)
    ties(n_draws)
    differences(n_draws)
    confirmations(n_draws)
