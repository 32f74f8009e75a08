"""A database of MLflow's, read or written: its URI and engine, and which of its errors pass by themselves."""

import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from massact.errors import RunRefusedError, StoreError, UnusableStoreError

LOCK_TIMEOUT_SECONDS = 20.0
CONNECT_TIMEOUT_SECONDS = 10

_SQLITE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
)
_POSTGRESQL = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE: connection, rollback, resources, locks, an operator's intervention, the system."""
_SEEDS: dict[str, tuple[str, int | str]] = {
    "experiments": ("experiment_id", 0),
    "workspaces": ("name", "default"),
}
"""The column and the value of the rows that a new database has."""
_AT_THE_DOOR = ("password", "pg_hba.conf", "does not exist", "not permitted to log in")
"""What PostgreSQL says to those whom it never lets in; it gives no SQLSTATE with it."""


def database_url(uri: str) -> sa.URL:
    """The URI of SQLite, or of PostgreSQL with the one driver that is supported, psycopg 3.

    Raises:
        UnusableStoreError: it cannot be parsed.
    """
    scheme, _, place = uri.strip().partition(":")
    backend = "sqlite" if scheme.lower().startswith("sqlite") else "postgresql+psycopg"
    try:
        return sa.make_url(f"{backend}:{place}")
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UnusableStoreError(
            "the tracking URI of the database cannot be parsed; write sqlite:///PATH or "
            "postgresql://USER@HOST:PORT/DATABASE, and in a password %40 for @ and %2F for /"
        ) from error


def open_engine(url: sa.URL, doing: str, **options: Any) -> sa.Engine:
    """An engine that waits for locks and connections no longer than is said above, unless the URI says otherwise.

    Args:
        doing: what needs it, for the message, such as `reading NAME`.

    Raises:
        UnusableStoreError: the driver is not installed.
    """
    is_sqlite = url.get_backend_name() == "sqlite"
    limits: dict[str, Any] = {"timeout": LOCK_TIMEOUT_SECONDS} if is_sqlite else {}
    if not is_sqlite and "connect_timeout" not in url.query:
        limits["connect_timeout"] = CONNECT_TIMEOUT_SECONDS
    try:
        return sa.create_engine(url, connect_args=limits, **options)
    except ImportError as error:
        raise UnusableStoreError(f"{doing} needs psycopg: pip install 'massact[postgres]'") from error


def lock_seconds() -> float:
    """How long a statement waits for another writer's lock; MLflow's own writers wait as long."""
    return LOCK_TIMEOUT_SECONDS


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
    """A database's errors as ours, in one line; which of ours says whether they may pass by themselves.

    Args:
        errors: of SQLAlchemy and of drivers.
        refusals: those of them that are about what was to be written.
    """
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
    """Whether a database has tables of MLflow's and nothing in them but what MLflow puts there by itself.

    With tables missing, its making was cut off; no run can have been in it.
    """
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
