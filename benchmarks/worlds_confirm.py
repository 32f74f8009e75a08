"""How often confirmed intervals hold, what screening loses, and how sure a coherent best is, where the truth is known.

Run from the project's root: python benchmarks/worlds_confirm.py [--draws 600] [--only TABLE]

Prints tables of docs/statistics.md, each beside what was done before: Student's interval, a t bound for screening.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from massact.evaluation import coherence_bound
from massact.query.stats.coherent import Coherences, chances_of
from massact.query.stats.means import bounded_mean_interval, delta_ends, pulled_mean

Numbers = NDArray[np.float64]
FLOOR = 68.0
Draw = Callable[[np.random.Generator, int], tuple[Numbers, Numbers]]
"""Scores of so many questions, steered and unsteered."""


def _clipped(values: Numbers) -> Numbers:
    return np.clip(np.round(values), 0, 100)


def normal(rng: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
    base = _clipped(rng.normal(20, 15, n))
    return _clipped(base + rng.normal(30, 25, n)), base


def steady(rng: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
    base = _clipped(rng.normal(35, 10, n))
    return _clipped(base + rng.normal(20, 15, n)), base


def fives(rng: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
    steered, base = normal(rng, n)
    return 5 * np.round(steered / 5), 5 * np.round(base / 5)


def ceiling(rng: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
    return _clipped(rng.normal(110, 20, n)), _clipped(rng.normal(70, 25, n))


def two_valued(steered: float, base: float, noise: float = 0.0) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
        shares = np.array([[steered], [base]])
        scores = 100.0 * (rng.random((2, n)) < shares) + noise * rng.standard_normal((2, n))
        return _clipped(scores[0]), _clipped(scores[1])

    return draw


def rare(noise: float, base: float, spread: float) -> Draw:
    """Nine questions of ten move by -5 points, one by +45."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
        unsteered = _clipped(rng.normal(base, spread, n))
        effects = np.where(rng.random(n) < 0.1, 45.0, -5.0)
        return _clipped(unsteered + effects + noise * rng.standard_normal(n)), unsteered

    return draw


def rare_room(rng: np.random.Generator, n: int) -> tuple[Numbers, Numbers]:
    """Nine questions of ten are at the ceiling unsteered."""
    is_low = rng.random(n) < 0.1
    return np.where(is_low, 100.0, 97.0), np.where(is_low, 20.0, 95.0)


CONFIRMED: dict[str, Draw] = {
    "normal, 25 points": normal,
    "normal, 15 points": steady,
    "multiples of 5": fives,
    "ceiling": ceiling,
    "0/100, half to a tenth": two_valued(0.5, 0.1),
    "0/100, 0.95 to a tenth": two_valued(0.95, 0.1),
    "0/100, no effect": two_valued(0.1, 0.1),
    "0/100 with noise, no effect": two_valued(0.1, 0.1, noise=5),
    "0/100 with noise, 0.95 to 0.8": two_valued(0.95, 0.8, noise=5),
    "rare effects": rare(0, 10, 0),
    "rare effects with noise": rare(5, 20, 10),
    "rare room": rare_room,
}


def truth(draw: Draw) -> float:
    steered, base = draw(np.random.default_rng(0), 1_000_000)
    return float(steered.mean() - base.mean())


def student(values: Numbers) -> tuple[float, float]:
    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def ours(steered: Numbers, base: Numbers, confidence: float = 0.95) -> tuple[float, float]:
    return bounded_mean_interval(
        steered - base, *delta_ends(base.tolist(), steered.tolist(), "positive"), confidence=confidence
    )


def confirmations(draws: int) -> None:
    print("| world | questions | Student's holds | its width | ours holds | its width |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, draw in CONFIRMED.items():
        true = truth(draw)
        for n in (3, 5, 10, 24):
            rng, held, width = np.random.default_rng(n), np.zeros(2), np.zeros(2)
            for _ in range(draws):
                steered, base = draw(rng, n)
                for at, (low, high) in enumerate((student(steered - base), ours(steered, base))):
                    held[at] += low - 0.05 <= true <= high + 0.05
                    width[at] += min(high, 100.0) - max(low, -100.0)
            cells = zip(held / draws, width / draws, strict=True)
            print(f"| {name} | {n} | " + " | ".join(f"{h:.3f} | {w:.0f}" for h, w in cells) + " |", flush=True)


def picked(draws: int) -> None:
    """The best confirmed of several tied labels."""
    print(
        "\n| labels | of which differ by | questions | too good by | root of squared error | corrected | its | holds |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for n_labels in (2, 6):
        for spread in (0.0, 10.0):
            for n in (3, 5, 10):
                rng, held, raw, pulled = np.random.default_rng(n), 0, [], []
                for _ in range(draws):
                    base, true = rng.uniform(20, 30, n), 45 + spread * rng.standard_normal(n_labels)
                    noise = 10 * rng.standard_normal(n) + 15 * rng.standard_normal((n_labels, n))
                    steered = base + true[:, None] - 25 + noise
                    deltas = steered - base
                    best = int(deltas.mean(axis=1).argmax())
                    of_best = float(true[best]) - 25
                    raw.append(float(deltas[best].mean()) - of_best)
                    pulled.append((pulled_mean(deltas, best) or 0.0) - of_best)
                    low, _ = ours(steered[best], base, 1 - 0.05 / n_labels)
                    held += low <= of_best <= ours(steered[best], base)[1]
                figures = " | ".join(
                    f"{np.mean(some):+.1f} | {np.mean(np.square(some)) ** 0.5:.1f}" for some in (raw, pulled)
                )
                print(f"| {n_labels} | {spread:g} | {n} | {figures} | {held / draws:.3f} |", flush=True)


def at_the_floor(low: float, noise: float = 0.0) -> Callable[[np.random.Generator, int], Numbers]:
    """Coherences of a cell that is just at the floor: as many scores are low as it bears, the others 100."""

    def draw(rng: np.random.Generator, n: int) -> Numbers:
        n_low = int(n * (100 - FLOOR) / (100 - low))
        scores = np.array([low] * n_low + [100.0] * (n - n_low)) - noise * rng.random(n)
        while scores.mean() < FLOOR:
            scores = np.minimum(scores + 0.5, 100)
        return scores

    return draw


def scattered(mean: float, noise: float) -> Callable[[np.random.Generator, int], Numbers]:
    return lambda rng, n: np.clip(rng.normal(mean, noise, n), 0, 100)


SCREENED = {
    "at the floor, 0/100": at_the_floor(0),
    "at the floor, 20/100": at_the_floor(20),
    "at the floor, 45/100": at_the_floor(45),
    "at the floor, 45/100 with noise": at_the_floor(45, 10),
    "at the floor, 60/100": at_the_floor(60),
    "0 to 5": scattered(2, 3),
    "0 to 20": lambda rng, n: rng.uniform(0, 20, n),
    "30, scattered by 15": scattered(30, 15),
    "45, scattered by 15": scattered(45, 15),
}


def t_bound(asked: Numbers, n: int) -> float:
    """What screening used before."""
    k = len(asked)
    spread = max(float(asked.std(ddof=1)), 10.0)
    bound = float(asked.mean()) + float(stdtrit(k - 1, 0.99)) * spread * (1 / k - 1 / n) ** 0.5
    return float(min(bound, float(asked.sum() + 100 * (n - k)) / n))


def screening(draws: int) -> None:
    print("\n| coherence | questions | given up before | given up now |\n|---|---:|---:|---:|")
    for name, draw in SCREENED.items():
        for n in (10, 24):
            rng, stopped, total = np.random.default_rng(n), np.zeros(2), 0
            for _ in range(4 * draws):
                scores = draw(rng, n)
                if name.startswith("at") and scores.mean() < FLOOR:
                    continue
                asked, total = rng.permutation(scores)[:4], total + 1
                bounds = t_bound(asked, n), coherence_bound(asked.tolist(), n, 0.99)
                stopped += [bound < FLOOR - 1e-9 for bound in bounds]
            print(f"| {name} | {n} | " + " | ".join(f"{s:.3f}" for s in stopped / total) + " |", flush=True)


SHAPE = (6, 4, 7)
"""Labels, layers and coefficients."""


def cliffs(kind: str, rng: np.random.Generator) -> Numbers:
    """True coherence before the scale cuts it, `SHAPE`."""
    sizes = np.arange(1, SHAPE[2] + 1) / SHAPE[2]
    if kind == "one gradual curve":
        return np.broadcast_to(92 - 45 * sizes**2, SHAPE)
    of_layer = rng.uniform(0.5, 1.1, (1, SHAPE[1], 1))
    if kind == "gradual":
        return 92 / (1 + np.exp((sizes - of_layer * np.exp(0.1 * rng.standard_normal((*SHAPE[:2], 1)))) / 0.15))
    if kind == "gradual, labels unlike":
        return 92 / (1 + np.exp((sizes - rng.uniform(0.4, 1.1, (*SHAPE[:2], 1))) / 0.12))
    return np.where(sizes < rng.uniform(0.3, 1.1, (*SHAPE[:2], 1)), 92.0, 8.0)  # steep


def cut_mean(means: Numbers, noise: float) -> Numbers:
    """The mean of scores that scatter normally and are cut at 0 and 100."""
    if noise == 0:
        return np.clip(means, 0, 100)
    nodes = np.linspace(-4, 4, 161)
    weights = np.exp(-0.5 * nodes**2)
    of_means: Numbers = np.clip(means[..., None] + noise * nodes, 0, 100) @ (weights / weights.sum())
    return of_means


def floor(draws: int) -> None:
    print(
        "\n| cliff | noise | questions | bests truly coherent | their chance | its Brier score | of the cell alone "
        "| where it is 0.9 or more | at `--floor-confidence 0.9` |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for kind in ("one gradual curve", "gradual", "gradual, labels unlike", "steep"):
        for noise in (0.0, 10.0, 25.0):
            for n in (5, 10, 24):
                print(f"| {kind} | {noise:g} | {n} | " + " | ".join(_floor(kind, noise, n, draws)) + " |", flush=True)


def _floor(kind: str, noise: float, n: int, draws: int) -> list[str]:
    rng = np.random.default_rng(n)
    labels, layers, steps = (index.ravel() for index in np.indices(SHAPE))
    said, alone, true, sure = [], [], [], []
    for _ in range(max(draws // 5, 1)):
        means = cliffs(kind, rng)
        is_coherent = cut_mean(means, noise).ravel() >= FLOOR
        scores = _clipped(means[..., None] + noise * rng.standard_normal((*SHAPE, n))).reshape(-1, n)
        delta = 30 * np.clip(1.3 * (steps + 1) / SHAPE[2], 0, 1) * (0.5 + layers / 6)
        delta = delta + 20 / n**0.5 * rng.standard_normal(len(delta))
        seen, variances = scores.mean(axis=1), scores.var(axis=1, ddof=1) / n
        near = np.exp(-0.5 * ((seen[:, None] - seen[seen >= FLOOR]) / 8) ** 2) + 1e-9
        smooth = near @ variances[seen >= FLOOR] / near.sum(axis=1)
        chances = chances_of(Coherences(labels, layers, steps + 1.0, seen, smooth, 0.0), FLOOR)
        naive = ndtr((seen - FLOOR) / np.sqrt(variances + 1e-9))
        for label in range(SHAPE[0]):
            among = np.where((seen >= FLOOR) & (labels == label), delta, -np.inf)
            best = int(among.argmax())
            if np.isfinite(among[best]):
                said.append(chances[best])
                alone.append(naive[best])
                true.append(is_coherent[best])
            among = np.where(chances >= 0.9, among, -np.inf)
            if np.isfinite(among.max()):
                sure.append(is_coherent[among.argmax()])
    chance, truly = np.array(said), np.array(true, dtype=float)
    above = truly[chance >= 0.9]
    brier = [float(np.mean((np.array(some) - truly) ** 2)) for some in (said, alone)]
    return [
        f"{truly.mean():.2f}", f"{chance.mean():.2f}", f"{brier[0]:.3f}", f"{brier[1]:.3f}",
        f"{above.mean():.2f} of {len(above) / len(truly):.2f}", f"{np.mean(sure):.2f}",
    ]  # fmt: skip


PARTS = {"confirmations": confirmations, "picked": picked, "screening": screening, "floor": floor}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=600, help="made-up experiments of each kind (600)")
    parser.add_argument("--only", choices=PARTS, help="one of the tables")
    args = parser.parse_args()
    for part, table in PARTS.items():
        if args.only in (None, part):
            table(args.draws)
