"""Cleaning: zeroing massive dims, in the activations before a vector is made or in the vector after."""

from collections.abc import Sequence

import torch

from massact.errors import DataError


def zero_dims(values: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """A copy of `values` `[..., d_model]` with the given dims at exactly zero.

    Raises:
        DataError: a dim that `d_model` does not have.
    """
    outside = [dim for dim in dims if not 0 <= dim < values.shape[-1]]
    if outside:
        raise DataError(
            f"dim {outside[0]} does not exist in a stream of {values.shape[-1]} dims: "
            "the calibration is of another model; run massact calibrate"
        )
    cleaned = values.clone()
    cleaned[..., list(dims)] = 0
    return cleaned


def normalise(vector: torch.Tensor) -> torch.Tensor:
    """The vector `[d_model]` scaled to unit L2 norm, as float32.

    Raises:
        DataError: the vector is zero or not finite, so it has no direction.
    """
    exact = vector.double()
    norm = exact.norm()
    if not torch.isfinite(norm) or norm == 0:
        raise DataError(
            "a vector has no direction: it is zero or not finite after extraction. Either both sides have "
            "equal activations in every dim that was not cleaned, or the activations overflowed their dtype"
        )
    unit: torch.Tensor = (exact / norm).float()
    return unit
