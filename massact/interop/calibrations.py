"""`calibration.json`, in and out: trait-interp's, and our own, which holds the same and a `massact` object more."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from massact.errors import DataError
from massact.interop.lines import OWN, LineError, parse_document
from massact.interop.names import NO_VARIANT, Source, Target, checked_name, name_model
from massact.interop.rows import VERSION, Times, measured_identity, own_document, parse_own_stage
from massact.json_text import parse_object
from massact.keys import canonical_json, digest, digest_text
from massact.store.schema import Artifact, Kind, StageRow, Tag, format_param
from massact.store.write.client import cell_files, row_tags, run_tags
from massact.store.write.finished_run import Step
from massact.store.write.run_writer import FinishedRun
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
_PARAMS = (*_NAMES, "model_revision", "dtype", "n_layers", "d_model", "origin")


@dataclass(frozen=True, slots=True)
class ReadCalibration:
    row: StageRow
    identity: str
    content: str | None
    """Digest of its content; `None` for one of our own export."""
    times: Times
    document: Mapping[str, Any]
    file: bytes

    def to_run(self) -> FinishedRun:
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
        params = {name: getattr(self.row, name) for name in _PARAMS}
        return FinishedRun(
            name=name,
            tags=tags,
            params={name: format_param(value) for name, value in params.items() if value is not None},
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
    extra = document.pop(OWN, {})
    if extra:
        as_written = parse_object(content)
        plain = {name: value for name, value in as_written.items() if name != OWN}
        content = _spelled(plain)
        if isinstance(extra, dict) and "row" in extra:
            row, times = parse_own_stage(as_written, target.experiment)
            identity = measured_identity(row.key, times[1])
            return ReadCalibration(row, identity, None, times, plain, content)
        if not isinstance(extra, dict) or not all(isinstance(extra.get(name), str) for name in _NAMES):
            raise LineError("its `massact` object is damaged; export again, or remove it")
    row = _row(source, document, dims, extra, target)
    identity = digest(
        {"version": VERSION, "model": row.model, "model_variant": row.model_variant, "calibration": document}
    )
    at = status.st_mtime_ns // 1_000_000
    return ReadCalibration(row, identity, identity, (at, at), document, content)


def calibration_file(document: Mapping[str, Any], row: StageRow, times: Times) -> bytes:
    """A stored calibration as a file; `read_calibration_file` reads it back."""
    names = {name: getattr(row, name) for name in _NAMES}
    return _spelled({**document, OWN: names if row.origin else own_document(row, times)})


def _spelled(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _row(
    source: Source,
    document: Mapping[str, Any],
    dims: dict[int, list[int]],
    extra: Mapping[str, str],
    target: Target,
) -> StageRow:
    reference = extra.get("model_id", document.get("model"))
    variant = extra.get("model_variant") or source.variant or document.get("model_variant")
    if not isinstance(reference, str | None) or not isinstance(variant, str | None):
        raise LineError("`model` or `model_variant` is not a text")
    model, model_id, _ = name_model(
        target,
        extra.get("model"),
        variant,
        reference,
        lambda config: (config.base, config.instruct),
        lacking="neither the file nor its path names the model: pass --model",
    )
    variant = checked_name(variant or NO_VARIANT, "variant")
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
    aggregate = document.get("aggregate")
    by_layer = aggregate.get("top_dims_by_layer") if isinstance(aggregate, dict) else None
    if not isinstance(by_layer, dict) or not by_layer:
        raise LineError("not a calibration: no aggregate.top_dims_by_layer")
    dims: dict[int, list[int]] = {}
    for layer, top in by_layer.items():
        is_list = isinstance(top, list) and all(type(dim) is int and dim >= 0 for dim in top)
        if not (layer.isascii() and layer.isdigit()) or not is_list:
            raise LineError(f"aggregate.top_dims_by_layer[{layer!r}] is not a layer's list of dims")
        dims[int(layer)] = top
    if len(dims) < len(by_layer):
        raise LineError("aggregate.top_dims_by_layer names a layer twice")
    return dims


def _steps(aggregate: Mapping[str, Any]) -> list[Step]:
    steps = []
    for source, name in _STEPS.items():
        by_layer = aggregate.get(source)
        for layer, value in by_layer.items() if isinstance(by_layer, dict) else ():
            first = value[0] if isinstance(value, list) and value else value
            if isinstance(first, int | float) and not isinstance(first, bool) and layer.isdigit():
                steps.append(Step(name, float(first), int(layer)))
    return steps
