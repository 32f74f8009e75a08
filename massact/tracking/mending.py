"""Small repairs of runs that are there: an end, a tag, a file. Nothing is ever deleted."""

from functools import cached_property
from typing import Any

from massact.schema import Tag
from massact.tracking.bulk_files import explained, write_files
from massact.tracking.connection import connect, set_up_client

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

    @cached_property
    def _client(self) -> Any:
        return connect(self._tracking_uri)
