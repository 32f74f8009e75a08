"""A tracking database: opened for reading only, its schema checked, its errors explained in one line."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from massact.addresses import is_database, shown_uri
from massact.errors import UnusableStoreError
from massact.store.databases import (
    database_errors,
    database_url,
    is_hollow,
    lock_seconds,
    open_engine,
    reason_of,
    schema_versions,
)

METADATA = sa.MetaData()


def _table(name: str, **columns: Any) -> sa.Table:
    """A table of MLflow's as far as it is read."""
    return sa.Table(name, METADATA, *(sa.Column(column, kind) for column, kind in columns.items()))


_TAG: dict[str, Any] = {"key": sa.String, "value": sa.String}
EXPERIMENTS = _table("experiments", experiment_id=sa.Integer, lifecycle_stage=sa.String)
RUNS = _table(
    "runs", run_uuid=sa.String, status=sa.String, start_time=sa.BigInteger, end_time=sa.BigInteger,
    lifecycle_stage=sa.String, artifact_uri=sa.String, experiment_id=sa.Integer,
)  # fmt: skip
TAGS = _table("tags", run_uuid=sa.String, **_TAG)
METRICS = _table(
    "metrics", run_uuid=sa.String, key=sa.String, value=sa.Float, timestamp=sa.BigInteger, step=sa.BigInteger,
    is_nan=sa.Boolean,
)  # fmt: skip
EXPERIMENT_TAGS = _table("experiment_tags", experiment_id=sa.Integer, **_TAG)

_LOCK_NOT_AVAILABLE, _INSUFFICIENT_PRIVILEGE = "55P03", "42501"  # PostgreSQL's

TESTED_SCHEMAS = {"dc11669786a5": "3.17", "f4a9b2c7d1e6": "3.18"}
"""MLflow's releases that massact was tested with, by the version of their schema."""


def open_database(uri: str, *, statement_seconds: float | None = None) -> tuple[sa.Engine, str]:
    """An engine that only reads, and the database's name as messages show it, without a password.

    Args:
        statement_seconds: how long PostgreSQL works on one statement at most; SQLite works in this process.

    Raises:
        StoreError: the URI cannot be parsed, there is no such file, or its driver is not installed.
    """
    url = database_url(uri)
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    return _open_postgresql(url, shown_uri(uri), statement_seconds), shown_uri(uri)


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
        with database_errors(partial(explain, name=name)), engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            return not tables or (bool(METADATA.tables.keys() - tables) and is_hollow(connection, tables))
    finally:
        engine.dispose()


def check_schema(engine: sa.Engine, name: str) -> tuple[str, ...]:
    """Make sure that a database has the tables and columns that are read, of the types that are expected.

    Returns:
        A line where its schema is none that massact was tested with, though what is read is as expected.

    Raises:
        UnusableStoreError: it is not MLflow's, or of an MLflow that keeps runs otherwise.
        SQLAlchemyError: it cannot be read.
    """
    missing, misfits, versions = _examined(engine, name)
    if missing:
        raise UnusableStoreError(
            f"{name} is a database, but not MLflow's (it has no table {missing[0]!r}): "
            "pass the tracking URI that `massact main` wrote to"
        )
    shown = ", ".join(map(repr, versions)) or "none"
    tested = "MLflow " + ", ".join(f"{release} ({known!r})" for known, release in TESTED_SCHEMAS.items())
    if misfits:
        raise UnusableStoreError(
            f"{name} keeps runs otherwise than massact reads them: {'; '.join(misfits)} (schema version {shown}; "
            f"tested with {tested}). Upgrade massact, or pass the http:// address of its tracking server"
        )
    if len(versions) == 1 and versions[0] in TESTED_SCHEMAS:
        return ()
    return (
        f"{name} has schema version {shown}, which this massact was not tested with ({tested}); "
        "the tables that it reads are as it knows them",
    )


def _examined(engine: sa.Engine, name: str) -> tuple[list[str], list[str], list[str]]:
    """Tables that are missing, what of the others is not as it is read, and the versions of the schema."""
    with engine.connect() as connection:
        inspector, tables = sa.inspect(connection), METADATA.tables
        present = set(inspector.get_table_names())
        if not present:
            raise UnusableStoreError(
                f"no run store at {name} yet, only an empty database: run `massact main`"
            )
        columns = inspector.get_multi_columns(filter_names=list(tables))
        kinds = {
            table: {column["name"]: column["type"] for column in described}
            for (_, table), described in columns.items()
        }
        misfits = [text for table in tables.values() for text in _misfits(table, kinds.get(table.name, {}))]
        if misfits and is_hollow(connection, present):
            raise UnusableStoreError(
                f"no run store at {name} yet: the command that was making it was cut off. Run `massact main`, "
                "which makes it anew"
            )
        versions = schema_versions(connection)
    return [table for table in tables if table not in present], misfits, versions


def _misfits(table: sa.Table, kinds: Mapping[str, sa.types.TypeEngine[Any]]) -> Iterator[str]:
    for column in table.columns:
        kind = kinds.get(column.name)
        if kind is None:
            yield f"the table {table.name!r} has no column {column.name!r}"
        elif _python_type(kind) is not _python_type(column.type):
            yield f"{table.name}.{column.name} is {kind}, not {column.type}"


def _python_type(kind: sa.types.TypeEngine[Any]) -> type | None:
    with suppress(NotImplementedError):
        return float if kind.python_type is Decimal else kind.python_type
    return None


def explain(error: Exception, name: str) -> str:
    """What went wrong with a database and what to do, in one line."""
    cause, reason = getattr(error, "orig", None), reason_of(error)
    state = getattr(cause, "sqlstate", None)
    if isinstance(cause, sqlite3.Error):
        return _explain_sqlite(getattr(cause, "sqlite_errorcode", 0), reason, name)
    if state == _LOCK_NOT_AVAILABLE:
        return _locked(name)
    if state == _INSUFFICIENT_PRIVILEGE:
        return f"cannot read the run store {name}: {reason}. Ask for the right to SELECT from MLflow's tables"
    if "password" in reason or "pg_hba.conf" in reason:
        return f"the run store {name} refuses the login: {reason}. Check the user and password in the tracking URI"
    return f"cannot read the run store {name}: {reason}. Check the tracking URI and that the database is up"


def _explain_sqlite(code: int, reason: str, name: str) -> str:
    said = {
        sqlite3.SQLITE_NOTADB: f"{name} is not a database: pass the tracking URI that `massact main` wrote to",
        sqlite3.SQLITE_BUSY: _locked(name),
        sqlite3.SQLITE_LOCKED: _locked(name),
        sqlite3.SQLITE_INTERRUPT: f"{name} was written to while it was read: try again",
        sqlite3.SQLITE_CORRUPT: f"the run store {name} is damaged ({reason}): bring back a copy",
        sqlite3.SQLITE_CANTOPEN: _unopened(reason, name),
        sqlite3.SQLITE_READONLY: _unopened(reason, name),
        sqlite3.SQLITE_READONLY_ROLLBACK: f"{name} holds a write that was cut off, and reading may not undo it: "
        f"run `massact main` again, or open it once with `sqlite3 {name} .tables`",
    }
    fallback = f"cannot read the run store {name}: {reason}. Check the tracking URI"
    return said.get(code) or said.get(code & 0xFF) or fallback  # the lowest byte is the kind of error


def _unopened(reason: str, name: str) -> str:
    if not _is_pending(Path(name)):
        return f"cannot open the run store {name} ({reason}): ask for the right to read it"
    return (
        f"{name} has writes that lie beside it in {name}-wal, and reading those needs the right to write "
        "in its folder: ask for it, or copy both files to a folder of yours"
    )


def _locked(name: str) -> str:
    return f"{name} stayed locked by a writer for {lock_seconds():g} s: try again when it is done"


def _open_postgresql(url: sa.URL, name: str, statement_seconds: float | None) -> sa.Engine:
    options = {"postgresql_readonly": True}
    engine = open_engine(url, f"reading {name}", poolclass=NullPool, execution_options=options)
    limits = {"lock_timeout": lock_seconds(), "statement_timeout": statement_seconds}
    # for the transaction only: behind a pool of connections a setting would reach other clients
    statement = "; ".join(
        f"SET LOCAL {name} = {int(seconds * 1000)}" for name, seconds in limits.items() if seconds
    )
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statement))
    return engine


def _open_sqlite(url: sa.URL) -> tuple[sa.Engine, str]:
    if not url.database or url.database == ":memory:":
        raise UnusableStoreError(
            "a run store in memory cannot be read by another process; write sqlite:///PATH"
        )
    path = Path(url.database).absolute()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise UnusableStoreError(f"cannot open the run store {path}: {error.strerror}") from error
    if is_folder:
        raise UnusableStoreError(f"{path} is a folder, not a database: write sqlite:///FILE")
    if not is_file:
        raise UnusableStoreError(f"no run store at {path} yet: run `massact main` or pass --tracking-uri")
    return sa.create_engine("sqlite://", creator=lambda: _connect(path), poolclass=NullPool), str(path)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _connection(path, "mode=ro")  # a file that is missing must not be created by a question
    except sqlite3.OperationalError as error:
        # in WAL mode SQLite needs two files beside the database, which a read-only folder refuses
        cannot_write = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
        if not cannot_write or not _is_wal(path) or _is_pending(path):
            raise
    # nothing is in those files, so the database alone is the whole store, as long as nobody writes
    before = _stamp(path)
    connection = _connection(path, "immutable=1")
    connection.set_progress_handler(lambda: _stamp(path) != before, 10_000)
    return connection


def _connection(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=lock_seconds())
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # only now the file is opened
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_wal(path: Path) -> bool:
    """Whether the header says that writes go to a file beside the database first."""
    try:
        with path.open("rb") as file:
            return file.read(20)[18:20] == b"\2\2"
    except OSError:
        return False


def _is_pending(path: Path) -> bool:
    """Whether such writes are there."""
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except OSError:
        return False


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
