"""A table, once for Markdown and HTML. What is missing prints as an em dash, never as 0."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from massact.query import Point
from massact.query.stats.intervals import Believed

MISSING = "\N{EM DASH}"
RunLink = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell's text, the run it came from, and how it is shown."""

    text: str
    run_id: str | None = None
    state: str = ""
    """What `Evidence.status` says where the cell tells of a group; empty otherwise."""
    detail: str = ""
    """What stands below the text in small print, such as an interval."""
    value: float | None = None
    """What a column is sorted by, where the text does not start with it."""


@dataclass(frozen=True, slots=True)
class Column:
    header: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, each as long as `columns`."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self, run_link: RunLink | None = None) -> str:
        """The table in GitHub's Markdown, its columns aligned so that the plain text reads as well."""
        texts = [[column.header for column in self.columns]]
        texts += [[_markdown_cell(cell, run_link) for cell in row] for row in self.rows]
        widths = [max(3, *(len(text[i]) for text in texts)) for i in range(len(self.columns))]
        rule = [
            "-" * (width - 1) + ":" if column.is_number else "-" * width
            for column, width in zip(self.columns, widths, strict=True)
        ]
        lines = [self._line(texts[0], widths), f"| {' | '.join(rule)} |"]
        lines += [self._line(text, widths) for text in texts[1:]]
        return "\n".join(lines)

    def _line(self, texts: Sequence[str], widths: Sequence[int]) -> str:
        padded = (
            text.rjust(width) if column.is_number else text.ljust(width)
            for column, text, width in zip(self.columns, texts, widths, strict=True)
        )
        return f"| {' | '.join(padded)} |"


def columns(*headers: str) -> tuple[Column, ...]:
    """Columns by their headers; one that starts with `#` holds numbers."""
    return tuple(Column(header.lstrip("#"), header.startswith("#")) for header in headers)


def cells(*values: "Cell | str | None") -> tuple[Cell, ...]:
    """A row of cells."""
    return tuple(value if isinstance(value, Cell) else Cell(value or MISSING) for value in values)


def number(value: float | None, spec: str) -> str:
    """A number as a format specification says, or an em dash."""
    return MISSING if value is None else format(value, spec)


def signed(value: float, digits: int = 1) -> str:
    """A delta with its sign; what rounds to nothing is `+0.0`, never `-0.0`."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "+") if not text.strip("+-0.") else text


def result(point: Point) -> str:
    """Delta and coherence, such as `+93.1 @ 97`."""
    return f"{number(point.delta, '+.1f')} @ {number(point.coherence_mean, '.0f')}"


def believed(found: Believed) -> str:
    """The interval of a best's delta, such as `+90.2 to +95.0`; empty where there is none."""
    if found.delta_low is None or found.delta_high is None:
        return ""
    return f"{found.delta_low:+.1f} to {found.delta_high:+.1f}"


def where(point: Point) -> str:
    """Layer and coefficient, such as `layer 2, 10`."""
    return f"layer {point.layer}, {point.coefficient:g}"


def at_coefficient(point: Point) -> str:
    """The coefficient of a best, marked where it lies at the end of its grid, such as `60, end of grid`."""
    return f"{point.coefficient:g}{', end of grid' if point.at_grid_end else ''}"


def escape_markdown(text: str) -> str:
    """Text from outside, such as an error or a model's name, so that no HTML, link or table comes of it."""
    safe = re.sub(r"\s*\n\s*", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return safe.replace("](", "]\\(").replace("|", "\\|")


def _markdown_cell(cell: Cell, run_link: RunLink | None) -> str:
    text = escape_markdown(cell.text)
    shown = f"[{text}]({run_link(cell.run_id)})" if run_link and cell.run_id else text
    return f"{shown} ({escape_markdown(cell.detail)})" if cell.detail else shown


# What a section of the report is; `massact.report.sections` lists them.


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report."""

    key: str
    """Names its place in the page, and its figures."""
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    bullets: tuple[str, ...] = ()
