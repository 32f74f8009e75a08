"""Finished runs one by one, in constant memory: for imports, which ask what is there, and for exports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from massact.store.read import open_source
from massact.store.read.base import RawRun
from massact.store.read.database import is_absent
from massact.store.schema import Kind, Tag

_CONTENT_KINDS = (Kind.EVALUATION, Kind.BASELINE, Kind.CALIBRATION, Kind.PUBLISHED)


@dataclass(frozen=True, slots=True)
class StoredContent:
    """By what a stored result is known again."""

    key: str
    finished_at: int | None
    """Milliseconds since 1970; `None` where the run has no end."""
    content: str | None
    """Digest of the line that it was imported from; `None` where massact measured it."""
    kind: Kind | None = None


def stored_contents(tracking_uri: str, experiment: str) -> Iterator[StoredContent]:
    """Every finished result of an experiment that is not deleted. A store that is not there yet has none.

    Raises:
        StoreError: the store cannot be read.
    """
    if is_absent(tracking_uri):
        return
    for run in _runs(tracking_uri, experiment, _CONTENT_KINDS, tags=(Tag.KEY, Tag.CONTENT, Tag.KIND)):
        key = run.tags.get(Tag.KEY)
        if key is not None:
            yield StoredContent(key, run.finished_at, run.tags.get(Tag.CONTENT), Kind(run.tags[Tag.KIND]))


def stored_runs(tracking_uri: str, experiment: str, kind: Kind, *, tags: Sequence[str]) -> Iterator[RawRun]:
    """The finished runs of a kind that are not deleted, superseded ones too, in no order.

    Raises:
        StoreError: the store cannot be read.
    """
    return _runs(tracking_uri, experiment, (kind,), tags=tags)


def _runs(uri: str, experiment: str, kinds: Sequence[Kind], *, tags: Sequence[str]) -> Iterator[RawRun]:
    source = open_source(uri)
    try:
        for page in source.pages(experiment, kinds, tags=tags):
            yield from page
    finally:
        source.close()
