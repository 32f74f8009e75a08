"""Calibration, as far as the store does not hold it yet."""

from dataclasses import asdict, dataclass
from typing import Any

from massact.config import ModelConfig, VariantConfig
from massact.data.traits import load_prompts
from massact.keys import canonical_json, digest_text, digest_texts
from massact.models.load import SteerableModel
from massact.store.schema import Artifact, Kind, StageRow
from massact.store.write.stages import log_calibration, read_calibration
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session
from massact.vectors.activations import calibrate
from massact.vectors.massive_dims import Calibration


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A model's calibration and the key of its run."""

    key: str
    calibration: Calibration


def calibrate_model(session: Session, parent: OpenRun, config: ModelConfig) -> Calibrated:
    """The model's calibration: read from the store where it is there, else made and logged."""
    settings = session.experiment.calibration
    prompts = load_prompts(session.experiment.resolve(settings.prompts))
    model = session.models.get(config, config.instruct)
    cell = canonical_json(
        {
            "kind": Kind.CALIBRATION,
            "model": asdict(model.identity),
            "chat_template": model.chat_template_digest,
            "prompts": digest_texts(prompts),
            "max_new_tokens": settings.max_new_tokens,
            "n_top": settings.n_top,
        }
    )
    key = digest_text(cell)
    run_id = finished_run(session, key)
    if run_id is not None:
        session.say(f"{config.name}: calibrated already, run {run_id}")
        return Calibrated(key, read_calibration(session.stores.tracker.fetch(run_id, Artifact.CALIBRATION)))
    calibration = calibrate(
        model,
        prompts,
        max_new_tokens=settings.max_new_tokens,
        n_top=settings.n_top,
        progress=session.progress,
    )
    row = StageRow(
        **stage_fields(session, config, config.instruct, model),
        kind=Kind.CALIBRATION,
        key=key,
        cell=cell,
        massive_dims=calibration.uniform_dims,
    )
    log_calibration(session.stores.tracker, parent, row, calibration)
    return Calibrated(key, calibration)


def finished_run(session: Session, key: str) -> str | None:
    """The finished run of a key; `None` where the store has none."""
    with session.stores.read() as store:
        return store.finished_keys(session.experiment.name).get(key)


def stage_fields(
    session: Session, config: ModelConfig, variant: VariantConfig, model: SteerableModel
) -> dict[str, Any]:
    """Fields of a stage's row that say of which model it is."""
    identity, shape = model.identity, model.shape
    return {
        "experiment": session.experiment.name,
        "model": config.name,
        "model_variant": variant.name,
        "model_id": identity.id,
        "model_revision": identity.revision,
        "dtype": identity.dtype,
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
    }
