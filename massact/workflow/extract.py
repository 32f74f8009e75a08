"""Calibration and extraction, as far as the store lacks them: prompts continued, vetted, read and made vectors of."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from massact.config import ExtractionConfig, ModelConfig, TraitConfig, VariantConfig, VettingConfig
from massact.data.traits import check_pairs, dataset_warnings, load_prompts
from massact.domain import NEUTRAL_METHOD, PAIRED_METHOD, JudgeIdentity, Recipe
from massact.errors import DataError
from massact.judges import Judge
from massact.keys import canonical_json, digest, digest_text, digest_texts
from massact.labels import format_label, parse_label
from massact.models.load import SteerableModel
from massact.plugins import own_digest
from massact.store.schema import Artifact, Kind, StageRow
from massact.store.write.stages import Extracted, Sources, log_calibration, log_extraction
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, ready_judge
from massact.sweep.stored_extractions import vetting_words
from massact.vectors.activations import Dropped, PromptStatus, PromptStatuses, decide_statuses, has_window, split_sides
from massact.vectors.calibrate import calibrate
from massact.vectors.extract import Contrast, Vetting, declared_recipes, make_vectors, read_contrast, read_neutral, vet
from massact.vectors.massive_dims import Calibration, read_calibration
from massact.vectors.methods import find_method
from massact.vectors.positions import Position, parse_position


@dataclass(frozen=True, slots=True)
class Calibrated:
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
            **model.chat.key,
            "prompts": digest_texts(prompts),
            "max_new_tokens": settings.max_new_tokens,
            "n_top": settings.n_top,
        }
    )
    key = digest_text(cell)
    run_id = finished_run(session, key)
    if run_id is not None:
        session.detail(f"{config.name}: calibrated already, run {run_id}")
        return Calibrated(key, read_calibration(session.stores.tracker.fetch(run_id, Artifact.CALIBRATION)))
    how: Any = {"max_new_tokens": settings.max_new_tokens, "n_top": settings.n_top, "progress": session.progress}
    calibration, fields = calibrate(model, prompts, **how), stage_fields(session, config, config.instruct, model)
    row = StageRow(**fields, kind=Kind.CALIBRATION, key=key, cell=cell, massive_dims=calibration.uniform_dims)
    log_calibration(session.stores.tracker, parent, row, calibration)
    return Calibrated(key, calibration)


def tell_sink(session: Session, config: ModelConfig, calibration: Calibration) -> None:
    """Warn of windows that read the first token, where its activations are massive or that is not known."""
    positions = map(parse_position, session.experiment.extraction.positions)
    windows = [position for position in positions if position.holds_first]
    sink = calibration.sink
    if not windows or not (sink or calibration.layers[0].first is None):
        return
    rest = [str(one) for position in windows if (one := position.without_first)]
    held = sink or "not measured, since an earlier version calibrated it"
    session.say(
        f"warning: {config.name}: {', '.join(map(str, windows))} hold the first token, whose activations are massive "
        f"({held}): such vectors tell how long a text is before they tell the trait. Leave it out: "
        f"{', '.join(rest) or 'use a window that begins later'}"
    )


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


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a trait's prompts, once for all windows."""

    contrast: Contrast
    rows: Mapping[Position, torch.Tensor]
    """`[n_prompts, n_layers, d_model]` at each window, NaN where it holds no token."""
    kept: Path  # folder of its batches, until the extraction is stored
    neutral: Mapping[Position, torch.Tensor]  # the same of neutral prompts; empty where no method takes them
    vetting: Vetting | None = None

    def statuses(
        self, position: Position, settings: ExtractionConfig, *, is_paired: bool
    ) -> tuple[PromptStatuses, PromptStatuses]:
        there = has_window(self.rows[position])
        n = self.contrast.n_positive
        nothing: tuple[Dropped, Dropped] = ([None] * n, [None] * (len(there) - n))
        return decide_statuses(
            self.vetting.dropped if self.vetting else nothing,
            (there[:n], there[n:]),
            settings.validation_split,
            paired=is_paired or (settings.vetting is not None and settings.vetting.is_paired),
        )


def extract_model(
    session: Session, parent: OpenRun, config: ModelConfig, trait: TraitConfig, calibrated: Calibrated
) -> int:
    """Extract what the store does not hold for a model and trait. Returns how many windows; after a DataError none."""
    settings = session.experiment.extraction
    _check_methods(session, trait)
    judge = None if settings.vetting is None else session.judges.of(trait, config)
    cells, fields = _identify(session, config, trait, calibrated.key, judge)
    missing = [position for position, cell in cells.items() if finished_run(session, digest_text(cell)) is None]
    if not missing:
        session.detail(f"{config.name}: {len(cells)} windows of {trait.name} extracted already")
        return 0
    read = _read(session, config, trait, list(cells))
    if settings.vetting is not None:
        # nothing here holds on to the model that was read: `self` loads another in its place
        vetting = _vet(session, ready_judge(session, parent, trait, config), read.contrast, settings.vetting)
        read = replace(read, vetting=vetting)
    is_paired = PAIRED_METHOD in _methods(session)
    statuses = {position: read.statuses(position, settings, is_paired=is_paired) for position in missing}
    for position in missing:
        cell = cells[position]
        named = {**fields, "position": str(position), "key": digest_text(cell), "cell": cell}
        _log_window(session, parent, named, (trait, read, statuses[position]), calibrated)
    shutil.rmtree(read.kept, ignore_errors=True)
    return len(missing)


def _methods(session: Session) -> set[str]:
    """The methods of which an extraction makes vectors."""
    return {recipe.method for recipe in extraction_recipes(session)}


def _check_methods(session: Session, trait: TraitConfig) -> None:
    """See that a trait's prompts are such as methods and vetting need, and that each method can be loaded."""
    dataset, methods = session.datasets.of(trait), _methods(session)
    for method in methods:
        find_method(method)
    if PAIRED_METHOD in methods:
        check_pairs(dataset, f"{PAIRED_METHOD} takes prompts in pairs")
    if dataset.has_answers and (NEUTRAL_METHOD in methods or session.experiment.extraction.vetting):
        wants = f"{NEUTRAL_METHOD} compares" if NEUTRAL_METHOD in methods else "extraction.vetting judges"
        raise DataError(
            f"{dataset.folder / dataset.files[0]} holds answers, and {wants} what the model goes on with: leave it out "
            "for this trait"
        )


def _identify(
    session: Session, config: ModelConfig, trait: TraitConfig, calibration_key: str, judge: Judge | None
) -> tuple[dict[Position, str], dict[str, Any]]:
    """The canonical JSON of what decides each window's vectors, and the fields of its row that all windows share."""
    model = session.models.get(config, config.base)
    positions = [parse_position(text) for text in session.experiment.extraction.positions]
    identity = judge.identity if judge is not None else None
    about = (session, model, trait)
    cells = {position: _extraction_cell(*about, str(position), calibration_key, identity) for position in positions}
    split, vetting = session.experiment.extraction.validation_split, vetting_words(session.experiment)
    row = {"trait": trait.name, "validation_split": split, "vetting": vetting}
    return cells, {**stage_fields(session, config, config.base, model), **row}


def _read(session: Session, config: ModelConfig, trait: TraitConfig, positions: list[Position]) -> _Read:
    settings, dataset = session.experiment.extraction, session.datasets.of(trait)
    model = session.models.get(config, config.base)
    judged_tokens = settings.vetting.max_new_tokens if settings.vetting else None
    wanted: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens, "judged_tokens": judged_tokens}
    decides = {
        **wanted,
        "model": asdict(model.identity),
        "chat_template": model.chat_template_digest,
        "dataset": dataset.digest,
        "positions": [str(position) for position in positions],
    }
    kept = session.workload.spool.parent / "extractions" / digest(decides)
    if n_kept := len(list(kept.glob("*.safetensors"))):
        session.say(f"{config.name}: going on after {n_kept} batches of {trait.name} that were continued before")
    read = read_contrast(model, dataset, positions, **wanted, kept=kept, progress=session.progress)
    neutral: Mapping[Position, torch.Tensor] = {}
    if NEUTRAL_METHOD in _methods(session):
        texts = load_prompts(session.experiment.resolve(session.experiment.calibration.prompts))
        how: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens, "progress": session.progress}
        neutral = read_neutral(model, texts, positions, is_chat=dataset.is_chat, **how)
    return _Read(*read, kept, neutral)


def _vet(session: Session, judge: Judge, contrast: Contrast, rule: VettingConfig) -> Vetting:
    limits = {"positive_at_least": rule.positive_at_least, "negative_at_most": rule.negative_at_most}
    vetting = vet(contrast, judge, **limits, paired=rule.is_paired, progress=session.progress)
    unscored = [verdict.reason for verdict in vetting.verdicts if verdict.trait is None]
    if unscored:
        session.say(f"warning: {len(unscored)} continuations have no trait score; the first: {unscored[0]}")
    return vetting


def _log_window(
    session: Session,
    parent: OpenRun,
    fields: Mapping[str, Any],
    source: tuple[TraitConfig, _Read, tuple[PromptStatuses, PromptStatuses]],
    calibrated: Calibrated,
) -> None:
    trait, read, statuses = source
    settings = session.experiment.extraction
    rows, n_positive = read.rows[parse_position(fields["position"])], read.contrast.n_positive
    neutral = read.neutral.get(parse_position(fields["position"]))
    sides = rows[:n_positive], rows[n_positive:]
    activations = split_sides(*sides, settings.validation_split, statuses=statuses, neutral=neutral)
    how: Any = {"seed": settings.seed, "progress": session.progress}
    vectors = make_vectors(extraction_recipes(session), activations, calibrated.calibration, **how)
    if unconverged := sorted(label for label, made in vectors.items() if made.unconverged_layers):
        session.say(f"warning: probes that did not converge: {', '.join(unconverged)}")
    if settings.vetting is not None:
        kept = (PromptStatus.TRAIN, PromptStatus.VALIDATION)
        said = [f"{sum(status in kept for status in side)} of {len(side)}" for side in statuses]
        session.say(f"{fields['position']}: {said[0]} positive and {said[1]} negative prompts kept")
    row = StageRow(**fields, kind=Kind.EXTRACTION, calibration_key=calibrated.key, labels=tuple(sorted(vectors)))
    warnings = dataset_warnings(session.datasets.of(trait), trait.direction)
    sources = Sources(read.contrast, statuses, read.vetting, row.vetting, warnings)
    log_extraction(session.stores.tracker, parent, row, Extracted(activations, vectors, sources))


def extraction_recipes(session: Session) -> tuple[Recipe, ...]:
    """What an extraction makes: every declared cleaning, and whatever a phase names beyond those."""
    settings = session.experiment.extraction
    recipes = declared_recipes(settings.methods, settings.uniform_dims, settings.layer_dims)
    named = (parse_label(label).of_vector for phase in session.experiment.phases for label in phase.labels)
    made = (recipe for recipe in (*recipes, *named) if not recipe.is_imported)
    return tuple({format_label(recipe): recipe for recipe in made}.values())


def _extraction_cell(
    session: Session,
    model: SteerableModel,
    trait: TraitConfig,
    position: str,
    calibration_key: str,
    judge: JudgeIdentity | None,
) -> str:
    """What decides the outcome, as canonical JSON; what is new stands in it only where it is used."""
    settings, dataset = session.experiment.extraction, session.datasets.of(trait)
    fields: dict[str, Any] = {
        "kind": Kind.EXTRACTION,
        "model": asdict(model.identity),
        "trait": trait.name,
        "dataset": dataset.digest,
        "position": position,
        "max_new_tokens": settings.max_new_tokens,
        "validation_split": settings.validation_split,
        "seed": settings.seed,
        "calibration": calibration_key,
        "labels": sorted(format_label(recipe) for recipe in extraction_recipes(session)),
    }
    if sources := {method: source for method in _methods(session) if (source := own_digest("methods", method))}:
        fields["sources"] = sources
    if dataset.is_chat:
        fields |= {"chat_template": model.chat_template_digest, **model.chat.key}
    if settings.vetting is not None and judge is not None:
        fields["vetting"] = {**asdict(settings.vetting), "judge": asdict(judge)}
    return canonical_json(fields)
