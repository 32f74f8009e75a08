"""A column of the printed tables, and how the values of rows are written in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from massact.query.rows import Point

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
