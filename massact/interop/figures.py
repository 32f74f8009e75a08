"""Figures that are no results: calibrations, in and out, and those that a write-up printed, runs of their own kind."""

import codecs
import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massact.errors import DataError, UsageError, lfs_advice
from massact.interop.lines import MAX_LAYER, OWN, LineError, parse_document
from massact.interop.names import NO_VARIANT, Source, Target, checked_name, name_model
from massact.interop.rows import VERSION, Times, measured_identity, own_document, own_row
from massact.interop.writing import FileReport
from massact.json_text import parse_object
from massact.keys import canonical_json, digest, digest_text
from massact.labels import normalise_label
from massact.store.schema import Artifact, Kind, MlflowTag, PublishedRow, StageRow, Tag, encode_row
from massact.store.schema.rows import decode_stage, row_params
from massact.store.write.client import row_run
from massact.store.write.finished_run import FinishedRun, Step
from massact.vectors.massive_dims import uniform_dims
from massact.vectors.positions import parse_position

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
_CALIBRATION_PARAMS = (*_NAMES, "model_revision", "dtype", "n_layers", "d_model", "origin")


@dataclass(frozen=True, slots=True)
class ReadCalibration:
    row: StageRow
    identity: str
    content: str | None  # digest of its content; `None` for one of our own export
    times: Times
    document: Mapping[str, Any]
    file: bytes

    def to_run(self) -> FinishedRun:
        tags = {} if self.content is None else {Tag.CONTENT.value: self.content}
        files, steps = {Artifact.CALIBRATION.value: self.file}, _steps(self.document["aggregate"])
        parts = {"params": row_params(self.row, _CALIBRATION_PARAMS), "steps": steps}
        name, (began, ended) = f"calibration · {self.row.model}", self.times
        try:
            return row_run(self.row, name, started_at=began, ended_at=ended, tags=tags, files=files, **parts)
        except ValueError as error:
            raise LineError(str(error)) from error


def read_calibration_file(source: Source, target: Target) -> ReadCalibration:
    """The calibration in a file."""
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
            row, times = own_row(as_written, target.experiment, Kind.CALIBRATION, decode_stage)
            identity = measured_identity(row.key, times[1])
            return ReadCalibration(row, identity, None, times, plain, content)
        if not isinstance(extra, dict) or not all(isinstance(extra.get(name), str) for name in _NAMES):
            raise LineError("its `massact` object is damaged; export again, or remove it")
    row = _calibration_row(source, document, dims, extra, target)
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


def _calibration_row(
    source: Source, document: Mapping[str, Any], dims: dict[int, list[int]], extra: Mapping[str, str], target: Target
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


_TEXTS = ("source", "model", "trait", "position", "method", "note")
_NUMBERS = (
    "layer", "coefficient", "trait_mean", "coherence_mean", "delta", "baseline_trait_mean", "coherence_floor",
)  # fmt: skip
COLUMNS = (*_TEXTS, *_NUMBERS)
REQUIRED = ("source", "model", "trait", "position", "method", "delta")
_PUBLISHED_PARAMS = ("source", "model", "trait", "position", "label", "layer", "coefficient")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_KEY_VERSION = 1
_NAME_LIMIT = 250  # characters of a run's name, and of the texts that are params, that every database of MLflow's takes
_RECORD_LINES = 50  # most lines that one record may take: a note may hold line breaks


@dataclass(frozen=True, slots=True)
class PublishedFile:
    rows: tuple[PublishedRow, ...]  # in the file's order, each once
    report: FileReport


def read_published(path: Path, experiment: str) -> PublishedFile:
    """The figures of a CSV file in UTF-8, with a header that names its columns in any order. An empty field is a
    missing value and stays one. A line that cannot be read is refused and does not stop the others; of equal lines the
    first counts. Raises DataError: the file cannot be read, or its header is not one of such a file."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if advice := lfs_advice(content):
        raise DataError(f"{path}: {advice}")
    lines = content.splitlines()
    first = next((index for index, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty: its first line must name the columns, {', '.join(REQUIRED)}")
    header = _header(path, lines[first])
    report = FileReport(str(path), "published")
    report.counts.headers = 1
    rows: dict[str, tuple[int, PublishedRow]] = {}
    for number, fields in _records(lines, first + 1, len(header)):
        try:
            row = _published_row(_values(header, fields), experiment)
        except ValueError as error:
            report.refuse(number, str(error))
            continue
        known, _ = rows.setdefault(row.key, (number, row))
        if known != number:
            report.counts.already_there += 1
            report.notes.append(f"line {number} says what line {known} says, and counts once")
    return PublishedFile(tuple(row for _, row in rows.values()), report)


def published_run(row: PublishedRow, at: int) -> FinishedRun:
    """The run of a published figure; `at` in milliseconds since 1970."""
    position = row.position.removeprefix("response")
    model = row.model.rstrip("/").rpartition("/")[2]
    name = f"published · {row.label} {position} · {model} · {row.source}"[:_NAME_LIMIT]
    tags = {Tag.CONTENT.value: row.key, Tag.LABEL.value: row.label}
    if row.note is not None:
        tags[MlflowTag.NOTE.value] = row.note
    metrics = {name: float(value) for name in _NUMBERS if (value := getattr(row, name)) is not None}
    return row_run(row, name, ended_at=at, tags=tags, params=row_params(row, _PUBLISHED_PARAMS), metrics=metrics)


def _records(lines: Sequence[bytes], start: int, width: int) -> Iterator[tuple[int, list[str] | str]]:
    """Records from the line with index `start` on, each with its first line's number, or in words why it has none. A
    quotation mark that is never closed costs its own line only: the csv module alone would read the rest of the file as
    one field. What holds nothing is passed over, as are rows of commas, which spreadsheets write."""
    while start < len(lines):
        for end in range(start + 1, min(start + _RECORD_LINES, len(lines)) + 1):
            fields, problem = _fields(b"\n".join(lines[start:end]))
            if problem != _OPEN:
                break
        if problem is not None or (end > start + 1 and len(fields) != width):
            end = start + 1
            yield end, str(_fields(lines[start])[1])
        elif any(field.strip() for field in fields):
            yield start + 1, fields
        start = end


_OPEN = "a quotation mark is not closed"


def _fields(text: bytes) -> tuple[list[str], str | None]:
    """The fields of a record, or why it is none."""
    try:
        return next(csv.reader([text.decode()], strict=True), []), None
    except UnicodeDecodeError as error:
        return [], f"not UTF-8: the byte 0x{error.object[error.start]:02x}"
    except csv.Error as error:
        return [], _OPEN if "unexpected end of data" in str(error) else f"not CSV: {error}"


def _header(path: Path, line: bytes) -> list[str]:
    fields, problem = _fields(line)
    if problem is not None:
        raise DataError(f"{path}: its first line is no header of a CSV file in UTF-8: {problem}")
    header = [name.strip() for name in fields]
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise DataError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; its first line must "
            f"name {', '.join(REQUIRED)}, separated by commas, in any order"
        )
    for name in header:
        # a mistyped name would pass for a column of missing values
        if name not in COLUMNS:
            raise DataError(f"{path}: unknown column {name!r}; there is {', '.join(COLUMNS)}. Rename or drop it")
        if header.count(name) > 1:
            raise DataError(f"{path} has the column {name} twice: drop one")
    return header


def _values(header: Sequence[str], fields: list[str] | str) -> dict[str, str]:
    if isinstance(fields, str):
        raise LineError(fields)
    if len(fields) != len(header):
        raise LineError(f"{len(fields)} fields, but {len(header)} columns")
    values = {name: text.strip() for name, text in zip(header, fields, strict=True)}
    for name in REQUIRED:
        if not values[name]:
            raise LineError(f"no {name}")
    for name in _TEXTS:
        text = values.get(name, "")
        if "\0" in text:
            raise LineError(f"{name} holds a NUL character")
        if name != "note" and len(text) > _NAME_LIMIT:
            raise LineError(f"{name} has {len(text)} characters, {_NAME_LIMIT} are kept")
    return values


def _published_row(values: Mapping[str, str], experiment: str) -> PublishedRow:
    label = values["method"]
    with suppress(UsageError):  # a method that we do not have is a figure all the same
        label = normalise_label(label)
    try:
        position = str(parse_position(values["position"]))
    except UsageError as error:
        raise LineError(str(error)) from error
    content: dict[str, str | float | None] = {
        **{name: values[name] for name in ("source", "model", "trait")},
        "position": position,
        "label": label,
        **{name: _number(name, values.get(name, "")) for name in _NUMBERS},
        "note": values.get("note") or None,
    }
    present = {name: value for name, value in content.items() if value is not None}
    cell = canonical_json({"kind": Kind.PUBLISHED.value, "version": _KEY_VERSION, **present})
    about: Any = {"kind": Kind.PUBLISHED, "experiment": experiment, "key": digest_text(cell), "cell": cell}
    row = PublishedRow(**about, **content)  # type: ignore[arg-type]  # names are the fields'
    encode_row(row)  # refuses what no tag can hold, as long as it is one line's fault
    return row


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    plain = text.replace("\N{MINUS SIGN}", "-")  # as write-ups print it
    value = float(plain) if _NUMBER.fullmatch(plain) else math.nan
    if not math.isfinite(value):
        raise LineError(f"{name} {text!r} is not a number; where it is missing leave it empty")
    if name != "layer":
        return value + 0.0  # -0.0 and 0.0 are one number, and one key
    if not 0 <= value <= MAX_LAYER or not value.is_integer():
        raise LineError(f"layer {text!r} is not a whole number from 0")
    return int(value)
