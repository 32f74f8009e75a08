"""Vectors: planted directions are recovered, cleaning is exact, and every figure agrees with one by hand."""

import contextlib
import hashlib
import io
import json
import math
import struct
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.domain import METHODS, NO_CLEANING, Cleaning, Recipe
from massact.errors import DataError, UsageError
from massact.labels import parse_label
from massact.vectors import methods
from massact.vectors.massive_dims import (
    Calibration,
    LayerMassive,
    calibration_json,
    check_cleaning,
    parse_calibration,
    uniform_dims,
)
from massact.vectors.methods import (
    ProbeDidNotConvergeWarning,
    cosine,
    extract_vector,
    massive_energy,
    normalise,
    relative_strength,
    separation,
    vector_digest,
    zero_dims,
)

D_MODEL = 64
MASSIVE = (3, 40)
AFTER, BEFORE = (Cleaning(when, "uniform", 2) for when in ("after", "before"))
Sides = tuple[torch.Tensor, torch.Tensor]


def planted(n: int = 200, *, shift: float = 6.0, massive: float = 0.0, seed: int = 0) -> tuple[Sides, torch.Tensor]:
    """Two sides of noise, moved apart along a unit direction, on top of constant massive dims."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(D_MODEL, generator=generator)
    direction = direction / direction.norm()
    base = torch.zeros(D_MODEL)
    base[list(MASSIVE)] = massive
    noise = torch.randn(2, n, D_MODEL, generator=generator)
    return (base + noise[0] + shift * direction, base + noise[1] - shift * direction), direction


def extract(method: str, sides: Sides, cleaning: Cleaning = NO_CLEANING, *, seed: int = 0) -> torch.Tensor:
    dims = MASSIVE[: cleaning.n_dims] if isinstance(cleaning.n_dims, int) else MASSIVE
    return extract_vector(Recipe(method, cleaning), *sides, dims=dims, seed=seed)


# methods


@pytest.mark.parametrize(
    ("method", "at_least"), [("mean_diff", 0.99), ("probe", 0.95), ("pca", 0.99), ("lat", 0.99), ("mean_centred", 0.99)]
)
def test_a_planted_direction_is_recovered(method: str, at_least: float) -> None:
    sides, direction = planted()
    assert cosine(extract(method, sides), direction) > at_least


@pytest.mark.parametrize("method", ["mean_diff", "probe", "pca", "mean_centred"])
def test_swapping_the_sides_turns_the_vector_round(method: str) -> None:
    (positive, negative), _ = planted()
    assert cosine(extract(method, (positive, negative)), extract(method, (negative, positive))) < -0.9999


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cleaning", [NO_CLEANING, AFTER, BEFORE], ids=["none", "after", "before"])
def test_every_method_keeps_the_contract_of_a_vector(method: str, cleaning: Cleaning) -> None:
    sides, _ = planted(40, massive=100.0)
    copies = [side.clone() for side in sides]
    vector = extract(method, sides, cleaning)
    assert vector.shape == (D_MODEL,)
    assert vector.dtype == torch.float32
    assert not vector.requires_grad
    assert float(vector.double().norm()) == pytest.approx(1, abs=1e-6)
    zeros = {dim for dim in range(D_MODEL) if vector[dim] == 0}
    assert zeros == (set() if cleaning == NO_CLEANING else set(MASSIVE))
    assert torch.equal(vector, extract(method, sides, cleaning))
    assert all(torch.equal(side, copy) for side, copy in zip(sides, copies, strict=True))


def test_mean_diff_by_hand() -> None:
    positive = torch.tensor([[2.0, 5.0, 1.0], [4.0, 3.0, 1.0]])  # mean 3, 4, 1
    negative = torch.tensor([[1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])  # mean 0, 0, 1
    vector = extract_vector(Recipe("mean_diff"), positive, negative, dims=(), seed=0)
    assert vector.tolist() == pytest.approx([0.6, 0.8, 0.0])
    for cleaning in (AFTER, BEFORE):
        cleaned = extract_vector(Recipe("mean_diff", cleaning), positive, negative, dims=(0,), seed=0)
        assert cleaned.tolist() == [0.0, 1.0, 0.0]


def test_mean_diff_before_and_after_are_the_same_direction() -> None:
    # 80 % and more of the difference's energy lies in the massive dims, as on gemma-3-4b
    (positive, negative), _ = planted(massive=30_000.0)
    positive[:, list(MASSIVE)] += 40.0
    before, after = (extract("mean_diff", (positive, negative), cleaning) for cleaning in (BEFORE, AFTER))
    uncleaned = extract("mean_diff", (positive, negative))
    assert massive_energy(uncleaned, MASSIVE) > 0.8
    assert cosine(before, after) > 0.9999
    assert cosine(before, normalise(zero_dims(uncleaned, MASSIVE))) > 0.9999999


def test_a_small_difference_survives_beside_massive_dims() -> None:
    # sums of 4096 rows of 30000 pass 2^24, where float32 counts in steps of 8; bfloat16 steps by 128 at 30000
    step = 2.0**-8
    rows = torch.randint(-8, 9, (2048, D_MODEL), generator=torch.Generator().manual_seed(1)).float() * step
    negative = torch.cat([rows, -rows]) + 50.0
    negative[:, list(MASSIVE)] += 30_000.0
    difference = torch.zeros(D_MODEL)
    difference[5], difference[6], difference[MASSIVE[0]] = 3 * step, 4 * step, 12 * step
    vector = extract("mean_diff", (negative + difference, negative))
    expected = torch.zeros(D_MODEL, dtype=torch.float64)
    expected[5], expected[6], expected[MASSIVE[0]] = 3 / 13, 4 / 13, 12 / 13
    assert float((vector - expected).abs().max()) < 1e-6
    for cleaning in (BEFORE, AFTER):
        cleaned = extract("mean_diff", (negative + difference, negative), cleaning)
        assert cleaned[[5, 6]].tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


def test_activations_of_half_precision_are_read_as_float32() -> None:
    sides, _ = planted(50)
    half: Sides = (sides[0].bfloat16(), sides[1].bfloat16())
    exact: Sides = (half[0].float(), half[1].float())
    for method in METHODS:
        assert torch.equal(extract(method, half), extract(method, exact))


def test_a_probes_before_and_after_differ() -> None:
    # scaled to unit norm, a row counts for less the more massive it is; not so once that is cleaned away
    (positive, negative), _ = planted(40, shift=0.3)
    for side in (positive, negative):
        side[:, list(MASSIVE)] = torch.linspace(0, 100, 40)[:, None]
    before, after = (extract("probe", (positive, negative), cleaning) for cleaning in (BEFORE, AFTER))
    assert cosine(before, after) < 0.99
    before, after = (extract("mean_diff", (positive, negative), cleaning) for cleaning in (BEFORE, AFTER))
    assert cosine(before, after) > 0.9999999


def test_a_probe_does_not_see_how_long_a_row_is() -> None:
    sides, _ = planted(40)
    lengths = torch.linspace(0.5, 8, 40)[:, None]
    scaled: Sides = (sides[0] * lengths, sides[1] * lengths)
    assert cosine(extract("probe", scaled), extract("probe", sides)) > 0.999999
    assert cosine(extract("mean_diff", scaled), extract("mean_diff", sides)) < 0.999999


def test_a_gradient_moves_from_its_random_start_towards_mean_diff() -> None:
    sides, _ = planted()
    target, start = extract("mean_diff", sides), extract("random_baseline", sides, seed=5)
    moved = extract("gradient", sides, seed=5)
    assert cosine(moved, target) > cosine(start, target) + 0.3
    assert cosine(moved, target) < 0.9999  # it stops before it gets there, as documented


def test_pca_agrees_with_the_conventions_of_repeng() -> None:
    from sklearn.decomposition import PCA

    (positive, negative), direction = planted(60, shift=3.0, seed=3)
    positive += torch.linspace(-2, 2, 60)[:, None] * torch.eye(D_MODEL)[7]
    differences = (positive - negative).double().numpy()
    # its `pca_center`: both halves of each pair about their middle, so that the mean of all rows is zero
    centred = PCA(n_components=1).fit(np.concatenate([differences, -differences]) / 2).components_[0]
    votes = np.sign(differences @ centred).sum()
    made = extract("pca", (positive, negative))
    assert cosine(made, torch.from_numpy(centred * np.sign(votes))) > 0.999999
    # its default `pca_diff` centres the differences: what all pairs share is gone, and so is the planted direction
    without_mean = torch.from_numpy(PCA(n_components=1).fit(differences).components_[0])
    assert abs(cosine(without_mean, direction)) < 0.2
    assert cosine(made, direction) > 0.95


def test_the_sign_of_pca_is_that_of_most_pairs() -> None:
    # three pairs of four project higher, the fourth lower by more than they do together
    positive = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-9.0, 0.0]])
    assert float(extract_vector(Recipe("pca"), positive, torch.zeros(4, 2), dims=(), seed=0)[0]) > 0.99
    even = torch.tensor([[1.0, 0.0], [-9.0, 0.0]])  # a tie goes by the mean
    assert float(extract_vector(Recipe("pca"), even, torch.zeros(2, 2), dims=(), seed=0)[0]) < -0.99
    with pytest.raises(DataError, match="3 positive and 2 negative"):
        extract_vector(Recipe("pca"), positive[:3], torch.zeros(2, 2), dims=(), seed=0)


def test_lat_is_the_first_component_of_random_pairs() -> None:
    from sklearn.decomposition import PCA

    (positive, negative), _ = planted(25, shift=3.0, seed=4)
    positive = positive[:24]  # 49 prompts: one is left out
    rows = torch.cat([positive, negative]).double().numpy()
    order = torch.randperm(49, generator=torch.Generator().manual_seed(9)).numpy()
    differences = np.stack([rows[order[i]] - rows[order[i + 1]] for i in range(0, 48, 2)])
    component = PCA(n_components=1).fit(differences).components_[0]
    higher = positive.double().numpy().mean(0) @ component > negative.double().numpy().mean(0) @ component
    made = extract("lat", (positive, negative), seed=9)
    assert cosine(made, torch.from_numpy(component if higher else -component)) > 0.999999
    assert not torch.equal(made, extract("lat", (positive, negative), seed=10))


def test_the_random_baseline_depends_on_its_seed_alone() -> None:
    sides, others = planted(seed=1)[0], planted(seed=2)[0]
    one = extract("random_baseline", sides, seed=7)
    assert torch.equal(one, extract("random_baseline", others, seed=7))
    assert abs(cosine(one, extract("random_baseline", sides, seed=8))) < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_may_be_a_date(method: str) -> None:
    # extraction multiplies the file's seed by 1000: scikit-learn refuses what takes more than 32 bits
    extract(method, planted(10)[0], seed=20_251_231 * 1000 + 33)


def test_a_probe_that_does_not_converge_warns(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    sides, _ = planted(40)
    extract("probe", sides)
    assert not recwarn.list
    monkeypatch.setattr(methods, "PROBE_ITERATIONS", 1)
    with pytest.warns(ProbeDidNotConvergeWarning, match="did not converge in 1 iterations"):
        extract("probe", sides)


# no direction


@pytest.mark.parametrize("method", ["mean_diff", "probe", "gradient", "pca"])
def test_sides_that_do_not_differ_have_no_direction(method: str) -> None:
    rows = planted(10)[0][0]
    with pytest.raises(DataError, match="no direction"):
        extract(method, (rows, rows.clone()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_vector_cleaned_of_every_dim_has_no_direction(method: str, when: Any) -> None:
    sides, _ = planted(10)
    recipe = Recipe(method, Cleaning(when, "uniform", "all"))
    with pytest.raises(DataError, match="no direction"):
        extract_vector(recipe, *sides, dims=range(D_MODEL), seed=0)


@pytest.mark.parametrize("values", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_what_has_no_direction_is_not_normalised(values: list[float]) -> None:
    with pytest.raises(DataError, match="zero or not finite"):
        normalise(torch.tensor(values))


@pytest.mark.parametrize("method", ["mean_diff", "probe", "gradient", "pca", "lat"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_activations_that_overflowed_have_no_direction(method: str, value: float) -> None:
    (positive, negative), _ = planted(10)
    positive[0, 0] = value
    with pytest.raises(DataError, match="overflowed"):
        extract(method, (positive, negative))


# cleaning


@pytest.mark.parametrize("when", ["before", "after"])
def test_keeping_dims_is_the_opposite_of_zeroing_them(when: Any) -> None:
    (positive, negative), _ = planted(40)
    kept = extract("mean_diff", (positive, negative), Cleaning(when, "uniform", 2, "keep"))
    assert kept.nonzero()[:, 0].tolist() == list(MASSIVE)
    difference = (positive.double().mean(0) - negative.double().mean(0))[list(MASSIVE)]
    assert kept[list(MASSIVE)].tolist() == pytest.approx((difference / difference.norm()).tolist(), abs=1e-6)


def test_winsorising_cuts_off_what_is_massive() -> None:
    (positive, negative), direction = planted(60, massive=300.0)
    positive[:, MASSIVE[0]] += 5 * torch.randn(60, generator=torch.Generator().manual_seed(6)) + 50
    winsorised = Cleaning("before", mode="winsorise", quantile=0.9)
    made = extract("mean_diff", (positive, negative), winsorised)
    rows = [side.double().numpy() for side in (positive, negative)]
    limits = [np.quantile(np.abs(side), 0.9, axis=1, keepdims=True) for side in rows]
    cut = [np.clip(side, -limit, limit) for side, limit in zip(rows, limits, strict=True)]
    assert cosine(made, torch.from_numpy(cut[0].mean(0) - cut[1].mean(0))) > 0.99999
    assert cosine(made, direction) > 0.9
    assert cosine(extract("mean_diff", (positive, negative)), direction) < 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"when": "after", "mode": "winsorise", "quantile": 0.9},
        {"when": "before", "mode": "winsorise"},
        {"when": "before", "mode": "winsorise", "quantile": 1.0},
        {"when": "before", "scope": "uniform", "n_dims": 1, "quantile": 0.9},
        {"mode": "keep"},
    ],
)
def test_a_cleaning_says_all_that_it_needs_and_no_more(wrong: Any) -> None:
    with pytest.raises(ValueError, match="Cleaning"):
        Cleaning(**wrong)


def test_normalise_by_hand() -> None:
    unit = normalise(torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64))
    assert unit.dtype == torch.float32
    assert unit.tolist() == pytest.approx([0.6, 0.0, -0.8])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20).filter(any))
def test_a_normalised_vector_has_unit_norm(values: list[float]) -> None:
    vector = torch.tensor(values)
    if float(vector.double().norm()) < 1e-100:
        return
    assert float(normalise(vector).double().norm()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_zeroing_leaves_the_input_and_the_other_dims_alone(shape: tuple[int, ...]) -> None:
    values = torch.arange(1.0, 1 + math.prod(shape)).reshape(shape)
    before = values.clone()
    cleaned = zero_dims(values, (3, 0))
    assert torch.equal(values, before)
    assert torch.equal(cleaned[..., [1, 2, 4]], before[..., [1, 2, 4]])
    assert int((cleaned[..., [0, 3]] != 0).sum()) == 0
    assert torch.equal(zero_dims(values, ()), before)


@pytest.mark.parametrize("dim", [5, -1, 443])
def test_a_dim_that_does_not_exist_is_refused(dim: int) -> None:
    with pytest.raises(DataError, match=f"dim {dim} does not exist in a stream of 5 dims.*massact calibrate"):
        zero_dims(torch.ones(5), (0, dim))


# geometry


def test_cosine_by_hand() -> None:
    assert cosine(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])) == pytest.approx(24 / 25)
    assert cosine(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])) == 0
    assert cosine(torch.tensor([1.0, 1.0]), torch.tensor([-3.0, -3.0])) == pytest.approx(-1)


@pytest.mark.parametrize(("dims", "energy"), [((), 0.0), ((0,), 0.36), ((1,), 0.64), ((1, 0), 1.0), ((2,), 0.0)])
def test_massive_energy_by_hand(dims: tuple[int, ...], energy: float) -> None:
    assert massive_energy(torch.tensor([3.0, -4.0, 0.0]), dims) == pytest.approx(energy)


@pytest.mark.parametrize(
    ("coefficient", "dims", "strength"),
    [(100.0, (0,), 2.0), (100.0, (), 2.5), (-100.0, (1,), -1.5), (100.0, (0, 1), 0.0)],
)
def test_relative_strength_by_hand(coefficient: float, dims: tuple[int, ...], strength: float) -> None:
    vector = torch.tensor([0.6, 0.8])  # without dim 0: 0.8 x 100 / 40 = 2
    assert relative_strength(vector, coefficient, dims=dims, norm_without_massive=40.0) == pytest.approx(strength)


def test_relative_strength_puts_the_published_coefficients_on_one_axis() -> None:
    # DESIGN.md: mean_diff at 2500 with E = 0.81 lands at 0.97, probe at 1200 with E = 0.42 at 0.82; |h| = 1120
    for energy, coefficient, strength in ((0.81, 2500, 0.97), (0.89, 2500, 0.74), (0.42, 1200, 0.82)):
        vector = torch.tensor([math.sqrt(energy), math.sqrt(1 - energy)])
        found = relative_strength(vector, coefficient, dims=(0,), norm_without_massive=1120.0)
        assert found == pytest.approx(strength, abs=0.006)


def _on_an_axis(*values: float) -> torch.Tensor:
    return torch.tensor([[value, 7.0] for value in values])


AXIS = torch.tensor([1.0, 0.0])
TRAIN = (_on_an_axis(4, 6), _on_an_axis(0, 2))  # the middle of the means 5 and 1 is 3


def test_separation_by_hand() -> None:
    # right: 7 and 9 above 3, 1 and 3 not above it; wrong: none. d = (8 - 2) / sqrt(2)
    one = separation(AXIS, TRAIN, (_on_an_axis(7, 9), _on_an_axis(1, 3)))
    assert one.accuracy == 1.0
    assert one.effect_size == pytest.approx(6 / math.sqrt(2))


def test_separation_counts_errors_of_both_sides_and_pools_unequal_sides() -> None:
    # right: 5, 4, 0; wrong: 8, 10. The validation's own middle, 5.25, would find one right only.
    # Variances 0.5 (of 2) and 28 (of 3), pooled: (0.5 x 1 + 28 x 2) / 3
    one = separation(AXIS, TRAIN, (_on_an_axis(5, 4), _on_an_axis(0, 8, 10)))
    assert one.accuracy == pytest.approx(3 / 5)
    assert one.effect_size == pytest.approx((4.5 - 6) / math.sqrt(56.5 / 3))


def test_separation_without_enough_validation_is_nan_and_not_zero() -> None:
    nothing = separation(AXIS, TRAIN, (_on_an_axis(5), torch.empty(0, 2)))
    assert math.isnan(nothing.accuracy)
    assert math.isnan(nothing.effect_size)
    single = separation(AXIS, TRAIN, (_on_an_axis(5), _on_an_axis(1, 2)))
    assert single.accuracy == 1.0
    assert math.isnan(single.effect_size)
    no_spread = separation(AXIS, TRAIN, (_on_an_axis(5, 5), _on_an_axis(1, 1)))
    assert math.isnan(no_spread.effect_size)


def test_a_digest_is_of_little_endian_float32() -> None:
    expected = hashlib.sha256(struct.pack("<3f", 0.5, -1.0, 0.1)).hexdigest()
    assert vector_digest(torch.tensor([0.5, -1.0, 0.1])) == expected
    assert vector_digest(torch.tensor([0.5, -1.0, 0.1], dtype=torch.float64)) == expected
    assert vector_digest(torch.tensor([0.5, -1.0, 0.1000001])) != expected


# massive dims


@pytest.mark.parametrize(
    ("layers", "dims"),
    [
        ([], ()),
        ([[9], [9]], ()),  # two layers are too few
        ([[9], [9], [9]], (9,)),
        ([[1, 9], [9, 1], [1, 9]], (1, 9)),  # a tie: dim 1 appears first
        ([[9, 1], [9, 1], [1, 9]], (9, 1)),
        ([[5, 1, 9], [9, 1], [9, 1], [9, 5], [5]], (9, 5, 1)),  # 4, 3 and 3: dim 5 appears before dim 1
        ([[1, 9], [1, 9], [1, 9], [9]], (9, 1)),  # the count comes before the appearance
        ([[0, 1, 2, 3, 4, 9], [9], [9]], ()),  # sixth place does not count
        ([[0, 1, 2, 3, 9], [9], [9]], (9,)),  # fifth does
    ],
)
def test_the_uniform_list_is_the_plans(layers: list[list[int]], dims: tuple[int, ...]) -> None:
    assert uniform_dims(layers) == dims


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=8, unique=True), max_size=8))
def test_the_uniform_list_agrees_with_the_plans_own_script(layers: list[list[int]]) -> None:
    every = [dim for dims in layers for dim in dims[:5]]
    counts = {dim: every.count(dim) for dim in every}
    assert list(uniform_dims(layers)) == sorted((d for d, c in counts.items() if c >= 3), key=lambda d: -counts[d])


def layer(*top_dims: int) -> LayerMassive:
    ratios = tuple(100.0 / (place + 1) for place in range(len(top_dims)))
    return LayerMassive(top_dims, ratios, tuple(ratio / 3 for ratio in ratios), 0.75, 25_984.0, 1120.5)


CALIBRATION = Calibration(
    (layer(11, 22, 33, 44, 55, 66), layer(22, 11, 77, 88, 99, 12), layer(22, 13, 11, 14, 15, 16)), 50, 1600
)
"""Dims 11 and 22 are in the top 5 at three layers, both three times: 11 appears first."""


@pytest.mark.parametrize(
    ("cleaning", "at_layer", "dims"),
    [
        (NO_CLEANING, 0, ()),
        (Cleaning("after", "uniform", 1), 0, (11,)),
        (Cleaning("after", "uniform", 1), 1, (11,)),
        (Cleaning("before", "uniform", 2), 2, (11, 22)),
        (Cleaning("after", "uniform", 10), 0, (11, 22)),  # the list is shorter
        (Cleaning("before", "uniform", "all"), 0, (11, 22)),
        (Cleaning("after", "layer", 1), 0, (11,)),
        (Cleaning("after", "layer", 1), 1, (22,)),
        (Cleaning("before", "layer", 3), 2, (22, 13, 11)),
        (Cleaning("before", "layer", 6), 0, (11, 22, 33, 44, 55, 66)),
        (Cleaning("after", "layer", "all"), 1, (22, 11, 77, 88, 99)),
    ],
)
def test_a_cleaning_names_its_dims(cleaning: Cleaning, at_layer: int, dims: tuple[int, ...]) -> None:
    assert CALIBRATION.dims(cleaning, at_layer) == dims


def test_more_of_a_layers_own_dims_than_were_kept_are_refused() -> None:
    with pytest.raises(UsageError, match=r"7 dims of each layer .* kept 6: raise calibration\.n_top"):
        CALIBRATION.dims(Cleaning("before", "layer", 7), 0)


@pytest.mark.parametrize("label", ["probe_top3", "probe_preclean_u99", "mean_diff_top10"])
def test_a_label_that_says_more_dims_than_there_are_is_refused(label: str) -> None:
    recipe = parse_label(label)
    with pytest.raises(
        UsageError, match=rf"{label} asks for \d+ massive dims, the model's uniform list has 2"
    ) as caught:
        check_cleaning(recipe, 2)
    every = "probe_preclean" if "pre" in label else f"{recipe.method}_cleaned"
    assert f"write {every}, which cleans all" in str(caught.value)
    for allowed in ("probe", "probe_top2", "probe_cleaned", "probe_preclean_u1", "probe_preclean_la5"):
        check_cleaning(parse_label(allowed), 2)


def test_a_calibration_survives_its_file() -> None:
    text = json.dumps(calibration_json(CALIBRATION, {"model": "gemma-3-4b"}), allow_nan=False)
    assert json.loads(text)["model"] == "gemma-3-4b"
    assert parse_calibration(json.loads(text)) == CALIBRATION


def test_a_calibration_of_more_than_ten_layers_keeps_their_order() -> None:
    many = replace(CALIBRATION, layers=tuple(layer(*range(n, n + 5)) for n in range(12)))
    document = json.loads(json.dumps(calibration_json(many, {}), sort_keys=True))  # "10" now stands before "2"
    assert parse_calibration(document) == many


def test_the_plans_own_one_liner_reads_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = tuple(layer(443, 1365, 1980, 295, 1209, n) for n in range(16))
    text = json.dumps(calibration_json(Calibration(layers, 50, 1600), {}))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    plan = "import sys,json; d=json.load(sys.stdin); print('Dims:', d['aggregate']['top_dims_by_layer']['15'][:5])"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(plan, {})
    assert out.getvalue() == "Dims: [443, 1365, 1980, 295, 1209]\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.clear(),
        lambda document: document.update(aggregate=None),
        lambda document: document.update(aggregate=[1]),
        lambda document: document["aggregate"].pop("top_dims_by_layer"),
        lambda document: document["aggregate"].pop("n_prompts"),
        lambda document: document["aggregate"].pop("layer_norms_without_massive"),
        lambda document: document["aggregate"]["layer_norms"].pop("1"),
        lambda document: document["aggregate"]["layer_norms"].update({"1": None}),
        lambda document: document["aggregate"]["top_dims_by_layer"].update({"1": ["x"]}),
        lambda document: document["aggregate"]["top_dims_by_layer"].update({"01": [1]}),
        lambda document: document["aggregate"].update(top_dims_by_layer=[[1]]),
    ],
)
def test_a_damaged_calibration_is_refused(damage: Any) -> None:
    document = json.loads(json.dumps(calibration_json(CALIBRATION, {})))
    damage(document)
    with pytest.raises(DataError, match=r"calibration\.json is not one of ours.*massact calibrate"):
        parse_calibration(document)
