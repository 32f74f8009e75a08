"""Records on their way through a spool, shared by the thread that puts, the one that writes and the one that sends."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Condition

from massact.errors import MassactError, SpoolError
from massact.tracking.spool.journal import Slot
from massact.tracking.spool.sending import AT_ONCE, BYTES_AT_ONCE, Outcome, explain_refusal


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
