"""Extraction on synthetic activations: how prompts are split, what is made of them, and means by hand."""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from massact.config import VectorConfig
from massact.domain import METHODS, Cleaning, Recipe, Response
from massact.errors import DataError
from massact.evaluation import summarise
from massact.labels import format_label, parse_label
from massact.sweep.vectors import StoredVectors
from massact.vectors import extract, methods
from massact.vectors.activations import Activations, split_sides
from massact.vectors.extract import clean_after, declared_recipes, make_vectors
from massact.vectors.massive_dims import Calibration, LayerMassive
from massact.vectors.methods import ProbeDidNotConvergeWarning, cosine, extract_vector, normalise, zero_dims

N_LAYERS, D_MODEL = 3, 16
OWN_DIMS = ((4, 9, 0, 1, 2), (9, 4, 5, 6, 7), (9, 10, 4, 11, 12))
UNIFORM = (4, 9)  # three layers each; 4 appears first
CALIBRATION = Calibration(
    tuple(LayerMassive(dims, (1.0,) * 5, (1.0,) * 5, 0.5, 10.0, 1.0) for dims in OWN_DIMS), 50, 1600
)


def numbered(n: int, first: float = 0.0) -> torch.Tensor:
    """`[n, 2, 3]`, row i filled with first + i."""
    return (torch.arange(n, dtype=torch.float32) + first)[:, None, None].expand(n, 2, 3).clone()


def row_numbers(rows: torch.Tensor) -> list[float]:
    assert rows.shape[1:] == (2, 3)
    return [float(row[0, 0]) for row in rows]


@pytest.fixture(scope="module")
def activations() -> Activations:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(N_LAYERS, D_MODEL, generator=generator)
    direction[:, list(UNIFORM)] *= 5
    noise = torch.randn(2, 40, N_LAYERS, D_MODEL, generator=generator)
    noise[..., list(UNIFORM)] += 300.0
    neutral = torch.randn(10, N_LAYERS, D_MODEL, generator=generator)
    return split_sides(noise[0] + direction, noise[1] - direction, 0.1, neutral=neutral)


# split_sides


@pytest.mark.parametrize(
    ("n", "split", "n_validation"),
    [(10, 0.1, 1), (10, 0.0, 0), (10, 0.5, 5), (7, 0.25, 2), (4, 0.1, 0), (100, 0.1, 10)],
)
def test_the_last_share_of_each_side_is_kept_for_validation(n: int, split: float, n_validation: int) -> None:
    made = split_sides(numbered(n), numbered(n, 1000), split)
    n_train = n - n_validation
    assert row_numbers(made.train) == [*range(n_train), *range(1000, 1000 + n_train)]
    assert row_numbers(made.validation) == [*range(n_train, n), *range(1000 + n_train, 1000 + n)]
    assert (made.n_train_positive, made.n_validation_positive, made.n_dropped) == (n_train, n_validation, 0)


def test_sides_of_unequal_length_are_split_each_by_its_own_share() -> None:
    made = split_sides(numbered(10), numbered(20, 1000), 0.2)
    assert (made.n_train_positive, len(made.train)) == (8, 8 + 16)
    assert (made.n_validation_positive, len(made.validation)) == (2, 2 + 4)
    positive, negative = made.sides(1)
    assert positive[:, 0].tolist() == [*range(8)]
    assert negative[:, 0].tolist() == [*range(1000, 1016)]
    positive, negative = made.validation_sides(0)
    assert positive[:, 0].tolist() == [8, 9]
    assert negative[:, 0].tolist() == [*range(1016, 1020)]


def test_rows_without_a_window_are_dropped_and_counted() -> None:
    positive, negative = numbered(6), numbered(6, 1000)
    positive[1] = torch.nan
    negative[[0, 5]] = torch.nan
    made = split_sides(positive, negative, 0.25)
    assert made.n_dropped == 3
    assert row_numbers(made.train) == [0, 2, 3, 4, 1001, 1002, 1003]  # round(5 x 0.25) = round(4 x 0.25) = 1
    assert row_numbers(made.validation) == [5, 1004]
    assert not made.train.isnan().any()


@pytest.mark.parametrize(
    ("n_positive", "n_negative", "message"),
    [(1, 9, "1 positive and 9 negative"), (9, 1, "9 positive and 1 negative"), (0, 0, "0 positive and 0 negative")],
)
def test_too_few_prompts_are_refused_with_their_count(n_positive: int, n_negative: int, message: str) -> None:
    with pytest.raises(DataError, match=f"{message} prompts remain"):
        split_sides(numbered(n_positive), numbered(n_negative), 0.0)


def test_too_few_prompts_after_dropping_are_refused() -> None:
    positive = numbered(5)
    positive[1:] = torch.nan
    with pytest.raises(DataError, match=r"1 positive and 5 negative prompts remain.*wider window"):
        split_sides(positive, numbered(5), 0.0)


# declared_recipes


def test_every_cleaning_is_declared_before_and_after_and_once() -> None:
    uniform, layer = (1, 2, 3, 5, 10, "all"), (1, 2, 3)
    recipes = declared_recipes(METHODS, uniform, layer)
    expected = {Recipe(method) for method in METHODS} | {
        Recipe(method, Cleaning(when, scope, n))
        for method, when in itertools.product(METHODS, ("before", "after"))
        for scope, dims in (("uniform", uniform), ("layer", layer))
        for n in dims
    }
    assert set(recipes) == expected
    assert len(recipes) == len(expected) == 7 * (1 + 2 * (6 + 3))


def test_what_is_declared_covers_the_plans_methods() -> None:
    labels = {format_label(recipe) for recipe in declared_recipes(["mean_diff", "probe"], (1, 2, 3, 5, "all"), (2,))}
    suffixes = ("", "_top1", "_top2", "_top3", "_top5", "_cleaned", "_preclean", "_preclean_la2", "_postclean_la2")
    assert {method + suffix for method in ("mean_diff", "probe") for suffix in suffixes} <= labels
    assert not any(label.startswith(("gradient", "random")) for label in labels)


# make_vectors


def test_a_vector_without_a_direction_is_named(activations: Activations) -> None:
    alike = split_sides(activations.train[:9], activations.train[:9], 0.0)
    with pytest.raises(DataError, match=r"^mean_diff_top1 at layer 0: a vector has no direction"):
        make_vectors([parse_label("mean_diff_top1")], alike, CALIBRATION, seed=0)


def test_every_label_has_a_unit_vector_at_every_layer(activations: Activations) -> None:
    recipes = declared_recipes(METHODS, (1, "all"), (2,))
    made = make_vectors(recipes, activations, CALIBRATION, seed=0)
    assert list(made) == [format_label(recipe) for recipe in recipes]
    for label, one in made.items():
        assert one.recipe == parse_label(label)
        assert one.vectors.shape == (N_LAYERS, D_MODEL)
        assert one.vectors.dtype == torch.float32
        assert one.vectors.double().norm(dim=1).tolist() == pytest.approx([1.0] * N_LAYERS, abs=1e-6)
        assert len(one.separations) == N_LAYERS
        assert one.unconverged_layers == ()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("suffix", "zeros"),
    [
        ("", ((), (), ())),
        ("_top1", ((4,), (4,), (4,))),
        ("_top10", (UNIFORM,) * 3),  # the list holds two
        ("_preclean", (UNIFORM,) * 3),
        ("_postclean_la1", ((4,), (9,), (9,))),
        ("_preclean_la2", ((4, 9), (9, 4), (9, 10))),
        ("_preclean_la", OWN_DIMS),
    ],
)
def test_exactly_the_dims_of_the_cleaning_are_zero(
    activations: Activations, method: str, suffix: str, zeros: Sequence[Sequence[int]]
) -> None:
    made = make_vectors([parse_label(method + suffix)], activations, CALIBRATION, seed=0)
    vectors = made[method + suffix].vectors
    assert [set((row == 0).nonzero().flatten().tolist()) for row in vectors] == [set(dims) for dims in zeros]


@pytest.mark.parametrize("method", METHODS)
def test_cleaning_after_starts_from_the_uncleaned_vector(activations: Activations, method: str) -> None:
    labels = [method, f"{method}_top1", f"{method}_cleaned"]
    made = make_vectors([parse_label(label) for label in labels], activations, CALIBRATION, seed=3)
    for layer in range(N_LAYERS):
        uncleaned = made[method].vectors[layer]
        for label, dims in (("_top1", UNIFORM[:1]), ("_cleaned", UNIFORM)):
            by_hand = uncleaned.double().clone()
            by_hand[list(dims)] = 0
            by_hand /= by_hand.norm()
            assert float((made[method + label].vectors[layer] - by_hand).abs().max()) < 1e-6


def test_a_probe_is_fitted_once_for_all_that_is_cleaned_after(
    activations: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Recipe] = []

    def counting(recipe: Recipe, *args: Any, **kwargs: Any) -> torch.Tensor:
        fitted.append(recipe)
        return extract_vector(recipe, *args, **kwargs)

    monkeypatch.setattr(extract, "extract_vector", counting)
    labels = ["probe_top1", "probe", "probe_cleaned", "probe_postclean_la2", "probe_preclean"]
    make_vectors([parse_label(label) for label in labels], activations, CALIBRATION, seed=0)
    assert fitted == [Recipe("probe")] * N_LAYERS + [parse_label("probe_preclean")] * N_LAYERS


def test_a_vector_does_not_depend_on_what_else_is_made(activations: Activations) -> None:
    together = make_vectors(declared_recipes(METHODS, (1,), (1,)), activations, CALIBRATION, seed=0)
    for label, one in together.items():
        alone = make_vectors([parse_label(label)], activations, CALIBRATION, seed=0)[label]
        assert torch.equal(alone.vectors, one.vectors)


def test_before_and_after_agree_for_mean_diff_and_not_for_a_probe(activations: Activations) -> None:
    labels = ["mean_diff_cleaned", "mean_diff_preclean", "probe_cleaned", "probe_preclean"]
    made = make_vectors([parse_label(label) for label in labels], activations, CALIBRATION, seed=0)
    for layer in range(N_LAYERS):
        mean_after, mean_before, probe_after, probe_before = (made[label].vectors[layer] for label in labels)
        assert cosine(mean_after, mean_before) > 0.9999999
        assert cosine(probe_after, probe_before) < 0.9999


def test_each_layer_draws_its_own_random_direction(activations: Activations) -> None:
    recipe = [Recipe("random_baseline")]
    one, two = (make_vectors(recipe, activations, CALIBRATION, seed=s)["random_baseline"].vectors for s in (0, 1))
    pairs = itertools.combinations([*one, *two], 2)
    assert all(abs(cosine(a, b)) < 0.9 for a, b in pairs)
    assert torch.equal(one, make_vectors(recipe, activations, CALIBRATION, seed=0)["random_baseline"].vectors)


def test_probes_that_did_not_converge_are_named_by_layer_and_do_not_warn_twice(
    activations: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "PROBE_ITERATIONS", 1)
    labels = ["probe", "probe_top1", "probe_preclean", "mean_diff"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProbeDidNotConvergeWarning)
        made = make_vectors([parse_label(label) for label in labels], activations, CALIBRATION, seed=0)
    # probe_top1 has no probe of its own
    assert {label: one.unconverged_layers for label, one in made.items()} == {
        "probe": (0, 1, 2),
        "probe_top1": (),
        "probe_preclean": (0, 1, 2),
        "mean_diff": (),
    }


def test_the_planted_direction_tells_the_validation_split_apart(activations: Activations) -> None:
    made = make_vectors([Recipe("mean_diff"), Recipe("random_baseline")], activations, CALIBRATION, seed=0)
    assert {label: len(one.separations) for label, one in made.items()} == {
        "mean_diff": N_LAYERS,
        "random_baseline": N_LAYERS,
    }
    for one in made["mean_diff"].separations:
        assert one.accuracy == 1.0
        assert one.effect_size > 5


def test_nothing_to_clean_leaves_the_very_vector() -> None:
    vector = normalise(torch.tensor([1.0, 2.0, 3.0]))
    after = Cleaning("after", "uniform", 1)
    assert clean_after(vector, after, ()) is vector
    assert torch.equal(clean_after(vector, after, (0,)), normalise(zero_dims(vector, (0,))))
    assert clean_after(vector, Cleaning("after", "uniform", 1, "keep"), (0,)).tolist() == [1.0, 0.0, 0.0]


def test_dims_are_kept_by_the_list_that_a_label_names(activations: Activations) -> None:
    labels = ("mean_diff_postkeep", "probe_prekeep_la2", "random_baseline_postkeep_u1")
    made = make_vectors([parse_label(label) for label in labels], activations, CALIBRATION, seed=0)
    kept = [[set(vector.nonzero()[:, 0].tolist()) for vector in made[label].vectors] for label in labels]
    assert kept == [[{4, 9}] * 3, [{4, 9}, {9, 4}, {9, 10}], [{4}] * 3]


def test_a_layer_whose_kept_dims_agree_has_no_vector_and_stops_no_other(activations: Activations) -> None:
    train = activations.train.clone()
    train[:, 0, list(UNIFORM)] = 300.0
    agreeing = replace(activations, train=train)
    labels = ("mean_diff_postkeep", "mean_diff_prekeep", "mean_diff")
    made = make_vectors([parse_label(label) for label in labels], agreeing, CALIBRATION, seed=0)
    assert [made[label].vectors.norm(dim=1).round().tolist() for label in labels] == [[0, 1, 1], [0, 1, 1], [1, 1, 1]]
    train[:, 1] = 300.0
    for label in ("mean_diff_postkeep", "mean_diff"):
        with pytest.raises(DataError, match=r"mean_diff at layer 1: a vector has no direction"):
            make_vectors([parse_label(label)], agreeing, CALIBRATION, seed=0)


def test_a_layer_of_another_tool_that_cleaning_leaves_nothing_of_stops_no_other(tmp_path: Path) -> None:
    kept = torch.nn.functional.one_hot(torch.tensor([4, 0, 9]), D_MODEL).float()
    torch.save(kept, tmp_path / "lab.pt")
    experiment = SimpleNamespace(resolve=tmp_path.joinpath)
    stored: Any = SimpleNamespace(
        _imported=[VectorConfig("imported_lab", "lab.pt")],
        _session=SimpleNamespace(experiment=experiment),
        calibration=CALIBRATION,
    )
    for label, layers in (("imported_lab_cleaned", [1]), ("imported_lab_postkeep", [0, 2])):
        vectors = StoredVectors._read_imported(stored, parse_label(label), label)
        assert vectors.any(dim=1).nonzero().flatten().tolist() == layers


def test_mean_centred_takes_neutral_prompts_for_the_other_side(activations: Activations) -> None:
    made = make_vectors([Recipe("mean_centred")], activations, CALIBRATION, seed=0)["mean_centred"].vectors
    for layer in range(N_LAYERS):
        assert activations.neutral is not None
        expected = activations.sides(layer)[0].double().mean(0) - activations.neutral[:, layer].double().mean(0)
        assert cosine(made[layer], expected) > 0.9999999
    without = split_sides(numbered(4), numbered(4, 9), 0.0)
    with pytest.raises(DataError, match="mean_centred needs activations of neutral prompts"):
        make_vectors([Recipe("mean_centred")], without, CALIBRATION, seed=0)


def test_neutral_prompts_without_a_window_are_left_out() -> None:
    neutral = numbered(3, 50)
    neutral[1] = torch.nan
    made = split_sides(numbered(4), numbered(4, 9), 0.0, neutral=neutral)
    assert made.neutral is not None
    assert made.neutral[:, 0, 0].tolist() == [50, 52]
    assert made.n_dropped == 0
    with pytest.raises(DataError, match="no neutral prompt has a token in the window"):
        split_sides(numbered(4), numbered(4, 9), 0.0, neutral=neutral[[1]])


# summarise


def _response(trait: float | None, coherence: float | None) -> Response:
    return Response("q", "r", trait, coherence)


def test_means_are_of_the_responses_with_both_scores() -> None:
    summary = summarise([_response(10, 80), _response(40, 60), _response(None, 5), _response(99, None)])
    assert (summary.trait_mean, summary.coherence_mean) == (25, 70)
    assert summary.trait_std == pytest.approx(450**0.5)  # the sample's: (15^2 + 15^2) / 1
    assert summary.coherence_std == pytest.approx(200**0.5)
    assert (summary.n_scored, summary.n_unscored) == (2, 2)


@pytest.mark.parametrize("responses", [[], [_response(None, None)], [_response(50, None), _response(None, 50)]])
def test_nothing_scored_has_no_mean_and_not_zero(responses: list[Response]) -> None:
    summary = summarise(responses)
    assert (summary.trait_mean, summary.coherence_mean) == (None, None)
    assert (summary.trait_std, summary.coherence_std) == (None, None)
    assert (summary.n_scored, summary.n_unscored) == (0, len(responses))


def test_a_scored_zero_counts_and_one_score_has_no_spread() -> None:
    summary = summarise([_response(0, 0)])
    assert (summary.trait_mean, summary.coherence_mean, summary.n_scored) == (0, 0, 1)
    assert (summary.trait_std, summary.coherence_std) == (None, None)
