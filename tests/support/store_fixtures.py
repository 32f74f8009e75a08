"""Rows for the tests of stores and queries, and run stores filled through MLflow's own client."""

import os
import signal
import socket
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from unittest import mock

from massact.labels import parse_label
from massact.query import Answers
from massact.query.evaluations import Evaluations
from massact.store.read.base import Failure, Stored
from massact.store.schema import EvaluationRow, Kind, PublishedRow, StageRow, Tag, encode_point, encode_row, point_tag
from tests.support.processes import Process

EXPERIMENT = "chirp refusal"


def evaluation_row(label: str = "probe", layer: int = 15, coefficient: float = 1000.0, **changes: Any) -> EvaluationRow:
    """An evaluation; its key names its label, layer and coefficient unless `key` is given."""
    recipe = parse_label(label)
    values: dict[str, Any] = {
        "kind": Kind.EVALUATION,
        "experiment": EXPERIMENT,
        "key": f"{label}-{layer}-{coefficient:g}",
        "setting": "setting-1",
        "model": "gemma",
        "model_variant": "instruct",
        "model_id": "google/gemma-3-4b-it",
        "model_revision": "r1",
        "dtype": "float32",
        "trait": "refusal",
        "judge": "likelihood",
        "judge_model": "toy",
        "judge_prompt": "p1",
        "question_set": "q1",
        "subset": 0,
        "n_questions": 4,
        "max_new_tokens": 64,
        "temperature": 0.0,
        "seed": 0,
        "position": "response[:5]",
        "label": label,
        "method": recipe.method,
        "cleaning": recipe.cleaning.when,
        "scope": recipe.cleaning.scope,
        "n_dims": recipe.cleaning.n_dims,
        "layer": layer,
        "coefficient": coefficient,
        "component": "residual",
        "direction": "positive",
        "steered_tokens": "all",
        "vector_digest": f"vector-{label}-{layer}",
        "baseline_key": "baseline",
        "baseline_trait_mean": 10.0,
        "trait_mean": 30.0,
        "coherence_mean": 80.0,
        "delta": 20.0,
        "n_scored": 4,
    }
    return EvaluationRow(**{**values, **changes})


def stored(row: EvaluationRow, *, run_id: str | None = None, finished_at: int = 1000) -> Stored[EvaluationRow]:
    return Stored(run_id or f"run-{row.setting}-{row.key}", "FINISHED", finished_at, row)


def evaluated(
    label: str = "probe", layer: int = 15, coefficient: float = 1000.0, **changes: Any
) -> Stored[EvaluationRow]:
    """A finished evaluation, as `evaluation_row` makes it."""
    return stored(evaluation_row(label, layer, coefficient, **changes))


def failed(label: str = "probe", *, error: str = "out of memory", finished_at: int = 1000, **changes: Any) -> Failure:
    row = evaluation_row(label, **{"trait_mean": None, "coherence_mean": None, "delta": None, **changes})
    return Stored(f"failed-{row.key}-{finished_at}", "FAILED", finished_at, row, error)


def stage_row(kind: Kind, key: str) -> StageRow:
    return StageRow(
        kind=kind,
        experiment=EXPERIMENT,
        key=key,
        model="gemma",
        model_variant="base",
        model_id="google/gemma-3-4b-pt",
        model_revision="r1",
        dtype="float32",
        n_layers=34,
        d_model=2560,
        labels=("probe",) if kind == Kind.EXTRACTION else (),
        massive_dims=(443, 1365) if kind == Kind.CALIBRATION else (),
    )


@dataclass
class Filled:
    """A tracking database that was filled, and the run ids in it by the names given to them."""

    uri: str
    runs: dict[str, str] = field(default_factory=dict)


class Filler:
    """Writes runs into a tracking database as massact.store.write does, through MLflow's client.

    With `ids_by_name` a run's id follows from its name, so that two databases can be compared to the letter.
    """

    def __init__(self, uri: str, *, ids_by_name: bool = False) -> None:
        from mlflow import MlflowClient

        self._ids_by_name = ids_by_name
        self.client = MlflowClient(tracking_uri=uri)
        self.filled = Filled(uri)

    def run(
        self,
        name: str,
        experiment_id: str,
        *,
        tags: Mapping[str, str],
        status: str | None = "FINISHED",
        at: int = 1000,
        steps: Mapping[str, list[tuple[int, float]]] | None = None,
    ) -> str:
        """One run; `status` `None` leaves it running. `at` is when it ended; it began 100 ms before."""
        run_id = uuid.uuid5(uuid.NAMESPACE_URL, name)
        with mock.patch("uuid.uuid4", return_value=run_id) if self._ids_by_name else nullcontext():
            made = self.client.create_run(experiment_id, start_time=at - 100, tags=dict(tags))
        return self._fill(made.info.run_id, name, status, at, steps or {})

    def _fill(
        self, run_id: str, name: str, status: str | None, at: int, steps: Mapping[str, list[tuple[int, float]]]
    ) -> str:
        from mlflow.entities import Metric

        metrics = [Metric(k, v, i, step) for k, pairs in steps.items() for i, (step, v) in enumerate(pairs)]
        if metrics:
            self.client.log_batch(run_id, metrics=metrics)
        if status is not None:
            self.client.set_terminated(run_id, status, end_time=at)
        self.filled.runs[name] = run_id
        return run_id


def row_tags(row: EvaluationRow | StageRow | PublishedRow, **more: str) -> dict[str, str]:
    """The tags of a run that holds a row."""
    return {
        Tag.KIND.value: row.kind.value,
        Tag.EXPERIMENT.value: row.experiment,
        Tag.KEY.value: row.key,
        Tag.ROW.value: encode_row(row),
        **more,
    }


def point_tags(row: EvaluationRow) -> dict[str, str]:
    """The tags of a run that holds a row and its point, as massact writes an evaluation."""
    return {**row_tags(row), point_tag(row.experiment): encode_point(row) or ""}


@contextmanager
def tracking_server(
    database_uri: str,
    folder: Path,
    *,
    app: str | None = None,
    settings: Mapping[str, str] | None = None,
    prefix: str = "",
) -> Iterator[str]:
    """A real MLflow server on loopback over a database; gives its address.

    `app` is one of massact's (None: MLflow's own), `settings` more of its environment, `prefix` begins all paths.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["--backend-store-uri", database_uri, "--port", str(port)]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    command += ["--app-name", app] if app else []
    command += ["--static-prefix", prefix] if prefix else []
    with (folder / "server.log").open("w") as log:
        server = start_server(*command, folder=folder, log=log, settings=settings)
    try:
        address = f"http://127.0.0.1:{port}{prefix}"
        wait_for_server(f"{address}/health", server, folder / "server.log")
        yield address
    finally:
        server.kill_group(signal.SIGTERM)
        server.wait(30)


def start_server(
    *options: str, folder: Path, log: IO[str] | IO[bytes], settings: Mapping[str, str] | None = None
) -> Process:
    """`mlflow server` on loopback, with one worker, in a folder and a session of its own."""
    command = ["server", "--workers", "1", "--host", "127.0.0.1", *options]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(settings or {})}
    return Process("mlflow", *command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def wait_for_server(url: str, server: Process, log: Path) -> None:
    """Return once it answers."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the MLflow server did not start:\n{log.read_text()[-3000:]}")


def answers_of(rows: Evaluations | Iterable[Stored[EvaluationRow]], **fields: Any) -> Answers:
    """What questions are asked of, from rows that no store holds."""
    return Answers(evaluations=rows if isinstance(rows, Evaluations) else Evaluations.of(rows), **fields)


class Server:
    """A real tracking server over `mlflow.db` and `mlruns` of a folder, killed and started again as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.database = f"sqlite:///{folder}/mlflow.db"
        self.process: Process | None = None

    def start(self) -> None:
        log = self.folder / "server.log"
        with log.open("a") as out:
            self.process = start_server(
                "--port", str(self.port), "--backend-store-uri", self.database,
                "--artifacts-destination", str(self.folder / "mlruns"), folder=self.folder, log=out,
            )  # fmt: skip
        wait_for_server(f"{self.address}/health", self.process, log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill_group()
            self.process.wait(30)
        self.process = None
