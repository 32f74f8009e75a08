"""What every answer is made of: points of the grid, and an answer that prints and becomes a DataFrame."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from massact.domain import DEFAULT_LEAST_SCORED
from massact.store.schema import StoredPoint

if TYPE_CHECKING:
    import pandas as pd

import json

Status = Literal["ok", "below_floor", "missing", "failed"]
"""`ok`: there is a best at or above the floor; `below_floor`: coherent nowhere, the nearest miss is given; `missing`:
nothing that counts was evaluated, or too few of its responses have scores; `failed`: nor that, and a run failed."""

RowT_co = TypeVar("RowT_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One evaluation: a layer and a coefficient, and what came of them."""

    layer: int
    coefficient: float
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """What every row has that is of one setting."""

    differs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The fields in which the settings of the answer's rows differ, with this row's values; see
    `massact.query.settings`. In JSON, CSV and DataFrames each is a field of the row."""


AnyPoint = Point | StoredPoint
"""A point as an answer shows it, or as a store gives it: the same names."""


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
    as_html: ClassVar[Callable[["Answer[Any]"], str]]
    """Set by `massact.query`: the tables know the rows of every question, so the rows cannot know the tables."""

    def _repr_html_(self) -> str:
        """The answer as a notebook shows it."""
        return type(self).as_html(self)

    def to_frame(self) -> "pd.DataFrame":
        """The rows as a DataFrame; points within a row become columns such as `best_layer`."""
        import pandas as pd

        return pd.DataFrame([flatten(row) for row in self.rows])


def to_mapping(value: object) -> Any:
    """A row as nested dicts and lists, for JSON."""
    if is_dataclass(value):
        named = {one.name: to_mapping(getattr(value, one.name)) for one in fields(value)}
        return named | named.pop("differs", {})
    if isinstance(value, Mapping):
        return {str(key): to_mapping(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [to_mapping(one) for one in value]
    return value


def flatten(row: object) -> dict[str, Any]:
    """A row as one flat dict: the fields of a point are prefixed with the point's name.

    A point that is absent gives the same columns, each `None`, so that all rows have one shape.
    """
    flat: dict[str, Any] = {}
    for one in fields(row):  # type: ignore[arg-type]  # rows are dataclasses
        value = getattr(row, one.name)
        if one.type in (Point, Point | None):
            for inner in fields(Point):
                flat[f"{one.name}_{inner.name}"] = None if value is None else getattr(value, inner.name)
        else:
            flat[one.name] = value
    differs: Mapping[str, Any] = flat.pop("differs", {})
    return {**flat, **differs}


# A column of the printed tables, and how the values of rows are written in it.

GRID_END = " end"
"""Stands behind the coefficient of a best at the end of its grid; see `Point.at_grid_end`."""


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


def text(name: str) -> Callable[[Any], str]:
    """A field's value as it is."""

    def shown(row: object) -> str:
        value = getattr(row, name)
        return "" if value is None else str(value)

    return shown


def number(name: str, spec: str, *, within: str | None = None) -> Callable[[Any], str]:
    """A field's value, or that of the point `within` the row, as a format specification says."""

    def shown(row: object) -> str:
        holder = getattr(row, within) if within else row
        value = None if holder is None else getattr(holder, name)
        return "" if value is None else _unsigned_zero(format(value, spec))

    return shown


def _unsigned_zero(text: str) -> str:
    return text.replace("-", "+") if text.startswith("-") and not text.strip("-0.") else text


def point(name: str, status: str | None = None) -> Callable[[Any], str]:
    """A point in words; where there is none, the status that says why."""

    def shown(row: object) -> str:
        point: Point | None = getattr(row, name)
        if point is None or point.delta is None:
            return str(getattr(row, status)) if status else ""
        end = GRID_END if point.at_grid_end else ""
        return (
            f"{_unsigned_zero(format(point.delta, '+.1f'))} (layer {point.layer}, {point.coefficient:g}{end})"
        )

    return shown


def interval(low: str, high: str) -> Callable[[Any], str]:
    """Two fields as `+1.0 to +2.0`."""

    def shown(row: object) -> str:
        ends = [getattr(row, name) for name in (low, high)]
        return "" if None in ends else " to ".join(_unsigned_zero(format(end, "+.1f")) for end in ends)

    return shown


# An answer as JSON: what `--format json` prints and the query API answers; docs/json.md names its fields.

OUTPUT_SCHEMA_VERSION = 1


def to_json(answer: Answer[Any]) -> str:
    """An answer as JSON, ending in a line break. Missing is null, never 0 or NaN."""
    head = {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "question": answer.question,
        "floor": answer.floor,
        "experiment": answer.experiment,
        "store": answer.store,
        "rows": to_mapping(answer.rows),
        "notes": list(answer.notes),
    }
    own = {field.name: to_mapping(getattr(answer, field.name)) for field in fields(answer)}
    whole = {**head, **{name: value for name, value in own.items() if name not in head}}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"
