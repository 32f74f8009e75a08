"""Whole finished runs, written many at a time: for imported results and for stores made to measure."""

import json
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from massact.errors import StoreError
from massact.schema import (
    COHERENCE_SCORE,
    TAG_LIMIT,
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
)
from massact.tracking.bulk_sql import COLUMNS, Database, Tables, database_uri, metric_rows
from massact.tracking.tracker import (
    Step,
    connect,
    log_in_batches,
    row_tags,
    run_tags,
    shown_uri,
    without_password,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """Everything of one finished run."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    started_at: int
    """Milliseconds since 1970."""
    finished_at: int
    """Milliseconds since 1970."""
    status: str = "FINISHED"
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Artifacts: content by path within the run."""

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags with the name among them, where MLflow keeps it a second time."""
        return {**self.tags, MlflowTag.NAME.value: self.name}

    @property
    def history(self) -> list[Step]:
        """All values of all metrics."""
        return [*(Step(name, value, 0) for name, value in self.metrics.items()), *self.steps]


class RunWriter(Protocol):
    """Writes whole runs into one MLflow experiment."""

    def write(self, runs: Sequence[WholeRun]) -> list[str]:
        """Write all of them or, where the store can, none. Returns their ids, in order."""

    def close(self) -> None:
        """Let go of connections."""


_STATUSES = ("FINISHED", "FAILED", "KILLED")
_KEY_LIMIT, _PARAM_LIMIT = 250, 6000
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
    """The run of an evaluation or a baseline, as `log_evaluation` would have written it.

    Args:
        scores: per question; `None` where only the means are known.
        name: the run's name; `None` for the one that `log_evaluation` gives.
        tags: more tags, such as `massact.tracking.tracker.parent_tags`.
        files: artifacts by path; with `responses.json` among them the UI shows it as a table.

    Raises:
        ValueError: the row does not fit in a tag.
    """
    if name is None:
        from massact.tracking.rows import run_name  # loads torch, which importing results does not need

        name = run_name(row)
    own = evaluation_tags(row, scores, keep_responses=Artifact.RESPONSES in files)
    return WholeRun(
        name=name,
        tags=run_tags(row.kind, row.experiment, name) | row_tags(row) | own | dict(tags),
        params=evaluation_params(row),
        metrics=evaluation_metrics(row),
        steps=score_steps(scores) if scores else (),
        started_at=started_at,
        finished_at=finished_at,
        files=files,
    )


def evaluation_tags(row: EvaluationRow, scores: Scores | None, *, keep_responses: bool) -> dict[str, str]:
    """Tags that an evaluation's or a baseline's run has beside those of every run with a row."""
    tags = label_tags(row)
    if (point := encode_point(row)) is not None:
        tags[point_tag(row.experiment)] = point
    if scores and (encoded := encode_scores(scores)) is not None:
        tags[Tag.SCORES.value] = encoded
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
    client = connect(database or uri)
    with _explained(uri):
        experiment = client.get_experiment(experiment_id)
    if experiment.lifecycle_stage != "active":
        raise StoreError(f"the MLflow experiment {experiment.name!r} was deleted: restore it first")
    if database:
        return _SqlWriter(database, int(experiment_id), str(experiment.artifact_location))
    return _ClientWriter(uri, experiment_id, client)


class _SqlWriter:
    """Each `write` is one transaction. One that fails may leave files behind, but never a run without its own."""

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
        from mlflow.utils.uri import append_to_uri_path

        _check(runs)
        run_ids = [uuid.uuid4().hex for _ in runs]
        tables: Tables = {name: [] for name in COLUMNS}
        for run_id, run in zip(run_ids, runs, strict=True):
            artifact_uri = append_to_uri_path(self._artifact_root, run_id, "artifacts")  # type: ignore[no-untyped-call]
            _write_files(run, artifact_uri, self._uri)
            self._add(tables, run_id, run, artifact_uri)
        self._database.insert(tables)
        return run_ids

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


class _ClientWriter:
    """One run after the other; one that was cut off stays RUNNING, which no query counts."""

    def __init__(self, uri: str, experiment_id: str, client: Any) -> None:
        self._uri = uri
        self._experiment_id = experiment_id
        self._client = client

    def write(self, runs: Sequence[WholeRun]) -> list[str]:
        """Write all of them, or as many as went well before an error.

        Raises:
            StoreError: a run cannot be written, before any was; or the server does not answer any more.
        """
        _check(runs)
        with _explained(self._uri):
            return [self._write(run) for run in runs]

    def close(self) -> None:
        """Nothing to let go of: MLflow's client shares its connections."""

    def _write(self, run: WholeRun) -> str:
        created = self._client.create_run(
            self._experiment_id, start_time=run.started_at, tags=run.all_tags, run_name=run.name
        )
        run_id = str(created.info.run_id)
        log_in_batches(self._client, run_id, run.params, run.history, timestamp=run.finished_at)
        _write_files(run, created.info.artifact_uri, self._uri)
        self._client.set_terminated(run_id, status=run.status, end_time=run.finished_at)
        return run_id


def _write_files(run: WholeRun, artifact_uri: str, tracking_uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if not run.files:
        return
    with tempfile.TemporaryDirectory(prefix="massact-") as folder, _explained(tracking_uri):
        for name, content in run.files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
        repository.log_artifacts(folder)  # type: ignore[no-untyped-call]


@contextmanager
def _explained(tracking_uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = without_password(error, tracking_uri)
        raise StoreError(f"tracking store {shown_uri(tracking_uri)}: {reason}") from error


def _check(runs: Iterable[WholeRun]) -> None:
    """What MLflow would refuse in the middle, or cut without a word, is refused before anything is written."""
    for run in runs:
        if problem := _problem(run):
            raise StoreError(f"the run {run.name!r} cannot be written: {problem}")


def _problem(run: WholeRun) -> str | None:
    if run.status not in _STATUSES:
        return f"status {run.status!r} is not an end; there are {', '.join(_STATUSES)}"
    for key in (*run.params, *run.tags, *run.metrics, *run.files, *(one.name for one in run.steps)):
        if not _is_key(key):
            return f"MLflow takes no param, metric, tag or artifact of the name {key!r}"
    texts = [("name", run.name, _KEY_LIMIT)]
    texts += [(f"param {key!r}", value, _PARAM_LIMIT) for key, value in run.params.items()]
    texts += [(f"tag {key!r}", value, TAG_LIMIT) for key, value in run.tags.items()]
    for what, value, limit in texts:
        if len(value) > limit:
            return f"its {what} has {len(value)} characters, MLflow keeps {limit}"
    return None


@cache
def _is_key(key: str) -> bool:
    from mlflow.utils.validation import path_not_unique, validate_param_and_metric_name

    # a path that leads out of the run's folder is not unique either
    is_plain = validate_param_and_metric_name(key) and not path_not_unique(key)  # type: ignore[no-untyped-call]
    return bool(is_plain) and 0 < len(key) <= _KEY_LIMIT
