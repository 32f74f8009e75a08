"""Calibration and extraction, as far as the store does not hold them yet."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from massact.config import ModelConfig, TraitConfig, VariantConfig
from massact.domain import Recipe
from massact.keys import digest, digest_texts
from massact.labels import format_label, parse_label
from massact.models.load import SteerableModel
from massact.phases.session import Session
from massact.pipeline.activations import Activations
from massact.pipeline.calibrate import calibrate
from massact.pipeline.dataset import load_prompts
from massact.pipeline.extract import declared_recipes, make_vectors, read_contrast
from massact.schema import Artifact, Kind, StageRow
from massact.tracking.stages import Extracted, log_calibration, log_extraction, read_calibration
from massact.tracking.tracker import OpenRun
from massact.vectors.massive import Calibration
from massact.vectors.positions import Position, parse_position


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A model's calibration and the key of its run."""

    key: str
    calibration: Calibration


def calibrate_model(session: Session, parent: OpenRun, config: ModelConfig) -> Calibrated:
    """The model's calibration: read from the store where it is there, else made and logged."""
    settings = session.experiment.calibration
    prompts = load_prompts(session.experiment.resolve(settings.prompts))
    model = session.model(config, config.instruct)
    key = digest(
        {
            "kind": Kind.CALIBRATION,
            "model": asdict(model.identity),
            "chat_template": model.chat_template_digest,
            "prompts": digest_texts(prompts),
            "max_new_tokens": settings.max_new_tokens,
            "n_top": settings.n_top,
        }
    )
    run_id = _finished(session, key)
    if run_id is not None:
        session.say(f"{config.name}: calibrated already, run {run_id}")
        return Calibrated(key, read_calibration(session.tracker.fetch(run_id, Artifact.CALIBRATION)))
    calibration = calibrate(
        model,
        prompts,
        max_new_tokens=settings.max_new_tokens,
        n_top=settings.n_top,
        progress=session.progress,
    )
    row = StageRow(
        **_stage_fields(session, config, config.instruct, model),
        kind=Kind.CALIBRATION,
        key=key,
        massive_dims=calibration.uniform_dims,
    )
    log_calibration(session.tracker, parent, row, calibration)
    return Calibrated(key, calibration)


def extract_model(
    session: Session, parent: OpenRun, config: ModelConfig, trait: TraitConfig, calibrated: Calibrated
) -> int:
    """Extract what the store does not hold for a model and trait. Returns how many windows were extracted."""
    model = session.model(config, config.base)
    keys = {
        position: _extraction_key(session, model, trait, position, calibrated.key)
        for position in (parse_position(text) for text in session.experiment.extraction.positions)
    }
    missing = [position for position, key in keys.items() if _finished(session, key) is None]
    if not missing:
        session.say(f"{config.name}: {len(keys)} windows of {trait.name} extracted already")
        return 0
    settings = session.experiment.extraction
    contrast = read_contrast(
        model,
        session.dataset(trait),
        missing,
        max_new_tokens=settings.max_new_tokens,
        validation_split=settings.validation_split,
        progress=session.progress,
    )
    fields = _stage_fields(session, config, config.base, model)
    for position, activations in contrast.items():
        _log_window(
            session,
            parent,
            {**fields, "trait": trait.name, "position": str(position), "key": keys[position]},
            activations,
            calibrated,
        )
    return len(missing)


def _log_window(
    session: Session,
    parent: OpenRun,
    fields: Mapping[str, Any],
    activations: Activations,
    calibrated: Calibrated,
) -> None:
    vectors = make_vectors(
        extraction_recipes(session),
        activations,
        calibrated.calibration,
        seed=session.experiment.extraction.seed,
        progress=session.progress,
    )
    unconverged = sorted(label for label, made in vectors.items() if made.unconverged_layers)
    if unconverged:
        session.say(f"warning: probes that did not converge: {', '.join(unconverged)}")
    row = StageRow(
        **fields, kind=Kind.EXTRACTION, calibration_key=calibrated.key, labels=tuple(sorted(vectors))
    )
    log_extraction(session.tracker, parent, row, Extracted(activations, vectors))


def extraction_recipes(session: Session) -> tuple[Recipe, ...]:
    """What an extraction makes: every declared cleaning, and whatever a phase names beyond those."""
    settings = session.experiment.extraction
    recipes = declared_recipes(settings.methods, settings.uniform_dims, settings.layer_dims)
    named = (parse_label(label) for phase in session.experiment.phases for label in phase.labels)
    return tuple({format_label(recipe): recipe for recipe in (*recipes, *named)}.values())


def _extraction_key(
    session: Session, model: SteerableModel, trait: TraitConfig, position: Position, calibration_key: str
) -> str:
    settings = session.experiment.extraction
    return digest(
        {
            "kind": Kind.EXTRACTION,
            "model": asdict(model.identity),
            "trait": trait.name,
            "dataset": session.dataset(trait).digest,
            "position": str(position),
            "max_new_tokens": settings.max_new_tokens,
            "validation_split": settings.validation_split,
            "seed": settings.seed,
            "calibration": calibration_key,
            "labels": sorted(format_label(recipe) for recipe in extraction_recipes(session)),
        }
    )


def _finished(session: Session, key: str) -> str | None:
    with session.store() as store:
        return store.finished_keys(session.experiment.name).get(key)


def _stage_fields(
    session: Session, config: ModelConfig, variant: VariantConfig, model: SteerableModel
) -> dict[str, Any]:
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
