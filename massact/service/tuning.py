"""What makes a run store quicker to read: an index and statistics, made only when asked for (docs/service.md)."""

import time

import sqlalchemy as sa

from massact.addresses import shown_uri
from massact.errors import StoreError, UsageError
from massact.schema import POINT_KEYS
from massact.service.database import open_engine
from massact.service.settings import sqlite_path
from massact.store.database import explain

INDEX = "massact_points"
_FIRST, _BEYOND = POINT_KEYS
_CREATE = (
    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} ON tags (key) INCLUDE (run_uuid, value) "
    f"WHERE key >= '{_FIRST}' AND key < '{_BEYOND}'"
)
_DROP = f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}"
_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"
_IN_ORDER = "SELECT " + " AND ".join(
    f"'{_FIRST}{digit * 12}' >= '{_FIRST}' AND '{_FIRST}{digit * 12}' < '{_BEYOND}'" for digit in "09af"
)
_LOCK_NUMBER = 0x74756E65
"""'tune' as a number: of two at once the second waits."""
_TRY_LOCK = "SELECT pg_try_advisory_lock(:n)"
_AGAIN_SECONDS = 0.5
_ANALYSED = ("runs", "tags", "params", "metrics", "latest_metrics", "experiments")


def tuned(uri: str) -> list[str]:
    """Tune a run store. Again it changes nothing but the statistics. Returns what was done, in words.

    Raises:
        StoreError: the database refused.
    """
    engine = open_engine(uri).execution_options(isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            return _sqlite(connection) if sqlite_path(uri) else _postgresql(connection)
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(explain(error, shown_uri(uri))) from error
    finally:
        engine.dispose()


def _sqlite(connection: sa.Connection) -> list[str]:
    mode = connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar_one()
    if str(mode).lower() != "wal":
        raise UsageError(
            f"SQLite keeps its journal mode {mode!r}: the database is not on a disk of this machine, or is in use. "
            "Move it to a local disk, or stop what uses it, and try again"
        )
    # a sample: all rows of a large store take a minute
    connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
    connection.exec_driver_sql("ANALYZE")
    return [
        "journal mode WAL: readers and the writer no longer wait for each other",
        "statistics: the UI's searches find the way through the largest tables",
    ]


def _postgresql(connection: sa.Connection) -> list[str]:
    # asked again and again: one that waited inside its query would be waited for by the other's CREATE INDEX
    while not connection.execute(sa.text(_TRY_LOCK), {"n": _LOCK_NUMBER}).scalar_one():
        time.sleep(_AGAIN_SECONDS)
    if not connection.execute(sa.text(_IN_ORDER)).scalar_one():
        raise StoreError(
            "this database sorts texts in an order in which the index is of no use (its collation is unusual): nothing "
            "was done. One made with LOCALE 'C.UTF-8' can be tuned"
        )
    before = connection.execute(sa.text(_VALID), {"name": INDEX}).scalar_one_or_none()
    if before is False:  # building it was broken off: it costs writers and serves nobody
        connection.exec_driver_sql(_DROP)
    connection.exec_driver_sql(_CREATE)
    # what is marked as seen by all is then read from the index alone
    connection.exec_driver_sql("VACUUM (ANALYZE) tags")
    for table in _ANALYSED:
        connection.exec_driver_sql(f"ANALYZE {table}")
    made = "was there already" if before else "made"
    return [f"index {INDEX} of tags: {made}", "statistics: up to date"]
