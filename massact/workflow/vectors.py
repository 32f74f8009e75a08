"""A stored evaluation's vector, chosen and written for other tools."""

from contextlib import closing
from pathlib import Path

from massact.addresses import write_whole
from massact.api import question
from massact.errors import StoreError, UsageError
from massact.names import shown
from massact.query.answers import Filters
from massact.query.groups import gain
from massact.query.questions.best import BestRow
from massact.store.read import RunStore, open_source
from massact.store.schema import Artifact, Kind
from massact.store.write.artifacts import fetch_from
from massact.store.write.stages import read_tensor
from massact.vectors.formats import FILES, SteeringVector, folder_files, lm_eval_bytes

_FACTS = (
    "experiment", "model", "model_id", "model_revision", "trait", "label", "position", "layer", "coefficient",
    "direction", "steered_tokens", "baseline_trait_mean", "trait_mean", "coherence_mean", "delta", "judge", "key",
    "vector_digest",
)  # fmt: skip


def best_run(experiment: str, tracking_uri: str, only: Filters) -> str:
    """The id of the run with the best delta at the floor of one model and trait, in the current setting. Raises
    UsageError: there is none, or there are several models or traits."""
    answer = question("best").ask(experiment, {"tracking_uri": tracking_uri, "only": only}, {"intervals": False})
    rows: list[BestRow] = [row for row in answer.rows if row.run_id and row.is_current]
    places = sorted({(row.model, row.trait) for row in rows})
    if not rows:
        raise UsageError(f"no evaluation is at or above the coherence floor {answer.floor:g}: see massact best")
    if len(places) > 1:
        named = ", ".join(f"{shown(model)} with {shown(trait)}" for model, trait in places)
        raise UsageError(f"which best? There are {named}: name one with --model and --trait")
    return str(max(rows, key=lambda row: gain(row.delta, row.direction)).run_id)


def read_vector(run_id: str, tracking_uri: str) -> SteeringVector:
    """What the evaluation of a run adds. Raises UsageError: the run is no finished evaluation of ours with a vector;
    StoreError, DataError: its vector cannot be read."""
    source = open_source(tracking_uri)
    with closing(source):
        store = RunStore(source)
        row = store.rows([run_id]).get(run_id)
        if row is None or row.layer is None or row.coefficient is None:
            raise UsageError(
                f"run {shown(run_id)} is no finished evaluation with a vector: massact runs and massact best --format "
                "json name those that are"
            )
        if row.n_vectors > 1 or row.operator not in (None, "add") or row.steered_tokens not in (None, "all"):
            raise UsageError(
                f"run {shown(run_id)} is {row.label}: files hold a vector that is added to all tokens of one layer, "
                "and other tools would do just that; name a run of such a label"
            )
        (run,) = source.finished_runs([run_id], tags=())
        stages = store.stages(Kind.CALIBRATION, row.experiment)
        n_layers = next((stage.row.n_layers for stage in stages if stage.row.model == row.model), None)
    try:
        vector = read_tensor(fetch_from(run.artifact_uri, Artifact.VECTOR, tracking_uri=tracking_uri), "vector")
    except StoreError as error:
        raise StoreError(
            f"{error}; name another run with --run: massact doctor tells whether this one's vector can be made again"
        ) from error
    told = {name: getattr(row, name) for name in _FACTS}
    facts = {name: value for name, value in told.items() if value is not None}
    return SteeringVector(vector.float() * row.coefficient, row.layer, n_layers, {**facts, "run_id": run_id})


def write_vector(one: SteeringVector, form: str, output: Path, hookpoint: str) -> list[Path]:
    """Write it in one of `FORMATS`; returns the files. Raises UsageError: it cannot be written there, or that format
    has no place for it."""
    if form == "hub-folder":
        files = {output / name: content for name, content in folder_files(one).items()}
    else:
        files = {output: lm_eval_bytes(one, hookpoint) if form == "lm-eval" else FILES[form](one)}
    try:
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}; name another --output") from error
    for path, content in files.items():
        write_whole(path, [content], "name another --output")
    return list(files)
