"""Answers as text: an aligned table, JSON, CSV or Markdown. Missing is empty or null, never 0."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from massact.cli.column import Column
from massact.cli.columns import COLUMNS, CONFIRMED_COLUMNS, HALVES_COLUMNS, RATIO_COLUMNS, WINNER_COLUMNS
from massact.errors import UsageError
from massact.query import Answer, ConfirmationsAnswer, JudgesAnswer, PublishedComparison, SensitivityAnswer
from massact.query.as_json import to_json
from massact.query.coefficient_patterns import CoefficientsAnswer
from massact.query.rows import flatten, to_mapping

Format = Literal["table", "json", "csv", "markdown"]
FORMATS = ("table", "json", "csv", "markdown")
TABLE_WIDTH = 120
_GAP = "  "


def render(answer: Answer[Any], output_format: Format) -> str:
    """An answer as text, ending in a line break."""
    if output_format == "json":
        return to_json(answer)
    if output_format == "csv":
        return _csv(answer)
    draw = _table if output_format == "table" else _markdown
    parts = [draw(COLUMNS[answer.question], answer.rows)]
    if isinstance(answer, CoefficientsAnswer):
        parts += [draw(RATIO_COLUMNS, (*answer.method_ratios, *answer.cleaning_shifts))]
        parts += ["".join(f"- {line}\n" for line in answer.recommendations)]
    if isinstance(answer, SensitivityAnswer):
        parts += [draw(HALVES_COLUMNS, answer.halves)]
    if isinstance(answer, JudgesAnswer):
        parts += [draw(WINNER_COLUMNS, answer.winners)]
    if isinstance(answer, ConfirmationsAnswer):
        parts += [draw(CONFIRMED_COLUMNS, answer.places)]
    parts += ["".join(f"- {line}\n" for line in _flags(answer.rows))]
    return "\n".join(part for part in parts if part)


def _flags(rows: Iterable[object]) -> Iterator[str]:
    """What does not add up in published figures: too long for a column."""
    for row in rows:
        if isinstance(row, PublishedComparison):
            name = f"{row.source}, {row.model}, {row.trait}, {row.position}, {row.label}"
            yield from (f"{name}: {flag}" for flag in row.flags)


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


def _csv(answer: Answer[Any]) -> str:
    rows = [flatten(row) for row in answer.rows]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _csv_value(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_value(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
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
