"""Numpy as `np`, loaded when it is first used: `--help` does without, and who sets its threads comes before it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Indices", "Mask", "Numbers", "np"]

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Indices = NDArray[np.intp]
    Mask = NDArray[np.bool_]
else:

    class _Numpy:
        def __getattr__(self, name: str) -> Any:
            value = self.__dict__[name] = getattr(import_module("numpy"), name)  # found at once from now on
            return value

    np = _Numpy()
    Numbers = Indices = Mask = Any
