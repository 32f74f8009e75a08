"""Small repairs of runs that are there: an end, a tag, a file. Nothing is ever deleted."""

import sqlite3
from contextlib import closing
from functools import cached_property
from typing import Any

from massact.errors import StoreError
from massact.store.databases import LOCK_TIMEOUT_SECONDS
from massact.store.schema import Tag
from massact.store.write.client import connect, set_up_client
from massact.store.write.run_writer import explained, write_files

_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
_MOVE = "UPDATE {0} SET {1} = ? || substr({1}, ?) WHERE {1} = ? OR substr({1}, 1, ?) = ?"
_UNENDED = ("RUNNING", "SCHEDULED")


class Mender:
    """Repairs runs of one tracking store, to which it connects with the first repair.

    Every method raises `StoreError` where the store cannot be reached, or refuses.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri

    def end(self, run_id: str, *, ended_at: int, error: str) -> bool:
        """Mark a run as killed at a time (ms since 1970), unless it has an end by now.

        Returns:
            Whether it had none.
        """
        client = self._client
        with explained(self._tracking_uri):
            if client.get_run(run_id).info.status not in _UNENDED:
                return False
            client.set_tag(run_id, Tag.ERROR.value, error)
            client.set_terminated(run_id, status="KILLED", end_time=ended_at)
        return True

    def tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag."""
        client = self._client
        with explained(self._tracking_uri):
            client.set_tag(run_id, key, value)

    def put(self, artifact_uri: str, name: str, content: bytes) -> None:
        """Write an artifact of a run, in place of one of that name."""
        set_up_client()
        write_files([(artifact_uri, {name: content})], self._tracking_uri)

    def move(self, old: str, new: str) -> int:
        """Say of the artifacts under a URI that they lie in another folder, in a SQLite store.

        Returns:
            Of how many runs.
        """
        path = self._tracking_uri.partition(":///")[2].partition("?")[0]
        values = (new, len(old) + 1, old, len(old) + 1, f"{old}/")
        try:
            with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_SECONDS)) as database, database:
                return [database.execute(_MOVE.format(*place), values).rowcount for place in _PLACES][-1]
        except sqlite3.Error as error:
            raise StoreError(f"no place was changed in {path}: {error}") from error

    @cached_property
    def _client(self) -> Any:
        return connect(self._tracking_uri)
