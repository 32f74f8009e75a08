"""massact: activation-steering experiments on MLflow, with answers that can be trusted a month later.

The questions are functions here; see `massact.api`, and `massact.plot` for figures. Nothing is loaded before it is
used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from massact import plot as plot
    from massact.api import best as best
    from massact.api import coefficients as coefficients
    from massact.api import compare as compare
    from massact.api import compare_published as compare_published
    from massact.api import confirmations as confirmations
    from massact.api import curve as curve
    from massact.api import gaps as gaps
    from massact.api import judges as judges
    from massact.api import runs as runs
    from massact.api import sensitivity as sensitivity
    from massact.config import load_experiment as load_experiment
    from massact.errors import MassactError as MassactError
    from massact.query import Filters as Filters
    from massact.store.read import open_store as open_store

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
        "massact.api",
    ),
    "Filters": "massact.query",
    "MassactError": "massact.errors",
    "load_experiment": "massact.config",
    "open_store": "massact.store.read",
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
