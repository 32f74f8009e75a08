"""What came of an import: every line is accounted for."""

from dataclasses import asdict, dataclass, field
from typing import Any

COUNTS = ("read", "imported", "already_there", "refused", "headers", "blank")
SHOWN_PER_FILE = 20
"""Refusals, and notes, that a report shows of each file; the rest is counted."""
OUTPUT_SCHEMA_VERSION = 1
_REASON_LENGTH = 300


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

    def to_document(self) -> dict[str, int]:
        """The counts by their names in `COUNTS`."""
        return {name: getattr(self, name) for name in COUNTS}


@dataclass(slots=True)
class FileReport:
    """One file of an import; a `calibration.json` counts as one line."""

    path: str
    kind: str
    counts: Counts = field(default_factory=Counts)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is to be known and refuses no line."""

    def refuse(self, line: int, reason: str) -> None:
        """Count a refused line; its reason becomes one short line of text."""
        self.counts.refused += 1
        self.refusals.append(Refusal(self.path, line, " ".join(reason.split())[:_REASON_LENGTH]))


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
        names = ("imported", "already_there", "refused", "headers", "blank")
        return Counts(**{name: sum(getattr(file.counts, name) for file in self.files) for name in names})

    @property
    def refusals(self) -> list[dict[str, Any]]:
        """Every refused line with `file`, `line` and `reason`."""
        return [asdict(refusal) for file in self.files for refusal in file.refusals]

    def to_document(self, *, dry_run: bool) -> dict[str, Any]:
        """The report as JSON."""
        files = [
            {
                "path": file.path,
                "kind": file.kind,
                **file.counts.to_document(),
                "notes": file.notes[:SHOWN_PER_FILE],
                "n_notes": len(file.notes),
            }
            for file in self.files
        ]
        return {
            "schema_version": OUTPUT_SCHEMA_VERSION,
            "experiment": self.experiment,
            "dry_run": dry_run,
            "notes": self.notes,
            "totals": self.totals.to_document(),
            "files": files,
            "refusals": self.refusals,
        }
