"""Answers in made-up experiments whose truth is known, a few of each world: benchmarks/worlds.py measures more."""

import numpy as np
import pytest
from worlds import WORLDS, Held, World, measure

N_DRAWS = 30


def _coverage(held: Held) -> float:
    low, high, true = np.array(held.intervals).T
    return float(((low - 1e-9 <= true) & (true <= high + 1e-9)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_intervals_hold_in_every_world(world: World) -> None:
    measured = measure(world, 10, N_DRAWS)
    # of 30 intervals that hold in .95 fewer than 25 hold once in 200 times
    assert _coverage(measured.winner) >= 25 / 30
    assert _coverage(measured.label) >= 0.87
    assert _coverage(measured.difference) >= 25 / 30
    assert np.mean(measured.significant[False] or [False]) <= 5 / 30
    assert np.mean(measured.best_kept or [True]) >= 25 / 30
    errors = {name: np.sqrt(np.mean(np.square(off))) for name, off in measured.label.errors.items()}
    assert errors["delta_expected"] <= errors["delta"] + 0.5


@pytest.mark.slow
def test_the_naive_interval_of_a_winner_does_not_hold() -> None:
    (world,) = (world for world in WORLDS if world.name == "all cells equal")
    measured = measure(world, 10, N_DRAWS)
    low, high, true = np.array(measured.winner.naive).T
    assert ((low <= true) & (true <= high)).mean() < 0.7
    assert np.mean(measured.winner.errors["delta"]) > 10
    assert abs(np.mean(measured.winner.errors["delta_expected"])) < 5
