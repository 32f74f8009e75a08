"""massact: activation-steering experiments on MLflow, with answers that can be trusted a month later.

The questions are functions here; see `massact.asking`, and `massact.plot` for figures. Nothing is loaded before it is
used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from massact import plot as plot
    from massact.asking import (
        best as best,
    )
    from massact.asking import (
        coefficients as coefficients,
    )
    from massact.asking import (
        compare as compare,
    )
    from massact.asking import (
        compare_published as compare_published,
    )
    from massact.asking import (
        confirmations as confirmations,
    )
    from massact.asking import (
        curve as curve,
    )
    from massact.asking import (
        gaps as gaps,
    )
    from massact.asking import (
        judges as judges,
    )
    from massact.asking import (
        runs as runs,
    )
    from massact.asking import (
        sensitivity as sensitivity,
    )
    from massact.config import load_experiment as load_experiment
    from massact.errors import MassactError as MassactError
    from massact.query import Filters as Filters
    from massact.store import open_store as open_store

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(
        (
            "best",
            "coefficients",
            "compare",
            "compare_published",
            "confirmations",
            "curve",
            "gaps",
            "judges",
            "runs",
            "sensitivity",
        ),
        "massact.asking",
    ),
    "Filters": "massact.query",
    "MassactError": "massact.errors",
    "load_experiment": "massact.config",
    "open_store": "massact.store",
}
_MODULES = ("plot",)
__all__ = ["__version__", *sorted((*_HOMES, *_MODULES))]  # noqa: PLE0604  # the names above


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"massact.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, *_MODULES]
