"""What is to be generated: a prompt, and what is added to the residual stream while it is answered."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from massact.domain import Generation


@dataclass(frozen=True, slots=True)
class Push:
    """What is added to one row's residual stream at one layer."""

    layer: int
    vector: torch.Tensor
    """Unit vector `[d_model]`, float32."""
    coefficient: float

    @property
    def addition(self) -> torch.Tensor:
        """`[d_model]`, float32, on the CPU."""
        return self.coefficient * self.vector.float().cpu()


@dataclass(frozen=True, slots=True)
class Row:
    """One response to be generated."""

    prompt: tuple[int, ...]
    push: Push | None = None
    """`None` leaves the model as it is."""
    draw: int = 0
    """Distinguishes the random draws of rows that share a seed; the index of the question."""


def distinct_rows(rows: Sequence[Row], settings: Generation) -> tuple[list[Row], list[int]]:
    """Rows that can differ in their responses, and for each row given the index of its like among them.

    Two rows are alike where prompt and addition are, bit by bit, and the draws too if they are sampled.
    """
    found: dict[tuple[object, ...], int] = {}
    kept: list[Row] = []
    places = []
    for row in rows:
        like = (row.prompt, _pushed(row.push), row.draw if settings.temperature > 0 else None)
        if like not in found:
            found[like] = len(kept)
            kept.append(row)
        places.append(found[like])
    return kept, places


def _pushed(push: Push | None) -> tuple[int, bytes] | None:
    if push is None:
        return None
    addition = push.addition
    # nothing added is no push: the baseline
    return (push.layer, addition.numpy().tobytes()) if bool(addition.any()) else None
