"""massact: activation-steering experiments on MLflow, with answers that can be trusted a month later.

The questions are functions here; see `massact.api`, and `massact.plot` for figures; models, vectors and evaluations are
in `massact.notebook`. Nothing is loaded before it is used.
"""

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from massact import plot as plot
    from massact.api import *  # noqa: F403  the questions
    from massact.config import load_experiment as load_experiment
    from massact.domain import Gate as Gate
    from massact.errors import MassactError as MassactError
    from massact.notebook import Intervention as Intervention
    from massact.notebook import Model as Model
    from massact.notebook import evaluate as evaluate
    from massact.notebook import extract as extract
    from massact.query import Filters as Filters
    from massact.store.read import open_store as open_store

__version__ = "0.1.0"

_HOMES = {
    "Filters": "massact.query",
    "Gate": "massact.domain",
    "MassactError": "massact.errors",
    "load_experiment": "massact.config",
    "open_store": "massact.store.read",
    **dict.fromkeys(("Intervention", "Model", "evaluate", "extract"), "massact.notebook"),
}
_MODULES = ("plot",)


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name in _MODULES:
        return import_module(f"massact.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if not name.startswith("_"):
        with suppress(KeyError):
            return import_module("massact.api").question(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *sorted((*_HOMES, *_MODULES, *import_module("massact.api").names()))]
