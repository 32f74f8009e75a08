"""Extraction: contrastive prompts are continued by the base model, read, and made into vectors."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from massact.domain import AllDims, Cleaning, Recipe, Scope, When
from massact.labels import format_label
from massact.models.load import SteerableModel
from massact.pipeline.activations import Activations, split_sides, window_means
from massact.pipeline.contrast import Contrast, continue_contrast
from massact.pipeline.dataset import TraitDataset
from massact.pipeline.progress import Progress, silent
from massact.vectors.cleaning import normalise, zero_dims
from massact.vectors.geometry import Separation, separation
from massact.vectors.massive import Calibration
from massact.vectors.methods import ProbeDidNotConvergeWarning, extract_vector
from massact.vectors.positions import Position


@dataclass(frozen=True, slots=True)
class LabelVectors:
    """One label's vectors at every layer."""

    recipe: Recipe
    vectors: torch.Tensor
    """`[n_layers, d_model]`, float32, each of unit L2 norm."""
    separations: tuple[Separation, ...]
    """How well each layer's vector tells the validation split apart."""
    unconverged_layers: tuple[int, ...] = ()
    """Layers whose probe reached its last iteration."""


def read_contrast(
    model: SteerableModel,
    dataset: TraitDataset,
    positions: Sequence[Position],
    *,
    max_new_tokens: int,
    validation_split: float,
    progress: Progress = silent,
) -> dict[Position, Activations]:
    """Activations of a trait's contrastive prompts at several windows, from one pass."""
    contrast = continue_contrast(model, dataset, max_new_tokens=max_new_tokens, progress=progress)
    means = read_windows(model, contrast, positions, progress=progress)
    n_positive = contrast.n_positive
    return {
        position: split_sides(rows[:n_positive], rows[n_positive:], validation_split)
        for position, rows in means.items()
    }


def read_windows(
    model: SteerableModel,
    contrast: Contrast,
    positions: Sequence[Position],
    *,
    progress: Progress = silent,
) -> dict[Position, torch.Tensor]:
    """`[n_prompts, n_layers, d_model]` at each window, NaN where it holds no token."""
    means = window_means(model, contrast.texts, positions, what="reading activations", progress=progress)
    return dict(zip(positions, means, strict=True))


def declared_recipes(
    methods: Iterable[str], uniform_dims: Sequence[int | AllDims], layer_dims: Sequence[int | AllDims]
) -> tuple[Recipe, ...]:
    """Every method, uncleaned and with each cleaning, before and after."""
    lists: tuple[tuple[Scope, Sequence[int | AllDims]], ...] = (
        ("uniform", uniform_dims),
        ("layer", layer_dims),
    )
    whens: tuple[When, ...] = ("after", "before")
    cleanings = [Cleaning()] + [Cleaning(w, scope, n) for scope, dims in lists for n in dims for w in whens]
    return tuple(Recipe(method, cleaning) for method in methods for cleaning in cleanings)


def make_vectors(
    recipes: Sequence[Recipe],
    activations: Activations,
    calibration: Calibration,
    *,
    seed: int,
    progress: Progress = silent,
) -> dict[str, LabelVectors]:
    """Vectors of every recipe at every layer, by label.

    Cleaning after starts from the uncleaned vector, so a probe is fitted once for all of them.
    """
    uncleaned: dict[tuple[str, int], torch.Tensor] = {}
    made: dict[str, LabelVectors] = {}
    with progress("making vectors", len(recipes)) as advance:
        for recipe in recipes:
            made[format_label(recipe)] = _label_vectors(recipe, activations, calibration, seed, uncleaned)
            advance(1)
    return made


def _label_vectors(
    recipe: Recipe,
    activations: Activations,
    calibration: Calibration,
    seed: int,
    uncleaned: dict[tuple[str, int], torch.Tensor],
) -> LabelVectors:
    vectors, separations, unconverged = [], [], []
    for layer in range(len(calibration.layers)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ProbeDidNotConvergeWarning)
            vectors.append(_vector(recipe, activations, calibration, layer, seed, uncleaned))
        if any(issubclass(warning.category, ProbeDidNotConvergeWarning) for warning in caught):
            unconverged.append(layer)
        separations.append(
            separation(vectors[-1], activations.sides(layer), activations.validation_sides(layer))
        )
    return LabelVectors(recipe, torch.stack(vectors), tuple(separations), tuple(unconverged))


def _vector(
    recipe: Recipe,
    activations: Activations,
    calibration: Calibration,
    layer: int,
    seed: int,
    uncleaned: dict[tuple[str, int], torch.Tensor],
) -> torch.Tensor:
    positive, negative = activations.sides(layer)
    dims = calibration.dims(recipe.cleaning, layer)
    layer_seed = seed * 1000 + layer
    if recipe.cleaning.when == "before":
        return extract_vector(recipe, positive, negative, dims=dims, seed=layer_seed)
    place = (recipe.method, layer)
    if place not in uncleaned:
        uncleaned[place] = extract_vector(recipe.uncleaned, positive, negative, dims=(), seed=layer_seed)
    return clean_after(uncleaned[place], dims)


def clean_after(vector: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """A unit vector `[d_model]` with dims zeroed and the norm restored; itself where there are none."""
    return normalise(zero_dims(vector, dims)) if dims else vector


def validation_metrics(made: Mapping[str, LabelVectors]) -> Iterable[tuple[str, int, Separation]]:
    """(label, layer, separation) of every vector."""
    return ((label, layer, one) for label, v in made.items() for layer, one in enumerate(v.separations))
