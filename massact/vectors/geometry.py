"""Plain figures about vectors: where their energy lies, how well they separate, what they are called by."""

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from massact.vectors.methods import zero_dims


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a vector tells the two sides of the validation split apart."""

    accuracy: float
    """Share told apart by the midpoint of the training projections, 0 to 1; NaN without a split."""
    effect_size: float
    """Cohen's d of the projections: difference of means over the pooled standard deviation."""


def vector_digest(vector: torch.Tensor) -> str:
    """SHA-256, in hex, of the vector `[d_model]` as little-endian float32."""
    return hashlib.sha256(vector.detach().cpu().float().numpy().astype("<f4").tobytes()).hexdigest()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of the angle between two vectors `[d_model]`, in float64."""
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def massive_energy(vector: torch.Tensor, dims: Sequence[int]) -> float:
    """Share of a vector's squared norm that lies in the given dims, 0 to 1."""
    squared = vector.double() ** 2
    return float(squared[list(dims)].sum() / squared.sum())


def relative_strength(
    vector: torch.Tensor, coefficient: float, *, dims: Sequence[int], norm_without_massive: float
) -> float:
    """coefficient x |v without massive dims| / mean |h without massive dims|: one axis for all methods.

    A vector with a share E of its energy in massive dims moves the rest of the stream by
    coefficient x sqrt(1 - E) only (docs/design/relative-strength.md).
    """
    return float(coefficient * zero_dims(vector.double(), dims).norm() / norm_without_massive)


def separation(
    vector: torch.Tensor,
    train: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
) -> Separation:
    """Validation accuracy and effect size of a vector `[d_model]`.

    Args:
        train: activations of the positive and the negative side, `[n, d_model]` each.
        validation: the same of the prompts that were kept out.
    """
    v = vector.double()
    middle = sum(float((side.double() @ v).mean()) for side in train) / 2
    positive, negative = (side.double() @ v for side in validation)
    n_positive, n_negative = len(positive), len(negative)
    if n_positive == 0 or n_negative == 0:
        return Separation(math.nan, math.nan)
    right = int((positive > middle).sum()) + int((negative <= middle).sum())
    accuracy = right / (n_positive + n_negative)
    freedom = n_positive + n_negative - 2
    if n_positive < 2 or n_negative < 2:
        return Separation(accuracy, math.nan)
    pooled = math.sqrt(
        (float(positive.var()) * (n_positive - 1) + float(negative.var()) * (n_negative - 1)) / freedom
    )
    difference = float(positive.mean() - negative.mean())
    return Separation(accuracy, difference / pooled if pooled > 0 else math.nan)


# Which vectors are so alike that evaluating them one by one would tell nothing new.

NameT = TypeVar("NameT", bound=Hashable)


def likeness(a: torch.Tensor, b: torch.Tensor, dims: Sequence[int]) -> float:
    """How alike two unit vectors `[d_model]` are, -1 to 1: the least of two figures, 1 for equal vectors.

        2 a.b / (|a|^2 + |b|^2)                  the whole vectors; of unit vectors their cosine
        the same of a and b without the massive dims

    The second is needed because massive dims hide what steers: where 99 % of the energy lies in one of them the cosine
    is 0.99 whatever else is in the vectors, and that else moves the text (docs/design/relative-strength.md). There the
    lengths count too, since one coefficient steers both.

    Args:
        dims: the massive dims.
    """
    a, b = a.double(), b.double()
    return min(
        1.0, _agreement(a, b), _agreement(zero_dims(a, dims), zero_dims(b, dims))
    )  # rounding exceeds 1


def _agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    lengths = float(a @ a + b @ b)
    return 2 * float(a @ b) / lengths if lengths else 1.0  # two zero vectors are equal


def alike_groups(
    names: Iterable[NameT], likeness_of: Callable[[NameT, NameT], float | None], threshold: float
) -> dict[NameT, tuple[NameT, float]]:
    """Of each name that is like an earlier one, which, and how like.

    A name joins the first representative that it is like; else it becomes one. It is compared with the
    representative itself, so that no chain of small differences makes a large one.

    Args:
        names: in the order in which they may become representatives.
        likeness_of: of a representative and a name; `None`: they are equal.
        threshold: what must be exceeded; equal ones are always alike.

    Returns:
        Representative and likeness (1 for equal ones) by name; representatives are absent.
    """
    representatives: list[NameT] = []
    like_earlier: dict[NameT, tuple[NameT, float]] = {}
    for name in names:
        for representative in representatives:
            measured = likeness_of(representative, name)
            if measured is None or measured > threshold:
                like_earlier[name] = (representative, 1.0 if measured is None else measured)
                break
        else:
            representatives.append(name)
    return like_earlier
