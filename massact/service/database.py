"""The run store's database before a service starts on it: made where there is none, refused where it is not right.

Makes the first tables with MLflow, so it runs in a child of `massact serve` (`massact.service.preparing`).
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from massact.errors import StoreError, UsageError
from massact.service.settings import hidden, sqlite_path
from massact.store.database import SCHEMA_VERSION, check_schema, explain

PROXIED_ARTIFACTS = "mlflow-artifacts:/"
"""The artifact root of experiments whose artifacts go through the server."""
_TABLES = ("experiments", "runs", "tags", "params", "metrics", "latest_metrics")
_VERSIONS = ("alembic_version", "alembic_version_auth")
_LOCK_NUMBER = 0x6D617373616374
"""Of the lock that PostgreSQL holds while one service sets the database up: 'massact' as a number."""


def set_up(uri: str) -> str:
    """Make MLflow's tables where the database is empty. Returns what was done, in words.

    One service after the other: MLflow's own first migrations break where two run side by side.

    Raises:
        StoreError: the database cannot be reached, is not MLflow's, or has another schema than this MLflow's.
    """
    engine = open_engine(uri)
    try:
        with _alone(engine, uri):
            if not _is_empty(engine):
                check_schema(engine, hidden(uri), _TABLES)
                return f"run store {hidden(uri)}"
            _make(uri)
            return f"run store {hidden(uri)}, new (schema {SCHEMA_VERSION})"
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(explain(error, hidden(uri))) from error
    finally:
        engine.dispose()


def open_engine(uri: str) -> sa.Engine:
    """An engine that also writes.

    Raises:
        UsageError: the URI cannot be parsed, or its driver is not installed.
    """
    try:
        url = sa.make_url(uri)
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        return sa.create_engine(url, poolclass=sa.pool.NullPool)
    except ImportError as error:
        raise UsageError(
            f"serving {hidden(uri)} needs psycopg: pip install 'massact[server,postgres]'"
        ) from error
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UsageError("the database's URI cannot be parsed: write %40 for @ in a password") from error


def strange_places(uri: str) -> int:
    """How many experiments keep their artifacts where only some machines come to: in folders of one of them."""
    engine = open_engine(uri)
    try:
        with engine.connect() as connection:
            query = "SELECT count(*) FROM experiments WHERE lifecycle_stage = 'active' AND (artifact_location LIKE "
            found = connection.execute(
                sa.text(query + "'/%' OR artifact_location LIKE 'file:%')")
            ).scalar_one()
            return int(found)
    finally:
        engine.dispose()


def _is_empty(engine: sa.Engine) -> bool:
    return not set(sa.inspect(engine).get_table_names()).difference(_VERSIONS)


def _make(uri: str) -> None:
    from massact.tracking.connection import set_up_client

    set_up_client()  # MLflow's chatter turned down
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, PROXIED_ARTIFACTS)  # type: ignore[no-untyped-call]
    Registry(uri)  # type: ignore[no-untyped-call]


@contextmanager
def _alone(engine: sa.Engine, uri: str) -> Iterator[None]:
    """While nobody else sets this database up."""
    path = sqlite_path(uri)
    if path is not None:
        with _file_locked(path.with_name(f"{path.name}.setup-lock")):
            yield
        return
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK_NUMBER})
        connection.commit()
        yield  # the lock ends with the connection, however this ends


@contextmanager
def _file_locked(path: Path) -> Iterator[None]:
    try:
        file = path.open("w")
    except OSError as error:
        raise UsageError(f"cannot write beside the database, in {path.parent}: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # the file stays: removing it would let a third process lock another one of that name
