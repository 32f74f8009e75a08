"""Which vectors are so alike that evaluating them one by one would tell nothing new.

How alike two vectors are is the least of two figures, each at most 1 and 1 for equal vectors:

    2 a.b / (|a|^2 + |b|^2)                the whole vectors; of unit vectors it is their cosine
    the same of a and b without the massive dims

The second is needed because massive dims hide what steers. Of two vectors whose energy lies to 99 % in one
massive dim the cosine is 0.99 whatever else is in them, and the text is moved by that else
(docs/design/relative-strength.md). It is no plain cosine: the lengths count too, since one coefficient steers both.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import torch

from massact.vectors.cleaning import zero_dims

NameT = TypeVar("NameT", bound=Hashable)


def likeness(a: torch.Tensor, b: torch.Tensor, dims: Sequence[int]) -> float:
    """How alike two unit vectors `[d_model]` are, -1 to 1.

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
    found: dict[NameT, tuple[NameT, float]] = {}
    for name in names:
        for representative in representatives:
            measured = likeness_of(representative, name)
            if measured is None or measured > threshold:
                found[name] = (representative, 1.0 if measured is None else measured)
                break
        else:
            representatives.append(name)
    return found
