"""Figures from write-ups: a CSV file read line by line, and each figure a run of its own kind.

They never meet what was measured: no question reads their kind but the one that sets them beside it.
"""

import codecs
import csv
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from massact.errors import DataError, UsageError, lfs_advice
from massact.interop.lines import MAX_LAYER, LineError
from massact.interop.report import Refusal
from massact.keys import canonical_json, digest_text
from massact.labels import normalise_label
from massact.store.schema import Kind, MlflowTag, PublishedRow, Tag, encode_row, format_param
from massact.store.write.client import cell_files, parent_tags, row_tags, run_tags
from massact.store.write.run_writer import RunWriter, WholeRun, open_writer
from massact.store.write.tracker import OpenRun, Tracker
from massact.vectors.positions import parse_position

# A CSV file record by record, so that a broken line costs itself and not what follows it.

_RECORD_LINES = 50
"""Most lines that one record may take: a note may hold line breaks."""


def read_csv_lines(path: Path) -> list[bytes]:
    """The lines of a file, without their ends and without a byte order mark.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if advice := lfs_advice(content):
        raise DataError(f"{path}: {advice}")
    return content.splitlines()


def csv_records(lines: Sequence[bytes], start: int, width: int) -> Iterator[tuple[int, list[str] | str]]:
    """Records from the line with index `start` on; what holds nothing is passed over.

    A quotation mark that is never closed costs its own line only: the csv module would read the
    rest of the file as one field.

    Args:
        lines: UTF-8, as `read_csv_lines` gives them.
        start: index of the first line, from 0.
        width: how many fields a record has that takes several lines.

    Yields:
        The number of the record's first line, from 1, and its fields, or in words why it has none.
    """
    while start < len(lines):
        n_lines, found = _record(lines[start : start + _RECORD_LINES], width)
        # a spreadsheet writes its empty rows as commas
        if isinstance(found, str) or any(field.strip() for field in found):
            yield start + 1, found
        start += n_lines


def _record(lines: Sequence[bytes], width: int) -> tuple[int, list[str] | str]:
    """How many of the lines the first record takes, and its fields or why it has none."""
    reason = ""
    for count in range(1, len(lines) + 1):
        try:
            fields = next(csv.reader([b"\n".join(lines[:count]).decode()], strict=True), [])
        except UnicodeDecodeError as error:
            reason = reason or f"not UTF-8: the byte 0x{error.object[error.start]:02x}"
            break
        except csv.Error as error:
            is_open = "unexpected end of data" in str(error)
            reason = reason or ("a quotation mark is not closed" if is_open else f"not CSV: {error}")
            if not is_open:
                break
        else:
            return (count, fields) if count == 1 or len(fields) == width else (1, reason)
    return 1, reason


_TEXTS = ("source", "model", "trait", "position", "method", "note")
_NUMBERS = (
    "layer", "coefficient", "trait_mean", "coherence_mean", "delta", "baseline_trait_mean", "coherence_floor",
)  # fmt: skip
COLUMNS = (*_TEXTS, *_NUMBERS)
REQUIRED = ("source", "model", "trait", "position", "method", "delta")

_PARAMS = ("source", "model", "trait", "position", "label", "layer", "coefficient")
_METRICS = (
    "trait_mean", "coherence_mean", "delta", "baseline_trait_mean", "coherence_floor", "layer", "coefficient",
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_KEY_VERSION = 1
_NAME_LIMIT = 250
"""Characters of a run's name, and of the texts that are params, that every database of MLflow's takes."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Repeat:
    """A line that says what an earlier line said: the same texts and numbers."""

    line: int
    """From 1, the header's line counted."""
    first: int


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """What a file of published figures holds."""

    rows: tuple[PublishedRow, ...]
    """In the file's order, each once."""
    refusals: tuple[Refusal, ...] = ()
    repeats: tuple[Repeat, ...] = ()

    @property
    def n_read(self) -> int:
        """Lines that hold something, the header left out."""
        return len(self.rows) + len(self.refusals) + len(self.repeats)


@dataclass(frozen=True, slots=True)
class PublishedImport:
    """What came of importing a file."""

    file: PublishedFile
    imported: tuple[str, ...] = ()
    """Keys of the figures that are new in the store."""
    n_known: int = 0
    """Figures that the store held already."""


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
    lines = read_csv_lines(path)
    first = next((index for index, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise DataError(f"{path} is empty: its first line must name the columns, {', '.join(REQUIRED)}")
    header = _header(path, lines[first])
    rows: dict[str, tuple[int, PublishedRow]] = {}
    refusals, repeats = [], []
    for line, found in csv_records(lines, first + 1, len(header)):
        try:
            row = _row(_values(header, found), experiment)
        except ValueError as error:
            refusals.append(Refusal(str(path), line, str(error)))
            continue
        if row.key in rows:
            repeats.append(Repeat(line, rows[row.key][0]))
        else:
            rows[row.key] = (line, row)
    return PublishedFile(tuple(row for _, row in rows.values()), tuple(refusals), tuple(repeats))


def import_published(
    path: Path,
    *,
    tracker: Tracker,
    known_keys: Collection[str],
    writer_of: Callable[[str, str], RunWriter] = open_writer,
) -> PublishedImport:
    """Read a file of published figures, and write each that is new as a finished run of kind `published`.

    Args:
        path: a file as `read_published` takes it.
        tracker: the experiment file's tracking store.
        known_keys: keys of the published figures that the store holds.
        writer_of: opens the writer of a tracking URI and an MLflow experiment's id.

    Raises:
        DataError: the file cannot be read; nothing was written.
        StoreError: the store cannot be written to.
    """
    file = read_published(path, tracker.experiment)
    new = [row for row in file.rows if row.key not in known_keys]
    if new:
        params = {
            "file": path.name, "n_lines": file.n_read, "n_imported": len(new), "n_refused": len(file.refusals),
        }  # fmt: skip
        with tracker.phase("import", params=params) as phase:
            _write(writer_of(tracker.tracking_uri, phase.experiment_id), new, phase)
    return PublishedImport(file, tuple(row.key for row in new), len(file.rows) - len(new))


def published_run(row: PublishedRow, parent: OpenRun, at: int) -> WholeRun:
    """The run of a published figure; `at` in milliseconds since 1970."""
    position = row.position.removeprefix("response")
    model = row.model.rstrip("/").rpartition("/")[2]
    name = f"published · {row.label} {position} · {model} · {row.source}"[:_NAME_LIMIT]
    tags = run_tags(Kind.PUBLISHED, row.experiment, name) | row_tags(row) | parent_tags(parent.run_id)
    tags |= {Tag.CONTENT.value: row.key, Tag.LABEL.value: row.label}
    if row.note is not None:
        tags[MlflowTag.NOTE.value] = row.note
    return WholeRun(
        name=name,
        tags=tags,
        params={key: format_param(value) for key, value in _present(row, _PARAMS).items()},
        metrics={key: float(value) for key, value in _present(row, _METRICS).items()},
        started_at=at,
        finished_at=at,
        files=cell_files(row),
    )


def _write(writer: RunWriter, rows: Sequence[PublishedRow], parent: OpenRun) -> None:
    now = int(time.time() * 1000)
    try:
        for start in range(0, len(rows), _BATCH):
            writer.write([published_run(row, parent, now) for row in rows[start : start + _BATCH]])
    finally:
        writer.close()


def _present(row: PublishedRow, names: Sequence[str]) -> dict[str, str | float]:
    values = {name: getattr(row, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _header(path: Path, line: bytes) -> list[str]:
    ((_, names),) = csv_records([line], 0, 0)
    if isinstance(names, str):
        raise DataError(f"{path}: its first line is no header of a CSV file in UTF-8: {names}")
    header = [name.strip() for name in names]
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


def _values(header: Sequence[str], found: list[str] | str) -> dict[str, str]:
    if isinstance(found, str):
        raise LineError(found)
    if len(found) != len(header):
        raise LineError(f"{len(found)} fields, but {len(header)} columns")
    values = {name: text.strip() for name, text in zip(header, found, strict=True)}
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
    numbers = {name: _number(name, values.get(name, "")) for name in _NUMBERS if name != "layer"}
    content: dict[str, str | float | None] = {
        "source": values["source"],
        "model": values["model"],
        "trait": values["trait"],
        "position": _position(values["position"]),
        "label": _label(values["method"]),
        "layer": _layer(values.get("layer", "")),
        **numbers,
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


def _position(text: str) -> str:
    try:
        return str(parse_position(text))
    except UsageError as error:
        raise LineError(str(error)) from error


def _label(text: str) -> str:
    try:
        return normalise_label(text)
    except UsageError:
        return text  # a method that we do not have is a figure all the same


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    plain = text.replace("\N{MINUS SIGN}", "-")  # as write-ups print it
    value = float(plain) if _NUMBER.fullmatch(plain) else math.nan
    if not math.isfinite(value):
        raise LineError(f"{name} {text!r} is not a number; where it is missing leave it empty")
    return value + 0.0  # -0.0 and 0.0 are one number, and one key


def _layer(text: str) -> int | None:
    value = _number("layer", text)
    if value is None:
        return None
    if not 0 <= value <= MAX_LAYER or not value.is_integer():
        raise LineError(f"layer {text!r} is not a whole number from 0")
    return int(value)
