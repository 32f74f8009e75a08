"""The spool of a process that evaluates: what is put is on the disk at once, and sent when the store takes it.

A thread sends what is journalled and marks it, so that each record arrives once however often it is tried. What waits
is kept on disk, not in memory."""

import atexit
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Thread

from massact.addresses import stored_uri
from massact.errors import MassactError, RunRefusedError, SpoolError, StoreError, UnusableStoreError
from massact.store.retry import held_back, pauses
from massact.store.schema import Tag
from massact.store.spool.journal import (
    DamagedLineError,
    Home,
    Opening,
    RunRecord,
    Slot,
    create_journal,
    decode_run,
    encode,
    explain,
)
from massact.store.write.finished_run import FinishedRun
from massact.store.write.run_writer import RunWriter, open_writer
from massact.words import counted

AT_ONCE = 50  # records read from a journal together, where it holds as many
BYTES_AT_ONCE = 8_000_000  # their lines together, unless one alone is longer


@dataclass(slots=True)
class Outcome:
    """What came of sending some records; each is in one of the three."""

    sent: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)  # had arrived at an earlier attempt
    refused: dict[str, Exception] = field(default_factory=dict)  # the store takes others, but not these

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
        """Send records of one MLflow experiment, by id; with `look`, or after a StoreError, some may be there."""
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


CUT_BACK_BYTES = 32_000_000  # a journal that is longer, and of which everything was sent, begins anew
_PARTING_SECONDS = 1.0  # how long a request that is under way may still take when the spool is closed


@dataclass(slots=True)
class _Entry:
    """A record that waits."""

    id: str
    experiment_id: str
    slot: Slot | None  # where the journal has it; `None` where it could not be written
    line: bytes  # of one that the journal does not have
    look: bool  # whether an attempt to send it ended in an error, so that it may have arrived


class Spool:
    """Takes finished runs and sees to it that the tracking store gets them, now or later."""

    def __init__(
        self,
        folder: Path,
        tracking_uri: str,
        experiment: str,
        *,
        say: Callable[[str], None] = lambda _line: None,
        heard: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        """Open a journal in the folder, which processes may share and which is made where it is not there.
        `tracking_uri`: of the store; its password is never written to the folder. `experiment`: the experiment's name,
        for people who find the journal. `say`: told, from any thread, when the store takes nothing, when it does again,
        and what is left in the end. `heard`: told, from the thread that sends, what came of records that were sent."""
        self._folder, self._store, self._say, self._heard = folder, stored_uri(tracking_uri), say, heard
        opening = Opening(self._store, experiment, socket.gethostname(), os.getpid(), int(time.time() * 1000))
        self._journal = create_journal(folder, encode(opening))
        self._opening_bytes = self._journal.size
        self._sender = Sender(tracking_uri)
        self._changed = Condition()  # guards all below, and writing to the journal
        self._waiting: dict[str, _Entry] = {}
        self._refused: dict[str, _Entry] = {}
        self._reasons: list[str] = []
        self._failure: SpoolError | None = None
        self._bug: Exception | None = None
        self._is_down = self._is_closed = self._is_hurried = self._has_ended = False
        self._thread = Thread(target=self._send, name="massact-sender", daemon=True)
        self._thread.start()
        atexit.register(self.abandon)

    @property
    def waiting(self) -> int:
        """How many runs the store does not have yet, refused ones included."""
        with self._changed:
            return len(self._waiting) + len(self._refused)

    def put(
        self, run: FinishedRun, *, experiment_id: str, record_id: str | None = None, may_be_there: bool = False
    ) -> str:
        """Hand a run over; when it returns, the run is on the disk. Returns the id of its record, which it gets as a
        tag.
        `record_id`: 32 hexadecimal digits; `None`: new ones. `may_be_there`: whether another spool may have sent this
        record: the store is asked first.
        Raises SpoolError: the journal cannot be written. The first run that it does not take is sent all the same."""
        id_ = record_id or uuid.uuid4().hex
        tagged = replace(run, tags={**run.tags, Tag.SPOOL.value: id_})
        line = encode(RunRecord(id_, Home(self._store, experiment_id), tagged))
        with held_back(), self._changed:
            if self._failure is not None:
                raise self._failure
            if self._is_closed:
                raise RuntimeError("a run was put into a spool that is closed")
            slot = self._write(line)
            kept = b"" if slot else line
            self._waiting[id_] = _Entry(id_, experiment_id, slot, kept, may_be_there)
            self._changed.notify_all()
        if self._failure is not None:
            raise self._failure
        return id_

    def _write(self, line: bytes) -> Slot | None:
        try:
            return self._journal.append([line])[0]
        except OSError as error:
            self._failure = SpoolError(
                f"{explain(self._folder, error)}. What was written there before is safe: "
                "massact sync sends what the store does not have yet"
            )
            self._failure.__cause__ = error
            return None

    def flush(self, timeout: float | None = None) -> int:
        """Wait until the store has all that was put so far or has refused it, or for some seconds. Returns how many
        runs wait still, refused ones included. Raises SpoolError: the journal could not be written; or a fault of
        ours."""
        self._wait_sent(timeout)
        self._raise_bug()
        if self._failure is not None:
            raise self._failure
        return self.waiting

    def close(self, timeout: float = 10.0) -> int:
        """Send what can be sent within some seconds, and let go of the journal; again it does nothing. Returns how many
        runs wait on the disk: `send_leftovers` sends them."""
        if not self._is_closed:
            self._wait_sent(timeout)
            self.abandon()
            self._raise_bug()
        return self.waiting

    def abandon(self) -> None:
        """Stop at once: what was put is on the disk, and nothing more is sent."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        # the sender closes the journal in the end; one that hangs in a request keeps it locked, so that no
        # other process sends the same meanwhile
        self._thread.join(_PARTING_SECONDS)
        atexit.unregister(self.abandon)
        for line in self._parting_lines():
            self._say(line)

    def _wait_sent(self, timeout: float | None) -> None:
        with self._changed:
            put, self._is_hurried = set(self._waiting), True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._has_ended or put.isdisjoint(self._waiting), timeout)

    def _raise_bug(self) -> None:
        """Raise a fault of ours, once."""
        bug, self._bug = self._bug, None
        if bug is not None:
            raise bug

    def _parting_lines(self) -> list[str]:
        lines, n_refused = [], len(self._reasons)
        with self._changed:
            stuck = (*self._waiting.values(), *self._refused.values())
            lost = sum(entry.slot is None for entry in stuck)
        if n_refused:
            lines.append(
                f"{_runs(n_refused)} refused by the tracking store and kept in {self._journal.path}: {self._reasons[0]}"
            )
        if n_waiting := self.waiting - n_refused - lost:
            lines.append(f"{_runs(n_waiting)} waiting in {self._folder}: massact sync sends them")
        if lost:
            lines.append(f"{_runs(lost)} lost: neither the spool {self._folder} nor the store took them")
        return lines

    def _send(self) -> None:
        """The thread that sends."""
        try:
            self._send_all()
        except Exception as error:  # a fault of ours, or of the store for good: raised where it is waited for
            self._bug = self._bug or error
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed)
        self._sender.close()
        if self.waiting:
            self._journal.close()
        else:
            self._journal.remove()

    def _send_all(self) -> None:
        pause, avoid = pauses(), None
        while entries := self._take(avoid):
            try:
                outcome = self._attempt(entries)
            except UnusableStoreError as error:
                self._tell(error)
                raise
            except StoreError as error:
                for entry in entries:
                    entry.look = True
                self._tell(error)
                avoid = entries[0].experiment_id
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closed or self._is_hurried, next(pause))
                    self._is_hurried = False
            else:
                pause, avoid = pauses(), None
                self._tell(None)
                self._settle(outcome)

    def _take(self, avoid: str | None) -> list[_Entry]:
        """Some records of one MLflow experiment, rather not of `avoid`; nothing once closed. They stay waiting. As many
        as fit in memory together, one at least; all need to be looked for, or none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                return []
            homes = (entry.experiment_id for entry in self._waiting.values())
            home = next((id_ for id_ in homes if id_ != avoid), avoid) or ""
            taken: list[_Entry] = []
            size, most = 0, self._sender.at_once(home)
            for entry in self._waiting.values():
                if entry.experiment_id != home:
                    continue
                size += entry.slot.length if entry.slot else len(entry.line)
                if taken and (len(taken) == most or size > BYTES_AT_ONCE or entry.look != taken[0].look):
                    break
                taken.append(entry)
            return taken

    def _attempt(self, entries: list[_Entry]) -> Outcome:
        runs, unreadable = {}, {}
        for entry in entries:
            try:
                runs[entry.id] = decode_run(self._journal.read(entry.slot) if entry.slot else entry.line)
            except (OSError, DamagedLineError):
                unreadable[entry.id] = OSError(f"{self._journal.path} cannot be read any more")
        outcome = Outcome()
        if runs:
            outcome = self._sender.send(entries[0].experiment_id, runs, look=entries[0].look)
        outcome.refused |= unreadable
        return outcome

    def _settle(self, outcome: Outcome) -> None:
        """Mark and take out what has arrived, and put aside what was refused."""
        with self._changed:
            self._journal.mark_sent(outcome.arrived)
            for id_ in outcome.arrived:
                del self._waiting[id_]
            for id_, error in outcome.refused.items():
                self._refused[id_] = self._waiting.pop(id_)
                self._reasons.append(explain_refusal(error))
                if not isinstance(error, MassactError | OSError):
                    self._bug = self._bug or error
            if self._journal.size > CUT_BACK_BYTES and not (self._waiting or self._refused):
                self._journal.cut(self._opening_bytes)
            self._changed.notify_all()
        self._heard(outcome)

    def _tell(self, error: StoreError | None) -> None:
        """Say once that the store takes nothing, and once that it does again."""
        if error is not None and not self._is_down:
            self._say(f"results wait in {self._folder} until the tracking store takes them: {error}")
        elif error is None and self._is_down:
            self._say(f"the tracking store takes results again: {self.waiting} waited")
        self._is_down = error is not None


def _runs(n: int) -> str:
    return counted(n, "run is", "runs are")
