"""An answer as tables and lines, whatever prints them: a terminal, Markdown, a notebook."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from massact.names import visible
from massact.query.questions.best import BestRow
from massact.query.questions.coefficients import CoefficientRatio, CoefficientsAnswer
from massact.query.questions.compare import ComparisonRow
from massact.query.questions.confirmations import ConfirmationRow, ConfirmationsAnswer
from massact.query.questions.curve import CurveRow
from massact.query.questions.gaps import GapRow
from massact.query.questions.judges import JudgesAnswer
from massact.query.questions.published import PublishedComparison
from massact.query.questions.runs import RunRow
from massact.query.questions.sensitivity import SensitivityAnswer, SensitivityRow
from massact.query.rows import GRID_END, Answer, Column
from massact.query.rows import interval as _interval
from massact.query.rows import number as _number
from massact.query.rows import point as _point
from massact.query.rows import text as _text
from massact.query.same_vector import ONCE, taken_over_words
from massact.query.settings import shortened, telling_apart

# The columns of the printed tables, question by question; JSON and CSV hold every field instead.

_SAME_AS = Column("same as", lambda row: taken_over_words(row).replace("cosine ", ""))


def _p_value(row: ComparisonRow) -> str:
    p = row.p_corrected
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _miss(row: GapRow | BestRow | CurveRow | SensitivityRow) -> str:
    point = row.nearest_miss
    if point is None:
        return ""
    return f"{point.coherence_mean:.1f} (layer {point.layer}, {point.coefficient:g})"


def _try_next(row: GapRow) -> str:
    """What to try at the layer of the nearest miss, or of a best at the end of its grid, and at how many others."""
    brackets = [bracket for bracket in row.brackets if bracket.try_next]
    near = row.nearest_miss or row.best
    if near is None:
        return ""
    if not brackets:
        return next((bracket.reason for bracket in row.brackets if bracket.reason), "")
    layer = near.layer
    first = next((bracket for bracket in brackets if bracket.layer == layer), brackets[0])
    n_others = len(brackets) - 1
    more = f" (+{n_others} more)" if n_others else ""
    return f"layer {first.layer}: {' '.join(f'{value:g}' for value in first.try_next)}{more}"


def _error(row: GapRow | RunRow) -> str:
    return (row.error or "").partition("\n")[0][:60]


def _status(row: GapRow) -> str:
    return row.status if row.is_current else f"{row.status} (old setting)"


def _same_vector(row: ComparisonRow) -> str:
    words = (row.same_vector or "").removeprefix("same vector: ").removeprefix("same direction ")
    return words.replace(ONCE, "once")


def _setting(row: GapRow | BestRow | CurveRow | ComparisonRow) -> str:
    return (row.setting or "")[:8]


def _coherences(row: ConfirmationRow) -> str:
    found = (row.selected_coherence, row.confirmed_coherence)
    return " / ".join("" if one is None else f"{one:.1f}" for one in found).rstrip(" /")


def _confirmation_status(row: ConfirmationRow) -> str:
    """Nothing where all is as it should be."""
    if row.status == "confirmed":
        return "below floor" if row.holds_floor is False else ""
    return row.status


def _question_counts(row: ConfirmationRow) -> str:
    return f"{row.n_selecting}" + ("" if row.n_confirming is None else f" / {row.n_confirming}")


def _yes_or_no(name: str) -> Callable[[object], str]:
    """A field that may be unknown."""

    def shown(row: object) -> str:
        value = getattr(row, name)
        return "" if value is None else "yes" if value else "no"

    return shown


def _coefficient(row: object) -> str:
    """With a mark where it lies at the end of its grid."""
    value = getattr(row, "coefficient", None)
    return "" if value is None else f"{value:g}{GRID_END if getattr(row, 'at_grid_end', False) else ''}"


def _scored(row: BestRow | RunRow) -> str:
    """Of how many responses, where some have no score."""
    if row.n_scored is None:
        return ""
    return f"{row.n_scored}" + (f" of {row.n_scored + row.n_unscored}" if row.n_unscored else "")


def _ratio(row: CoefficientRatio) -> str:
    return f"{row.label} / {row.reference}"


_PLACE = (
    Column("model", _text("model"), is_shared=True),
    Column("trait", _text("trait"), is_shared=True),
    Column("position", _text("position"), is_shared=True),
)
_SETTING = (
    Column("judge", _text("judge"), is_shared=True, is_optional=True),
    Column("setting", _setting, is_shared=True, is_optional=True),
)
_MISS = Column("miss: coherence", _miss)
_POINT_COLUMNS = (
    Column("layer", _number("layer", "d"), is_number=True),
    Column("coefficient", _coefficient, is_number=True),
    Column("delta", _number("delta", "+.1f"), is_number=True),
    Column("coherence", _number("coherence_mean", ".1f"), is_number=True),
)
_LABEL, _STATUS = Column("label", _text("label")), Column("status", _text("status"))
COLUMNS: dict[str, tuple[Column, ...]] = {
    "gaps": (
        *_PLACE,
        _LABEL,
        Column("status", _status),
        Column("best: delta", _point("best"), is_optional=True),
        _MISS,
        Column("try next", _try_next),
        Column("error", _error, is_optional=True),
        *_SETTING,
    ),
    "best": (
        *_PLACE,
        _LABEL,
        _STATUS,
        *_POINT_COLUMNS,
        Column("95 % of delta", _interval("delta_low", "delta_high"), is_optional=True),
        Column("standing", _text("standing"), is_optional=True),
        Column("trait mean", _number("trait_mean", ".1f"), is_number=True, is_optional=True),
        Column("scored", _scored, is_number=True, is_optional=True),
        _SAME_AS,
        _MISS,
        *_SETTING,
    ),
    "compare": (
        *_PLACE,
        Column("A", _text("label_a")),
        Column("B", _text("label_b")),
        Column("A: delta", _point("best_a", "status_a")),
        Column("B: delta", _point("best_b", "status_b")),
        Column("A - B", _number("difference", "+.1f"), is_number=True),
        Column("95 % of A - B", _interval("difference_low", "difference_high"), is_optional=True),
        Column("p", _p_value, is_number=True, is_optional=True),
        Column("at like coherence", _number("matched_difference", "+.1f"), is_number=True, is_optional=True),
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
    "sensitivity": (
        *_PLACE,
        Column("floor from", _number("floor_from", "g"), is_number=True),
        Column("to", _number("floor_to", "g"), is_number=True),
        _LABEL,
        *_POINT_COLUMNS,
        Column("flips", lambda row: "yes" if row.flips else ""),
        _STATUS,
        Column("miss: coherence", _miss, is_optional=True),
        *_SETTING,
    ),
    "judge-check": (
        Column("judge", _text("judge"), is_shared=True),
        Column("trait", _text("trait"), is_shared=True),
        Column("model", _text("model"), is_shared=True),
        Column("canary", _text("canary")),
        Column("trait score", _number("trait_mean", ".1f"), is_number=True),
        Column("std", _number("trait_std", ".2f"), is_number=True),
        Column("coherence", _number("coherence_mean", ".1f"), is_number=True),
        Column("std", _number("coherence_std", ".2f"), is_number=True),
        Column("unscored", lambda row: str(row.n_unscored or ""), is_number=True, is_optional=True),
        Column("expected", _text("expected"), is_optional=True),
        _STATUS,
        Column("failure", _text("failure"), is_optional=True),
    ),
    "judges": (
        *_PLACE,
        Column("judge A", _text("judge_a"), is_shared=True),
        Column("judge B", _text("judge_b"), is_shared=True),
        _LABEL,
        Column("shared", _number("n_shared", "d"), is_number=True),
        Column("A: best delta", _point("best_a", "status_a")),
        Column("B: best delta", _point("best_b", "status_b")),
        Column("flips", lambda row: "yes" if row.flips else ""),
        Column("loss", _number("loss", ".1f"), is_number=True),
        Column("trait B - A", _number("trait_shift", "+.1f"), is_number=True, is_optional=True),
        Column("coherence B - A", _number("coherence_shift", "+.1f"), is_number=True, is_optional=True),
        Column("rank corr.", _number("rank_correlation", ".2f"), is_number=True, is_optional=True),
    ),
    "runs": (
        *_PLACE,
        _LABEL,
        *_POINT_COLUMNS,
        Column("trait mean", _number("trait_mean", ".1f"), is_number=True, is_optional=True),
        Column("scored", _scored, is_number=True, is_optional=True),
        _STATUS,
        Column("run", _text("run_id")),
        _SAME_AS,
        Column("finished", lambda row: (row.finished_at or "")[:19], is_optional=True),
        Column("error", _error, is_optional=True),
        *_SETTING,
    ),
    "published": (
        Column("source", _text("source"), is_shared=True),
        *_PLACE,
        _LABEL,
        *_POINT_COLUMNS,
        Column("ours: delta", _point("ours")),
        Column("ours - theirs", _number("difference", "+.1f"), is_number=True),
        Column("flags", lambda row: str(len(row.flags) or ""), is_number=True),
        _STATUS,
        *_SETTING,
    ),
    "confirmations": (
        *_PLACE,
        _LABEL,
        Column("standing", _text("standing")),
        Column("status", _confirmation_status),
        *_POINT_COLUMNS[:2],
        Column("selected", _number("selected_delta", "+.1f"), is_number=True),
        Column("95 % of it", _interval("selected_low", "selected_high"), is_optional=True),
        Column("confirmed", _number("confirmed_delta", "+.1f"), is_number=True),
        Column("95 % of it", _interval("confirmed_low", "confirmed_high"), is_optional=True),
        Column("shrinkage", _number("shrinkage", "+.1f"), is_number=True),
        Column("coherence", _coherences, is_number=True, is_optional=True),
        Column("questions", _question_counts, is_number=True, is_optional=True),
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
HALVES_COLUMNS = (
    *_PLACE,
    Column("halves agree", _number("agreement", ".0%"), is_number=True),
    Column("most often best", _text("winner")),
    Column("of halves", _number("share", ".0%"), is_number=True),
    Column("then", _text("runner_up")),
    Column("of halves", _number("runner_up_share", ".0%"), is_number=True),
    Column("floor", _number("floor", "g"), is_number=True, is_shared=True),
    Column("splits", _number("n_splits", "d"), is_number=True, is_optional=True),
    *_SETTING,
)
WINNER_COLUMNS = (
    *_PLACE,
    Column("judge A", _text("judge_a"), is_shared=True),
    Column("judge B", _text("judge_b"), is_shared=True),
    Column("A: winner", _text("label_a")),
    Column("B: winner", _text("label_b")),
    Column("A: delta", _point("best_a")),
    Column("B: delta", _point("best_b")),
    Column("flips", lambda row: "yes" if row.flips else ""),
)
CONFIRMED_COLUMNS = (
    *_PLACE,
    Column("winner", _text("winner")),
    Column("confirmed", lambda row: f"{row.n_confirmed} of {row.n_cells}"),
    Column("confirmed winner", _text("confirmed_winner")),
    Column("wins again", _yes_or_no("wins_again")),
    Column("order changed", _yes_or_no("order_changed")),
    Column("mean shrinkage", _number("mean_shrinkage", "+.1f"), is_number=True),
    *_SETTING,
)
RATIO_COLUMNS = (
    *_PLACE,
    Column("of", _ratio),
    Column("coefficients", lambda row: f"{row.coefficient:g} / {row.reference_coefficient:g}"),
    Column("ratio", _number("ratio", ".2f"), is_number=True),
    Column("layers", lambda row: f"{row.layer} / {row.reference_layer}"),
    *_SETTING,
)


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


# An answer as a notebook shows it: the tables of the commands as HTML, every text escaped.

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
