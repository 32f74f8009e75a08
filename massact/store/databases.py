"""What a database of MLflow's is before it is read or written, and which of its errors pass by themselves."""

import re
import sqlite3
from collections.abc import Collection

import sqlalchemy as sa

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
            if column not in {one["name"] for one in sa.inspect(connection).get_columns(name)}:
                return False
            query = query.where(sa.column(column) != value)
        if not name.startswith("alembic_version") and connection.execute(query).first() is not None:
            return False
    return True
