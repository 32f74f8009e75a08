"""Readers of the run store: SQL on a tracking database, REST on a tracking server, one protocol.

Nothing here writes, and neither torch nor mlflow is imported.
"""

from massact.store.base import Failure, PhaseRun, RunStore, Stored, newest_per_key
from massact.store.reader import StoreReader
from massact.store.sources import open_source

__all__ = ["Failure", "PhaseRun", "RunStore", "Stored", "newest_per_key", "open_store"]


def open_store(tracking_uri: str) -> RunStore:
    """The run store at a tracking URI, checked to be one. Nothing is created or changed.

    Raises:
        StoreError: no such kind of store, it cannot be reached, or it is not MLflow's.
    """
    return StoreReader(open_source(tracking_uri))
