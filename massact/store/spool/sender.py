"""Sending records to the tracking store, so that each arrives once however often it is tried."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from massact.errors import RunRefusedError, StoreError
from massact.store.write.finished_run import FinishedRun
from massact.store.write.run_writer import RunWriter, open_writer

AT_ONCE = 50
"""Records read from a journal together, where it holds as many."""
BYTES_AT_ONCE = 8_000_000
"""Their lines together, unless one alone is longer."""


@dataclass(slots=True)
class Outcome:
    """What came of sending some records; each is in one of the three."""

    sent: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    """Had arrived at an earlier attempt."""
    refused: dict[str, Exception] = field(default_factory=dict)
    """The store takes others, but not these."""

    @property
    def arrived(self) -> tuple[str, ...]:
        """What the store has now."""
        return (*self.sent, *self.there)


class Sender:
    """Sends to one tracking store, from one thread."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._writers: dict[str, RunWriter] = {}

    def send(self, experiment_id: str, records: Mapping[str, FinishedRun], *, look: bool) -> Outcome:
        """Send records of one MLflow experiment, by their ids.

        Args:
            look: whether some of them may have arrived before.

        Raises:
            StoreError: the store takes nothing now. Some of the records may have arrived.
        """
        try:
            return self._send(experiment_id, records, look=look)
        except Exception:
            self.close()  # the next attempt begins with new connections
            raise

    def at_once(self, experiment_id: str) -> int:
        """How many records of an MLflow experiment are best sent together, by what is known so far."""
        writer = self._writers.get(experiment_id)
        return min(AT_ONCE, writer.at_once) if writer else 1

    def close(self) -> None:
        """Let go of connections."""
        writers, self._writers = list(self._writers.values()), {}
        for writer in writers:
            writer.close()

    def _send(self, experiment_id: str, records: Mapping[str, FinishedRun], *, look: bool) -> Outcome:
        if experiment_id not in self._writers:
            self._writers[experiment_id] = open_writer(self._uri, experiment_id)
        try:
            there = self._writers[experiment_id].write_once(records, look=look)
        except Exception as error:
            # a StoreError is about the store; a refusal, or a value that our own code trips over, about one record
            if isinstance(error, StoreError) and not isinstance(error, RunRefusedError):
                raise
            if len(records) == 1:
                return Outcome(refused=dict.fromkeys(records, error))
        else:
            return Outcome([id_ for id_ in records if id_ not in there], sorted(there))
        total = Outcome()
        for id_, run in records.items():  # one after the other, to find those that the store does not take
            outcome = self._send(experiment_id, {id_: run}, look=True)
            total.sent += outcome.sent
            total.there += outcome.there
            total.refused |= outcome.refused
        return total


def explain_refusal(error: Exception) -> str:
    """Why a record was refused; of a fault of ours what it was too."""
    return str(error) if isinstance(error, RunRefusedError) else f"{type(error).__name__}: {error}"
