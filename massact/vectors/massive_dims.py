"""Massive dims: which dimensions of the residual stream are far larger than the rest.

Found from neutral prompts. The uniform list is the plan's: top 5 by |mean| at three layers or more, at every token as a
bias is. Sun et al., "Massive Activations in Large Language Models" (2024), compare |h| of single tokens with the median
|h|, and find the largest at the first token, an attention sink: those are told apart (`sink_dims`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from massact.domain import AllDims, Cleaning, Recipe
from massact.errors import DataError, UsageError
from massact.json_text import parse_object, read_as
from massact.labels import format_label, format_layers

UNIFORM_TOP, UNIFORM_LAYERS = 5, 3  # the uniform list: dims in the top `UNIFORM_TOP` at `UNIFORM_LAYERS` layers or more
SINK_TIMES, SINK_MEDIANS = 10, 100
"""Of a sink's dim: |h| at the first token over that at response tokens, and over the median |h| of those."""


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """How large |h| is at tokens of one kind and layer, in the residual stream's own unit."""

    dims: tuple[int, ...]
    mean: tuple[float, ...]  # mean |h| of each dim
    largest: tuple[float, ...]  # greatest |h| of each dim at any token
    median: float  # mean |h| of the median dim
    norm: float  # mean L2 norm

    @property
    def max_to_median(self) -> float:
        """Sun et al.'s ratio: the greatest |h| over the median |h|."""
        return max(self.largest) / self.median


@dataclass(frozen=True, slots=True)
class LayerMassive:
    """Magnitudes at one layer, in the residual stream's own unit."""

    top_dims: tuple[int, ...]  # dims by absolute mean activation, largest first
    ratio_to_median: tuple[float, ...]
    """|mean| of each top dim over the median of all dims' |mean|; not Sun et al.'s ratio, see `Magnitudes`."""
    ratio_to_mean: tuple[float, ...]  # absolute mean activation of each top dim over the mean of all dims'
    mean_alignment: float  # mean cosine between a token's activation and the layer's mean activation, -1 to 1
    norm: float  # mean L2 norm of a token's activation
    norm_without_massive: float  # the same with the uniform list's dims zeroed
    response: Magnitudes | None = None
    """Of the top dims at response tokens; `None`, as of all that follow: an earlier version calibrated."""
    prompt: Magnitudes | None = None  # of the largest dims at prompt tokens but the first
    first: Magnitudes | None = None  # of the largest dims at the first token
    sink_dims: tuple[int, ...] = ()  # dims that are massive at the first token alone, largest first


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

    @property
    def sink(self) -> str:
        """In words, what the first token holds that others do not; empty where it holds nothing."""
        layers = {index: layer for index, layer in enumerate(self.layers) if layer.sink_dims and layer.first}
        if not layers:
            return ""
        dims = sorted({layer.sink_dims[0] for layer in layers.values()})
        times = max(layer.first.norm / layer.norm for layer in layers.values() if layer.first)
        at = f"layer{'s'[: len(layers) > 1]} {format_layers(layers)}"
        return (
            f"dim{'s'[: len(dims) > 1]} {', '.join(map(str, dims))} at {at}; "
            f"the norm of the first token is up to {times:,.0f} times that of response tokens"
        )

    def dims(self, cleaning: Cleaning, layer: int) -> tuple[int, ...]:
        """The dims that a cleaning zeroes at a layer; fewer than asked where the list is shorter. Raises UsageError:
        each layer's own list is shorter than the cleaning asks for."""
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
    """Refuse a label that says more dims than are cleaned. `n_uniform`: dims of the model's uniform list. Raises
    UsageError: the recipe cleans more dims than the list has."""
    cleaning = recipe.cleaning
    if cleaning.scope == "uniform" and cleaning.n_dims != "all" and cleaning.n_dims > n_uniform:
        every = format_label(replace(recipe, cleaning=replace(cleaning, n_dims="all")))
        raise UsageError(
            f"{format_label(recipe)} asks for {cleaning.n_dims} massive dims, the model's uniform list has "
            f"{n_uniform}: write {every}, which cleans all of them, or a smaller number"
        )


def find_sink(first: Sequence[float], others: Sequence[float], median: float) -> tuple[int, ...]:
    """Dims that are massive at the first token alone, largest first. `first`: mean |h| of each dim at the first token.
    `others`: the same at response tokens. `median`: that of the median dim of those."""
    found = [
        dim
        for dim, (at_first, elsewhere) in enumerate(zip(first, others, strict=True))
        if at_first >= SINK_TIMES * elsewhere and at_first >= SINK_MEDIANS * median
    ]
    return tuple(sorted(found, key=lambda dim: -first[dim]))


def uniform_dims(top_dims_by_layer: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Dims in the top 5 at three layers or more, by that count, ties by first appearance."""
    counts = Counter(dim for dims in top_dims_by_layer for dim in dims[:UNIFORM_TOP])
    return tuple(dim for dim, count in counts.most_common() if count >= UNIFORM_LAYERS)


_BY_LAYER = {
    **{f"{name}_by_layer": name for name in ("top_dims", "ratio_to_median", "ratio_to_mean", "mean_alignment")},
    "layer_norms": "norm",
    "layer_norms_without_massive": "norm_without_massive",
    "sink_dims_by_layer": "sink_dims",
    **{f"{kind}_magnitudes_by_layer": kind for kind in ("response", "prompt", "first")},
}
"""Keys of the file -> fields of a layer."""


def calibration_json(calibration: Calibration, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The calibration in the schema that the plan's one-liners read, our own figures beside it."""
    layers = [asdict(layer) for layer in calibration.layers]
    by_layer = {
        key: {str(index): layer[name] for index, layer in enumerate(layers) if layer[name] is not None}
        for key, name in _BY_LAYER.items()
    }
    return {
        **provenance,
        "is_calibration": True,
        "aggregate": {
            "n_prompts": calibration.n_prompts,
            "n_tokens": calibration.n_tokens,
            "uniform_dims": calibration.uniform_dims,
            **{key: values for key, values in by_layer.items() if values},
        },
    }


def parse_calibration(document: Mapping[str, Any]) -> Calibration:
    """The calibration that `calibration_json` wrote. Raises DataError: a key is missing or of the wrong shape."""
    try:
        aggregate = document["aggregate"]
        layers = [
            {name: aggregate[key][index] for key, name in _BY_LAYER.items() if index in aggregate.get(key, ())}
            for index in map(str, range(len(aggregate["top_dims_by_layer"])))
        ]
        counts = {name: int(aggregate[name]) for name in ("n_prompts", "n_tokens")}
        return Calibration(read_as(tuple[LayerMassive, ...], layers), **counts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"calibration.json is not one of ours: {error!r}; run massact calibrate") from error


def read_calibration(path: Path) -> Calibration:
    """The calibration in a `calibration.json`. Raises DataError: the file is not one of ours."""
    try:
        return parse_calibration(parse_object(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run massact calibrate") from error
