"""What an answer is: frozen rows, which are written as JSON, as tables and HTML, and as a DataFrame."""

import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from massact.domain import DEFAULT_LEAST_SCORED, Direction
from massact.floors import Floor, as_floor
from massact.metrics import DEFAULT_METRICS
from massact.names import visible
from massact.store.schema import StoredPoint
from massact.words import counted

if TYPE_CHECKING:
    import pandas as pd

OUTPUT_SCHEMA_VERSION = 1
Status = Literal["ok", "below_floor", "missing", "failed"]
"""`ok`: there is a best at or above the floor; `below_floor`: coherent nowhere, the nearest miss is given; `missing`:
nothing that counts was evaluated, or too few of its responses have scores; `failed`: nor that, and a run failed."""
MISS = "miss: coherence"  # header of the column of the nearest miss
MOST_ROWS = 60  # rows of an HTML table; a notebook that shows thousands is slow
TABLE_WIDTH = 120  # characters of a line of a table in a terminal
_GAP = "  "
_LENGTH = 39
"""Characters of a differing value that are printed in full: names of two judges are, commits and digests are not."""

RowT_co = TypeVar("RowT_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One evaluation: a layer and a coefficient, and what came of them."""

    layer: int | None
    """`None` of a prompt, which has neither; likewise the coefficient."""
    coefficient: float | None
    trait_mean: float | None
    """0 to 100."""
    coherence_mean: float | None
    """0 to 100."""
    delta: float | None
    """`trait_mean` minus the baseline's."""
    baseline_trait_mean: float | None
    n_scored: int
    n_unscored: int
    n_dims_cleaned: int | None
    relative_strength: float | None
    vector_digest: str | None
    key: str
    run_id: str
    same_as: str | None = None
    """Label whose result it was taken over from, since their vectors are alike; `None`: it was evaluated itself."""
    same_as_cosine: float | None = None
    """How alike the two vectors are: their cosine, or less where they differ more outside the massive dims."""
    at_grid_end: bool = False
    """Of a best: whether no larger, or no smaller, coefficient was scored at its layer, so that one may be better."""
    metrics: Mapping[str, float] | None = field(default=None, hash=False)
    """Means by name, each a field of the row in JSON, CSV and DataFrames; see `massact.metrics`."""

    @property
    def spot(self) -> tuple[int, float]:
        """Layer and coefficient, of a point of the grid. Raises ValueError: it is none."""
        if self.layer is None or self.coefficient is None:
            raise ValueError(f"run {self.run_id} is no point of the grid")
        return self.layer, self.coefficient


AnyPoint = Point | StoredPoint  # a point as an answer shows it, or as a store gives it: the same names


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """What every row has that is of one setting."""

    columns: ClassVar[tuple[Column, ...]] = ()
    """Those of its printed table."""
    differs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The fields in which the settings of the answer's rows differ, with this row's values; see
    `massact.query.settings`. In JSON, CSV and DataFrames each is a field of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRow(SettingRow):
    """A row of one model, trait and position."""

    model: str
    trait: str
    position: str

    @property
    def place(self) -> str:
        return f"{self.model}, {self.trait}, {self.position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow(PlaceRow):
    """A row of one place in one setting."""

    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    """Digest of judge, questions, generation, model revision and direction; `None`: nothing was run."""
    baseline_trait_mean: float | None = None
    """Of the baseline that deltas are taken against, 0 to 100."""


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """Rows of an answer and the columns that they are printed with."""

    columns: tuple[Column, ...]
    rows: tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[RowT_co]):
    """Rows that answer a question at a coherence floor, and what has to be said about them."""

    question: str
    floor: float
    rows: tuple[RowT_co, ...]
    notes: tuple[str, ...] = ()
    least_scored: float = DEFAULT_LEAST_SCORED
    """Share of its responses that an evaluation had to have scores of to count, 0 to 1."""
    experiment: str = ""
    """The name of the experiment that was asked about."""
    store: str | None = field(default=None, compare=False)
    """The run store that was asked, without passwords; `None`: the server's that answers."""

    def tables(self) -> list[AnswerTable]:
        """The rows that answer the question, then the rows that the answer has beside them."""
        parts = (getattr(self, field.name) for field in fields(self))
        found = [part for part in parts if isinstance(part, tuple) and part and hasattr(part[0], "columns")]
        return [AnswerTable(with_differences(at_floor(part[0].columns, self.floor), part), part) for part in found]

    @property
    def floor_rule(self) -> str:
        """The floor as it is written: `coherence>=68`, `kl<=0.3`."""
        return as_floor(self.floor).rule

    def lines(self) -> list[str]:
        """What belongs to the answer and is too long for a column."""
        return []

    def verdict(self) -> tuple[bool, str] | None:
        """Of a question that asks whether: yes or no, in words; the command exits with 1 for a no."""
        return None

    def text(self, draw: Callable[[Sequence[Column], Sequence[object]], str]) -> str:
        """Tables and lines, each table drawn by `draw`, ending in a line break."""
        parts = [draw(table.columns, table.rows) for table in self.tables()]
        parts += ["".join(f"- {line}\n" for line in self.lines())]
        return "\n".join(part for part in parts if part)

    def __str__(self) -> str:
        """What the command prints, then the notes."""
        return self.text(text_table) + "".join(f"note: {visible(note)}\n" for note in self.notes)

    def _repr_html_(self) -> str:
        """The answer as a notebook shows it: no scripts, no colours, every text escaped."""
        n_rows = counted(len(self.rows), "row")
        of = f" of {escape(self.experiment)}" if self.experiment else ""
        parts = [f"<p><strong>{escape(self.question)}</strong>{of}, {as_floor(self.floor).name}: {n_rows}</p>"]
        parts += [_html_table(table) for table in self.tables() if table.rows]
        parts += [_html_list(self.lines()), _html_list(self.notes, "Notes")]
        return f"<div>{''.join(parts)}</div>"

    def to_frame(self) -> "pd.DataFrame":
        """The rows as a DataFrame; points within a row become columns such as `best_layer`."""
        import pandas as pd

        return pd.DataFrame([flatten(row) for row in self.rows])


# JSON


def to_json(*answers: Answer[Any]) -> str:
    """An answer as JSON, several as a list, ending in a line break. Missing is null, never 0 or NaN."""
    every = [to_content(answer) for answer in answers]
    return json.dumps(every if len(every) > 1 else every[0], indent=2, allow_nan=False) + "\n"


def to_content(answer: Answer[Any]) -> dict[str, Any]:
    head = ("question", "floor", "floor_rule", "experiment", "store", "rows", "notes")
    names = [*head, *(field.name for field in fields(answer) if field.name not in head)]
    content = {name: to_mapping(getattr(answer, name)) for name in names}
    return {"schema_version": OUTPUT_SCHEMA_VERSION, **content, "floor": as_floor(answer.floor).limit}


def to_mapping(value: object) -> Any:
    if is_dataclass(value):
        named = {field.name: to_mapping(getattr(value, field.name)) for field in fields(value)}
        differs, measured = named.pop("differs", {}), _measured(named)
        return named | measured | differs
    if isinstance(value, Mapping):
        return {str(key): to_mapping(inner) for key, inner in value.items()}
    return [to_mapping(inner) for inner in value] if isinstance(value, tuple | list) else value


def _measured(named: dict[str, Any]) -> dict[str, float | None]:
    """The metrics among the fields of a row, taken out; null where one of the usual is missing."""
    return dict.fromkeys(DEFAULT_METRICS) | (named.pop("metrics") or {}) if "metrics" in named else {}


def differing_names(answer: Answer[Any]) -> tuple[str, ...]:
    """The fields in which the settings of the answer's rows differ, which the JSON of a row holds among its own."""
    parts = (getattr(answer, field.name) for field in fields(answer))
    rows = (row for part in parts if isinstance(part, tuple) for row in part)
    return next((tuple(row.differs) for row in rows if getattr(row, "differs", None)), ())


def from_content(answer: Any, content: Mapping[str, Any], differing: Sequence[str]) -> Any:
    """The answer that some JSON is of."""
    row, cls = row_type(answer), typing.get_origin(answer) or answer

    def read(hint: Any, value: Any) -> Any:
        if isinstance(hint, TypeVar):
            return read(row, value)
        inner = [argument for argument in typing.get_args(hint) if argument not in (type(None), Ellipsis)]
        if value is None or not (inner or is_dataclass(hint)):
            return value
        if typing.get_origin(hint) is tuple:
            return tuple(read(inner[0], item) for item in value)
        if is_dataclass(hint):
            return made(hint, value)
        return read(inner[0], value) if len(inner) == 1 and typing.get_origin(hint) is not Literal else value

    def made(kind: Any, values: Mapping[str, Any]) -> Any:
        hints = typing.get_type_hints(kind)
        own = {field.name for field in fields(kind)}
        told = {name: read(hints[name], values[name]) for name in own - {"differs", "metrics"}}
        if "floor" in own and "floor_rule" in values:
            told["floor"] = Floor.read(values["floor_rule"])
        if "metrics" in own:
            others = {n: value for n, value in values.items() if n not in own and n not in differing}
            told["metrics"] = {n: value for n, value in others.items() if value is not None} or None
        if "differs" in hints:
            told["differs"] = {name: values[name] for name in differing}
        return kind(**told)

    return made(cls, content)


def row_type(answer: Any) -> Any:
    generic = answer if typing.get_args(answer) else answer.__orig_bases__[0]
    return typing.get_args(generic)[0]


def flatten(row: object) -> dict[str, Any]:
    """A row as one flat dict: the fields of a point are prefixed with the point's name."""
    flat: dict[str, Any] = {}
    for member in fields(row):  # type: ignore[arg-type]  # rows are dataclasses
        value = getattr(row, member.name)
        if member.type in (Point, Point | None):
            for inner in fields(Point):
                flat[f"{member.name}_{inner.name}"] = None if value is None else getattr(value, inner.name)
            flat |= {
                f"{member.name}_{name}": of
                for name, of in _measured({"metrics": flat.pop(f"{member.name}_metrics")}).items()
            }
        else:
            flat[member.name] = value
    differs: Mapping[str, Any] = flat.pop("differs", {})
    measured = _measured(flat)
    return {**flat, **measured, **differs}


# tables


def with_differences(columns: tuple[Column, ...], rows: Sequence[object]) -> tuple[Column, ...]:
    """The columns, and behind the place those of the fields in which the settings of the rows differ."""
    differing = [getattr(row, "differs", {}) for row in rows]
    if not any(differing):
        return columns
    needed = telling_apart(differing)
    added = tuple(_differing(name, differing, is_optional=name not in needed) for name in differing[0])
    left = [column for column in columns if column.header not in {column.header for column in added}]
    place = ("source", "model", "trait", "position")
    n_places = next(i for i, column in enumerate(left) if column.header not in place)
    return (*left[:n_places], *added, *left[n_places:])


def at_floor(columns: tuple[Column, ...], floor: float) -> tuple[Column, ...]:
    """The columns, and behind those of coherence those of the metric that the floor is of."""
    asked = as_floor(floor)
    if asked.is_coherence:
        return columns
    columns = tuple(column for column in columns if column.header != asked.metric)

    def value(row: Any, name: str) -> str:
        point = getattr(row, name, None) if name else row
        value = (getattr(point, "metrics", None) or {}).get(asked.metric)
        return "" if value is None else f"{value:.3g}"

    shown: list[Column] = []
    for column in columns:
        if column.header == MISS:
            shown.append(Column(f"miss: {asked.metric}", partial(_miss, value=value), is_optional=column.is_optional))
            continue
        shown.append(column)
        if column.header == "coherence":
            of_row = lambda row: value(row, "" if hasattr(row, "metrics") else "best")  # noqa: E731
            shown.append(Column(asked.metric, of_row, is_number=True))
    return tuple(shown)


def _miss(row: Any, value: Callable[[Any, str], str]) -> str:
    point: Point | None = row.nearest_miss
    return f"{value(row, 'nearest_miss')}{spot(point)}" if point else ""


def spot(point: Point, end: str = "") -> str:
    """Where a point lies, in brackets; empty of a prompt."""
    return "" if point.layer is None else f" (layer {point.layer}, {point.coefficient:g}{end})"


def _differing(name: str, rows: Sequence[Mapping[str, Any]], *, is_optional: bool) -> Column:
    short = shortened(row[name] for row in rows)

    def shown(row: Any) -> str:
        value = row.differs[name]
        return "" if value is None else short[value]

    header = {"n_questions": "questions", "baseline_trait_mean": "baseline"}.get(name, name.replace("_", " "))
    return Column(header, shown, is_shared=True, is_optional=is_optional)


def telling_apart(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The first of the fields in which rows differ that tell apart whatever all of them do."""
    kept: list[str] = []
    for name in rows[0] if rows else ():
        before = {tuple(row[header] for header in kept) for row in rows}
        if len({tuple(row[header] for header in (*kept, name)) for row in rows}) > len(before):
            kept.append(name)
    return tuple(kept)


def shortened(values: Iterable[Any]) -> dict[Any, str]:
    """Texts for values, long ones cut so that they stay distinct."""
    texts = {value: f"{value:g}" if isinstance(value, float) else str(value) for value in values}
    for cut in (lambda text: text[:8], lambda text: f"{text[:8]}...{text[-8:]}", lambda text: f"...{text[-40:]}"):
        short = {value: text if len(text) <= _LENGTH else cut(text) for value, text in texts.items()}
        if len({*short.values()}) == len({*texts.values()}):
            return short
    return texts


@dataclass(frozen=True, slots=True)
class PrintedTable:
    """The texts of a table without the columns that say nothing."""

    shared: dict[str, str]
    """By header, the one value that all rows have; it is printed once."""
    columns: tuple[Column, ...]
    cells: tuple[tuple[str, ...], ...]
    """Row by row."""


def printed(columns: Sequence[Column], rows: Sequence[object]) -> PrintedTable:
    texts = {column: [visible(column.text(row)) for row in rows] for column in columns}
    filled = [column for column in columns if any(texts[column])]
    shared = [column for column in filled if column.is_shared and len({*texts[column]} - {""}) == 1]
    shown = tuple(column for column in filled if column not in shared)
    return PrintedTable(
        {column.header: max(texts[column]) for column in shared},
        shown,
        tuple(tuple(texts[column][index] for column in shown) for index in range(len(rows))),
    )


def text_table(columns: Sequence[Column], rows: Sequence[object]) -> str:
    """Rows as a terminal shows them, without optional columns where it is too narrow for all."""
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
    head = [", ".join(f"{header} {value}" for header, value in found.shared.items()), ""] if found.shared else []
    lines = [_line(shown, kept, [column.header for column in shown])]
    lines += [_line(shown, kept, [cells[i] for i in indices]) for cells in found.cells]
    return "\n".join([*head, *lines]) + "\n"


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    padded = (
        cell.rjust(width) if column.is_number else cell.ljust(width)
        for column, width, cell in zip(columns, widths, cells, strict=True)
    )
    return _GAP.join(padded).rstrip()


def _html_table(table: AnswerTable) -> str:
    texts = printed(table.columns, table.rows)

    def line(tag: str, cells: Iterable[str]) -> str:
        sides = ("right" if column.is_number else "left" for column in texts.columns)
        parts = (
            f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>' for side, text in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    above = ", ".join(f"{escape(header)} {escape(value)}" for header, value in texts.shared.items())
    head = line("th", (column.header for column in texts.columns))
    body = "".join(line("td", cells) for cells in texts.cells[:MOST_ROWS])
    n_left = len(texts.cells) - MOST_ROWS
    more = f"<p>{n_left} more row{'s' * (n_left > 1)}: <code>.rows</code> has all</p>" if n_left > 0 else ""
    whole = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'{f"<p>{above}</p>" if above else ""}<div style="overflow-x: auto">{whole}</div>{more}'


def _html_list(lines: Sequence[str], title: str = "") -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[:MOST_ROWS])
    name = f"<p>{escape(title)}</p>" if title else ""
    return f"{name}<ul>{items}</ul>" if items else ""
