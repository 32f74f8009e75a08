"""What ended processes left in a spool: read, sent to the stores that it belongs to, and cleared away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from massact.errors import SpoolFolderError, StoreError
from massact.store.spool.journal import SUFFIX, Journal, Slot, open_journal
from massact.store.spool.records import (
    FORMAT,
    Contents,
    DamagedLineError,
    Home,
    RunRecord,
    Sent,
    decode,
    encode,
    read_contents,
    stored_uri,
    usable_uri,
)
from massact.store.spool.sender import AT_ONCE, BYTES_AT_ONCE, Courier, explain_refusal
from massact.store.write.finished_run import WholeRun


@dataclass(slots=True)
class JournalReport:
    """What came of one journal."""

    path: Path
    experiment: str = ""
    """Name of the experiment; empty where the line that tells it is damaged."""
    host: str = ""
    pid: int = 0
    in_use: bool = False
    """A process works on it: it was left alone."""
    sent: int = 0
    there: int = 0
    """Had arrived already."""
    refused: list[str] = field(default_factory=list)
    """Of each run that the store refused, its name and why."""
    left: int = 0
    """Runs that are not in the store now, refused ones included."""
    damaged: list[int] = field(default_factory=list)
    """Numbers of lines that were not as they had been written, from 1: what they held is lost."""
    is_torn: bool = False
    """The last line had no end: what was being written at a power cut or `kill -9` is lost."""
    problem: str = ""
    """Why something is left, or why nothing could be read."""
    kept: Path | None = None
    """Where a damaged journal was kept after all that could be read of it was sent."""

    @property
    def is_clear(self) -> bool:
        """Whether nothing is left that could be sent or was lost after it had been written."""
        return not (self.left or self.damaged or self.problem)


class _Post:
    """Couriers by store; a store that took nothing is not asked again for the next journal."""

    def __init__(self, given: str | None) -> None:
        self._given = given
        self._couriers: dict[str, Courier] = {}
        self._problems: dict[str, str] = {}

    def courier(self, store: str) -> Courier:
        """The one for a store.

        Raises:
            StoreError: an earlier attempt has failed.
        """
        if store in self._problems:
            raise StoreError(self._problems[store])
        if store not in self._couriers:
            self._couriers[store] = Courier(usable_uri(store, self._given))
        return self._couriers[store]

    def give_up(self, store: str, error: StoreError) -> None:
        """Ask that store no more."""
        self._problems.setdefault(store, str(error))

    def close(self) -> None:
        """Let go of connections."""
        for courier in self._couriers.values():
            courier.close()


def send_leftovers(
    folder: Path, tracking_uri: str | None, *, say: Callable[[str], None], only_here: bool = False
) -> list[JournalReport]:
    """Send what ended processes left in a spool, each run to the store that it was meant for, and only once.

    Args:
        folder: of the spool; one that is not there holds nothing.
        tracking_uri: used for the runs that were meant for the same place, since a journal holds no password.
        say: told what came of each journal.
        only_here: leave alone what is meant for other stores than `tracking_uri`.

    Returns:
        A report on each journal that holds something, or is in use.

    Raises:
        SpoolFolderError: the folder cannot be read.
    """
    post, reports = _Post(tracking_uri), []
    only = stored_uri(tracking_uri) if only_here and tracking_uri is not None else None
    try:
        for path in _journals(folder):
            report = _clear(path, post, only)
            if report is not None:
                reports.append(report)
                for line in describe(report):
                    say(line)
    finally:
        post.close()
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
    whose = f" (experiment {report.experiment!r}, {report.host}, process {report.pid})" if report.host else ""
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


def _journals(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpoolFolderError(f"the spool {folder} cannot be read ({error.strerror})") from error


def _clear(path: Path, post: _Post, only: str | None) -> JournalReport | None:
    report = JournalReport(path)
    try:
        journal = open_journal(path)
    except OSError as error:
        report.problem = f"cannot be opened ({error.strerror}): ask for the right to write to it"
        return report
    if journal is None:
        report.in_use = path.exists()
        return report if report.in_use else None
    try:
        contents = read_contents(journal)
    except OSError as error:
        journal.close()
        report.problem = f"cannot be read ({error.strerror})"
        return report
    return _send(journal, contents, report, post, only)


def _send(
    journal: Journal, contents: Contents, report: JournalReport, post: _Post, only: str | None
) -> JournalReport | None:
    if contents.opening is not None:
        report.experiment = contents.opening.experiment
        report.host, report.pid = contents.opening.host, contents.opening.pid
    report.damaged, report.is_torn = contents.damaged, contents.torn_at is not None
    if contents.other_format is not None:
        journal.close()
        report.left = len(contents.waiting)
        report.problem = (
            f"was written by another version of massact (format {contents.other_format}, this one knows "
            f"{FORMAT}): nothing was sent; use that version"
        )
        return report
    if only is not None and any(home.store != only for home, _ in contents.waiting.values()):
        journal.close()
        return None
    if contents.torn_at is not None:
        journal.cut(contents.torn_at)  # or a mark would be written behind half a line
    _send_all(journal, contents, report, post)
    return _put_away(journal, contents, report)


def _put_away(journal: Journal, contents: Contents, report: JournalReport) -> JournalReport | None:
    report.left = len(contents.waiting)
    if contents.waiting:
        journal.close()
    elif contents.damaged:
        report.kept = journal.set_aside()
    else:
        journal.remove()
    is_empty = not (report.sent or report.there or report.left or report.damaged or report.is_torn)
    return None if is_empty else report


def _send_all(journal: Journal, contents: Contents, report: JournalReport, post: _Post) -> None:
    """Send what waits, and take out of `contents` what has arrived."""
    for home, slots in _batches(contents):
        try:
            courier = post.courier(home.store)
            runs = {id_: _read(journal, slot) for id_, slot in slots}
            outcome = courier.send(home.experiment_id, runs, look=True)
        except StoreError as error:
            post.give_up(home.store, error)
            report.problem = str(error)
            continue
        except (OSError, DamagedLineError) as error:
            report.problem = f"cannot be read any more ({error!r})"
            continue
        done = (*outcome.sent, *outcome.there)
        if done:
            journal.mark(encode(Sent(done)))
        for id_ in done:
            del contents.waiting[id_]
        report.sent += len(outcome.sent)
        report.there += len(outcome.there)
        report.refused += [
            f"{runs[id_].name}: {explain_refusal(error)}" for id_, error in outcome.refused.items()
        ]


def _batches(contents: Contents) -> Iterator[tuple[Home, list[tuple[str, Slot]]]]:
    waiting = [(home, id_, slot) for id_, (home, slot) in contents.waiting.items()]
    for home, group in groupby(waiting, key=lambda one: one[0]):
        batch: list[tuple[str, Slot]] = []
        for _, id_, slot in group:
            size = sum(one.length for _, one in batch) + slot.length
            if batch and (len(batch) == AT_ONCE or size > BYTES_AT_ONCE):
                yield home, batch
                batch = []
            batch.append((id_, slot))
        yield home, batch


def _read(journal: Journal, slot: Slot) -> WholeRun:
    record = decode(journal.read(slot))
    assert isinstance(record, RunRecord)
    return record.run
