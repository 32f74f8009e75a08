"""Whole finished runs, written many at a time: for imported results and for stores made to measure."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol

from massact.addresses import shown_uri
from massact.errors import StoreError
from massact.schema import (
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
)
from massact.tracking.bulk_client import ClientWriter
from massact.tracking.bulk_files import explained, write_files
from massact.tracking.bulk_sql import COLUMNS, Database, Tables, database_uri, metric_rows, probe
from massact.tracking.connection import connect
from massact.tracking.tags import row_tags, run_tags
from massact.tracking.tracker import Step
from massact.tracking.whole_run import WholeRun, check_runs

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
    """The run of an evaluation or a baseline, as `log_evaluation` would have written it.

    Args:
        scores: per question; `None` where only the means are known.
        name: the run's name; `None` for the one that `log_evaluation` gives.
        tags: more tags, such as `massact.tracking.tags.parent_tags`.
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
