"""Massive dims: which dimensions of the residual stream are far larger than the rest.

Found from neutral prompts. The magnitudes are those of Sun et al., "Massive Activations in Large
Language Models" (2024); the uniform list is the plan's: top 5 at three layers or more.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from massact.domain import AllDims, Cleaning, Recipe
from massact.errors import DataError, UsageError
from massact.labels import format_label

UNIFORM_TOP, UNIFORM_LAYERS = 5, 3
"""The uniform list: dims in the top `UNIFORM_TOP` at `UNIFORM_LAYERS` layers or more."""


@dataclass(frozen=True, slots=True)
class LayerMassive:
    """Magnitudes at one layer, in the residual stream's own unit."""

    top_dims: tuple[int, ...]
    """Dims by absolute mean activation, largest first."""
    ratio_to_median: tuple[float, ...]
    """Absolute mean activation of each top dim over the median of all dims'."""
    ratio_to_mean: tuple[float, ...]
    """Absolute mean activation of each top dim over the mean of all dims'."""
    mean_alignment: float
    """Mean cosine between a token's activation and the layer's mean activation, -1 to 1."""
    norm: float
    """Mean L2 norm of a token's activation."""
    norm_without_massive: float
    """The same with the uniform list's dims zeroed."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What neutral prompts tell about a model's massive dims."""

    layers: tuple[LayerMassive, ...]
    n_prompts: int
    n_tokens: int

    @property
    def uniform_dims(self) -> tuple[int, ...]:
        """The uniform list."""
        return uniform_dims([layer.top_dims for layer in self.layers])

    def dims(self, cleaning: Cleaning, layer: int) -> tuple[int, ...]:
        """The dims that a cleaning zeroes at a layer; fewer than asked where the list is shorter.

        Raises:
            UsageError: each layer's own list is shorter than the cleaning asks for.
        """
        if cleaning.when == "none":
            return ()
        if cleaning.scope == "uniform":
            return self.uniform_dims if cleaning.n_dims == "all" else self.uniform_dims[: cleaning.n_dims]
        dims = self.layers[layer].top_dims
        n_dims: int | AllDims = UNIFORM_TOP if cleaning.n_dims == "all" else cleaning.n_dims
        if n_dims == "all" or n_dims > len(dims):
            raise UsageError(
                f"{cleaning.n_dims} dims of each layer are asked for, calibration kept {len(dims)}: "
                "raise calibration.n_top in the experiment file and calibrate again"
            )
        return dims[:n_dims]


def check_cleaning(recipe: Recipe, n_uniform: int) -> None:
    """Refuse a label that says more dims than are cleaned.

    Args:
        n_uniform: dims of the model's uniform list.

    Raises:
        UsageError: the recipe cleans more dims than the list has.
    """
    cleaning = recipe.cleaning
    if cleaning.scope == "uniform" and cleaning.n_dims != "all" and cleaning.n_dims > n_uniform:
        every = format_label(replace(recipe, cleaning=replace(cleaning, n_dims="all")))
        raise UsageError(
            f"{format_label(recipe)} asks for {cleaning.n_dims} massive dims, the model's uniform list has "
            f"{n_uniform}: write {every}, which cleans all of them, or a smaller number"
        )


def uniform_dims(top_dims_by_layer: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Dims in the top 5 at three layers or more, by that count, ties by first appearance."""
    counts = Counter(dim for dims in top_dims_by_layer for dim in dims[:UNIFORM_TOP])
    return tuple(dim for dim, count in counts.most_common() if count >= UNIFORM_LAYERS)


def calibration_json(calibration: Calibration, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The calibration in the schema that the plan's one-liners read, our own figures beside it."""
    layers = {str(index): layer for index, layer in enumerate(calibration.layers)}
    return {
        **provenance,
        "is_calibration": True,
        "aggregate": {
            "n_prompts": calibration.n_prompts,
            "n_tokens": calibration.n_tokens,
            "uniform_dims": list(calibration.uniform_dims),
            "top_dims_by_layer": {key: list(layer.top_dims) for key, layer in layers.items()},
            "ratio_to_median_by_layer": {key: list(layer.ratio_to_median) for key, layer in layers.items()},
            "ratio_to_mean_by_layer": {key: list(layer.ratio_to_mean) for key, layer in layers.items()},
            "mean_alignment_by_layer": {key: layer.mean_alignment for key, layer in layers.items()},
            "layer_norms": {key: layer.norm for key, layer in layers.items()},
            "layer_norms_without_massive": {k: layer.norm_without_massive for k, layer in layers.items()},
        },
    }


def parse_calibration(document: Mapping[str, Any]) -> Calibration:
    """The calibration that `calibration_json` wrote.

    Raises:
        DataError: a key is missing or of the wrong shape.
    """
    try:
        aggregate = document["aggregate"]
        layers = tuple(
            LayerMassive(
                top_dims=tuple(int(dim) for dim in aggregate["top_dims_by_layer"][key]),
                ratio_to_median=tuple(aggregate["ratio_to_median_by_layer"][key]),
                ratio_to_mean=tuple(aggregate["ratio_to_mean_by_layer"][key]),
                mean_alignment=float(aggregate["mean_alignment_by_layer"][key]),
                norm=float(aggregate["layer_norms"][key]),
                norm_without_massive=float(aggregate["layer_norms_without_massive"][key]),
            )
            for key in (str(index) for index in range(len(aggregate["top_dims_by_layer"])))
        )
        return Calibration(layers, int(aggregate["n_prompts"]), int(aggregate["n_tokens"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"calibration.json is not one of ours: {error!r}; run massact calibrate") from error
