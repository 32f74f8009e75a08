"""A child of `massact serve` that sets up what a service stands on, and ends: `python -m massact.service.preparing`.

It reads a `Task` as JSON from stdin, since a command line and a log are read by others, and answers with one JSON
object on stdout: `{"notes": [...], "viewed": [[ID, NAME], ...]}`, or `{"error": ..., "exit_code": ...}`. With
`s3://BUCKET/PREFIX` as its argument it makes the bucket that artifacts are to lie in."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from massact.addresses import shown_uri
from massact.errors import MassactError, StoreError, UsageError
from massact.service.settings import ADMIN_PASSWORD, USERS_DATABASE, Task
from massact.store.databases import EXPERIMENT_TAGS, EXPERIMENTS, database_url, open_engine, reading_error, sqlite_path
from massact.store.schema.names import POINT_KEYS
from massact.store.write.client import set_up_client
from massact.store.write.database import TrackingDatabase
from massact.store.write.tracker import EVALUATIONS, VIEW_TAG
from massact.words import counted

PASSWORD_LENGTH = 12  # the least that MLflow takes
_PASSWORD_WANTED = (
    f"Set {ADMIN_PASSWORD}, or {ADMIN_PASSWORD}_FILE to a file that holds it, to at least {PASSWORD_LENGTH} characters"
)


def _work(task: Task) -> list[str]:
    _check_first_admin(task)
    made = task.artifacts is not None and _make_folder(Path(task.artifacts))
    try:
        notes = set_up(task.database, upgrade=task.upgrade)
    except MassactError:
        if made and task.artifacts is not None:
            Path(task.artifacts).rmdir()
        raise
    if task.tune:
        return notes + tuned(task.database)
    if task.users_file is not None:
        _set_up_users()
    with _connected(task.database) as connection:
        n = int(connection.execute(sa.text(_ELSEWHERE)).scalar_one())
    if n:
        what = counted(n, "experiment keeps its", "experiments keep their")
        notes.append(
            f"note: {what} artifacts in folders, from before this database was served: the UI shows them as long as "
            "this machine has those folders; clients on other machines cannot read them"
        )
    return notes


def _make_folder(path: Path) -> bool:
    """Returns whether it was made."""
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path} for artifacts: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into {path}, the folder for artifacts: give it to the user who runs this")
    return is_new


def _check_first_admin(task: Task) -> None:
    """Before anything is made: where no user is there yet, the first one needs a password."""
    path = sqlite_path(task.database) if task.users_file is not None else None
    if path is None or (path.parent / USERS_DATABASE).exists():
        return
    if len(os.environ.get(ADMIN_PASSWORD, "")) < PASSWORD_LENGTH:
        raise UsageError(f"the first administrator cannot be made: {_PASSWORD_WANTED}")


def _set_up_users() -> None:
    from mlflow.exceptions import MlflowException

    try:
        from mlflow.server.auth import bootstrap_admin_user
    except ImportError as error:
        raise UsageError(f"--auth needs more of MLflow ({error}): pip install 'massact[server]'") from error
    try:
        bootstrap_admin_user()
    except MlflowException as error:
        reason = str(error).partition(" Set ")[0]
        raise UsageError(f"the first administrator cannot be made: {reason} {_PASSWORD_WANTED}") from error


# The run store's database before a service starts on it: made where there is none, refused where it is not right.

PROXIED_ARTIFACTS = "mlflow-artifacts:/"  # the artifact root of experiments whose artifacts go through the server
_ELSEWHERE = (
    "SELECT count(*) FROM experiments WHERE lifecycle_stage = 'active' AND (artifact_location LIKE '/%' OR "
    "artifact_location LIKE 'file:%')"
)
"""Of experiments that keep their artifacts where only some machines come to: in folders of one of them."""


def set_up(uri: str, *, upgrade: bool = False) -> list[str]:
    """Make MLflow's tables where there are none, or migrate those of an older one. Returns what was done, in words."""
    set_up_client()  # MLflow's chatter turned down
    notes: list[str] = []
    with closing(TrackingDatabase(uri, shown_uri(uri))) as database:
        if upgrade:
            notes.append(database.upgrade(PROXIED_ARTIFACTS, notes.append))
        is_new = database.make_ready(PROXIED_ARTIFACTS, notes.append)
    return [*notes, f"run store {shown_uri(uri)}" + (", new" if is_new else "")]


@contextmanager
def _connected(uri: str, **options: Any) -> Iterator[sa.Connection]:
    engine = open_engine(database_url(uri), f"serving {shown_uri(uri)}", poolclass=sa.pool.NullPool)
    try:
        with engine.execution_options(**options).connect() as connection:
            yield connection
    finally:
        engine.dispose()


def viewed_experiments(uri: str) -> list[tuple[int, str]]:
    """Id and name of the experiments that have views of ours in MLflow's UI, the newest first."""
    ours, tags = EXPERIMENTS.c, EXPERIMENT_TAGS.c
    query = sa.select(ours.experiment_id, ours.name).join(EXPERIMENT_TAGS, ours.experiment_id == tags.experiment_id)
    query = query.where(ours.lifecycle_stage == "active", tags.key == f"{VIEW_TAG}{EVALUATIONS}")
    with _connected(uri) as connection:
        return [(id_, name) for id_, name in connection.execute(query.order_by(ours.experiment_id.desc()))]


# What makes a run store quicker to read: an index and statistics, made only when asked for (docs/service.md).

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
_LOCK_NUMBER = 0x74756E65  # 'tune' as a number: of two at once the second waits
_TRY_LOCK = "SELECT pg_try_advisory_lock(:n)"
_AGAIN_SECONDS = 0.5
_ANALYSED = ("runs", "tags", "params", "metrics", "latest_metrics", "experiments")


def tuned(uri: str) -> list[str]:
    """Tune a run store; again it changes nothing but the statistics. Returns what was done, in words."""
    try:
        with _connected(uri, isolation_level="AUTOCOMMIT") as connection:
            return _sqlite(connection) if sqlite_path(uri) else _postgresql(connection)
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(reading_error(error, shown_uri(uri))) from error


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


def make_bucket(uri: str) -> None:
    """Make the bucket of an `s3://BUCKET/PREFIX`, or see that it is there."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        sys.exit(f"error: {uri} is no s3://BUCKET/PREFIX")
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        if parts.netloc not in names:
            client.create_bucket(Bucket=parts.netloc)
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"error: the bucket {parts.netloc} cannot be made: {error}")


def main() -> None:
    """Do the task on stdin, or make the bucket that is named."""
    if sys.argv[1:]:
        make_bucket(sys.argv[1])
        return
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no part of the answer
    task = Task(**json.load(sys.stdin))
    answer: dict[str, Any]
    try:
        answer = {"notes": _work(task), "viewed": viewed_experiments(task.database)}
    except MassactError as error:
        answer = {"error": str(error), "exit_code": error.exit_code}
    with os.fdopen(answer_to, "w") as out:
        json.dump(answer, out)


if __name__ == "__main__":
    main()
