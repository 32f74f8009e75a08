"""Facts about the vectors of a ladder, from the calibration and the extraction that the store holds."""

import math
from collections.abc import Iterable

import torch

from massact.domain import Recipe
from massact.phases.vectors import StoredVectors
from massact.pipeline.activations import Activations
from massact.prediction.prior import VectorFacts
from massact.vectors.geometry import cosine, massive_energy, relative_strength, separation


def facts_of(
    vectors: StoredVectors,
    position: str,
    recipe: Recipe,
    layers: Iterable[int],
    *,
    with_activations: bool = False,
) -> dict[int, VectorFacts]:
    """Facts about one recipe's vector at each layer, without evaluating anything.

    Args:
        with_activations: also what takes reading the extraction's activations.

    Raises:
        MissingPrerequisiteError: nothing was extracted at that position.
    """
    own, uncleaned = vectors.of(position, recipe), vectors.of(position, recipe.uncleaned)
    activations = vectors.activations(position) if with_activations else None
    calibration = vectors.calibration
    dims, last = calibration.uniform_dims, len(calibration.layers) - 1
    found = {}
    for layer in layers:
        vector, magnitudes = own[layer], calibration.layers[layer]
        found[layer] = VectorFacts(
            method=recipe.method,
            layer=layer,
            depth=layer / last if last else 0.0,
            unit_strength=relative_strength(
                vector, 1.0, dims=dims, norm_without_massive=magnitudes.norm_without_massive
            ),
            norm=magnitudes.norm,
            norm_without_massive=magnitudes.norm_without_massive,
            massive_energy=massive_energy(vector, dims),
            cosine_to_uncleaned=cosine(vector, uncleaned[layer]),
            cosine_to_mean=None if activations is None else _cosine_to_mean(vector, activations, layer),
            effect_size=None if activations is None else _effect_size(vector, activations, layer),
        )
    return found


def _cosine_to_mean(vector: torch.Tensor, activations: Activations, layer: int) -> float:
    return cosine(vector, activations.train[:, layer].double().mean(dim=0))


def _effect_size(vector: torch.Tensor, activations: Activations, layer: int) -> float | None:
    found = separation(vector, activations.sides(layer), activations.validation_sides(layer)).effect_size
    return None if math.isnan(found) else found
