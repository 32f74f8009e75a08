"""An answer as a notebook shows it: the tables of the commands as HTML, every text escaped.

No scripts and no colours: a notebook's own, light or dark, are taken as they are.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

from massact.query.rows import Answer
from massact.query.tables import AnswerTable, answer_lines, answer_tables, printed

MOST_ROWS = 60
"""Rows of a table; a notebook that shows thousands is slow."""


def answer_html(answer: Answer[Any]) -> str:
    """The whole answer as one HTML element."""
    rows = "1 row" if len(answer.rows) == 1 else f"{len(answer.rows)} rows"
    of = f" of {escape(answer.experiment)}" if answer.experiment else ""
    parts = [
        f"<p><strong>{escape(answer.question)}</strong>{of}, coherence floor {answer.floor:g}: {rows}</p>"
    ]
    parts += [_table(table) for table in answer_tables(answer) if table.rows]
    parts += [_list(answer_lines(answer)), _list(answer.notes, "Notes")]
    return f"<div>{''.join(parts)}</div>"


def _table(table: AnswerTable) -> str:
    found = printed(table.columns, table.rows)
    above = ", ".join(f"{escape(header)} {escape(value)}" for header, value in found.shared.items())
    head = "".join(f"<th{_side(column.is_number)}>{escape(column.header)}</th>" for column in found.columns)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_side(column.is_number)}>{escape(text)}</td>"
            for column, text in zip(found.columns, texts, strict=True)
        )
        + "</tr>"
        for texts in found.cells[:MOST_ROWS]
    )
    left = len(found.cells) - MOST_ROWS
    more = f"<p>{left} more row{'s' * (left > 1)}: <code>.rows</code> has all</p>" if left > 0 else ""
    shared = f"<p>{above}</p>" if above else ""
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{shared}<div style="overflow-x: auto">{whole}</div>{more}'


def _side(is_number: bool) -> str:
    return f' style="text-align: {"right" if is_number else "left"}"'


def _list(lines: Iterable[str], title: str = "") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in list(lines)[:MOST_ROWS])
    name = f"<p>{escape(title)}</p>" if title else ""
    return f"{name}<ul>{items}</ul>" if items else ""
