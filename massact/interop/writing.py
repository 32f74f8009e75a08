"""What an import writes and reports: alone in its experiment, its runs under one parent, every line counted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

from massact.domain import DEFAULT_COHERENCE_FLOOR
from massact.errors import StoreError
from massact.interop.names import Target
from massact.store.claims import Sharing
from massact.store.retry import Patience
from massact.store.schema import MlflowTag
from massact.store.write.client import parent_tags
from massact.store.write.run_writer import FinishedRun, RunWriter, open_writer
from massact.store.write.tracker import OpenRun, Tracker

SHOWN_PER_FILE = 20  # refusals, and notes, that a report shows of each file; the rest is counted
OUTPUT_SCHEMA_VERSION = 1
_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Refusal:
    file: str
    line: int  # from 1
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
        return sum(astuple(self))

    def to_document(self) -> dict[str, int]:
        return {"read": self.read, **asdict(self)}


@dataclass(slots=True)
class FileReport:
    """One file of an import; a `calibration.json` counts as one line."""

    path: str
    kind: str
    counts: Counts = field(default_factory=Counts)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is to be known and refuses no line

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

    @property
    def totals(self) -> Counts:
        return Counts(*map(sum, zip(*(astuple(file.counts) for file in self.files), strict=True)))

    @property
    def refusals(self) -> list[dict[str, Any]]:
        """Every refused line with `file`, `line` and `reason`."""
        return [asdict(refusal) for file in self.files for refusal in file.refusals]

    def to_document(self, *, dry_run: bool) -> dict[str, Any]:
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


_PATIENCE_SECONDS = 60.0
_ALONE = ["importing"]  # what an import takes of an experiment, as a sweep takes the keys of its cells


@dataclass(slots=True)
class ImportWriter:
    """Writes into the run store, as children of one run of the phase `import`."""

    tracker: Tracker
    parent: OpenRun
    sharing: Sharing
    writer: RunWriter
    has_written: bool = False

    def write(self, runs: Sequence[FinishedRun]) -> None:
        """Write a chunk: all of it or, where the store can, none. Raises StoreError: another imports by now."""
        if not runs:
            return
        if not self.sharing.take(_ALONE, 1, is_known=True):
            raise StoreError(
                "this import was silent for so long that another began in its place: run it again, nothing is "
                "imported twice"
            )
        self.has_written, tags = True, parent_tags(self.parent.run_id)
        self.writer.write([replace(run, tags={**run.tags, **tags}) for run in runs])

    def finish(self, report: ImportReport) -> None:
        """Say in the run what was imported."""
        counts = report.totals.to_document()
        self.tracker.log(self.parent, metrics={f"lines_{name}": float(count) for name, count in counts.items()})
        lines = [f"- {file.path}: {file.counts.imported} of {file.counts.read} lines" for file in report.files]
        self.tracker.set_tag(self.parent, MlflowTag.NOTE.value, "Imported:\n\n" + "\n".join(lines))


@contextmanager
def open_import(
    tracking_uri: str, target: Target, params: Mapping[str, object], say: Callable[[str], None]
) -> Iterator[ImportWriter]:
    """A run of the phase `import`, while nobody else imports into the experiment; `say` is told who is waited for. One
    that brought nothing new is deleted."""
    config, patience = target.config, Patience(_PATIENCE_SECONDS, say=say)
    tracker = Tracker(
        tracking_uri,
        target.experiment,
        description=config.description if config else "",
        floor=config.coherence_floor if config else DEFAULT_COHERENCE_FLOOR,
        patience=patience,
    )
    with (
        tracker.phase("import", params=params) as run,
        closing(Sharing(tracker, run, patience=patience, say=say, alone="the import")) as sharing,
        closing(open_writer(tracking_uri, run.experiment_id)) as writer,
    ):
        while not sharing.take(_ALONE, 1, is_known=True):
            sharing.wait(_ALONE)
        opened = ImportWriter(tracker, run, sharing, writer)
        yield opened
    if not opened.has_written:
        tracker.discard(run)
