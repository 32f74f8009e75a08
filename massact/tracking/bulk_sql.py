"""Rows of whole runs into MLflow's tracking database: all tables in one transaction, or nothing."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import sqlalchemy as sa

from massact.addresses import shown_uri
from massact.databases import passes_by_itself, reason_of
from massact.errors import RunRefusedError, StoreError, UnusableStoreError
from massact.tracking.tracker import Step

LOCK_TIMEOUT_SECONDS = 20.0
"""How long a write waits for another writer's lock; MLflow's own writers wait as long."""
_VARIABLES = 999
"""Values in one statement that any SQLite takes."""

TableRow = tuple[str | int | float | bool | None, ...]
Tables = dict[str, list[TableRow]]
_METRIC = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")
COLUMNS = {
    # runs first: the others refer to them
    "runs": (
        "run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time",
        "end_time", "deleted_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id",
    ),
    "params": ("key", "value", "run_uuid"),
    "tags": ("key", "value", "run_uuid"),
    "metrics": _METRIC,
    "latest_metrics": _METRIC,
}  # fmt: skip
"""Columns of MLflow's tables, in the order of the tuples that are inserted."""

_LARGEST = 1.7976931348623157e308
"""What MLflow stores for infinity."""


class Database:
    """Inserts into MLflow's tables; `uri` is one that `database_uri` gave."""

    def __init__(self, uri: str) -> None:
        url = sa.make_url(uri)
        self._is_sqlite = url.get_backend_name() == "sqlite"
        self._name = str(url.database) if self._is_sqlite else shown_uri(uri)
        arguments = {"timeout": LOCK_TIMEOUT_SECONDS} if self._is_sqlite else {}
        self._engine = sa.create_engine(url, pool_pre_ping=True, connect_args=arguments)
        driver = self._engine.dialect.loaded_dbapi
        self._errors = (sa.exc.SQLAlchemyError, driver.Error)
        self._refusals = (sa.exc.DataError, sa.exc.IntegrityError, driver.DataError, driver.IntegrityError)

    def insert(self, tables: Tables) -> None:
        """Insert rows by table, in the order of `COLUMNS`: all of them or none.

        Raises:
            RunRefusedError: nothing was written, since one of the rows can never be.
            StoreError: nothing was written, since the database is locked, read-only, down or not MLflow's;
                or a connection broke when all was.
        """
        put = self._put if self._is_sqlite else self._copy
        with self._explained(), self._engine.begin() as connection:
            for name in COLUMNS:
                put(connection, name, tables.get(name, []))

    def held(self, run_ids: Sequence[str]) -> set[str]:
        """Those of the runs that are there, deleted ones too.

        Raises:
            StoreError: the database is locked, down or not MLflow's.
        """
        column = sa.column("run_uuid", sa.String)
        query = sa.select(column).select_from(sa.table("runs"))
        found: set[str] = set()
        with self._explained(), self._engine.connect() as connection:
            for start in range(0, len(run_ids), _VARIABLES):
                some = run_ids[start : start + _VARIABLES]
                found.update(connection.execute(query.where(column.in_(some))).scalars())
        return found

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    def _put(self, connection: sa.Connection, name: str, rows: Sequence[TableRow]) -> None:
        width = len(COLUMNS[name])
        one = f"({','.join('?' * width)})"
        at_once = _VARIABLES // width
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            statement = f"INSERT INTO {name} ({_quoted(name)}) VALUES {','.join([one] * len(some))}"  # noqa: S608  # names are constants
            # to the driver: SQLAlchemy's handling of values row by row takes longer than the insert
            connection.exec_driver_sql(statement, tuple(chain.from_iterable(some)))

    def _copy(self, connection: sa.Connection, name: str, rows: Sequence[TableRow]) -> None:
        """By COPY, within the connection's transaction: a fraction of the time of INSERT."""
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(f"COPY {name} ({_quoted(name)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            kind: type[StoreError] = StoreError if passes_by_itself(error) else UnusableStoreError
            kind = RunRefusedError if isinstance(error, self._refusals) else kind
            raise kind(_explain(error, self._name)) from error


def probe(uri: str) -> None:
    """Make sure that a database server answers: MLflow would ask ten times, for a minute and a half.

    Raises:
        StoreError: it is down, or refuses the login.
    """
    if uri.lower().startswith("sqlite"):
        return  # a question would make a file that is not there yet
    database = Database(uri)
    try:
        database.held(())
    finally:
        database.close()


def _quoted(name: str) -> str:
    return ",".join(f'"{column}"' for column in COLUMNS[name])


def metric_rows(run_id: str, steps: Iterable[Step], timestamp: int) -> tuple[list[TableRow], list[TableRow]]:
    """Rows of `metrics`, and of `latest_metrics`: of each metric the last step, as MLflow chooses it."""
    rows: dict[TableRow, None] = {}
    latest: dict[str, tuple[tuple[int, float], TableRow]] = {}
    for one in steps:
        value, is_nan = _stored_value(one.value)
        row = (one.name, value, timestamp, one.step, is_nan, run_id)
        rows[row] = None
        if one.name not in latest or (one.step, value) > latest[one.name][0]:
            latest[one.name] = ((one.step, value), row)
    return list(rows), [row for _, row in latest.values()]


def _stored_value(value: float) -> tuple[float, bool]:
    if math.isnan(value):
        return 0.0, True
    return (math.copysign(_LARGEST, value) if math.isinf(value) else float(value)), False


def database_uri(tracking_uri: str) -> str | None:
    """The URI of a database, PostgreSQL's with the one driver that is supported, psycopg 3; else `None`."""
    scheme, _, rest = tracking_uri.partition(":")
    backend = scheme.lower().split("+")[0]
    if backend in ("postgres", "postgresql"):
        return f"postgresql+psycopg:{rest}"
    return tracking_uri if backend == "sqlite" else None


def _explain(error: Exception, name: str) -> str:
    reason = reason_of(error)
    if "locked" in reason:
        why = f"stayed locked by another writer for {LOCK_TIMEOUT_SECONDS:g} s: try again when it is done"
    elif "readonly" in reason or "read-only" in reason:
        why = f"may only be read ({reason}): check the file's permissions or the database's role"
    else:
        why = f"refused them: {reason}. Check that the database is up and was migrated by this MLflow"
    return f"no run was written: {name} {why}"
