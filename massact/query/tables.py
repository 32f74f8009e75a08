"""An answer as tables and lines, whatever prints them: a terminal, Markdown, a notebook."""

from collections.abc import Iterator, Mapping, Sequence
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
from massact.query.setting_fields import shortened, telling_apart


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
    return [AnswerTable(_with_differences(table.columns, table.rows), table.rows) for table in found]


def _with_differences(columns: tuple[Column, ...], rows: Sequence[object]) -> tuple[Column, ...]:
    """The columns, and those of the fields in which the settings of the rows differ behind the place."""
    fields = [getattr(row, "differs", {}) for row in rows]
    if not any(fields):
        return columns
    needed = telling_apart(fields)
    differing = tuple(_differing(name, fields, is_optional=name not in needed) for name in fields[0])
    left = [one for one in columns if one.header not in {column.header for column in differing}]
    n_places = next(
        i for i, one in enumerate(left) if one.header not in ("source", "model", "trait", "position")
    )
    return (*left[:n_places], *differing, *left[n_places:])


def _differing(name: str, rows: Sequence[Mapping[str, Any]], *, is_optional: bool) -> Column:
    short = shortened(row[name] for row in rows)

    def shown(row: Any) -> str:
        value = row.differs[name]
        return "" if value is None else short[value]

    header = {"n_questions": "questions", "baseline_trait_mean": "baseline"}.get(name, name.replace("_", " "))
    return Column(header, shown, is_shared=True, is_optional=is_optional)


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
