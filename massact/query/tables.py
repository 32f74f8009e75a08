"""An answer as tables and lines, whatever prints them: a terminal, Markdown, a notebook."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from massact.names import visible
from massact.query.coefficient_patterns import CoefficientsAnswer
from massact.query.column import Column
from massact.query.columns import COLUMNS, CONFIRMED_COLUMNS, HALVES_COLUMNS, RATIO_COLUMNS, WINNER_COLUMNS
from massact.query.confirmation_rows import ConfirmationsAnswer
from massact.query.floor_sensitivity import SensitivityAnswer
from massact.query.judge_comparison import JudgesAnswer
from massact.query.published import PublishedComparison
from massact.query.rows import Answer


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """Rows of an answer and the columns that they are printed with."""

    columns: tuple[Column, ...]
    rows: tuple[object, ...]


def answer_tables(answer: Answer[Any]) -> list[AnswerTable]:
    """The rows that answer the question, then what the answer has beside them."""
    found = [AnswerTable(COLUMNS[answer.question], answer.rows)]
    if isinstance(answer, CoefficientsAnswer):
        found.append(AnswerTable(RATIO_COLUMNS, (*answer.method_ratios, *answer.cleaning_shifts)))
    if isinstance(answer, SensitivityAnswer):
        found.append(AnswerTable(HALVES_COLUMNS, answer.halves))
    if isinstance(answer, JudgesAnswer):
        found.append(AnswerTable(WINNER_COLUMNS, answer.winners))
    if isinstance(answer, ConfirmationsAnswer):
        found.append(AnswerTable(CONFIRMED_COLUMNS, answer.places))
    return found


def answer_lines(answer: Answer[Any]) -> list[str]:
    """What belongs to the answer and is too long for a column: recommendations, and flags of published figures."""
    advice = answer.recommendations if isinstance(answer, CoefficientsAnswer) else ()
    return [*advice, *_flags(answer.rows)]


def _flags(rows: Sequence[object]) -> Iterator[str]:
    for row in rows:
        if isinstance(row, PublishedComparison):
            name = f"{row.source}, {row.model}, {row.trait}, {row.position}, {row.label}"
            yield from (f"{name}: {flag}" for flag in row.flags)


@dataclass(frozen=True, slots=True)
class PrintedTable:
    """The texts of a table without the columns that say nothing."""

    shared: dict[str, str]
    """By header, the one value that all rows have; it is printed once."""
    columns: tuple[Column, ...]
    cells: tuple[tuple[str, ...], ...]
    """Row by row."""


def printed(columns: Sequence[Column], rows: Sequence[object]) -> PrintedTable:
    """The texts of some rows."""
    texts = {column: [visible(column.text(row)) for row in rows] for column in columns}
    filled = [column for column in columns if any(texts[column])]
    shared = [column for column in filled if column.is_shared and len({*texts[column]} - {""}) == 1]
    shown = tuple(column for column in filled if column not in shared)
    return PrintedTable(
        {column.header: max(texts[column]) for column in shared},
        shown,
        tuple(tuple(texts[column][index] for column in shown) for index in range(len(rows))),
    )
