"""Readers of the run store: SQL on a tracking database, REST on a tracking server, one protocol.

Nothing here writes, and neither torch nor mlflow is imported.
"""

import re

from massact.errors import StoreError
from massact.store.base import Failure, PhaseRun, RunStore, Stored, newest_per_key
from massact.store.reader import StoreReader

__all__ = ["Failure", "PhaseRun", "RunStore", "Stored", "newest_per_key", "open_store"]

_ALLOWED = "sqlite:///PATH, postgresql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST"


def open_store(tracking_uri: str) -> RunStore:
    """The run store at a tracking URI, checked to be one. Nothing is created or changed.

    Raises:
        StoreError: no such kind of store, it cannot be reached, or it is not MLflow's.
    """
    match = re.match(r"([a-z][a-z0-9]*)(?:\+[a-z0-9]+)?:", tracking_uri.strip(), re.IGNORECASE)
    scheme = match[1].lower() if match else ""
    # sqlalchemy and requests are imported only by the one that needs them
    if scheme in ("sqlite", "postgresql", "postgres"):
        from massact.store.sql import SqlSource

        return StoreReader(SqlSource(tracking_uri.strip()))
    if scheme in ("http", "https"):
        from massact.store.rest import RestSource

        return StoreReader(RestSource(tracking_uri.strip()))
    # the rest of an unknown URI may hold a password
    shown = f"{scheme}:..." if scheme and "@" in tracking_uri else tracking_uri
    raise StoreError(f"tracking URI {shown!r} names no run store that can be read; write {_ALLOWED}")
