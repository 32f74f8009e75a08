"""Answers as text: an aligned table, JSON, CSV or Markdown. Missing is empty or null, never 0."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import click

from massact.errors import UsageError
from massact.query import Answer, BestRow, ComparisonRow, CurveRow, GapRow, Point
from massact.query.coefficient_patterns import CoefficientsAnswer
from massact.query.recommendations import CoefficientRatio
from massact.query.rows import flatten, to_mapping

Format = Literal["table", "json", "csv", "markdown"]
FORMATS = ("table", "json", "csv", "markdown")
OUTPUT_SCHEMA_VERSION = 1
TABLE_WIDTH = 120
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the printed tables; JSON and CSV hold every field instead."""

    header: str
    text: Callable[[Any], str]
    is_number: bool = False
    is_shared: bool = False
    """Printed once above the table where all rows have the same."""
    is_optional: bool = False
    """Left out where the table is too wide; the last such column first."""


def render(answer: Answer[Any], output_format: Format) -> str:
    """An answer as text, ending in a line break."""
    if output_format == "json":
        return _json(answer)
    if output_format == "csv":
        return _csv(answer)
    draw = _table if output_format == "table" else _markdown
    parts = [draw(_COLUMNS[answer.question], answer.rows)]
    if isinstance(answer, CoefficientsAnswer):
        parts += [draw(_RATIO_COLUMNS, (*answer.method_ratios, *answer.cleaning_shifts))]
        parts += ["".join(f"- {line}\n" for line in answer.recommendations)]
    return "\n".join(part for part in parts if part)


def write(text: str, output: Path | None) -> None:
    """Print to standard output, or write a file.

    Raises:
        UsageError: the file cannot be written.
    """
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {output}: {error.strerror}. Name a file in a folder that exists"
        ) from error


def _json(answer: Answer[Any]) -> str:
    head = {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "question": answer.question,
        "floor": answer.floor,
        "rows": to_mapping(answer.rows),
        "notes": list(answer.notes),
    }
    own = {field.name: to_mapping(getattr(answer, field.name)) for field in fields(answer)}
    return (
        json.dumps({**head, **{k: v for k, v in own.items() if k not in head}}, indent=2, allow_nan=False)
        + "\n"
    )


def _csv(answer: Answer[Any]) -> str:
    rows = [flatten(row) for row in answer.rows]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _csv_value(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_value(value: object) -> object:
    # lists (brackets, warnings) stay readable by programs
    return json.dumps(to_mapping(value), allow_nan=False) if isinstance(value, tuple) else value


def _table(columns: Sequence[Column], rows: Sequence[object]) -> str:
    if not rows:
        return ""
    cells = {column: [column.text(row) for row in rows] for column in columns}
    shown = [column for column in columns if any(cells[column])]
    shared = [c for c in shown if c.is_shared and len({*cells[c]} - {""}) == 1]
    shown = [column for column in shown if column not in shared]
    widths = {c: max(len(c.header), *map(len, cells[c])) for c in shown}
    while sum(widths[c] for c in shown) + len(_GAP) * (len(shown) - 1) > TABLE_WIDTH:
        optional = [column for column in shown if column.is_optional]
        if not optional:
            break
        shown.remove(optional[-1])
    head = [", ".join(f"{c.header} {max(cells[c])}" for c in shared), ""] if shared else []
    lines = [_line(shown, widths, [column.header for column in shown])]
    lines += [_line(shown, widths, [cells[c][index] for c in shown]) for index in range(len(rows))]
    return "\n".join([*head, *lines]) + "\n"


def _line(columns: Sequence[Column], widths: dict[Column, int], cells: Sequence[str]) -> str:
    padded = (
        cell.rjust(widths[column]) if column.is_number else cell.ljust(widths[column])
        for column, cell in zip(columns, cells, strict=True)
    )
    return _GAP.join(padded).rstrip()


def _markdown(columns: Sequence[Column], rows: Sequence[object]) -> str:
    if not rows:
        return ""
    lines = [[column.header for column in columns]]
    lines.append(["---:" if column.is_number else "---" for column in columns])
    lines += [[column.text(row).replace("|", "\\|") for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(name: str) -> Callable[[Any], str]:
    def text(row: object) -> str:
        value = getattr(row, name)
        return "" if value is None else str(value)

    return text


def _number(name: str, spec: str, *, within: str | None = None) -> Callable[[Any], str]:
    """A field's value, or that of the point `within` the row, as a format specification says."""

    def text(row: object) -> str:
        holder = getattr(row, within) if within else row
        value = None if holder is None else getattr(holder, name)
        return "" if value is None else format(value, spec)

    return text


def _point(name: str) -> Callable[[Any], str]:
    def text(row: object) -> str:
        point: Point | None = getattr(row, name)
        if point is None or point.delta is None:
            return ""
        return f"{point.delta:+.1f} (layer {point.layer}, {point.coefficient:g})"

    return text


def _miss(row: GapRow | BestRow | CurveRow) -> str:
    point = row.nearest_miss
    if point is None:
        return ""
    return f"{point.coherence_mean:.1f} (layer {point.layer}, {point.coefficient:g})"


def _try_next(row: GapRow) -> str:
    """What to try at the nearest miss's layer, and how many other layers have something to try."""
    brackets = [bracket for bracket in row.brackets if bracket.try_next]
    if row.nearest_miss is None:
        return ""
    if not brackets:
        return next((bracket.reason for bracket in row.brackets if bracket.reason), "")
    layer = row.nearest_miss.layer
    first = next((bracket for bracket in brackets if bracket.layer == layer), brackets[0])
    n_others = len(brackets) - 1
    more = f" (+{n_others} more)" if n_others else ""
    return f"layer {first.layer}: {' '.join(f'{value:g}' for value in first.try_next)}{more}"


def _status(row: GapRow) -> str:
    return row.status if row.is_current else f"{row.status} (old setting)"


def _same_vector(row: ComparisonRow) -> str:
    return (row.same_vector or "").removeprefix("same vector: ").removeprefix("same direction ")


def _setting(row: GapRow | BestRow | CurveRow | ComparisonRow) -> str:
    return (row.setting or "")[:8]


def _ratio(row: CoefficientRatio) -> str:
    return f"{row.label} / {row.reference}"


_PLACE = (
    Column("model", _text("model"), is_shared=True),
    Column("trait", _text("trait"), is_shared=True),
    Column("position", _text("position"), is_shared=True),
)
_SETTING = (
    Column("judge", _text("judge"), is_shared=True, is_optional=True),
    Column("setting", _setting, is_shared=True),
)
_MISS = Column("miss: coherence", _miss)
_POINT_COLUMNS = (
    Column("layer", _number("layer", "d"), is_number=True),
    Column("coefficient", _number("coefficient", "g"), is_number=True),
    Column("delta", _number("delta", "+.1f"), is_number=True),
    Column("coherence", _number("coherence_mean", ".1f"), is_number=True),
)
_LABEL, _STATUS = Column("label", _text("label")), Column("status", _text("status"))
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "gaps": (
        *_PLACE,
        _LABEL,
        Column("status", _status),
        Column("best: delta", _point("best"), is_optional=True),
        _MISS,
        Column("try next", _try_next),
        Column("error", lambda row: (row.error or "").partition("\n")[0][:60], is_optional=True),
        *_SETTING,
    ),
    "best": (
        *_PLACE,
        _LABEL,
        _STATUS,
        *_POINT_COLUMNS,
        Column("trait mean", _number("trait_mean", ".1f"), is_number=True, is_optional=True),
        Column("scored", _number("n_scored", "d"), is_number=True, is_optional=True),
        _MISS,
        *_SETTING,
    ),
    "compare": (
        *_PLACE,
        Column("A", _text("label_a")),
        Column("B", _text("label_b")),
        Column("A: delta", _point("best_a")),
        Column("B: delta", _point("best_b")),
        Column("A - B", _number("difference", "+.1f"), is_number=True),
        Column("same vector", _same_vector),
        Column("warnings", lambda row: "; ".join(row.warnings), is_optional=True),
        *_SETTING,
    ),
    "curve": (
        *_PLACE,
        Column("dims", _text("n_dims"), is_number=True),
        Column("zeroed", _number("n_dims_cleaned", "d", within="best"), is_number=True),
        _LABEL,
        _STATUS,
        Column("best: delta", _point("best")),
        Column("coherence", _number("coherence_mean", ".1f", within="best"), is_number=True),
        _MISS,
        *_SETTING,
    ),
    "coefficients": (
        *_PLACE,
        _LABEL,
        *_POINT_COLUMNS,
        Column("relative strength", _number("relative_strength", ".2f"), is_number=True),
        *_SETTING,
    ),
}
_RATIO_COLUMNS = (
    *_PLACE,
    Column("of", _ratio),
    Column("coefficients", lambda row: f"{row.coefficient:g} / {row.reference_coefficient:g}"),
    Column("ratio", _number("ratio", ".2f"), is_number=True),
    Column("layers", lambda row: f"{row.layer} / {row.reference_layer}"),
    *_SETTING,
)
