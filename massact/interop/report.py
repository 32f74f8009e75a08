"""What came of an import: every line is accounted for."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO

from massact.store.read.contents import StoredContent
from massact.store.schema import Kind

SHOWN_PER_FILE = 20
"""Refusals, and notes, that a report names of each file; the rest is counted."""
_REASON_LENGTH = 300
_SPOOL_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that was not imported."""

    file: str
    line: int
    """From 1."""
    reason: str


@dataclass(slots=True)
class Counts:
    """Lines of a file, or of all; `read` is the sum of the others."""

    imported: int = 0
    already_there: int = 0
    refused: int = 0
    headers: int = 0
    blank: int = 0

    @property
    def read(self) -> int:
        return self.imported + self.already_there + self.refused + self.headers + self.blank

    def add(self, other: "Counts") -> None:
        """Add another's lines to these."""
        for name in ("imported", "already_there", "refused", "headers", "blank"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class FileReport:
    """One file of an import; a `calibration.json` counts as one line."""

    path: str
    kind: str
    counts: Counts = field(default_factory=Counts)
    refusals: list[Refusal] = field(default_factory=list)
    """The first ones."""
    notes: list[str] = field(default_factory=list)
    """The first ones."""
    n_notes: int = 0

    def refuse(self, line: int, reason: str) -> Refusal:
        """Count a refused line; its reason becomes one short line of text."""
        one = Refusal(self.path, line, " ".join(reason.split())[:_REASON_LENGTH])
        self.counts.refused += 1
        if len(self.refusals) < SHOWN_PER_FILE:
            self.refusals.append(one)
        return one

    def note(self, text: str) -> None:
        """Something to know that refuses no line."""
        self.n_notes += 1
        if len(self.notes) < SHOWN_PER_FILE:
            self.notes.append(text)


@dataclass(slots=True)
class ImportReport:
    """All files of an import, in the order they were read."""

    experiment: str
    files: list[FileReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is to be said of all of them."""

    @property
    def totals(self) -> Counts:
        """All lines."""
        totals = Counts()
        for file in self.files:
            totals.add(file.counts)
        return totals


class RefusalLog:
    """All refusals, on disk where they are many: memory stays constant."""

    def __init__(self) -> None:
        self._file: IO[bytes] = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115  # open as long as the log is

    def append(self, refusal: Refusal) -> None:
        """Keep one more."""
        fields = {"file": refusal.file, "line": refusal.line, "reason": refusal.reason}
        self._file.write(json.dumps(fields).encode() + b"\n")

    def __iter__(self) -> Iterator[str]:
        """Each as a line of JSON with `file`, `line` and `reason`."""
        self._file.seek(0)
        for line in self._file:
            yield line.decode().rstrip("\n")

    def close(self) -> None:
        """Delete them."""
        self._file.close()


OnRefusal = Callable[[Refusal], None]


# What the run store holds already, as digests in a temporary database on disk: memory stays constant.


class Seen:
    """A set of content identities."""

    def __init__(self, stored: Iterable[StoredContent] = ()) -> None:
        # an empty name is a file of its own that SQLite deletes on closing; no journal, no waiting for the disk
        self._connection = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8000"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._connection.execute("BEGIN")
        self.has_measured = False
        """Whether the store holds evaluations that massact measured."""
        for one in stored:
            self.has_measured |= one.kind is Kind.EVALUATION and one.content is None
            if one.content is not None:
                self.add(one.content)
            self.add(measured_identity(one.key, one.finished_at))

    def add(self, identity: str) -> bool:
        """Add an identity. Returns whether it was new."""
        done = self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (_digest(identity),))
        return done.rowcount == 1

    def __contains__(self, identity: str) -> bool:
        asked = self._connection.execute("SELECT 1 FROM seen WHERE digest = ?", (_digest(identity),))
        return asked.fetchone() is not None

    def discard(self, identity: str) -> None:
        """Take an identity out again: what it stands for could not be imported."""
        self._connection.execute("DELETE FROM seen WHERE digest = ?", (_digest(identity),))

    def close(self) -> None:
        """Delete the database."""
        self._connection.close()


def _digest(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()


def measured_identity(key: str, finished_at: int | None) -> str:
    """Identity of a run that massact measured: one cell finishes once in a millisecond."""
    return f"{key} {finished_at}"
