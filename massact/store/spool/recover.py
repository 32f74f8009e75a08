"""What ended processes left in a spool: read, sent to the stores that it belongs to, and cleared away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from massact.addresses import stored_uri, usable_uri
from massact.errors import SpoolFolderError, StoreError
from massact.store.spool.journal import (
    FORMAT,
    SUFFIX,
    Contents,
    DamagedLineError,
    Home,
    Journal,
    Opening,
    Slot,
    decode_run,
    open_journal,
    read_contents,
)
from massact.store.spool.spool import AT_ONCE, BYTES_AT_ONCE, Sender, explain_refusal


@dataclass(slots=True)
class JournalReport:
    """What came of one journal."""

    path: Path
    opening: Opening | None = None  # whose it is; `None` where the line that tells it is damaged
    in_use: bool = False  # a process works on it: it was left alone
    sent: int = 0
    there: int = 0  # had arrived already
    refused: list[str] = field(default_factory=list)  # of each run that the store refused, its name and why
    left: int = 0  # runs that are not in the store now, refused ones included
    damaged: list[int] = field(default_factory=list)
    """Numbers of lines that were not as they had been written, from 1: what they held is lost."""
    is_torn: bool = False  # the last line had no end: what was being written at a power cut or `kill -9` is lost
    problem: str = ""  # why something is left, or why nothing could be read
    kept: Path | None = None  # where a damaged journal was kept after all that could be read of it was sent

    @property
    def is_clear(self) -> bool:
        """Whether nothing is left that could be sent or was lost after it had been written."""
        return not (self.left or self.damaged or self.problem)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return self.is_clear and not (self.in_use or self.sent or self.there or self.is_torn)


def send_leftovers(
    folder: Path, tracking_uri: str | None, *, say: Callable[[str], None], only_here: bool = False
) -> list[JournalReport]:
    """Send what ended processes left in a spool, each run to the store that it was meant for, and only once.
    A folder that is not there holds nothing. Returns a report on each journal that holds something, or is in use.
    `tracking_uri`: used for the runs that were meant for the same place, since a journal holds no password. `say`: told
    what came of each journal. `only_here`: leave alone what is meant for other stores than `tracking_uri`."""
    recovery, reports = _Recovery(tracking_uri, only_here=only_here), []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpoolFolderError(f"the spool {folder} cannot be read ({error.strerror})") from error
    try:
        for path in paths:
            report = recovery.clear(path)
            if not report.is_empty:
                reports.append(report)
                for line in describe(report):
                    say(line)
    finally:
        recovery.close()
    return reports


def describe(report: JournalReport) -> Iterator[str]:
    """A report as lines for people."""
    name = str(report.path)
    if report.in_use:
        yield f"{name}: in use by a process at work, left alone"
        return
    counts = [f"{report.sent} sent"]
    counts += [f"{report.there} there already"] if report.there else []
    counts += [f"{report.left} left"] if report.left else []
    who = report.opening
    whose = f" (experiment {who.experiment!r}, {who.host}, process {who.pid})" if who else ""
    yield f"{name}{whose}: {', '.join(counts)}"
    if report.problem:
        yield f"{name}: {report.problem}"
    for reason in report.refused:
        yield f"{name}: refused: {reason}"
    if report.is_torn:
        yield f"{name}: the last line was cut off while it was written; only that line is lost"
    if report.damaged:
        numbers = ", ".join(map(str, report.damaged))
        kept = f"; the file is kept as {report.kept}" if report.kept else ""
        yield f"{name}: damaged: line {numbers} cannot be read and is lost; the others can{kept}"


class _Recovery:
    """Sends journals one after the other; a store that took nothing is not asked again for the next one."""

    def __init__(self, tracking_uri: str | None, *, only_here: bool) -> None:
        self._uri, self._only = tracking_uri, stored_uri(tracking_uri) if only_here and tracking_uri else None
        self._senders: dict[str, Sender] = {}
        self._problems: dict[str, str] = {}

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()

    def clear(self, path: Path) -> JournalReport:
        """Send what a journal holds, and delete it where all has arrived."""
        report = JournalReport(path)
        try:
            journal = open_journal(path)
        except OSError as error:
            report.problem = f"cannot be opened ({error.strerror}): ask for the right to write to it"
            return report
        if journal is None:
            report.in_use = path.exists()
            return report
        try:
            contents = read_contents(journal)
        except OSError as error:
            journal.close()
            report.problem = f"cannot be read ({error.strerror})"
            return report
        homes = {home.store for home, _ in contents.waiting.values()}
        if contents.other_format is None and self._only is not None and homes - {self._only}:
            journal.close()
            return report
        report.opening, report.damaged = contents.opening, contents.damaged
        report.is_torn = contents.torn_at is not None
        if contents.other_format is not None:
            report.problem = (
                f"was written by another version of massact (format {contents.other_format}, this one knows "
                f"{FORMAT}): nothing was sent; use that version"
            )
        else:
            if contents.torn_at is not None:
                journal.cut(contents.torn_at)  # or a mark would be written behind half a line
            self._send(journal, contents, report)
        _put_away(journal, contents, report)
        return report

    def _send(self, journal: Journal, contents: Contents, report: JournalReport) -> None:
        """Send what waits, and take out of `contents` what has arrived."""
        for home, slots in _batches(contents):
            if home.store in self._problems:
                report.problem = self._problems[home.store]
                continue
            try:
                sender = self._senders.setdefault(home.store, Sender(usable_uri(home.store, self._uri)))
                runs = {id_: decode_run(journal.read(slot)) for id_, slot in slots}
                outcome = sender.send(home.experiment_id, runs, look=True)
            except StoreError as error:
                report.problem = self._problems[home.store] = str(error)
                continue
            except (OSError, DamagedLineError) as error:
                report.problem = f"cannot be read any more ({error!r})"
                continue
            journal.mark_sent(outcome.arrived)
            for id_ in outcome.arrived:
                del contents.waiting[id_]
            report.sent += len(outcome.sent)
            report.there += len(outcome.there)
            report.refused += [f"{runs[id_].name}: {explain_refusal(error)}" for id_, error in outcome.refused.items()]


def _put_away(journal: Journal, contents: Contents, report: JournalReport) -> None:
    report.left = len(contents.waiting)
    if contents.waiting or contents.other_format is not None:
        journal.close()
    elif contents.damaged:
        report.kept = journal.set_aside()
    else:
        journal.remove()


def _batches(contents: Contents) -> Iterator[tuple[Home, list[tuple[str, Slot]]]]:
    waiting = [(home, id_, slot) for id_, (home, slot) in contents.waiting.items()]
    for home, group in groupby(waiting, key=lambda entry: entry[0]):
        batch: list[tuple[str, Slot]] = []
        size = 0
        for _, id_, slot in group:
            size += slot.length
            if batch and (len(batch) == AT_ONCE or size > BYTES_AT_ONCE):
                yield home, batch
                batch, size = [], slot.length
            batch.append((id_, slot))
        yield home, batch
