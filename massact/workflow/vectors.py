"""Vectors out and in: a stored evaluation's, written for other tools, and theirs, as a method of an experiment."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch
import yaml
from safetensors.torch import save

from massact.addresses import write_whole
from massact.api import question
from massact.config import Experiment, VectorConfig, load_experiment
from massact.domain import Recipe
from massact.errors import DataError, StoreError, UsageError
from massact.floors import as_floor
from massact.labels import format_layers, format_steering, parse_label
from massact.models.load import read_shape
from massact.names import shown
from massact.query.answers import Filters
from massact.query.questions.best import BestRow, ranked
from massact.store.read import RunStore, open_source
from massact.store.schema import Artifact, EvaluationRow, Kind
from massact.store.tensors import read_tensor
from massact.store.write.artifacts import fetch_from
from massact.vectors.formats import FILES, SteeringVector, folder_files, lm_eval_bytes
from massact.vectors.imported import read_vectors
from massact.workflow.show import steered_row

_FACTS = (
    "experiment", "model", "model_id", "model_revision", "trait", "label", "position", "layer", "coefficient",
    "direction", "steered_tokens", "baseline_trait_mean", "trait_mean", "coherence_mean", "delta", "judge", "key",
    "vector_digest",
)  # fmt: skip


def best_run(experiment: str, tracking_uri: str, only: Filters) -> str:
    """The id of the run with the best delta at the floor of one model and trait, in the current setting: a label's,
    or of what winners are held against where `only` names it."""
    answer = question("best").ask(experiment, {"tracking_uri": tracking_uri, "only": only}, {"intervals": False})
    rows: list[BestRow] = [
        row for row in answer.rows if row.run_id and row.is_current and (only.labels or not row.is_control)
    ]
    places = sorted({(row.model, row.trait) for row in rows})
    if not rows:
        raise UsageError(f"no evaluation is at or above the floor of {as_floor(answer.floor).reach}: see massact best")
    if len(places) > 1:
        named = ", ".join(f"{shown(model)} with {shown(trait)}" for model, trait in places)
        raise UsageError(f"which best? There are {named}: name one with --model and --trait")
    return str(min(rows, key=ranked).run_id)


def stored_vector(run_id: str, tracking_uri: str) -> tuple[EvaluationRow, torch.Tensor, int | None]:
    """An evaluation's row, its vector as the run keeps it, and the layers of its model if the store says how many;
    UsageError where it is none of ours with a vector."""
    source = open_source(tracking_uri)
    with closing(source):
        store = RunStore(source)
        row = steered_row(store, run_id)
        (run,) = source.finished_runs([run_id], tags=())
        stages = store.stages(Kind.CALIBRATION, row.experiment)
        n_layers = next((stage.row.n_layers for stage in stages if stage.row.model == row.model), None)
    try:
        vector = read_tensor(fetch_from(run.artifact_uri, Artifact.VECTOR, tracking_uri=tracking_uri), "vector")
    except StoreError as error:
        raise StoreError(
            f"{error}; name another run with --run: massact doctor tells whether this one's vector can be made again"
        ) from error
    return row, vector.float(), n_layers


def read_vector(run_id: str, tracking_uri: str) -> SteeringVector:
    """What the evaluation of a run adds; UsageError where it is none of ours with one vector at every token."""
    row, vector, n_layers = stored_vector(run_id, tracking_uri)
    if format_steering(parse_label(row.label or "")):
        raise UsageError(
            f"run {shown(run_id)} is {row.label}: files hold a vector that is added to all tokens of one layer, "
            "and other tools would do just that; name a run of such a label"
        )
    assert row.layer is not None
    assert row.coefficient is not None
    told = {name: getattr(row, name) for name in _FACTS}
    facts = {name: value for name, value in told.items() if value is not None}
    return SteeringVector(vector * row.coefficient, row.layer, n_layers, {**facts, "run_id": run_id})


def write_vector(vector: SteeringVector, form: str, output: Path, hookpoint: str) -> list[Path]:
    """Write it in one of `FORMATS`; returns the files. UsageError where the format has no place for it."""
    if form == "hub-folder":
        files = {output / name: content for name, content in folder_files(vector).items()}
    else:
        files = {output: lm_eval_bytes(vector, hookpoint) if form == "lm-eval" else FILES[form](vector)}
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}; name another --output") from error
        write_whole(path, [content], "Name another --output")
    return list(files)


# In: another tool's files become one of ours beside the experiment file, and an entry there.


def import_vectors(files: Sequence[Path], wanted: VectorConfig, experiment_file: Path) -> Mapping[int, torch.Tensor]:
    """Make other tools' files a method of an experiment file; returns the vectors `[d_model]` by layer, as they are.
    `files`: of different layers; what `massact.vectors.imported.read_vectors` reads. `wanted`: its name, model and
    trait, how the files are read, and where the vectors go, beside the experiment file.
    Raises UsageError: the experiment file cannot have it; likewise the others, nothing was written; DataError: a file
    cannot be read, or holds no vectors of the models."""
    experiment, vectors = load_experiment(experiment_file), dict[int, torch.Tensor]()
    if parse_label(wanted.name) != Recipe(wanted.name):
        raise UsageError(f"--as {wanted.name}: the name ends as a cleaning or a way of steering does: give another")
    if wanted.name in [vector.name for vector in experiment.vectors]:
        raise UsageError(f"{experiment_file} has {wanted.name} already: give another name with --as")
    for file in files:
        for number, vector in read_vectors(file, layer=wanted.layer, index=wanted.index).items():
            if number + wanted.layer_shift in vectors:
                raise DataError(f"{file}: another file has a vector of layer {number} too: import them apart")
            vectors[number + wanted.layer_shift] = vector
    _check_fit(experiment, wanted, vectors)
    origin = ", ".join(f"{file.name} (sha256 {_sha256(file)[:12]})" for file in files)
    content = save({f"layer_{n}": vector.contiguous() for n, vector in vectors.items()}, {"origin": origin})
    told = {name: value for name in ("file", "model", "trait") if (value := getattr(wanted, name)) is not None}
    comment = f"layers {format_layers(sorted(vectors))}, of {shown(origin)}"
    text = _with_entry(experiment_file.read_bytes().decode(), {wanted.name: told}, comment, experiment_file)
    target = experiment_file.parent / wanted.file
    if target.exists() and target.read_bytes() != content:
        raise UsageError(f"{target} is there already: remove it, or give another name with --as")
    try:
        target.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    for path, written in ((target, content), (experiment_file, text.encode())):
        write_whole(path, [written], "Make it writable")
    return dict(sorted(vectors.items()))


def _check_fit(experiment: Experiment, wanted: VectorConfig, vectors: Mapping[int, torch.Tensor]) -> None:
    """See that the vectors can be those of the model, or of every model where none is named."""
    if wanted.trait is not None:
        experiment.trait(wanted.trait)
    d_model = len(next(iter(vectors.values())))
    for model in experiment.models if wanted.model is None else (experiment.model(wanted.model),):
        reference, revision = experiment.resolve(model.instruct.reference), model.instruct.revision
        shape = read_shape(reference, revision, options=model.load)
        outside = [number for number in vectors if not 0 <= number < shape.n_layers]
        if d_model != shape.d_model or outside:
            what = f"layer {outside[0]}" if outside else f"vectors of {d_model} dims"
            raise DataError(
                f"{what}: {model.name} has layers 0 to {shape.n_layers - 1} of {shape.d_model} dims. If they are "
                "another model's, say whose with --model"
            )


def _with_entry(text: str, entry: Mapping[str, Mapping[str, str]], comment: str, file: Path) -> str:
    """The text of an experiment file with one entry more under `vectors`, and nothing else changed. Raises UsageError:
    the key is there in a way that takes no line more."""
    line = yaml.safe_dump(dict(entry), default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    line, end = f"{line.strip()[1:-1]}  # {comment}", "\r\n" if "\r\n" in text else "\n"
    section = re.search(r"^vectors[ ]*:[ ]*(?:#.*)?\r?\n", text, re.MULTILINE)
    if section:
        first = re.match(r"(?:[ ]*(?:#.*)?\r?\n)*([ ]+)", text[section.end() :])
        changed = f"{text[: section.end()]}{first[1] if first else '  '}{line}{end}{text[section.end() :]}"
    else:
        changed = f"{text.rstrip()}{end}{end}vectors:{end}  {line}{end}"
    before = yaml.safe_load(text)
    try:
        is_right = yaml.safe_load(changed) == {**before, "vectors": {**(before.get("vectors") or {}), **entry}}
    except yaml.YAMLError:
        is_right = False
    if not is_right:
        raise UsageError(f"{file}: write under its key `vectors`, which takes no line as it stands: {line}")
    return changed


def _sha256(path: Path) -> str:
    """Of a file, or of a folder's files in the order of their names."""
    digest = hashlib.sha256()
    for member in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if member.is_file():
            with member.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
