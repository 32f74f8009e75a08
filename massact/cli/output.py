"""Answers as text: an aligned table, JSON, CSV or Markdown. Missing is empty or null, never 0."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from massact.errors import UsageError
from massact.names import visible
from massact.query import Answer
from massact.query.rows import Column, flatten, to_json, to_mapping
from massact.query.tables import answer_lines, answer_tables, printed

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
    parts = [draw(table.columns, table.rows) for table in answer_tables(answer)]
    parts += ["".join(f"- {line}\n" for line in answer_lines(answer))]
    return "\n".join(part for part in parts if part)


def write(text: str, output: Path | None) -> None:
    """Print to standard output, or write a file.

    Raises:
        UsageError: the file cannot be written.
    """
    text = text.encode(
        "utf-8", "backslashreplace"
    ).decode()  # half of a character, in a store that others wrote
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
    found = printed(columns, rows)
    indices = list(range(len(found.columns)))
    widths = [
        max(len(column.header), *(len(cells[index]) for cells in found.cells))
        for index, column in enumerate(found.columns)
    ]
    while sum(widths[i] for i in indices) + len(_GAP) * (len(indices) - 1) > TABLE_WIDTH:
        optional = [index for index in indices if found.columns[index].is_optional]
        if not optional:
            break
        indices.remove(optional[-1])
    shown, kept = [found.columns[i] for i in indices], [widths[i] for i in indices]
    head = (
        [", ".join(f"{header} {value}" for header, value in found.shared.items()), ""] if found.shared else []
    )
    lines = [_line(shown, kept, [column.header for column in shown])]
    lines += [_line(shown, kept, [cells[i] for i in indices]) for cells in found.cells]
    return "\n".join([*head, *lines]) + "\n"


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    padded = (
        cell.rjust(width) if column.is_number else cell.ljust(width)
        for column, width, cell in zip(columns, widths, cells, strict=True)
    )
    return _GAP.join(padded).rstrip()


def _markdown(columns: Sequence[Column], rows: Sequence[object]) -> str:
    if not rows:
        return ""
    lines = [[column.header for column in columns]]
    lines.append(["---:" if column.is_number else "---" for column in columns])
    lines += [[visible(column.text(row)).replace("|", "\\|") for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
