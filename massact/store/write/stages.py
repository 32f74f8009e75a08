"""Calibrations and extractions as runs, and the files that runs keep: safetensors, tables in MLflow's format."""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from massact.errors import DataError
from massact.json_text import parse_json
from massact.store.schema import Artifact, MlflowTag, StageRow
from massact.store.schema.rows import row_params
from massact.store.tensors import read_tensor
from massact.store.write.client import fit_tag, parent_tags, row_run
from massact.store.write.finished_run import FinishedRun, Step
from massact.store.write.tracker import OpenRun, Tracker
from massact.vectors.activations import LEFT_OUT, Activations, PromptStatus, PromptStatuses
from massact.vectors.massive_dims import Calibration, calibration_json

if TYPE_CHECKING:  # it loads transformers
    from massact.vectors.extract import Contrast, LabelVectors, Vetting


def tensor_bytes(tensors: Mapping[str, torch.Tensor], provenance: Mapping[str, object]) -> bytes:
    """Tensors as safetensors; the provenance goes into the header, as text."""
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = {key: str(value) for key, value in provenance.items() if value is not None}
    content: bytes = save(dense, metadata=header)
    return content


def activation_files(activations: Activations, metadata: Mapping[str, object]) -> dict[str, bytes]:
    """`train.safetensors`, `validation.safetensors` and `metadata.json`, for `read_activations`."""
    document = {
        **metadata,
        "n_examples_pos": activations.n_train_positive,
        "n_examples_neg": len(activations.train) - activations.n_train_positive,
        "n_validation_pos": activations.n_validation_positive,
        "n_validation_neg": len(activations.validation) - activations.n_validation_positive,
        "n_dropped": activations.n_dropped,
        "n_layers": activations.train.shape[1],
        "d_model": activations.train.shape[2],
        "dtype": "float32",
    }
    train = {"activations": activations.train}
    if activations.neutral is not None:
        document["n_neutral"] = len(activations.neutral)
        train["neutral"] = activations.neutral
    return {
        "train.safetensors": tensor_bytes(train, document),
        "validation.safetensors": tensor_bytes({"activations": activations.validation}, document),
        "metadata.json": f"{json.dumps(document, indent=2)}\n".encode(),
    }


def read_activations(folder: Path) -> Activations:
    """The activations in a folder of `activation_files`. Raises DataError: a file is missing or damaged."""
    try:
        metadata = parse_json((folder / "metadata.json").read_bytes())
        return Activations(
            train=read_tensor(folder / "train.safetensors", "activations"),
            validation=read_tensor(folder / "validation.safetensors", "activations"),
            n_train_positive=int(metadata["n_examples_pos"]),
            n_validation_positive=int(metadata["n_validation_pos"]),
            n_dropped=int(metadata["n_dropped"]),
            neutral=read_tensor(folder / "train.safetensors", "neutral") if "n_neutral" in metadata else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not activations of ours ({error!r}); run massact extract") from error


# What an extraction read, prompt by prompt: a table that MLflow's UI shows, counts, and a note.

_PROMPT_COLUMNS = (
    "side", "place", "system_prompt", "prompt", "continuation", "judged_text", "trait_score", "coherence_score",
    "unscored_because", "kept", "fate",
)  # fmt: skip
_REASONS = {
    PromptStatus.FAILED: "vetting",
    PromptStatus.UNSCORED: "unscored",
    PromptStatus.PAIR: "pair",
    PromptStatus.NO_WINDOW: "no_window",
}
_SIDES = ("positive", "negative")
_PARAMS = (
    "model", "model_variant", "model_id", "model_revision", "dtype", "trait", "position", "n_layers", "d_model",
    "calibration_key", "validation_split", "vetting",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sources:
    """What one window's vectors were extracted from."""

    contrast: "Contrast" = field(repr=False)
    statuses: tuple[PromptStatuses, PromptStatuses] = field(repr=False)  # of each side's prompts
    vetting: "Vetting | None" = field(repr=False, default=None)
    vetted_as: str | None = None  # how, in words
    warnings: tuple[str, ...] = ()  # doubts about the dataset


def continuation_bytes(sources: Sources) -> bytes:
    """The table, as a file in the format that MLflow's UI shows."""
    contrast, data = sources.contrast, []
    statuses = [(side, status) for side, own in zip(_SIDES, sources.statuses, strict=True) for status in own]
    for i, (prompt, (side, status)) in enumerate(zip(contrast.prompts, statuses, strict=True)):
        judged = None if contrast.judged is None else contrast.judged[i]
        verdict = sources.vetting.verdicts[i] if sources.vetting else None
        scores = (verdict.trait, verdict.coherence, verdict.reason) if verdict else (None, None, None)
        texts = (prompt.system, prompt.whole, contrast.continuations[i], judged)
        data.append((side, prompt.place, *texts, *scores, status not in LEFT_OUT, str(status)))
    return json.dumps({"columns": _PROMPT_COLUMNS, "data": data}, ensure_ascii=False).encode()


def count_metrics(sources: Sources) -> dict[str, float]:
    """How many prompts of each side were kept, and how many were left out for which reason."""
    metrics: dict[str, float] = {}
    for side, statuses in zip(_SIDES, sources.statuses, strict=True):
        counts = Counter(statuses)
        metrics[f"n_kept_{side}"] = len(statuses) - sum(counts[status] for status in LEFT_OUT)
        for status, reason in _REASONS.items():
            if counts[status] or (sources.vetting and status is not PromptStatus.NO_WINDOW):
                metrics[f"n_dropped_{side}_{reason}"] = counts[status]
    return metrics


def sources_note(sources: Sources) -> str:
    """The counts and doubts, as Markdown for the run's note."""
    lines = ["| side | prompts | train | validation | " + " | ".join(LEFT_OUT) + " |"]
    lines.append("|---" * (4 + len(LEFT_OUT)) + "|")
    for side, statuses in zip(_SIDES, sources.statuses, strict=True):
        counts = Counter(statuses)
        cells = [counts[status] for status in (PromptStatus.TRAIN, PromptStatus.VALIDATION, *LEFT_OUT)]
        lines.append(f"| {side} | {len(statuses)} | " + " | ".join(str(n) for n in cells) + " |")
    if sources.vetted_as:
        lines += ["", f"Vetted: {sources.vetted_as}."]
    if sources.warnings:
        lines += ["", "Doubts about the dataset:", "", *(f"- {warning}" for warning in sources.warnings)]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What an extraction keeps, before it is a run."""

    activations: Activations
    vectors: "Mapping[str, LabelVectors]"
    sources: Sources | None = None  # the continuations that they were extracted from


def log_calibration(tracker: Tracker, parent: OpenRun, row: StageRow, calibration: Calibration) -> None:
    """Log a calibration with `calibration.json` as a finished run."""
    provenance = {
        "experiment": row.experiment,
        "model": row.model_id,
        "model_revision": row.model_revision,
        "model_variant": row.model_variant,
        "dtype": row.dtype,
        "prompt_set": "calibration",
    }
    text = json.dumps(calibration_json(calibration, provenance), indent=2, allow_nan=False)
    files = {Artifact.CALIBRATION.value: f"{text}\n".encode()}
    steps = _calibration_steps(calibration)
    tracker.write(_stage_run(row, f"calibration · {row.model}", parent, steps=steps, files=files), parent)


def log_extraction(tracker: Tracker, parent: OpenRun, row: StageRow, extracted: Extracted) -> None:
    """Log an extraction with its activations and vectors as a finished run."""
    position = (row.position or "").removeprefix("response")
    steps = [
        Step(f"{name}/{label}", value, layer)
        for label, made in extracted.vectors.items()
        for layer, figures in enumerate(made.separations)
        for name, value in (("validation_accuracy", figures.accuracy), ("effect_size", figures.effect_size))
        if math.isfinite(value)
    ]
    metrics = {
        "n_train": len(extracted.activations.train),
        "n_dropped": extracted.activations.n_dropped,
        **(count_metrics(extracted.sources) if extracted.sources else {}),
        "n_vectors": len(extracted.vectors) * row.n_layers,
        "n_unconverged_probes": sum(len(made.unconverged_layers) for made in extracted.vectors.values()),
    }
    name = f"extraction {position} · {row.model} · {row.trait}"
    run = _stage_run(row, name, parent, steps=steps, files=_extraction_files(row, extracted))
    tags = dict(run.tags)
    if extracted.sources is not None:  # the note, and what makes the UI show the continuations as a table
        table = json.dumps([{"path": Artifact.CONTINUATIONS.value, "type": "table"}])
        tags |= {MlflowTag.NOTE.value: fit_tag(sources_note(extracted.sources)), MlflowTag.TABLES.value: table}
    tracker.write(replace(run, metrics={key: float(value) for key, value in metrics.items()}, tags=tags), parent)


def _stage_run(
    row: StageRow, name: str, parent: OpenRun, *, steps: Sequence[Step], files: Mapping[str, bytes]
) -> FinishedRun:
    tags, params = parent_tags(parent.run_id), row_params(row, _PARAMS)
    return row_run(row, name, ended_at=int(time.time() * 1000), tags=tags, params=params, steps=steps, files=files)


def _extraction_files(row: StageRow, extracted: Extracted) -> dict[str, bytes]:
    names = {"model": row.model_id, "model_revision": row.model_revision, "trait": row.trait}
    provenance = {**names, "position": row.position, "extraction_key": row.key}
    activations = activation_files(extracted.activations, provenance)
    files = {f"{Artifact.ACTIVATIONS}/{name}": content for name, content in activations.items()}
    if extracted.sources is not None:
        files[Artifact.CONTINUATIONS.value] = continuation_bytes(extracted.sources)
    for label, made in extracted.vectors.items():
        content = tensor_bytes({"vectors": made.vectors}, {**provenance, "label": label})
        files[f"{Artifact.VECTORS}/{label}.safetensors"] = content
    return files


def _calibration_steps(calibration: Calibration) -> list[Step]:
    steps: list[Step] = []
    for layer, figures in enumerate(calibration.layers):
        values = {
            "norm": figures.norm,
            "norm_without_massive": figures.norm_without_massive,
            "mean_alignment": figures.mean_alignment,
            "top1_ratio_to_median": figures.ratio_to_median[0],
            "top1_ratio_to_mean": figures.ratio_to_mean[0],
        }
        if figures.response and figures.first:
            values |= {"max_to_median": figures.response.max_to_median, "norm_first_token": figures.first.norm}
        steps += [Step(name, value, layer) for name, value in values.items() if math.isfinite(value)]
    return steps
