"""Whole finished runs, written many at a time: for imported results and for stores made to measure."""

import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from massact.addresses import local_folder, shown_uri
from massact.errors import RunRefusedError, StoreError, UnusableStoreError
from massact.store.databases import passes_by_itself, reason_of
from massact.store.schema import (
    COHERENCE_SCORE,
    TRAIT_SCORE,
    Artifact,
    EvaluationRow,
    MlflowTag,
    Scores,
    Tag,
    encode_point,
    encode_scores,
    evaluation_metrics,
    evaluation_params,
    point_tag,
    run_name,
)
from massact.store.write.client import (
    cell_files,
    connect,
    process_tag,
    request_run,
    row_tags,
    run_tags,
    without_password,
)
from massact.store.write.finished_run import WholeRun, check_runs
from massact.store.write.tracker import Step, log_in_batches

# Artifacts of whole runs: plain files where they lie on this machine, else by MLflow's repositories.

Files = Mapping[str, bytes]
"""Content by path within the run."""

_NEVER = (400, 409, 413, 422)
"""HTTP statuses of a request that would be refused again, whenever it is made."""


def write_files(files_by_place: Iterable[tuple[str, Files]], tracking_uri: str) -> None:
    """Write the artifacts of runs, each to its artifact URI; on this machine they survive a power cut.

    Raises:
        StoreError: they cannot be written; some may have been.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    written: list[Path] = []
    with explained(tracking_uri):
        for place, files in files_by_place:
            folder = local_folder(place)
            if folder is not None:
                written += _write_local(folder, files)
            elif files:
                with tempfile.TemporaryDirectory(prefix="massact-") as temporary:
                    _write_local(Path(temporary), files)
                    repository = get_artifact_repository(place, tracking_uri=tracking_uri)
                    repository.log_artifacts(temporary)  # type: ignore[no-untyped-call]
        # after all are written: the first sync then carries most of the others with it
        for path in written:
            _sync(path)


def _write_local(folder: Path, files: Files) -> list[Path]:
    paths = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(tracking_uri: str) -> Iterator[None]:
    """MLflow's errors and the system's as ours, in one line without a password.

    Raises:
        RunRefusedError: it would be refused again, whenever it is tried.
        StoreError: any other failure.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = f"tracking store {shown_uri(tracking_uri)}: {without_password(error, tracking_uri)}"
        status = error.get_http_status_code() if isinstance(error, MlflowException) else None  # type: ignore[no-untyped-call]
        is_final = status in _NEVER
        raise (RunRefusedError if is_final else StoreError)(reason) from error


# Rows of whole runs into MLflow's tracking database: all tables in one transaction, or nothing.

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


# Whole runs through MLflow's client, for tracking servers: a run is made, filled and then ended.

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class _Held:
    """A run that the server holds already."""

    run_id: str
    status: str
    artifact_uri: str
    is_deleted: bool


class ClientWriter:
    """One run after the other; one that was cut off stays RUNNING, which no query counts."""

    at_once = 1
    """Each run is sent by itself, and so can be told apart when the server fails between two."""

    def __init__(self, uri: str, experiment_id: str, client: Any) -> None:
        self._uri = uri
        self._experiment_id = experiment_id
        self._client = client

    def write(self, runs: Sequence[WholeRun]) -> list[str]:
        """Write all of them, or as many as went well before an error.

        Raises:
            StoreError: a run cannot be written, before any was; or the server does not answer any more.
        """
        check_runs(runs)
        with explained(self._uri):
            return [self._write(run) for run in runs]

    def write_once(self, records: Mapping[str, WholeRun], *, look: bool) -> set[str]:
        """Write runs that carry their record's id as a tag; see `massact.store.write.run_writer.RunWriter`.

        One that an earlier attempt left half written is completed, whatever its status is now.
        """
        check_runs(records.values())
        with explained(self._uri):
            held = self._held(records) if look else {}
            there = {id_ for id_, run in held.items() if run.status == records[id_].status}
            for id_, run in records.items():
                if id_ in there:
                    continue
                half = held.get(id_)
                run_id, artifact_uri = (half.run_id, half.artifact_uri) if half else self._create_once(run)
                self._fill(run_id, artifact_uri, run)
        return there

    def close(self) -> None:
        """Nothing to let go of: MLflow's client shares its connections."""

    def _write(self, run: WholeRun) -> str:
        created = self._client.create_run(
            self._experiment_id, start_time=run.started_at, tags=run.all_tags, run_name=run.name
        )
        run_id = str(created.info.run_id)
        self._fill(run_id, str(created.info.artifact_uri), run)
        return run_id

    def _fill(self, run_id: str, artifact_uri: str, run: WholeRun) -> None:
        # what is there already of a run that was cut off stays as it is: the values are the same
        log_in_batches(self._client, run_id, run.params, run.history, timestamp=run.finished_at)
        write_files([(artifact_uri, run.files)], self._uri)
        self._client.set_terminated(run_id, status=run.status, end_time=run.finished_at)

    def _create_once(self, run: WholeRun) -> tuple[str, str]:
        """Make a run by one request. Returns its id and artifact URI."""
        return request_run(
            self._uri,
            self._experiment_id,
            name=run.name,
            started_at=run.started_at,
            tags={**run.all_tags, Tag.PROCESS.value: process_tag()},
        )

    def _held(self, records: Mapping[str, WholeRun]) -> dict[str, _Held]:
        """By record, the run that the server holds: where there are several, one that is whole."""
        found: dict[str, _Held] = {}
        for id_, run in self._runs_of_the_time(records):
            if id_ not in records:
                continue
            is_whole = run.status == records[id_].status
            # one that was deleted half written cannot be completed: it is as if it had not been
            if is_whole or (id_ not in found and not run.is_deleted):
                found[id_] = run
        return found

    def _runs_of_the_time(self, records: Mapping[str, WholeRun]) -> Iterator[tuple[str, _Held]]:
        """Runs that went through a spool and began when these did, with their records' ids.

        By time, since the server's search knows no list of a tag's values, and has no index on one.
        """
        from mlflow.entities import ViewType

        starts = [run.started_at for run in records.values()]
        within = f"attributes.start_time >= {min(starts)} AND attributes.start_time <= {max(starts)}"
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string=within,
                run_view_type=ViewType.ALL,
                max_results=_PAGE,
                page_token=token,
            )
            for run in page:
                info, record_id = run.info, run.data.tags.get(Tag.SPOOL.value)
                if record_id is not None:
                    yield (
                        record_id,
                        _Held(info.run_id, info.status, info.artifact_uri, info.lifecycle_stage != "active"),
                    )
            token = page.token
            if not token:
                return


__all__ = [
    "RunWriter",
    "WholeRun",
    "evaluation_run",
    "evaluation_tags",
    "label_tags",
    "open_writer",
    "score_steps",
]


class RunWriter(Protocol):
    """Writes whole runs into one MLflow experiment."""

    @property
    def at_once(self) -> int:
        """How many runs are best given to it at once."""

    def write(self, runs: Sequence[WholeRun]) -> list[str]:
        """Write all of them or, where the store can, none. Returns their ids, in order."""

    def write_once(self, records: Mapping[str, WholeRun], *, look: bool) -> set[str]:
        """Write runs by the ids of their records, which each of them has as the tag `massact.spool`.

        Args:
            look: whether some of them may have been written before, whole or in part: then the store is
                asked first, what is there is left as it is, and what is there in part is completed.

        Returns:
            The ids of those that were there already.

        Raises:
            RunRefusedError: one of them can never be written.
            StoreError: the store cannot be written to now. After either error some may have been written.
        """

    def close(self) -> None:
        """Let go of connections."""


_ALLOWED = "sqlite:///PATH, postgresql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST"


def evaluation_run(
    row: EvaluationRow,
    scores: Scores | None,
    *,
    name: str | None = None,
    started_at: int,
    finished_at: int,
    tags: Mapping[str, str] = {},
    files: Mapping[str, bytes] = {},
) -> WholeRun:
    """The run of an evaluation or a baseline, as a sweep writes it.

    Args:
        scores: per question; `None` where only the means are known.
        name: the run's name; `None` for the one that a sweep gives.
        tags: more tags, such as `massact.store.write.client.parent_tags`.
        files: artifacts by path; with `responses.json` among them the UI shows it as a table.

    Raises:
        ValueError: the row does not fit in a tag.
    """
    name = run_name(row) if name is None else name
    own = evaluation_tags(row, scores, keep_responses=Artifact.RESPONSES in files)
    return WholeRun(
        name=name,
        tags=run_tags(row.kind, row.experiment, name) | row_tags(row) | own | dict(tags),
        params=evaluation_params(row),
        metrics=evaluation_metrics(row),
        steps=score_steps(scores) if scores else (),
        started_at=started_at,
        finished_at=finished_at,
        files={**cell_files(row), **files},
    )


def evaluation_tags(row: EvaluationRow, scores: Scores | None, *, keep_responses: bool) -> dict[str, str]:
    """Tags that an evaluation's or a baseline's run has beside those of every run with a row."""
    tags = label_tags(row)
    if (point := encode_point(row)) is not None:
        tags[point_tag(row.experiment)] = point
    if scores and (encoded := encode_scores(scores)) is not None:
        tags[Tag.SCORES.value] = encoded
    if row.same_as_key is not None:
        tags[Tag.SAME_AS.value] = row.same_as_key
    if keep_responses:
        tags[MlflowTag.TABLES.value] = json.dumps([{"path": Artifact.RESPONSES.value, "type": "table"}])
    return tags


def label_tags(row: EvaluationRow) -> dict[str, str]:
    """The label as a tag of its own; nothing for a baseline."""
    return {Tag.LABEL.value: row.label} if row.label else {}


def score_steps(scores: Scores) -> list[Step]:
    """Per-question scores as stepped metrics; an unscored question has no step."""
    named = ((TRAIT_SCORE, scores.trait), (COHERENCE_SCORE, scores.coherence))
    return [
        Step(name, value, i) for name, values in named for i, value in enumerate(values) if value is not None
    ]


def open_writer(tracking_uri: str, experiment_id: str) -> RunWriter:
    """A writer into an MLflow experiment that exists: by SQL into a database, else by MLflow's client.

    Raises:
        StoreError: no such kind of store, it cannot be reached, or its experiment is not there.
    """
    uri = tracking_uri.strip()
    database = database_uri(uri)
    if database is None and not uri.lower().startswith(("http://", "https://")):
        raise StoreError(
            f"tracking URI {shown_uri(uri)!r} names no run store that can be written; write {_ALLOWED}"
        )
    if database:
        probe(database)
    client = connect(database or uri)
    with explained(uri):
        experiment = client.get_experiment(experiment_id)
    if experiment.lifecycle_stage != "active":
        raise StoreError(f"the MLflow experiment {experiment.name!r} was deleted: restore it first")
    if database:
        return _SqlWriter(database, int(experiment_id), str(experiment.artifact_location))
    return ClientWriter(uri, experiment_id, client)


class _SqlWriter:
    """Each `write` is one transaction. One that fails may leave files behind, but never a run without its own."""

    at_once = 50
    """More would hold the database's lock for long, fewer would wait for the disk too often."""

    def __init__(self, uri: str, experiment_id: int, artifact_root: str) -> None:
        self._uri = uri
        self._experiment_id = experiment_id
        self._artifact_root = artifact_root
        self._database = Database(uri)

    def write(self, runs: Sequence[WholeRun]) -> list[str]:
        """Write all of them or none.

        Raises:
            StoreError: nothing was written; the message says why.
        """
        run_ids = [uuid.uuid4().hex for _ in runs]
        self._write(dict(zip(run_ids, runs, strict=True)))
        return run_ids

    def write_once(self, records: Mapping[str, WholeRun], *, look: bool) -> set[str]:
        """Write runs whose ids are their records'; see `RunWriter`. A run is there whole or not at all."""
        there = self._database.held(list(records)) if look else set()
        self._write({id_: run for id_, run in records.items() if id_ not in there})
        return there

    def _write(self, runs: Mapping[str, WholeRun]) -> None:
        from mlflow.utils.uri import append_to_uri_path

        check_runs(runs.values())
        places = {
            run_id: str(append_to_uri_path(self._artifact_root, run_id, "artifacts"))  # type: ignore[no-untyped-call]
            for run_id in runs
        }
        write_files([(places[run_id], run.files) for run_id, run in runs.items()], self._uri)
        tables: Tables = {name: [] for name in COLUMNS}
        for run_id, run in runs.items():
            self._add(tables, run_id, run, places[run_id])
        self._database.insert(tables)

    def close(self) -> None:
        """Let go of connections."""
        self._database.close()

    def _add(self, tables: Tables, run_id: str, run: WholeRun, artifact_uri: str) -> None:
        # what MLflow's own store writes for a run that its client made, ended and did not delete
        source = ("UNKNOWN", "", "", run.tags.get(MlflowTag.USER, "unknown"))
        times = (run.started_at, run.finished_at, None)
        end = ("", "active", artifact_uri, self._experiment_id)
        tables["runs"].append((run_id, run.name, *source, run.status, *times, *end))
        tables["params"].extend((key, value, run_id) for key, value in run.params.items())
        tables["tags"].extend((key, value, run_id) for key, value in run.all_tags.items())
        history, latest = metric_rows(run_id, run.history, run.finished_at)
        tables["metrics"].extend(history)
        tables["latest_metrics"].extend(latest)
