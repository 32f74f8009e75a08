"""`calibration.json`: trait-interp's, and our own, which holds the same and a `massact` object more."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from massact.config import ModelConfig, VariantConfig
from massact.errors import DataError
from massact.interop.lines import OWN, LineError, parse_document
from massact.interop.names import NO_VARIANT, Source, Target, checked_name, last_part, match_model
from massact.interop.own_format import Times, own_document, parse_native_stage
from massact.interop.report import measured_identity
from massact.interop.rows import VERSION
from massact.json_text import parse_object
from massact.keys import canonical_json, digest, digest_text
from massact.store.schema import Artifact, Kind, StageRow, Tag, format_param
from massact.store.write.client import cell_files, row_tags, run_tags
from massact.store.write.run_writer import WholeRun
from massact.store.write.tracker import Step
from massact.vectors.massive_dims import uniform_dims

_MAX_BYTES = 256_000_000
_STEPS = {
    "layer_norms": "norm",
    "layer_norms_without_massive": "norm_without_massive",
    "mean_alignment_by_layer": "mean_alignment",
    "ratio_to_median_by_layer": "top1_ratio_to_median",
    "ratio_to_mean_by_layer": "top1_ratio_to_mean",
}
"""Figures per layer of the file -> stepped metrics, as massact logs them of its own calibrations."""
_NAMES = ("model", "model_id", "model_variant")
"""What the `massact` object of an imported calibration's export holds; a measured one's holds its row."""


@dataclass(frozen=True, slots=True)
class ReadCalibration:
    """A calibration file as it goes into the run store."""

    row: StageRow
    identity: str
    content: str | None
    """Digest of its content; `None` for one of our own export."""
    times: Times
    file: bytes
    document: Mapping[str, Any]

    def to_run(self) -> WholeRun:
        """Its run, with the file as artifact.

        Raises:
            LineError: its texts are longer than MLflow keeps.
        """
        name = f"calibration · {self.row.model}"
        try:
            tags = run_tags(self.row.kind, self.row.experiment, name) | row_tags(self.row)
        except ValueError as error:
            raise LineError(str(error)) from error
        if self.content is not None:
            tags[Tag.CONTENT.value] = self.content
        names = (
            "model",
            "model_variant",
            "model_id",
            "model_revision",
            "dtype",
            "n_layers",
            "d_model",
            "origin",
        )
        values = {name: getattr(self.row, name) for name in names}
        return WholeRun(
            name=name,
            tags=tags,
            params={key: format_param(value) for key, value in values.items() if value is not None},
            steps=_steps(self.document["aggregate"]),
            started_at=self.times[0],
            finished_at=self.times[1],
            files={**cell_files(self.row), Artifact.CALIBRATION.value: self.file},
        )


def read_calibration_file(source: Source, target: Target) -> ReadCalibration:
    """The calibration in a file.

    Raises:
        DataError: the file cannot be read.
        LineError: it is not a calibration, or names no model.
    """
    try:
        status = source.path.stat()
        if status.st_size > _MAX_BYTES:
            raise LineError(f"over {_MAX_BYTES // 1_000_000} MB, too large for a calibration")
        content = source.path.read_bytes()
    except OSError as error:
        raise DataError(f"{source.path}: cannot be read ({error.strerror})") from error
    document = parse_document(content)
    dims = _top_dims(document)
    own = document.pop(OWN, {})
    if isinstance(own, dict) and "row" in own:
        return _native(parse_object(content), target)
    if own:
        content = _spelled({name: one for name, one in parse_object(content).items() if name != OWN})
    row = _row(source, document, dims, _own_names(own), target)
    identity = digest(
        {"version": VERSION, "model": row.model, "model_variant": row.model_variant, "calibration": document}
    )
    at = status.st_mtime_ns // 1_000_000
    return ReadCalibration(row, identity, identity, (at, at), content, document)


def calibration_file(document: Mapping[str, Any], row: StageRow, times: Times) -> bytes:
    """A stored calibration as a file; `read_calibration_file` reads it back."""
    own = {name: getattr(row, name) for name in _NAMES} if row.origin else own_document(row, times)
    return _spelled({**document, OWN: own})


def _native(document: dict[str, Any], target: Target) -> ReadCalibration:
    row, times = parse_native_stage(document, target.experiment)
    plain = {name: value for name, value in document.items() if name != OWN}
    return ReadCalibration(row, measured_identity(row.key, times[1]), None, times, _spelled(plain), plain)


def _spelled(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _variants(model: ModelConfig) -> tuple[VariantConfig, ...]:
    return model.base, model.instruct


def _own_names(own: Any) -> dict[str, str]:
    if own and not (isinstance(own, dict) and all(isinstance(own.get(name), str) for name in _NAMES)):
        raise LineError("its `massact` object is damaged; export again, or remove it")
    return dict(own)


def _row(
    source: Source,
    document: Mapping[str, Any],
    dims: dict[int, list[int]],
    own: dict[str, str],
    target: Target,
) -> StageRow:
    reference = own.get("model_id", document.get("model"))
    variant = own.get("model_variant") or source.variant or document.get("model_variant")
    if not isinstance(reference, str | None) or not isinstance(variant, str | None):
        raise LineError("`model` or `model_variant` is not a text")
    known = match_model(target, own.get("model"), variant, reference, _variants)
    model = target.model or (known.name if known else own.get("model")) or last_part(reference)
    if known and not reference:
        named = [one.reference for one in _variants(known) if one.name == variant]
        reference = named[0] if named else known.base.reference
    model_id = reference or target.model
    if model is None or model_id is None:
        raise LineError("neither the file nor its path names the model: pass --model")
    model, variant = checked_name(model, "model"), checked_name(variant or NO_VARIANT, "variant")
    model_id = checked_name(model_id, "model's reference", may_be_path=True)
    fields = {"model_id": model_id, "model_variant": variant, "content": document}
    cell = canonical_json({"kind": "imported calibration", "version": VERSION, **fields})
    return StageRow(
        kind=Kind.CALIBRATION,
        experiment=target.experiment,
        # a file without a time cannot supersede another, so its content is part of its key
        key=digest_text(cell),
        cell=cell,
        model=model,
        model_variant=variant,
        model_id=model_id,
        n_layers=len(dims),
        origin="imported",
        massive_dims=uniform_dims([dims[layer] for layer in sorted(dims)]),
    )


def _top_dims(document: Mapping[str, Any]) -> dict[int, list[int]]:
    """Top dims by layer, checked.

    Raises:
        LineError: they are missing or of the wrong shape.
    """
    aggregate = document.get("aggregate")
    found = aggregate.get("top_dims_by_layer") if isinstance(aggregate, dict) else None
    if not isinstance(found, dict) or not found:
        raise LineError("not a calibration: no aggregate.top_dims_by_layer")
    dims: dict[int, list[int]] = {}
    for layer, own in found.items():
        is_list = isinstance(own, list) and all(type(dim) is int and dim >= 0 for dim in own)
        if not (layer.isascii() and layer.isdigit()) or not is_list:
            raise LineError(f"aggregate.top_dims_by_layer[{layer!r}] is not a layer's list of dims")
        dims[int(layer)] = own
    if len(dims) < len(found):
        raise LineError("aggregate.top_dims_by_layer names a layer twice")
    return dims


def _steps(aggregate: Mapping[str, Any]) -> list[Step]:
    steps = []
    for source, name in _STEPS.items():
        by_layer = aggregate.get(source)
        for layer, value in by_layer.items() if isinstance(by_layer, dict) else ():
            one = value[0] if isinstance(value, list) and value else value
            if isinstance(one, int | float) and not isinstance(one, bool) and layer.isdigit():
                steps.append(Step(name, float(one), int(layer)))
    return steps
