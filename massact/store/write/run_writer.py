"""Writing finished runs, whole and many at a time: results of a sweep, imported ones, stores made to measure."""

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any

import sqlalchemy as sa

from massact.addresses import is_database, scheme_of, shown_uri
from massact.errors import StoreError
from massact.store.databases import LOCK_TIMEOUT_SECONDS, database_errors, database_url, open_engine, reason_of
from massact.store.schema import EvaluationRow, Scores
from massact.store.schema.names import COHERENCE_SCORE, TRAIT_SCORE, Artifact, MlflowTag, Tag
from massact.store.schema.points import encode_point, point_tag
from massact.store.schema.rows import encode_metrics, encode_scores, evaluation_metrics, evaluation_params, run_name
from massact.store.write.artifacts import write_files
from massact.store.write.client import connect, explained, log_in_batches, make_run, process_tag, row_run
from massact.store.write.finished_run import FinishedRun, Step, check_runs

_ALLOWED = "sqlite:///PATH, postgresql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST"
_PAGE = 1000


def evaluation_run(
    row: EvaluationRow,
    scores: Scores | None,
    *,
    name: str | None = None,
    started_at: int,
    finished_at: int,
    tags: Mapping[str, str] = {},
    files: Mapping[str, bytes] = {},
) -> FinishedRun:
    """The run of an evaluation or a baseline. Raises ValueError: the row does not fit in a tag.
    `scores`: per question; `None` where only the means are known. `name`: the run's name; `None` for the one of
    measured results. `tags`: more tags, such as `massact.store.write.client.parent_tags`. `files`: artifacts by path;
    with `responses.json` among them the UI shows it as a table."""
    name = run_name(row) if name is None else name
    more = label_tags(row)
    if (point := encode_point(row)) is not None:
        more[point_tag(row.experiment)] = point
    if scores and (encoded := encode_scores(scores)) is not None:
        more[Tag.SCORES.value] = encoded
    if scores:
        more |= encode_metrics(scores)
    if row.same_as_key is not None:
        more[Tag.SAME_AS.value] = row.same_as_key
    if Artifact.RESPONSES in files:
        more[MlflowTag.TABLES.value] = json.dumps([{"path": Artifact.RESPONSES.value, "type": "table"}])
    parts = {"params": evaluation_params(row), "metrics": evaluation_metrics(row)}
    steps, tags = score_steps(scores) if scores else (), more | dict(tags)
    return row_run(row, name, started_at=started_at, ended_at=finished_at, tags=tags, files=files, steps=steps, **parts)


def label_tags(row: EvaluationRow) -> dict[str, str]:
    """The label as a tag of its own; nothing for a baseline."""
    return {Tag.LABEL.value: row.label} if row.label else {}


def score_steps(scores: Scores) -> list[Step]:
    """Per-question scores as stepped metrics; an unscored question has no step."""
    named = ((TRAIT_SCORE, scores.trait), (COHERENCE_SCORE, scores.coherence))
    return [Step(name, value, i) for name, values in named for i, value in enumerate(values) if value is not None]


def open_writer(tracking_uri: str, experiment_id: str) -> "RunWriter":
    """A writer of finished runs into an MLflow experiment: by SQL into a database, else by MLflow's client; StoreError
    where there is none. After a refusal or a StoreError of a writer some runs may have been written."""
    uri = tracking_uri.strip()
    if not is_database(uri) and scheme_of(uri) not in ("http", "https"):
        raise StoreError(f"tracking URI {shown_uri(uri)!r} names no run store that can be written; write {_ALLOWED}")
    if is_database(uri) and scheme_of(uri) != "sqlite":  # a URI of SQLite is a path, and stays as it is written
        uri = database_url(uri).render_as_string(hide_password=False)
        with closing(SqlWriter(uri, "0", "")) as probe:  # MLflow would ask ten times, for a minute and a half
            probe.held(())
    client = connect(uri)
    with explained(uri):
        experiment = client.get_experiment(experiment_id)
    if experiment.lifecycle_stage != "active":
        raise StoreError(f"the MLflow experiment {experiment.name!r} was deleted: restore it first")
    if is_database(uri):
        return SqlWriter(uri, experiment_id, str(experiment.artifact_location))
    return ClientWriter(uri, experiment_id, client)


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
_LARGEST = 1.7976931348623157e308  # what MLflow stores for infinity
_IDS_PER_QUERY = 999  # values in one statement that any SQLite takes


class SqlWriter:
    """Rows into MLflow's database: each `write` is one transaction, which may leave files behind, no run without."""

    at_once = 50  # more would hold the database's lock for long, fewer would wait for the disk too often

    def __init__(self, uri: str, experiment_id: str, artifact_root: str) -> None:
        url = database_url(uri)
        self._uri, self._experiment_id, self._artifact_root = uri, int(experiment_id), artifact_root
        self._mark = "?" if url.get_backend_name() == "sqlite" else "%s"
        self._name = str(url.database) if self._mark == "?" else shown_uri(uri)
        self._engine = open_engine(url, f"writing to {self._name}", pool_pre_ping=True)
        driver = self._engine.dialect.loaded_dbapi
        self._errors = partial(
            database_errors,
            partial(_explain, name=self._name),
            errors=(sa.exc.SQLAlchemyError, driver.Error),
            refusals=(sa.exc.DataError, sa.exc.IntegrityError, driver.DataError, driver.IntegrityError),
        )

    def write(self, runs: Sequence[FinishedRun]) -> list[str]:
        """Write all of them or none."""
        records = {uuid.uuid4().hex: run for run in runs}
        self._write(records)
        return list(records)

    def write_once(self, records: Mapping[str, FinishedRun], *, look: bool) -> set[str]:
        """Write runs by the ids of their records, which become those of the runs, so that each is there whole or not at
        all. Returns the ids of those that were there already. With `look` the store is asked first."""
        there = self.held(list(records)) if look else set()
        self._write({id_: run for id_, run in records.items() if id_ not in there})
        return there

    def held(self, run_ids: Sequence[str]) -> set[str]:
        """Those of the runs that are there, deleted ones too."""
        column = sa.column("run_uuid", sa.String)
        query = sa.select(column).select_from(sa.table("runs"))
        held: set[str] = set()
        with self._errors(), self._engine.connect() as connection:
            for start in range(0, len(run_ids), _IDS_PER_QUERY):
                some = run_ids[start : start + _IDS_PER_QUERY]
                held.update(connection.execute(query.where(column.in_(some))).scalars())
        return held

    def insert(self, tables: Tables) -> None:
        """Insert rows by table, in the order of `COLUMNS`: all of them or none."""
        with self._errors(), self._engine.begin() as connection:
            for name, columns in COLUMNS.items():
                if rows := tables.get(name):
                    listed = ",".join(f'"{column}"' for column in columns)
                    insert = f"INSERT INTO {name} ({listed}) VALUES ({','.join([self._mark] * len(columns))})"  # noqa: S608  # constants
                    # to the driver: SQLAlchemy's handling of values row by row takes longer than the insert
                    connection.exec_driver_sql(insert, list(rows))

    def close(self) -> None:
        self._engine.dispose()

    def _write(self, runs: Mapping[str, FinishedRun]) -> None:
        from mlflow.utils.uri import append_to_uri_path

        check_runs(runs.values())
        root = self._artifact_root
        places = {run_id: str(append_to_uri_path(root, run_id, "artifacts")) for run_id in runs}  # type: ignore[no-untyped-call]
        write_files([(places[run_id], run.files) for run_id, run in runs.items()], self._uri)
        tables: Tables = {name: [] for name in COLUMNS}
        for run_id, run in runs.items():
            # what MLflow's own store writes for a run that its client made, ended and did not delete
            source = ("UNKNOWN", "", "", run.tags.get(MlflowTag.USER, "unknown"))
            times = (run.started_at, run.finished_at, None)
            end = ("", "active", places[run_id], self._experiment_id)
            tables["runs"].append((run_id, run.name, *source, run.status, *times, *end))
            tables["params"].extend((key, value, run_id) for key, value in run.params.items())
            tables["tags"].extend((key, value, run_id) for key, value in run.all_tags.items())
            history, latest = metric_rows(run_id, run.history, run.finished_at)
            tables["metrics"].extend(history)
            tables["latest_metrics"].extend(latest)
        self.insert(tables)


def metric_rows(run_id: str, steps: Iterable[Step], timestamp: int) -> tuple[list[TableRow], list[TableRow]]:
    """Rows of `metrics`, and of `latest_metrics`: of each metric the last step, as MLflow chooses it."""
    rows: dict[TableRow, None] = {}
    latest: dict[str, tuple[tuple[int, float], TableRow]] = {}
    for step in steps:
        is_nan = math.isnan(step.value)
        value = math.copysign(_LARGEST, step.value) if math.isinf(step.value) else 0.0 if is_nan else float(step.value)
        row = (step.name, value, timestamp, step.step, is_nan, run_id)
        rows[row] = None
        if step.name not in latest or (step.step, value) > latest[step.name][0]:
            latest[step.name] = ((step.step, value), row)
    return list(rows), [row for _, row in latest.values()]


def _explain(error: Exception, name: str) -> str:
    reason = reason_of(error)
    if "locked" in reason:
        why = f"stayed locked by another writer for {LOCK_TIMEOUT_SECONDS:g} s: try again when it is done"
    elif "readonly" in reason or "read-only" in reason:
        why = f"may only be read ({reason}): check the file's permissions or the database's role"
    else:
        why = f"refused them: {reason}. Check that the database is up and was migrated by this MLflow"
    return f"no run was written: {name} {why}"


class ClientWriter:
    """By MLflow's client, one run after the other; one that was cut off stays RUNNING, which no query counts."""

    at_once = 1  # each run is sent by itself, and so can be told apart when the server fails between two

    def __init__(self, uri: str, experiment_id: str, client: Any) -> None:
        self._uri, self._experiment_id, self._client = uri, experiment_id, client

    def write(self, runs: Sequence[FinishedRun]) -> list[str]:
        """Write all of them, or as many as went well before an error."""
        check_runs(runs)
        with explained(self._uri):
            return [self._fill(*self._make(run), run) for run in runs]

    def write_once(self, records: Mapping[str, FinishedRun], *, look: bool) -> set[str]:
        """Likewise; the ids are the runs' tag `massact.spool`. One that an earlier attempt left half written is
        completed, whatever its status is now."""
        check_runs(records.values())
        with explained(self._uri):
            held = self._held(records) if look else {}
            there = {id_ for id_, run in held.items() if run.info.status == records[id_].status}
            for id_, run in records.items():
                if id_ not in there:
                    half = held[id_].info if id_ in held else None
                    run_id, place = (half.run_id, half.artifact_uri) if half else self._make(run)
                    self._fill(run_id, place, run)
        return there

    def close(self) -> None:
        """Nothing to let go of: MLflow's client shares its connections."""

    def _make(self, run: FinishedRun) -> tuple[str, str]:
        tags = {**run.all_tags, Tag.PROCESS.value: process_tag()}
        about: dict[str, Any] = {"name": run.name, "started_at": run.started_at, "tags": tags}
        return make_run(self._client, self._uri, self._experiment_id, **about)

    def _fill(self, run_id: str, artifact_uri: str, run: FinishedRun) -> str:
        # what is there already of a run that was cut off stays as it is: the values are the same
        log_in_batches(self._client, run_id, run.params, run.history, at=run.finished_at)
        write_files([(artifact_uri, run.files)], self._uri)
        self._client.set_terminated(run_id, status=run.status, end_time=run.finished_at)
        return run_id

    def _held(self, records: Mapping[str, FinishedRun]) -> dict[str, Any]:
        """By record, MLflow's run that the server holds: where there are several, one that is whole. They are looked
        for by their time: the server's search knows no list of a tag's values, nor an index on one."""
        from mlflow.entities import ViewType

        held: dict[str, Any] = {}
        starts = [run.started_at for run in records.values()]
        within = f"attributes.start_time >= {min(starts)} AND attributes.start_time <= {max(starts)}"
        search = partial(self._client.search_runs, [self._experiment_id], within, ViewType.ALL, _PAGE)
        pages = [search()]
        while pages[-1].token:
            pages.append(search(page_token=pages[-1].token))
        for run in chain.from_iterable(pages):
            id_ = run.data.tags.get(Tag.SPOOL.value)
            if id_ not in records:
                continue
            is_whole = run.info.status == records[id_].status
            # one that was deleted half written cannot be completed: it is as if it had not been
            if is_whole or (id_ not in held and run.info.lifecycle_stage == "active"):
                held[id_] = run
        return held


RunWriter = SqlWriter | ClientWriter

__all__ = ["FinishedRun", "RunWriter", "evaluation_run", "label_tags", "open_writer"]
