"""What a label needs besides its vector: strengths over depth, the subspace of `replace`, where a gate opens.

All that a cell steers by is kept as one tensor, `[n_rows, d_model]`, or `[d_model]` where it is one row: for each layer
its vector, or what `replace` takes (`subspace`); last the condition vector of a gate. Its digest stands in the key."""

from collections.abc import Sequence
from typing import Literal

import torch

from massact.domain import EVERY_LAYER, Cleaning, Recipe, Steering
from massact.errors import DataError
from massact.models.prompting import Intervention
from massact.vectors.methods import clean

Sides = tuple[torch.Tensor, torch.Tensor]


def depth_weights(recipe: Recipe, units: Sequence[float]) -> tuple[float, ...]:
    """What the coefficient is multiplied by at each layer, 1 where it is greatest; empty: 1 everywhere. `units`:
    relative strength of coefficient 1 at each layer; `relative` has all as strong as the first."""
    n = len(units)
    if recipe.depth in (None, EVERY_LAYER):
        return ()
    weights = {
        "rising": [(i + 1) / n for i in range(n)],
        "falling": [(n - i) / n for i in range(n)],
        "triangle": [min(i + 1, n - i) / ((n + 1) // 2) for i in range(n)],
        "relative": [units[0] / unit for unit in units],
    }[str(recipe.depth)]
    return tuple(float(f"{weight:.6g}") for weight in weights)


def subspace(
    vector: torch.Tensor, sides: Sides, cleaning: Cleaning, dims: Sequence[int], n_directions: int
) -> torch.Tensor:
    """What `replace` takes at a layer, `[n_directions + 2, d_model]`, float32.
    First an orthonormal basis V: the vector, and the principal components of what is left without it of the contrastive
    activations, about the middle of the two sides' means, cleaned as the vector is. Then V^T V m, and V^T V (n - m), of
    the negative side's mean m and the positive side's n.
    Raises DataError: the activations do not span so many directions."""
    positive, negative = (side.double() for side in sides)
    m, n = negative.mean(0), positive.mean(0)
    cleaned = [clean(side, cleaning, dims) for side in (positive, negative)]
    rows = torch.cat(cleaned) - (cleaned[0].mean(0) + cleaned[1].mean(0)) / 2
    v = vector.double()
    _, sizes, components = torch.linalg.svd(rows - torch.outer(rows @ v, v), full_matrices=False)
    if int((sizes > 1e-6 * rows.norm()).sum()) < n_directions - 1:
        raise DataError(f"{len(rows)} contrastive activations do not span {n_directions} directions: write fewer")
    basis = torch.cat([v[None], components[: n_directions - 1]])
    put = torch.stack([m, n - m]) @ basis.T @ basis
    return torch.cat([basis, put]).float()


def midpoint(condition: torch.Tensor, sides: Sides, measure: Literal["projection", "cosine"]) -> float:
    """The threshold of a gate that lies half-way between the two sides' means, of six digits."""
    means = []
    for side in sides:
        along = side.double() @ condition.double()
        means.append(float((along / side.double().norm(dim=-1) if measure == "cosine" else along).mean()))
    return float(f"{sum(means) / 2:.6g}")


def intervention_of(steering: Steering, rows: torch.Tensor, n_blocks: int) -> Intervention:
    """What is done to the stream of a model of so many blocks by a cell that steers by such rows."""
    recipe, layer = steering.recipe, steering.layer
    vectors = rows.reshape(-1, rows.shape[-1])
    condition = None
    if steering.condition is not None:
        vectors, condition = vectors[:-1], vectors[-1]
    if recipe.operator == "replace":
        vectors = vectors.reshape(recipe.n_layers, -1, rows.shape[-1])
    if recipe.depth == EVERY_LAYER:
        layer, vectors = 0, vectors.expand(n_blocks, *vectors.shape[1:])
    vector = vectors[0] if len(vectors) == 1 and vectors.ndim == 2 else vectors
    weights, decay, gate = steering.weights, recipe.decay or 1.0, steering.condition
    how = (recipe.operator, recipe.tokens, weights, decay, gate, condition)
    return Intervention(layer, vector, steering.coefficient, *how)
