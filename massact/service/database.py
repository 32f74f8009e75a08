"""The run store's database before a service starts on it: made where there is none, refused where it is not right.

Makes the first tables with MLflow, so it runs in a child of `massact serve` (`massact.service.preparing`).
"""

from contextlib import closing

import sqlalchemy as sa

from massact.addresses import shown_uri
from massact.errors import UsageError
from massact.tracking.connection import set_up_client
from massact.tracking.database import TrackingDatabase

PROXIED_ARTIFACTS = "mlflow-artifacts:/"
"""The artifact root of experiments whose artifacts go through the server."""


def set_up(uri: str, *, upgrade: bool = False) -> list[str]:
    """Make MLflow's tables where the database is empty. Returns what was done, in words.

    Args:
        upgrade: migrate one of an older MLflow, which otherwise is refused.

    Raises:
        StoreError: the database cannot be reached, is not MLflow's, or has another schema than this MLflow's.
    """
    set_up_client()  # MLflow's chatter turned down
    notes: list[str] = []
    with closing(TrackingDatabase(uri, shown_uri(uri))) as database:
        if upgrade:
            notes.append(database.upgrade(PROXIED_ARTIFACTS, notes.append))
        is_new = database.make_ready(PROXIED_ARTIFACTS, notes.append)
    return [*notes, f"run store {shown_uri(uri)}" + (", new" if is_new else "")]


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
            f"serving {shown_uri(uri)} needs psycopg: pip install 'massact[server,postgres]'"
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
