"""`massact import --published`: the figures of a write-up, as a report of the import."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from massact.domain import DEFAULT_COHERENCE_FLOOR

if TYPE_CHECKING:
    from massact.transfer.claim import ImportClaim
    from massact.transfer.names import Target
    from massact.transfer.published import PublishedFile
    from massact.transfer.report import ImportReport, RefusalLog


def import_figures(
    path: Path, target: "Target", refusals: "RefusalLog", *, tracking_uri: str, dry_run: bool
) -> "ImportReport":
    """Import a CSV file of published figures.

    Raises:
        UsageError: the file is no such file, or the store cannot be used; nothing was written.
    """
    from massact.transfer.published import import_published, read_published

    if dry_run:
        known = _known_keys(tracking_uri, target.experiment)
        file = read_published(path, target.experiment)
        imported = sum(row.key not in known for row in file.rows)
    else:
        from massact.tracking.tracker import Tracker

        read_published(path, target.experiment)  # a file that cannot be read must not make a store
        config = target.config
        tracker = Tracker(
            tracking_uri,
            target.experiment,
            description=config.description if config else "",
            floor=config.coherence_floor if config else DEFAULT_COHERENCE_FLOOR,
        )
        with claimed(tracking_uri, target):
            known = _known_keys(tracking_uri, target.experiment)
            done = import_published(path, tracker=tracker, known_keys=known)
        file, imported = done.file, len(done.imported)
    return _report(path, target.experiment, file, imported, refusals)


def claimed(tracking_uri: str, target: "Target") -> "ImportClaim":
    """The experiment for one import alone."""
    from massact.transfer.claim import ImportClaim

    description = target.config.description if target.config else ""
    say = partial(click.echo, err=True)
    return ImportClaim(tracking_uri, target.experiment, description=description, say=say)


def _known_keys(tracking_uri: str, experiment: str) -> set[str]:
    from massact.store import open_store
    from massact.store.contents import is_absent

    if is_absent(tracking_uri):
        return set()
    store = open_store(tracking_uri)
    try:
        return {one.row.key for one in store.published(experiment)}
    finally:
        store.close()


def _report(
    path: Path, experiment: str, file: "PublishedFile", imported: int, refusals: "RefusalLog"
) -> "ImportReport":
    from massact.transfer.report import FileReport, ImportReport

    report = FileReport(str(path), "published")
    report.counts.headers = 1
    report.counts.imported = imported
    report.counts.already_there = len(file.rows) - imported + len(file.repeats)
    for one in file.refusals:
        refusals.append(report.refuse(one.line, one.reason))
    for repeat in file.repeats:
        report.note(f"line {repeat.line} says what line {repeat.first} says, and counts once")
    return ImportReport(experiment, [report])
