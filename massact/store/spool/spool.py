"""The spool of a process that evaluates: what is put is journalled at once, and sent when the store takes it.

Two threads, so that a store that hangs keeps nothing from the disk: one appends to the journal all that
waits, with one sync; the other sends what is journalled and marks it. What waits is kept on disk, not in memory.
"""

import atexit
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Condition, Thread

from massact.errors import MassactError, SpoolError, StoreError, UnusableStoreError
from massact.store.schema import Tag
from massact.store.spool.journal import Slot, create_journal, explain
from massact.store.spool.records import (
    DamagedLineError,
    Home,
    Opening,
    RunRecord,
    Sent,
    decode,
    encode,
    stored_uri,
)
from massact.store.spool.sender import AT_ONCE, BYTES_AT_ONCE, Courier, Outcome, explain_refusal
from massact.store.write.finished_run import WholeRun

# Records on their way through a spool, shared by the thread that puts, the one that writes and the one that sends.


@dataclass(slots=True)
class Entry:
    """A record that waits."""

    id: str
    number: int
    """It was the so-manieth to be put."""
    experiment_id: str
    length: int
    """Bytes of its line."""
    line: bytes | None
    """Its line; given up as soon as the journal has it."""
    slot: Slot | None = None
    """Where the journal has it; `None` while it has not."""
    look: bool = False
    """Whether an attempt to send it ended in an error, so that it may have arrived."""


class Queue:
    """Each record is in one group and goes from one to the next. What happened to the threads is kept here too."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._n_put = 0
        self._unwritten: list[Entry] = []
        self._being_written: list[Entry] = []
        self._ready: dict[str, Entry] = {}
        self._refused: dict[str, Entry] = {}
        self._reasons: list[str] = []
        self._failure: SpoolError | None = None
        self._bug: Exception | None = None
        self._is_told = False
        self._is_closed = self._is_stopped = self._is_hurried = self._is_dead = False

    def add(self, id_: str, experiment_id: str, line: bytes, *, look: bool = False) -> None:
        """Put a record; with `look` it may have arrived already.

        Raises:
            SpoolError: the journal could not be written before.
        """
        with self._changed:
            self._raise_failure()
            if self._is_closed:
                raise RuntimeError("a run was put into a spool that is closed")
            self._n_put += 1
            self._unwritten.append(Entry(id_, self._n_put, experiment_id, len(line), line, look=look))
            self._changed.notify_all()

    def take_unwritten(self) -> list[Entry]:
        """Everything that is to be written, as soon as there is something; nothing once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._unwritten or self._is_closed)
            self._being_written, self._unwritten = self._unwritten, []
            return list(self._being_written)

    def set_written(self, slots: Sequence[Slot]) -> None:
        """What was taken is on the disk."""
        with self._changed:
            for entry, slot in zip(self._being_written, slots, strict=True):
                entry.slot, entry.line = slot, None
            self._make_ready()

    def set_unwritable(self, failure: SpoolError) -> None:
        """What was taken is not, and nothing will be; it can still be sent."""
        with self._changed:
            self._failure = self._failure or failure
            self._make_ready()

    def take_ready(self, at_once: Callable[[str], int], *, avoid: str | None) -> list[Entry]:
        """Some records of one MLflow experiment, rather not of `avoid`; nothing once stopped. They stay here."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._is_stopped)
            if self._is_stopped:
                return []
            homes = (entry.experiment_id for entry in self._ready.values())
            home = next((one for one in homes if one != avoid), avoid) or ""
            mine = (entry for entry in self._ready.values() if entry.experiment_id == home)
            return _fitting(islice(mine, min(AT_ONCE, at_once(home))))

    def doubt(self, entries: Iterable[Entry]) -> None:
        """These may or may not have arrived."""
        for entry in entries:
            entry.look = True

    def settle(self, outcome: Outcome) -> None:
        """Take out what has arrived, and put aside what was refused."""
        with self._changed:
            for id_ in (*outcome.sent, *outcome.there):
                del self._ready[id_]
            for id_, error in outcome.refused.items():
                self._refused[id_] = self._ready.pop(id_)
                self._reasons.append(explain_refusal(error))
                if not isinstance(error, MassactError | OSError):
                    self._bug = self._bug or error
            self._changed.notify_all()

    def when_empty(self, action: Callable[[], None]) -> None:
        """Do something now, if the journal holds nothing that is still needed; meanwhile nothing is written."""
        with self._changed:
            if not (self._being_written or self._ready or self._refused):
                action()

    def pause(self, seconds: float) -> None:
        """Wait some time, or until somebody waits for the result, or until stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._is_hurried, seconds)
            self._is_hurried = False

    def wait_written(self) -> None:
        """Until everything is on the disk.

        Raises:
            SpoolError: the journal could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: not (self._unwritten or self._being_written))
            self._raise_failure()

    def wait_sent(self, timeout: float | None, *, despite_failure: bool = False) -> None:
        """Until the store has all that was put so far or has refused it, or the sender has ended, or for a time."""
        with self._changed:
            last = self._n_put
            self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._is_dead
                    or not self._is_under_way(last)
                    or (self._failure is not None and not despite_failure)
                ),
                timeout,
            )

    def close(self) -> None:
        """Take nothing more, and send nothing more."""
        with self._changed:
            self._is_closed = self._is_stopped = True
            self._changed.notify_all()

    def end(self, bug: Exception | None) -> None:
        """The sender has ended."""
        with self._changed:
            self._is_dead = True
            self._bug = self._bug or bug
            self._changed.notify_all()

    def check(self, *, once: bool = False) -> None:
        """Raise what went wrong in a thread: a fault of ours once, a failed journal each time or `once`."""
        with self._changed:
            bug, self._bug = self._bug, None
            if bug is not None:
                raise bug
            if not (once and self._is_told):
                self._raise_failure()

    @property
    def reasons(self) -> list[str]:
        """Why records were refused."""
        with self._changed:
            return list(self._reasons)

    @property
    def n_waiting(self) -> int:
        """Records that the store does not have, refused ones included."""
        with self._changed:
            groups = (self._unwritten, self._being_written, self._ready, self._refused)
            return sum(map(len, groups))

    @property
    def n_only_here(self) -> int:
        """Those of them that the journal does not have either."""
        with self._changed:
            stuck = (*self._ready.values(), *self._refused.values())
            unwritten = len(self._unwritten) + len(self._being_written)
            return unwritten + sum(entry.slot is None for entry in stuck)

    def _make_ready(self) -> None:
        self._ready.update((entry.id, entry) for entry in self._being_written)
        self._being_written = []
        self._changed.notify_all()

    def _is_under_way(self, last: int) -> bool:
        """Whether one of the first so many can still be sent: the first of a group is its oldest."""
        groups: tuple[Iterable[Entry], ...] = (self._ready.values(), self._being_written, self._unwritten)
        return any(entry.number <= last for group in groups for entry in islice(group, 1))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._is_told = True
            raise self._failure


def _fitting(entries: Iterable[Entry]) -> list[Entry]:
    """As many of the first as fit in memory together, one at least; all need to be looked for, or none."""
    taken: list[Entry] = []
    size = 0
    for entry in entries:
        size += entry.length
        if taken and (size > BYTES_AT_ONCE or entry.look != taken[0].look):
            break
        taken.append(entry)
    return taken


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
