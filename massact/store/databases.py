"""A database of MLflow's: its URI and engine, which errors pass by themselves, and how it is opened to be read."""

import os
import re
import socket
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from massact.addresses import declared_ui, is_database, shown_uri
from massact.errors import RunRefusedError, StoreError, UnusableStoreError

LOCK_TIMEOUT_SECONDS = 20.0  # how long a statement waits for another writer's lock; MLflow's own writers wait as long
CONNECT_TIMEOUT_SECONDS = 10

_SQLITE = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
)  # fmt: skip
_POSTGRESQL = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE: connection, rollback, resources, locks, an operator's intervention, the system."""
_SEEDS: dict[str, tuple[str, int | str]] = {"experiments": ("experiment_id", 0), "workspaces": ("name", "default")}
"""The column and the value of the rows that a new database has."""
_AT_THE_DOOR = ("password", "pg_hba.conf", "does not exist", "not permitted to log in")
"""What PostgreSQL says to those whom it never lets in; it gives no SQLSTATE with it."""


def database_url(uri: str) -> sa.URL:
    """The URI of SQLite, or of PostgreSQL with psycopg 3. Raises UnusableStoreError: it cannot be parsed."""
    scheme, _, place = uri.strip().partition(":")
    backend = "sqlite" if scheme.lower().startswith("sqlite") else "postgresql+psycopg"
    try:
        return sa.make_url(f"{backend}:{place}")
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UnusableStoreError(
            "the tracking URI of the database cannot be parsed; write sqlite:///PATH or "
            "postgresql://USER@HOST:PORT/DATABASE, and in a password %40 for @ and %2F for /"
        ) from error


UI_ADDRESS = "http://127.0.0.1:5000"  # where `massact serve` serves unless told otherwise


def ui_address(uri: str) -> str:
    """Where the UI of a run store is: where MASSACT_UI says; of a database file at whatever port `massact serve` serves
    it now."""
    if declared := declared_ui():
        return declared
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/")
    return told_address(uri) or UI_ADDRESS


def told_address(uri: str, what: str = "served") -> str | None:
    """The address that a server told beside the database and that it answers at; `None`: there is none."""
    file = served_file(uri, what)
    with suppress(OSError, ValueError):  # there is no file, no address in it, or no answer
        address = file.read_text(encoding="utf-8").strip() if file else ""
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port), timeout=0.5):
            return address
    return None


@contextmanager
def address_told(uri: str, address: str, what: str = "served") -> Iterator[None]:
    """Beside a database file, as long as it is served, the address that other commands find."""
    file = served_file(uri, what)
    with suppress(OSError):  # a folder that may only be read
        if file:
            file.write_text(address, encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            if file and file.read_text(encoding="utf-8") == address:
                file.unlink()


def served_file(uri: str, what: str = "served") -> Path | None:
    """The file beside a SQLite database that holds the address at which it is served; `None` for another store."""
    database = sqlite_path(uri) if is_database(uri) else None
    return database and database.with_name(f"{database.name}.{what}")


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite database, absolute; `None` for another. Raises UnusableStoreError: it is in memory."""
    if not uri.strip().lower().startswith("sqlite"):
        return None
    name = database_url(uri).database
    if not name or name == ":memory:":
        raise UnusableStoreError(
            "a run store in memory ends with its process, and no other process can use it; write sqlite:///PATH"
        )
    return Path(os.path.abspath(name))


def open_engine(url: sa.URL, doing: str, **options: Any) -> sa.Engine:
    """An engine that waits for locks and connections as long as is said above, unless the URI says otherwise. `doing`
    is what needs it, such as `reading NAME`. Raises UnusableStoreError: the driver is not installed."""
    is_sqlite = url.get_backend_name() == "sqlite"
    limits: dict[str, Any] = {"timeout": LOCK_TIMEOUT_SECONDS} if is_sqlite else {}
    if not is_sqlite and "connect_timeout" not in url.query:
        limits["connect_timeout"] = CONNECT_TIMEOUT_SECONDS
    try:
        return sa.create_engine(url, connect_args=limits, **options)
    except ImportError as error:
        raise UnusableStoreError(f"{doing} needs psycopg: pip install 'massact[postgres]'") from error


def passes_by_itself(error: BaseException) -> bool:
    """Whether a database may give another answer later: to a driver's error, or SQLAlchemy's around one."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SQLITE  # the lowest byte is the kind of error
    state = getattr(cause, "sqlstate", None)
    if state:
        return str(state).startswith(_POSTGRESQL)
    is_connection = type(cause).__name__ in ("OperationalError", "ConnectionTimeout", "TimeoutError")
    return is_connection and not any(text in str(cause) for text in _AT_THE_DOOR)


@contextmanager
def database_errors(
    explain: Callable[[Exception], str],
    *,
    errors: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError,),
    refusals: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """A database's errors as ours, in one line; `refusals` are those that are about what was to be written."""
    try:
        yield
    except errors as error:
        kind: type[StoreError] = StoreError if passes_by_itself(error) else UnusableStoreError
        raise (RunRefusedError if isinstance(error, refusals) else kind)(explain(error)) from error


def reason_of(error: BaseException) -> str:
    """The first line of what a driver says, without what stands before an `@`: a password that holds one ends there."""
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return re.sub(r"[^\s'\"]*@", "***@", reason)


def of_database(error: BaseException) -> BaseException | None:
    """The error of a database at the bottom of another error; `None` where there is none."""
    cause: BaseException | None = error
    while cause is not None:
        is_driver = type(cause).__module__.partition(".")[0] == "psycopg"
        if is_driver or isinstance(cause, sqlite3.Error | sa.exc.SQLAlchemyError):
            return cause
        cause = cause.__cause__
    return None


def schema_versions(connection: sa.Connection) -> list[str]:
    """The versions of MLflow's schema that a database says it has; none where it is not MLflow's."""
    table = "alembic_version"
    if table not in sa.inspect(connection).get_table_names():
        return []
    query = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(table))
    return sorted(connection.execute(query).scalars())


def is_hollow(connection: sa.Connection, tables: Collection[str]) -> bool:
    """Whether a database has tables of MLflow's and nothing in them but what MLflow puts there by itself. With tables
    missing, its making was cut off; no run can have been in it."""
    if "experiments" not in tables:
        return False
    for name in tables:
        query = sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)
        if name in _SEEDS:
            column, value = _SEEDS[name]
            if column not in {known["name"] for known in sa.inspect(connection).get_columns(name)}:
                return False
            query = query.where(sa.column(column) != value)
        if not name.startswith("alembic_version") and connection.execute(query).first() is not None:
            return False
    return True


# Opened for reading only, its schema checked, its errors explained in one line.

METADATA = sa.MetaData()


def _table(name: str, /, **columns: Any) -> sa.Table:
    """A table of MLflow's as far as it is read."""
    return sa.Table(name, METADATA, *(sa.Column(column, kind) for column, kind in columns.items()))


_TAG: dict[str, Any] = {"key": sa.String, "value": sa.String}
EXPERIMENTS = _table("experiments", experiment_id=sa.Integer, name=sa.String, lifecycle_stage=sa.String)
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
    """An engine that only reads, and the database's name as messages show it, without a password. PostgreSQL works on
    one statement for `statement_seconds` at most; SQLite works in this process."""
    path = sqlite_path(uri)
    if path is None:
        return _open_postgresql(database_url(uri), shown_uri(uri), statement_seconds), shown_uri(uri)
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise UnusableStoreError(f"cannot open the run store {path}: {error.strerror}") from error
    if is_folder:
        raise UnusableStoreError(f"{path} is a folder, not a database: write sqlite:///FILE")
    if not is_file:
        raise UnusableStoreError(f"no run store at {path} yet: run `massact main` or pass --tracking-uri")
    return sa.create_engine("sqlite://", creator=lambda: _connect(path), poolclass=NullPool), str(path)


def is_absent(tracking_uri: str) -> bool:
    """Whether there is no store yet: no SQLite file, a database without any table, or one half made."""
    uri = tracking_uri.strip()
    if not is_database(uri):
        return False
    path = sa.make_url(uri).database if uri.startswith("sqlite") else None
    if path and not Path(path).is_file():
        return True
    engine, name = open_database(uri)
    try:
        with database_errors(partial(reading_error, name=name)), engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            return not tables or (bool(METADATA.tables.keys() - tables) and is_hollow(connection, tables))
    finally:
        engine.dispose()


def check_schema(engine: sa.Engine, name: str) -> tuple[str, ...]:
    """Make sure that a database has the tables and columns that are read, of the types that are expected. Returns a
    line where its schema is none that massact was tested with. Raises UnusableStoreError: it is not MLflow's, or of an
    MLflow that keeps runs otherwise."""
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
            raise UnusableStoreError(f"no run store at {name} yet, only an empty database: run `massact main`")
        columns = inspector.get_multi_columns(filter_names=list(tables))
        kinds = {
            table: {column["name"]: column["type"] for column in described} for (_, table), described in columns.items()
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


def reading_error(error: Exception, name: str) -> str:
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
    return f"{name} stayed locked by a writer for {LOCK_TIMEOUT_SECONDS:g} s: try again when it is done"


def _open_postgresql(url: sa.URL, name: str, statement_seconds: float | None) -> sa.Engine:
    options = {"postgresql_readonly": True}
    engine = open_engine(url, f"reading {name}", poolclass=NullPool, execution_options=options)
    limits = {"lock_timeout": LOCK_TIMEOUT_SECONDS, "statement_timeout": statement_seconds}
    # for the transaction only: behind a pool of connections a setting would reach other clients
    statement = "; ".join(f"SET LOCAL {name} = {int(seconds * 1000)}" for name, seconds in limits.items() if seconds)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statement))
    return engine


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
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=LOCK_TIMEOUT_SECONDS)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # only now the file is opened
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_wal(path: Path) -> bool:
    """Whether the header says that writes go to a file beside the database first."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(20)[18:20] == b"\2\2"
    return False


def _is_pending(path: Path) -> bool:
    """Whether such writes are there."""
    with suppress(OSError):
        return os.stat(f"{path}-wal").st_size > 0
    return False


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
