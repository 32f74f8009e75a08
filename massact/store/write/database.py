"""A tracking database before anything is written to it: made whole where there is none, refused where it does not fit.

MLflow makes and migrates a database wherever its client is opened, and leaves a broken one when that is cut off. So
a new SQLite file is made aside and renamed into place, and one that holds anything is migrated on demand only."""

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from filelock import FileLock

from massact.addresses import check_path
from massact.errors import StoreError, UnusableStoreError
from massact.store.databases import (
    LOCK_TIMEOUT_SECONDS,
    TAGS,
    database_errors,
    database_url,
    is_hollow,
    open_engine,
    reason_of,
    schema_versions,
    sqlite_path,
)

_VERSIONS = ("alembic_version", "alembic_version_auth")
_LOCK_NUMBER = 0x6D617373616374
"""Of the lock that PostgreSQL holds while one process sets the database up: 'massact' as a number."""
_SIDE_FILES = ("-journal", "-wal", "-shm")

State = Literal["ready", "empty", "half made", "older", "newer", "foreign"]
Say = Callable[[str], None]
_UNMADE = ("empty", "half made")


class TrackingDatabase:
    """A database that MLflow keeps runs in, or is to. Every method raises `StoreError` where it cannot be reached."""

    def __init__(self, uri: str, name: str) -> None:
        """`name`: as messages show it, without a password."""
        self._name = name
        self._uri, self._path = uri, sqlite_path(uri)
        self._engine = open_engine(database_url(uri), f"writing to {name}", poolclass=sa.pool.NullPool)

    def make_ready(self, artifact_root: str | None, say: Say) -> bool:
        """Make sure that this MLflow can write to it: make it where there is none, or one that was half made. Returns
        whether. Artifacts of new experiments go to `artifact_root`; `None`: MLflow's default, in the working directory.
        Raises UnusableStoreError: it is not MLflow's, or has another schema than this MLflow's."""
        with self._explained():
            # a server's tables are looked at alone: while another process makes them each waits for the other's locks
            state = self._state() if self._path is not None or self._versions() == [_head()] else None
            if state is None or state in _UNMADE:
                with self._alone():
                    state = self._state()  # another may have made it meanwhile
                    if state in _UNMADE:
                        self._make(state, artifact_root, say)
                        return True
            if state != "ready":
                raise UnusableStoreError(self._refusal(state))
            return False

    def upgrade(self, artifact_root: str | None, say: Say) -> str:
        """Migrate it to this MLflow's schema; of a SQLite file a copy is kept. Returns what was done. Raises
        UnusableStoreError: it is not MLflow's, of a newer MLflow, or the migration failed."""
        with self._explained(), self._alone():
            state = self._state()
            if state in ("newer", "foreign"):
                raise UnusableStoreError(self._refusal(state))
            if state in _UNMADE:
                self._make(state, artifact_root, say)
            if state != "older":
                return f"{self._name} has the schema of MLflow {_mlflow()} ({_head()})"
            copy = None if self._path is None else _copied(self._path, "-".join(self._versions()))
            kept = f"; as it was: {copy}" if copy else ""
            self._migrate(copy)
            return f"{self._name} was migrated to the schema of MLflow {_mlflow()} ({_head()}){kept}"

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    def _state(self) -> State:
        if self._path is not None and not self._path.exists():
            return "empty"  # a connection would make the file
        with self._engine.connect() as connection:
            return self._examine(connection)

    def _examine(self, connection: sa.Connection) -> State:
        tables = set(sa.inspect(connection).get_table_names())
        if not tables.difference(_VERSIONS):
            return "empty"
        versions, is_mlflows = schema_versions(connection), {"experiments", "runs"} <= tables
        if versions == [_head()] and is_mlflows:
            return "ready"
        if not _is_known(versions):
            return "newer" if is_mlflows else "foreign"
        if is_hollow(connection, tables):
            return "half made"
        return "older" if is_mlflows else "foreign"

    def _versions(self) -> list[str]:
        with self._engine.connect() as connection:
            return schema_versions(connection)

    def _refusal(self, state: State) -> str:
        if state == "foreign":
            return (
                f"{self._name} is a database, but not MLflow's: pass the tracking URI that `massact main` wrote to, or "
                "that of a new or empty database"
            )
        shown = ", ".join(map(repr, self._versions())) or "none"
        if state == "newer":
            return (
                f"{self._name} was migrated by a newer MLflow (schema version {shown}) than the {_mlflow()} that is "
                "installed here, which can read it for questions but not write to it: pip install --upgrade mlflow, "
                "or pass another --tracking-uri"
            )
        where = f"sqlite:///{self._path}" if self._path else self._name
        return (
            f"{self._name} has the schema of an older MLflow (version {shown}), and MLflow {_mlflow()}, which is "
            "installed here, can write to it only after a migration, after which the older one refuses it for ever. "
            f"Back it up and run `massact serve --upgrade --backend-store-uri {where}` (or `mlflow db upgrade` with "
            "this URI), or install the MLflow that it was written with"
        )

    def _make(self, state: State, artifact_root: str | None, say: Say) -> None:
        if artifact_root is None:
            check_path(Path.cwd(), "the working directory, where artifacts would go,")
        if self._path is None:
            # PostgreSQL makes the tables in two transactions, and MLflow goes on after the first
            _make_tables(self._uri, artifact_root)
            return
        if state == "half made":
            say(f"{self._name} was half made by a command that was cut off, and is made anew: {self._set_aside()}")
        check_path(self._path, "the file of the run store")
        new = self._path.with_name(f"{self._path.name}.new")
        leftovers = [Path(f"{new}{suffix}") for suffix in ("", *_SIDE_FILES)]
        try:
            for path in leftovers:
                path.unlink(missing_ok=True)
            _make_tables(f"sqlite:///{new}", artifact_root)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            for suffix in _SIDE_FILES:  # of a file that is gone: SQLite would play them back into the new one
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            new.replace(self._path)
        finally:
            for path in leftovers:
                path.unlink(missing_ok=True)

    def _set_aside(self) -> str:
        assert self._path is not None
        kept = _unused(self._path, "half-made")
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN EXCLUSIVE")  # whoever is still making it has ended
            if self._examine(connection) != "half made":
                raise StoreError(f"{self._name} is being made by another process: try again")
            self._path.rename(kept)
            for suffix in filter(lambda end: Path(f"{self._path}{end}").exists(), _SIDE_FILES):
                Path(f"{self._path}{suffix}").rename(f"{kept}{suffix}")
        return f"what there was is kept as {kept}"

    def _migrate(self, copy: Path | None) -> None:
        from mlflow.store.db.utils import _upgrade_db

        try:
            _upgrade_db(self._engine)  # type: ignore[no-untyped-call]
        except Exception as error:
            if copy is not None and self._path is not None:
                copy.replace(self._path)
            raise UnusableStoreError(
                f"MLflow {_mlflow()} could not migrate {self._name}, which is as it was: {error}"
            ) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process sets this database up."""
        if self._path is not None:
            place = self._path.with_name(f"{self._path.name}.setup-lock")
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                held = FileLock(place).acquire()
            except OSError as error:
                raise UnusableStoreError(
                    f"cannot write beside the run store, in {place.parent}: {error.strerror}"
                ) from error
            with held:
                try:
                    yield
                finally:
                    place.unlink(missing_ok=True)
            return
        with self._engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK_NUMBER})
            connection.commit()
            yield  # the lock ends with the connection, however this ends

    @contextmanager
    def _explained(self) -> Iterator[None]:
        unusable = f"tracking store {self._name} cannot be used"
        advice = (
            "Check --tracking-uri or MLFLOW_TRACKING_URI, the login, and that the database is up and may be written to"
        )
        try:
            with database_errors(lambda error: f"{unusable}: {reason_of(error)}. {advice}"):
                yield
        except OSError as error:
            raise UnusableStoreError(f"{unusable}: {error}") from error


def write_tags(uri: str, key: str, values: Mapping[str, str]) -> None:
    """Set one tag of many runs, by run id."""
    from sqlalchemy.dialects import postgresql, sqlite

    engine = open_engine(database_url(uri), "writing tags", poolclass=sa.pool.NullPool)
    insert: Any = (sqlite if engine.dialect.name == "sqlite" else postgresql).insert(TAGS)
    upsert = insert.on_conflict_do_update(index_elements=("key", "run_uuid"), set_={"value": insert.excluded.value})
    rows = [{"run_uuid": run_id, "key": key, "value": value} for run_id, value in values.items()]
    with engine.begin() as connection:
        if rows:
            connection.execute(upsert, rows)


def undo_cut_off_write(tracking_uri: str) -> None:
    """Have SQLite roll back what a command that was killed left half written, which nobody who only reads may do."""
    path = sqlite_path(tracking_uri)
    if path is None or not (path.is_file() and path.with_name(f"{path.name}-journal").exists()):
        return
    with (
        suppress(sqlite3.Error),  # whoever reads says what is wrong
        closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_SECONDS)) as connection,
    ):
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def _make_tables(uri: str, artifact_root: str | None) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, artifact_root or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
    store.engine.dispose()


def _head() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())  # type: ignore[no-untyped-call]


def _mlflow() -> str:
    from mlflow.version import VERSION

    return str(VERSION)


def _is_known(versions: Collection[str]) -> bool:
    """Whether this MLflow has migrations from there: the version is its own, or an older one's."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    script = ScriptDirectory.from_config(_get_alembic_config(""))  # type: ignore[no-untyped-call]
    return set(versions) <= {revision.revision for revision in script.walk_revisions()}


def _copied(path: Path, version: str) -> Path:
    copy = _unused(path, f"before-upgrade-from-{version or 'none'}")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _unused(path: Path, what: str) -> Path:
    stem = f"{path.name}.{what}-{time.strftime('%Y%m%dT%H%M%S')}"
    names = (path.with_name(f"{stem}{f'-{number}' if number else ''}") for number in range(1000))
    return next(name for name in names if not name.exists())
