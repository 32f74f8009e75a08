"""Finished runs one by one, in constant memory: for imports, which ask what is there, and for exports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from massact.addresses import is_database
from massact.store.databases import is_hollow
from massact.store.read import open_source
from massact.store.read.base import RawRun
from massact.store.read.database import explained, open_database
from massact.store.read.sql import METADATA
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
    for kind in _CONTENT_KINDS:
        for run in stored_runs(tracking_uri, experiment, kind, tags=(Tag.KEY, Tag.CONTENT)):
            key = run.tags.get(Tag.KEY)
            if key is not None:
                yield StoredContent(key, run.finished_at, run.tags.get(Tag.CONTENT), kind)


def stored_runs(tracking_uri: str, experiment: str, kind: Kind, *, tags: Sequence[str]) -> Iterator[RawRun]:
    """The finished runs of a kind that are not deleted, superseded ones too, in no order.

    Raises:
        StoreError: the store cannot be read.
    """
    source = open_source(tracking_uri)
    try:
        yield from source.stream(experiment, kind, tags=tags)
    finally:
        source.close()


def is_absent(tracking_uri: str) -> bool:
    """Whether there is no store yet: no SQLite file, a database without any table, or one half made.

    Raises:
        StoreError: the database cannot be reached.
    """
    uri = tracking_uri.strip()
    if not is_database(uri):
        return False
    path = sa.make_url(uri).database if uri.startswith("sqlite") else None
    if path and not Path(path).is_file():
        return True
    engine, name = open_database(uri)
    try:
        tables = sa.inspect(engine).get_table_names()
        with engine.connect() as connection:
            return not tables or (bool(METADATA.tables.keys() - tables) and is_hollow(connection, tables))
    except sa.exc.SQLAlchemyError as error:
        raise explained(error, name) from error
    finally:
        engine.dispose()
