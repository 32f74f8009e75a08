"""Figures from write-ups: a CSV file read line by line, and each figure a run of its own kind.

They never meet what was measured: no question reads their kind but the one that sets them beside it.
"""

import codecs
import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from massact.errors import DataError, UsageError, lfs_advice
from massact.interop.lines import MAX_LAYER, LineError
from massact.interop.writing import FileReport
from massact.keys import canonical_json, digest_text
from massact.labels import normalise_label
from massact.store.schema import Kind, MlflowTag, PublishedRow, Tag, encode_row, format_param
from massact.store.write.client import cell_files, row_tags, run_tags
from massact.store.write.run_writer import FinishedRun
from massact.vectors.positions import parse_position

_TEXTS = ("source", "model", "trait", "position", "method", "note")
_NUMBERS = (
    "layer", "coefficient", "trait_mean", "coherence_mean", "delta", "baseline_trait_mean", "coherence_floor",
)  # fmt: skip
COLUMNS = (*_TEXTS, *_NUMBERS)
REQUIRED = ("source", "model", "trait", "position", "method", "delta")
_PARAMS = ("source", "model", "trait", "position", "label", "layer", "coefficient")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_KEY_VERSION = 1
_NAME_LIMIT = 250
"""Characters of a run's name, and of the texts that are params, that every database of MLflow's takes."""
_RECORD_LINES = 50
"""Most lines that one record may take: a note may hold line breaks."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    rows: tuple[PublishedRow, ...]
    """In the file's order, each once."""
    report: FileReport
    """Its refused lines, and what is to be said of those that repeat another."""


def read_published(path: Path, experiment: str) -> PublishedFile:
    """The figures of a CSV file in UTF-8, with a header that names its columns in any order.

    An empty field is a missing value and stays one. A line that cannot be read is refused and does
    not stop the others; of equal lines the first counts.

    Args:
        path: the file.
        experiment: name of the experiment that the figures are kept with.

    Raises:
        DataError: the file cannot be read, or its header is not one of such a file.
    """
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
            row = _row(_values(header, fields), experiment)
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
    tags = run_tags(Kind.PUBLISHED, row.experiment, name) | row_tags(row)
    tags |= {Tag.CONTENT.value: row.key, Tag.LABEL.value: row.label}
    if row.note is not None:
        tags[MlflowTag.NOTE.value] = row.note
    params, metrics = ({name: getattr(row, name) for name in names} for names in (_PARAMS, _NUMBERS))
    return FinishedRun(
        name=name,
        tags=tags,
        params={name: format_param(value) for name, value in params.items() if value is not None},
        metrics={name: float(value) for name, value in metrics.items() if value is not None},
        started_at=at,
        finished_at=at,
        files=cell_files(row),
    )


def _records(lines: Sequence[bytes], start: int, width: int) -> Iterator[tuple[int, list[str] | str]]:
    """Records from the line with index `start` on, each with its first line's number, or in words why it has none.

    A quotation mark that is never closed costs its own line only: the csv module alone would read the
    rest of the file as one field. What holds nothing is passed over, as are rows of commas, which
    spreadsheets write.

    Args:
        width: how many fields a record has that takes several lines.
    """
    while start < len(lines):
        reason: str | None = None
        for count in range(1, min(_RECORD_LINES, len(lines) - start) + 1):
            fields, problem = _fields(b"\n".join(lines[start : start + count]))
            reason = reason or problem
            if problem is None or problem != _OPEN:
                break
        if problem is not None or (count > 1 and len(fields) != width):
            yield start + 1, str(reason)
            count = 1
        elif any(field.strip() for field in fields):
            yield start + 1, fields
        start += count


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
            raise DataError(
                f"{path}: unknown column {name!r}; there is {', '.join(COLUMNS)}. Rename or drop it"
            )
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


def _row(values: Mapping[str, str], experiment: str) -> PublishedRow:
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
    row = PublishedRow(
        kind=Kind.PUBLISHED,
        experiment=experiment,
        key=digest_text(cell),
        cell=cell,
        **content,  # type: ignore[arg-type]  # names are the fields'
    )
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
