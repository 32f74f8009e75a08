"""What came of an import: every line is accounted for."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO

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
