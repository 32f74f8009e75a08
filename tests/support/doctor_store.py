"""A run store for the doctor, made by the real writers: a calibration, extractions, a baseline and evaluations."""

import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from massact.doctor import CHECKS, FILE_CHECKS, Outcome, examine, open_context
from massact.domain import Recipe, Response
from massact.labels import parse_label
from massact.store.read import open_store
from massact.store.responses import response_bytes
from massact.store.schema import Artifact, EvaluationRow, Kind, Scores, StageRow, Tag
from massact.store.write.client import Process, parent_tags, run_tags, this_process
from massact.store.write.evaluations import vector_provenance
from massact.store.write.run_writer import evaluation_run, open_writer
from massact.store.write.stages import Extracted, log_calibration, log_extraction, tensor_bytes
from massact.store.write.tracker import OpenRun, Tracker
from massact.vectors.activations import Activations
from massact.vectors.extract import make_vectors
from massact.vectors.massive_dims import Calibration, LayerMassive
from massact.vectors.methods import vector_digest
from tests.support.prepared import artifacts_moved
from tests.support.store_fixtures import EXPERIMENT, evaluation_row

HOUR = 3_600_000
N_LAYERS, D_MODEL, SEED = 3, 8, 5
LABELS = ("probe", "mean_diff", "mean_diff_top1")
POSITION = "response[:5]"
RESPONSES = (
    Response("q0", "r0", 10.0, 80.0),
    Response("q1", "r1 „quoted“", 30.0, 90.0),
    Response("q2", "r2", None, None, "the judge said nothing"),
    Response("q3", "r3", 50.0, 70.0),
)
SCORES = Scores(tuple(r.trait for r in RESPONSES), tuple(r.coherence for r in RESPONSES))
_LAYER = LayerMassive((1, 4, 6), (9.0, 8.0, 7.0), (5.0, 4.0, 3.0), 0.5, 10.0, 6.0)
CALIBRATION = Calibration((_LAYER,) * N_LAYERS, 4, 40)


@dataclass
class Made:
    """A store and what lies in it."""

    uri: str
    tracker: Tracker
    phase: OpenRun
    runs: dict[str, str] = field(default_factory=dict)
    """Run ids by name."""

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def file(self, name: str, path: str = Artifact.VECTOR) -> Path:
        """Where an artifact of a run lies, in a store whose artifacts are files on this machine."""
        place = self.client.get_run(self.runs[name]).info.artifact_uri
        return Path(place.removeprefix("file://")) / path


def make_store(uri: str) -> Made:
    """Three labels at two layers with one coefficient each, all vectors from one extraction.

    In SQLite it is a copy of a first one, with `mlruns` beside it.
    """
    return _copied(Path(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:") else _made(uri)


def _copied(path: Path) -> Made:
    temporary, first = _first()
    folder = Path(temporary.name)
    with closing(sqlite3.connect(folder / "store.db")) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
        artifacts_moved(target, str(folder), str(path.parent))
    shutil.copytree(folder / "mlruns", path.parent / "mlruns", dirs_exist_ok=True)
    uri = f"sqlite:///{path}"
    phase = replace(first.phase, artifact_uri=first.phase.artifact_uri.replace(str(folder), str(path.parent)))
    return Made(uri, Tracker(uri, EXPERIMENT, floor=68.0), phase, dict(first.runs))


@cache
def _first() -> tuple[TemporaryDirectory[str], Made]:
    folder = TemporaryDirectory(prefix="massact-doctor-")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder.name)
        return folder, _made(f"sqlite:///{folder.name}/store.db")


def _made(uri: str) -> Made:
    tracker = Tracker(uri, EXPERIMENT, floor=68.0)
    with tracker.phase("main", params={}) as phase:
        made = Made(uri, tracker, phase)
        log_calibration(tracker, phase, _stage(Kind.CALIBRATION, "c1"), CALIBRATION)
        made.runs["calibration"] = _stage_id(uri, Kind.CALIBRATION)
        vectors = extract(made, "extraction", activations(1))
        write(made, "baseline", evaluation_row(kind=Kind.BASELINE, key="b1", vector_digest=None), None)
        for label in LABELS:
            for layer in (0, 2):
                evaluate(made, f"{label} L{layer}", vectors[label][layer], label=label, layer=layer)
    return made


def _stage_id(uri: str, kind: Kind) -> str:
    """The run of the stage that was written last."""
    store = open_store(uri)
    try:
        return store.stages(kind, EXPERIMENT)[-1].run_id
    finally:
        store.close()


def activations(seed: int) -> Activations:
    """Two sides that differ, and vectors that differ with the seed."""
    generator = torch.Generator().manual_seed(seed)
    train = torch.randn(12, N_LAYERS, D_MODEL, generator=generator)
    train[:6] += torch.randn(N_LAYERS, D_MODEL, generator=generator)
    return Activations(train, train[[0, 11]].clone(), 6, 1, 0)


def extract(
    made: Made, name: str, read: Activations, *, key: str = "x1", kept: tuple[str, ...] = LABELS
) -> dict[str, torch.Tensor]:
    """Log an extraction. Returns its vectors `[n_layers, d_model]` by label, also of labels that are not kept."""
    recipes: list[Recipe] = [parse_label(label) for label in LABELS]
    vectors = make_vectors(recipes, read, CALIBRATION, seed=SEED)
    row = _stage(Kind.EXTRACTION, key, trait="refusal", position=POSITION, calibration_key="c1", labels=kept)
    own = {label: vectors[label] for label in kept}
    log_extraction(made.tracker, made.phase, row, Extracted(read, own))
    made.runs[name] = _stage_id(made.uri, Kind.EXTRACTION)
    return {label: one.vectors for label, one in vectors.items()}


def evaluate(made: Made, name: str, vector: torch.Tensor, **changes: Any) -> EvaluationRow:
    """Write a finished evaluation with its vector and responses."""
    row = evaluation_row(**{"vector_digest": vector_digest(vector), **changes})
    write(made, name, row, vector)
    return row


def write(made: Made, name: str, row: EvaluationRow, vector: torch.Tensor | None, *, at: int | None = None) -> None:
    """Write a finished run as a sweep writes it."""
    at = int(time.time() * 1000) if at is None else at
    files = {str(Artifact.RESPONSES): response_bytes(RESPONSES)}
    if vector is not None:
        files[str(Artifact.VECTOR)] = tensor_bytes({"vector": vector}, vector_provenance(row))
    writer = open_writer(made.uri, made.phase.experiment_id)
    run = evaluation_run(
        row, SCORES, started_at=at - 500, finished_at=at, tags=parent_tags(made.phase.run_id), files=files
    )
    (made.runs[name],) = writer.write([run])
    writer.close()


def _stage(kind: Kind, key: str, **more: Any) -> StageRow:
    return StageRow(
        kind=kind,
        experiment=EXPERIMENT,
        key=key,
        model="gemma",
        model_variant="base",
        model_id="google/gemma-3-4b-pt",
        n_layers=N_LAYERS,
        d_model=D_MODEL,
        **more,
    )


@contextmanager
def patient(uri: str, spool: Path | None = None, **asked: Any) -> Iterator[Any]:
    """What checks of the experiment that the tests write look with."""
    spool = spool or Path("no-such-spool")
    values = {"spool": spool, "stale_after_hours": 48.0, "seed": SEED, **asked}
    with open_context(uri, EXPERIMENT, **values) as context:
        yield context


def look(uri: str, *, fix: bool = False, spool: Path | None = None, **asked: Any) -> list[Outcome]:
    """All that the doctor finds."""
    with patient(uri, spool, **asked) as found:
        return list(examine(found, (*CHECKS, *FILE_CHECKS), fix=fix))


def told(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    """State and check of each."""
    return [(one.state, one.finding.check) for one in outcomes]


def answers(uri: str) -> dict[str, Any]:
    """All that questions see of the experiment."""
    store = open_store(uri)
    try:
        names = ("points", "evaluations", "baselines", "failures", "finished_keys")
        found = {name: getattr(store, name)(EXPERIMENT) for name in names}
        found["points"] = sorted(found["points"])
        stages = {str(kind): store.stages(kind, EXPERIMENT) for kind in (Kind.CALIBRATION, Kind.EXTRACTION)}
        return {**found, **stages, "scores": store.scores(one.run_id for one in found["evaluations"])}
    finally:
        store.close()


def open_run(made: Made, name: str, *, process: Process | None, at: int, kind: Kind = Kind.PHASE, **tags: str) -> str:
    """A run that is left running since a time (ms since 1970), by a process or, of an older massact, by none."""
    own = {} if process is None else {Tag.PROCESS.value: json.dumps(asdict(process))}
    own |= run_tags(kind, EXPERIMENT, name) | tags
    run = made.client.create_run(made.phase.experiment_id, start_time=at, tags=own, run_name=name)
    made.runs[name] = run.info.run_id
    return str(run.info.run_id)


def dead_process() -> Process:
    """A process of this machine that lives no more: its pid is another's now."""
    mine = this_process()
    return replace(mine, started=(mine.started or 0) - 1)


def break_things(made: Made) -> set[tuple[str, str]]:
    """Damage of every kind but that of the spool. Returns state and check of what --fix does about each."""
    now = int(time.time() * 1000)
    main = open_run(made, "dead", process=dead_process(), at=now - HOUR)
    open_run(made, "dead child", process=dead_process(), at=now - HOUR // 2, **parent_tags(main))
    open_run(made, "alive", process=this_process(), at=now - 90 * HOUR)
    write(made, "again", evaluation_row("probe", 0, vector_digest=None), None, at=now + HOUR)
    made.client.set_tag(made.runs["mean_diff L0"], Tag.ROW.value, "no row")
    lose(made, "probe L2", Artifact.VECTOR)
    lose(made, "baseline", Artifact.RESPONSES)
    return {
        ("mended", "abandoned"),
        ("mended", "duplicates"),
        ("mended", "vectors"),
        ("remains", "rows"),
        ("remains", "responses"),
    }


def lose(made: Made, name: str, path: str) -> None:
    """Delete an artifact of a run behind the store's back."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = made.client.get_run(made.runs[name]).info.artifact_uri
    get_artifact_repository(place, tracking_uri=made.uri).delete_artifacts(path)


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, by the digest of its bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
