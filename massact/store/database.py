"""A tracking database: opened for reading only, its schema checked, its errors explained in one line."""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from massact.errors import StoreError

LOCK_TIMEOUT_SECONDS = 20.0
"""How long a read waits for a writer's lock; MLflow's own writers wait as long."""
CONNECT_TIMEOUT_SECONDS = 10

_LOCK_NOT_AVAILABLE, _INSUFFICIENT_PRIVILEGE = "55P03", "42501"  # PostgreSQL's

_VERSIONS = sa.table("alembic_version")
MLFLOW_VERSION = "3.17.2"
"""The MLflow whose schema is read."""
SCHEMA_VERSION = "dc11669786a5"
OLDER_SCHEMA_VERSIONS = (
    "451aebb31d03 90e64c465722 181f10493468 df50e92ffc5e 7ac759974ad8 89d4b8295536 2b4d017a5e9b "
    "cfd24bdc0731 0a8213491aaa 728d730b5ebd 27a6a02d2cf1 84291f40a231 a8c4a736bde6 39d1c3be5f05 "
    "c48cb773bb87 bd07f7e963c5 0c779009ac13 cc1f77228345 97727af70f4d 3500859a5d39 7f2a7d5fae7d "
    "2d6e25af4d3e acf3f17fdcc7 867495a8f9d4 5b0e9adcef9c 4465047574b1 f5a4f2784254 0584bdc529eb "
    "400f98739977 6953534de441 bda7b8c39065 cbc13b556ace 770bee3ae1dd a1b2c3d4e5f6 de4033877273 "
    "1a0cddfcaa16 534353b11cbc 71994744cf8e 3da73c924c2f bf29a5ff90ea 1bd49d398cd23 b7c8d9e0f1a2 "
    "5d2d30f0abce c9d4e5f6a7b8 2c33131f4dae d3e4f5a6b7c8 d0e1f2a3b4c5 c8d9e0f1a2b3 1b5f0d9ad7c1 "
    "e1f2a3b4c5d6 76601a5f987d c3d6457b6d8a a5b4c3d2e1f0 ae8bbe7743c9 7d34483879f0 da6fb0208061 "
    "89d3d66ed43f b7e4c1a90f23 a8b9c0d1e2f3 c1d2e3f4a5b6 c3d9e7f1a2b4 6f8d9c3b2a1e 1971f2d9a75b "
    "17e22815139b b7e2c1a4d9f3 75868b020152"
)
"""The versions that MLflow's schema had before, the oldest first."""


def open_database(uri: str, *, statement_seconds: float | None = None) -> tuple[sa.Engine, str]:
    """An engine that only reads, and the database's name as messages show it, without a password.

    Args:
        statement_seconds: how long PostgreSQL works on one statement at most; SQLite works in this process.

    Raises:
        StoreError: the URI cannot be parsed, there is no such file, or its driver is not installed.
    """
    scheme, _, place = uri.partition(":")
    backend = "sqlite" if scheme.lower().startswith("sqlite") else "postgresql"  # `postgres` and drivers too
    try:
        url = sa.make_url(f"{backend}:{place}")
    except (sa.exc.ArgumentError, ValueError) as error:
        raise StoreError(
            "the tracking URI of the database cannot be parsed; write sqlite:///PATH or "
            "postgresql://USER@HOST:PORT/DATABASE, and in a password %40 for @ and %2F for /"
        ) from error
    return _open_sqlite(url) if backend == "sqlite" else _open_postgresql(url, statement_seconds)


def check_schema(engine: sa.Engine, name: str, tables: Iterable[str]) -> None:
    """Make sure that a database has the tables and the schema version of the MLflow that is known.

    Raises:
        StoreError: it is not MLflow's, or of an MLflow whose schema is another one.
        SQLAlchemyError: it cannot be read.
    """
    present = set(sa.inspect(engine).get_table_names())
    missing = [table for table in (*tables, _VERSIONS.name) if table not in present]
    if missing:
        raise StoreError(
            f"{name} is a database, but not MLflow's (it has no table {missing[0]!r}): "
            "pass the tracking URI that `massact main` wrote to"
        )
    version = sa.column("version_num", sa.String)
    with engine.connect() as connection:
        _check_version(name, sorted(connection.execute(sa.select(version).select_from(_VERSIONS)).scalars()))


def _check_version(name: str, versions: Sequence[str]) -> None:
    if versions == [SCHEMA_VERSION]:
        return
    shown = ", ".join(map(repr, versions)) or "none"
    known = f"MLflow {MLFLOW_VERSION} ({SCHEMA_VERSION!r})"
    if versions and set(versions) <= set(OLDER_SCHEMA_VERSIONS.split()):
        raise StoreError(
            f"{name} has the schema of an older MLflow ({shown}); massact reads that of {known}: "
            "back it up and run `mlflow db upgrade` with this tracking URI"
        )
    raise StoreError(
        f"{name} has a schema version that this massact does not know ({shown}); it was tested with {known}: "
        "upgrade massact, or pass the http:// address of its tracking server"
    )


def explain(error: sa.exc.SQLAlchemyError, name: str) -> str:
    """What went wrong with a database and what to do, in one line."""
    cause = getattr(error, "orig", None)
    reason = str(cause or error).strip().partition("\n")[0]
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


def _open_postgresql(url: sa.URL, statement_seconds: float | None) -> tuple[sa.Engine, str]:
    secrets = {key: "***" for key in ("password", "sslpassword") if key in url.query}
    name = url.update_query_dict(secrets).render_as_string(hide_password=True)
    # a timeout in the URI is the user's own
    limits = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            connect_args=limits,
            execution_options={"postgresql_readonly": True},
        )
    except ImportError as error:
        raise StoreError(f"reading {name} needs psycopg: pip install 'massact[postgres]'") from error
    limits_set = {"lock_timeout": LOCK_TIMEOUT_SECONDS, "statement_timeout": statement_seconds}
    # for the transaction only: behind a pool of connections a setting would reach other clients
    statement = "; ".join(
        f"SET LOCAL {name} = {int(seconds * 1000)}" for name, seconds in limits_set.items() if seconds
    )
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(statement))
    return engine, name


def _open_sqlite(url: sa.URL) -> tuple[sa.Engine, str]:
    if not url.database or url.database == ":memory:":
        raise StoreError("a run store in memory cannot be read by another process; write sqlite:///PATH")
    path = Path(url.database).absolute()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise StoreError(f"cannot open the run store {path}: {error.strerror}") from error
    if is_folder:
        raise StoreError(f"{path} is a folder, not a database: write sqlite:///FILE")
    if not is_file:
        raise StoreError(f"no run store at {path} yet: run `massact main` or pass --tracking-uri")
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
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=LOCK_TIMEOUT_SECONDS)
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
