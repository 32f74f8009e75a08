"""The spool of a process that evaluates: what is put is journalled at once, and sent when the store takes it.

Two threads, so that a store that hangs keeps nothing from the disk: one appends to the journal all that
waits, with one sync; the other sends what is journalled and marks it. What waits is kept on disk, not in memory.
"""

import atexit
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

from massact.errors import SpoolError, StoreError, UnusableStoreError
from massact.schema import Tag
from massact.tracking.spool.journal import create_journal, explain
from massact.tracking.spool.places import stored_uri
from massact.tracking.spool.queue import Entry, Queue
from massact.tracking.spool.records import DamagedLineError, Home, Opening, RunRecord, Sent, decode, encode
from massact.tracking.spool.sending import Courier, Outcome
from massact.tracking.whole_run import WholeRun

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two attempts to reach a store that takes nothing: doubled each time."""
CUT_BACK_BYTES = 32_000_000
"""A journal that is longer, and of which everything was sent, begins anew."""
_PARTING_SECONDS = 1.0
"""How long a request that is under way may still take when the spool is closed."""


def _silent(_line: str) -> None:
    """Say nothing."""


class Spool:
    """Takes finished runs and sees to it that the tracking store gets them, now or later."""

    def __init__(
        self,
        folder: Path,
        tracking_uri: str,
        experiment: str,
        *,
        say: Callable[[str], None] = _silent,
        heard: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        """Open a journal in the folder, which is made where it is not there.

        Args:
            folder: of the spool; processes may share one.
            tracking_uri: of the store; its password is never written to the folder.
            experiment: the experiment's name, for people who find the journal.
            say: told in one line, from any thread, when the store takes nothing, when it does again, and
                what is left in the end.
            heard: told, from the thread that sends, what came of records that were sent.

        Raises:
            SpoolFolderError: the folder cannot be made or written to.
        """
        self._heard = heard
        self._folder, self._store, self._say = folder, stored_uri(tracking_uri), say
        now = int(time.time() * 1000)
        opening = encode(Opening(self._store, experiment, socket.gethostname(), os.getpid(), now))
        self._journal = create_journal(folder, opening)
        self._opening_bytes = len(opening)
        self._courier = Courier(tracking_uri)
        self._queue = Queue()
        self._is_down = self._is_closed = False
        self._writer = Thread(target=self._write, name="massact-journal", daemon=True)
        self._sender = Thread(target=self._send, name="massact-sender", daemon=True)
        self._writer.start()
        self._sender.start()
        atexit.register(self.abandon)

    @property
    def waiting(self) -> int:
        """How many runs the store does not have yet, refused ones included."""
        return self._queue.n_waiting

    def put(
        self, run: WholeRun, *, experiment_id: str, record_id: str | None = None, may_be_there: bool = False
    ) -> str:
        """Hand a run over, for an MLflow experiment. Returns the id of its record, which it gets as a tag.

        It returns at once, whatever the disk and the store are doing.

        Args:
            record_id: 32 hexadecimal digits; `None`: new ones.
            may_be_there: whether another spool may have sent this record: the store is asked first.

        Raises:
            SpoolError: the journal could not be written before.
            TypeError: the run holds what is no text, number or bytes.
        """
        id_ = record_id or uuid.uuid4().hex
        tagged = replace(run, tags={**run.tags, Tag.SPOOL.value: id_})
        line = encode(RunRecord(id_, Home(self._store, experiment_id), tagged))
        self._queue.add(id_, experiment_id, line, look=may_be_there)
        return id_

    def wait_written(self) -> None:
        """Wait until all that was put so far is in the journal, on the disk.

        Raises:
            SpoolError: the journal could not be written.
        """
        self._queue.wait_written()

    def flush(self, timeout: float | None = None) -> int:
        """Wait until the store has all that was put so far, or for some seconds.

        Returns:
            How many runs still wait, those that the store refused included.

        Raises:
            SpoolError: the journal could not be written.
            Exception: an error that is no outage of the store's but a fault in massact.
        """
        self._queue.wait_sent(timeout)
        self._queue.check()
        return self.waiting

    def close(self, timeout: float = 10.0) -> int:
        """Send what can be sent within some seconds, and let go of the journal; again it does nothing.

        Returns:
            How many runs wait on the disk: `send_leftovers` sends them.

        Raises:
            SpoolError: the journal could not be written, and nobody was told before.
            Exception: an error that is no outage of the store's but a fault in massact.
        """
        if not self._is_closed:
            self._queue.wait_sent(timeout, despite_failure=True)
            self.abandon()
            self._queue.check(once=True)
        return self.waiting

    def abandon(self) -> None:
        """Stop at once: what was put is on the disk when it returns, and nothing more is sent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.close()
        self._writer.join()
        # the sender closes the journal in the end; one that hangs in a request keeps it locked, so that no
        # other process sends the same meanwhile
        self._sender.join(_PARTING_SECONDS)
        atexit.unregister(self.abandon)
        for line in self._parting_lines():
            self._say(line)

    def _parting_lines(self) -> list[str]:
        lines = []
        reasons, lost = self._queue.reasons, self._queue.n_only_here
        if reasons:
            lines.append(
                f"{_runs(len(reasons))} refused by the tracking store and kept in {self._journal.path}: {reasons[0]}"
            )
        if waiting := self.waiting - len(reasons) - lost:
            lines.append(f"{_runs(waiting)} waiting in {self._folder}: massact sync sends them")
        if lost:
            lines.append(f"{_runs(lost)} lost: neither the spool {self._folder} nor the store took them")
        return lines

    def _write(self) -> None:
        """The thread that writes the journal."""
        while entries := self._queue.take_unwritten():
            try:
                slots = self._journal.append([entry.line or b"" for entry in entries])
            except OSError as error:
                failure = SpoolError(
                    f"{explain(self._folder, error)}. What was written there before is safe: "
                    "massact sync sends what the store does not have yet"
                )
                failure.__cause__ = error
                self._queue.set_unwritable(failure)
            else:
                self._queue.set_written(slots)

    def _send(self) -> None:
        """The thread that sends."""
        bug = None
        try:
            self._send_all()
        except Exception as error:  # a fault of ours, or of the store for good: raised where it is waited for
            bug = error
        finally:
            self._queue.end(bug)
            self._writer.join()
            self._courier.close()
            if self._queue.n_waiting:
                self._journal.close()
            else:
                self._journal.remove()

    def _send_all(self) -> None:
        pause, avoid = FIRST_PAUSE, None
        while entries := self._queue.take_ready(self._courier.at_once, avoid=avoid):
            try:
                outcome = self._attempt(entries)
            except UnusableStoreError as error:
                self._tell(error)
                raise
            except StoreError as error:
                self._queue.doubt(entries)
                self._tell(error)
                avoid = entries[0].experiment_id
                self._queue.pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause, avoid = FIRST_PAUSE, None
                self._tell(None)
                self._settle(outcome)

    def _attempt(self, entries: list[Entry]) -> Outcome:
        runs, unreadable = {}, {}
        for entry in entries:
            try:
                runs[entry.id] = self._run(entry)
            except (OSError, DamagedLineError):
                unreadable[entry.id] = OSError(f"{self._journal.path} cannot be read any more")
        outcome = Outcome()
        if runs:
            outcome = self._courier.send(entries[0].experiment_id, runs, look=entries[0].look)
        outcome.refused |= unreadable
        return outcome

    def _run(self, entry: Entry) -> WholeRun:
        line = entry.line if entry.slot is None else self._journal.read(entry.slot)
        record = decode(line or b"")
        assert isinstance(record, RunRecord)
        return record.run

    def _settle(self, outcome: Outcome) -> None:
        if done := (*outcome.sent, *outcome.there):
            self._journal.mark(encode(Sent(done)))
        self._queue.settle(outcome)
        self._heard(outcome)
        if self._journal.size > CUT_BACK_BYTES:
            self._queue.when_empty(lambda: self._journal.cut(self._opening_bytes))

    def _tell(self, error: StoreError | None) -> None:
        """Say once that the store takes nothing, and once that it does again."""
        if error is not None and not self._is_down:
            self._say(f"results wait in {self._folder} until the tracking store takes them: {error}")
        elif error is None and self._is_down:
            self._say(f"the tracking store takes results again: {self.waiting} waited")
        self._is_down = error is not None


def _runs(n: int) -> str:
    return "1 run is" if n == 1 else f"{n} runs are"
