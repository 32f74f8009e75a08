"""Readers of the run store: SQL on a tracking database, REST on a tracking server, one protocol.

Nothing here writes, and neither torch nor mlflow is imported.
"""

from massact.addresses import is_database, scheme_of, shown_uri
from massact.errors import UnusableStoreError
from massact.plugins import load_plugin, plugin_names
from massact.store.read.base import Failure, PhaseRun, RunSource, RunStore, Stored, newest_per_key
from massact.store.read.reader import StoreReader

# Which source of raw runs a tracking URI names.

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
        from massact.store.read.served import ServedSource

        return ServedSource(tracking_uri.strip())
    if scheme in plugin_names("stores"):
        source: RunSource = load_plugin("stores", scheme)(tracking_uri.strip())
        return source
    raise UnusableStoreError(
        f"tracking URI {shown_uri(tracking_uri)!r} names no run store that can be read; write {_ALLOWED}"
    )


__all__ = ["Failure", "PhaseRun", "RunStore", "Stored", "newest_per_key", "open_store"]


def open_store(tracking_uri: str) -> RunStore:
    """The run store at a tracking URI, checked to be one. Nothing is created or changed.

    Raises:
        StoreError: no such kind of store, it cannot be reached, or it is not MLflow's.
    """
    return StoreReader(open_source(tracking_uri))
