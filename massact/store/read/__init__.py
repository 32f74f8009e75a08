"""Reading the run store: SQL on a tracking database, REST on a tracking server.

Nothing here writes, and neither torch nor mlflow is imported.
"""

from collections.abc import Callable
from typing import Any, cast

from massact.addresses import is_database, scheme_of, shown_uri
from massact.errors import UnusableStoreError
from massact.plugins import load_plugin, plugin_names
from massact.store.read.base import Failure, PhaseRun, RunSource, Stored, newest_per_key
from massact.store.read.reader import RunStore
from massact.store.retry import Patience

_ALLOWED = "sqlite:///PATH, postgresql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST"


def open_source(tracking_uri: str) -> RunSource:
    """The source at a tracking URI, checked to be one. Nothing is created or changed.

    Raises:
        StoreError: no such kind of store, it cannot be reached, or it is not MLflow's.
    """
    # sqlalchemy and requests are imported only by the one that needs them
    if is_database(tracking_uri):
        from massact.store.read.sql import SqlSource

        return SqlSource(tracking_uri.strip())
    scheme = scheme_of(tracking_uri)
    if scheme in ("http", "https"):
        from massact.store.read.rest import ServedSource

        return ServedSource(tracking_uri.strip())
    if scheme in plugin_names("stores"):
        source: RunSource = load_plugin("stores", scheme)(tracking_uri.strip())
        return source
    raise UnusableStoreError(
        f"tracking URI {shown_uri(tracking_uri)!r} names no run store that can be read; write {_ALLOWED}"
    )


def open_store(tracking_uri: str, *, may_be_absent: bool = False) -> RunStore:
    """The run store at a tracking URI, checked to be one. Nothing is created or changed.

    Args:
        may_be_absent: whether one that is not made yet is one that holds nothing.

    Raises:
        StoreError: no such kind of store, it cannot be reached, or it is not MLflow's.
    """
    if may_be_absent:
        from massact.store.read.database import is_absent
        from massact.store.read.sql import NoRuns

        if is_absent(tracking_uri):
            return RunStore(NoRuns())
    return RunStore(open_source(tracking_uri))


class _PatientStore:
    """Passes every reading on to a store that it opens, and opens anew after a failure."""

    def __init__(self, tracking_uri: str, patience: Patience) -> None:
        self._uri, self._patience = tracking_uri, patience
        self._store: RunStore | None = None
        self._warnings: list[str] = []
        self._patience.ask(self._open)

    @property
    def warnings(self) -> list[str]:
        return [*self._warnings, *(self._store.warnings if self._store else [])]

    def close(self) -> None:
        if self._store is not None:
            self._warnings += self._store.warnings
            self._store.close()
        self._store = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            return self._patience.ask(lambda: self._read(name, args, kwargs))

        return read

    def _read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return getattr(self._open(), name)(*args, **kwargs)
        except Exception:
            self.close()
            raise

    def _open(self) -> RunStore:
        if self._store is None:
            self._store = open_store(self._uri, may_be_absent=not self._patience.is_under_way)
        return self._store


def open_patient_store(tracking_uri: str, patience: Patience) -> RunStore:
    """The run store at a tracking URI, read with patience; one that is not there yet holds nothing.

    Raises:
        StoreError: as `open_store`.
    """
    return cast(RunStore, _PatientStore(tracking_uri, patience))


__all__ = [
    "Failure",
    "PhaseRun",
    "RunStore",
    "Stored",
    "newest_per_key",
    "open_patient_store",
    "open_source",
    "open_store",
]
