"""What a section of a report consists of: words for results, tables, figures, and how many there is room for.

What is missing prints as an em dash, never as 0.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from massact.query import Point
from massact.query.rows import Column as QueryColumn
from massact.query.rows import PlaceRow, at_floor, printed
from massact.report import style
from massact.report.evidence import Evidence, Place, RunLink, group_at

MISSING = "\N{EM DASH}"
Row: TypeAlias = "Sequence[Cell | str | None]"
MOST_FIGURES = 6  # figures of one kind, each of its own place or model and trait
MOST_PANELS = 6  # panels of one figure
_LONGEST = 120  # characters of a figure's file name


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell's text, the run it came from, and how it is shown."""

    text: str
    run_id: str | None = None
    state: str = ""  # what `Evidence.status` says where the cell tells of a group; empty otherwise
    detail: str = ""  # what stands below the text in small print, such as an interval
    value: float | None = None  # what a column is sorted by, where the text does not start with it
    standing: str = ""  # of a best among those of its place; see `Evidence.standings`
    bar: tuple[float, float, float] | None = None
    """Both ends of its interval and its value on the table's scale, 0 to 1."""

    def markdown(self, run_link: RunLink | None) -> str:
        text = escape_markdown(self.text)
        shown = f"[{text}]({run_link(self.run_id)})" if run_link and self.run_id else text
        shown = {"winner": f"**{shown}**", "tied": f"{shown} ="}.get(self.standing, shown)
        return f"{shown} ({escape_markdown(self.detail)})" if self.detail else shown


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

    @classmethod
    def of(cls, caption: str, headers: Sequence[str], rows: Iterable[Row]) -> "Table":
        """A table; a header that starts with `#` is that of a column of numbers, one that starts with `?` of a column
        that is left out where no row says anything there, and `None` is a missing value."""
        cells = [tuple(map(_cell, row)) for row in rows]
        shown = [
            index
            for index, header in enumerate(headers)
            if not header.startswith("?") or any(row[index].text not in ("", MISSING) for row in cells)
        ]
        columns = tuple(Column(headers[i].lstrip("?#"), "#" in headers[i][:2]) for i in shown)
        return cls(caption, columns, tuple(tuple(row[i] for i in shown) for row in cells))

    def markdown(self, run_link: RunLink | None = None) -> str:
        """The table in GitHub's Markdown, its columns aligned so that the plain text reads as well."""
        texts = [[column.header for column in self.columns]]
        texts += [[cell.markdown(run_link) for cell in row] for row in self.rows]
        widths = [max(3, *(len(text[i]) for text in texts)) for i in range(len(self.columns))]
        rule = [
            "-" * (width - 1) + ":" if column.is_number else "-" * width
            for column, width in zip(self.columns, widths, strict=True)
        ]
        lines = [
            [
                text.rjust(width) if column.is_number else text.ljust(width)
                for column, text, width in zip(self.columns, row, widths, strict=True)
            ]
            for row in texts
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


class Figure(Protocol):
    """One figure: what it is drawn from, and its forms."""

    @property
    def name(self) -> str:
        """Names its file."""

    @property
    def data(self) -> Any:
        """What is drawn; empty where there is nothing to draw."""

    def draw(self) -> style.Drawing:
        """Draw the data, which are not empty. `drawing` sets the style."""

    def alt(self) -> str:
        """What it shows in words and numbers, for those who cannot see it."""

    def caption(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report: one file has its words, its tables and its figures."""

    key: str  # names its place in the page
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()  # those without a row are not shown
    bullets: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()  # those with nothing to draw are not shown

    @property
    def filled(self) -> tuple[Table, ...]:
        return tuple(table for table in self.tables if table.rows)


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    caption: str
    alt: str
    svg: str

    @property
    def path(self) -> str:
        """Where it lies, relative to the Markdown report."""
        return f"figures/{self.name}.svg"


def drawing(figure: Figure) -> "style.Drawing | None":
    """The figure in the one style; `None` where there is nothing to draw."""
    if not figure.data:
        return None
    with style.styled():
        return figure.draw()


def named_drawings(
    figures: Iterable[Figure], names: Iterable[str] = ()
) -> "Iterator[tuple[str, Figure, style.Drawing]]":
    """Each figure that has something to show, by a name that no other has."""
    taken = list(names)
    for figure in figures:
        drawn = drawing(figure)
        if drawn is not None:
            taken.append(safe_name(figure.name, taken))
            yield taken[-1], figure, drawn


def pictures(figures: Iterable[Figure], names: Iterable[str] = ()) -> Iterator[Picture]:
    for name, figure, drawn in named_drawings(figures, names):
        yield Picture(name, figure.caption(), figure.alt(), style.save_svg(drawn))


def safe_name(name: str, taken: Iterable[str] = ()) -> str:
    """A figure's name as that of a file, and of an id in a page; none of those that are taken, whatever their case."""
    text = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    if text and len(text) <= _LONGEST and text.lower() not in {other.lower() for other in taken}:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[:_LONGEST]}-{digest}" if text else digest


_LINKED = {"label": "run_id", "confirmed": "confirmed_run_id"}  # of a column the field that names its run


def rows_table(evidence: Evidence, caption: str, rows: Sequence[PlaceRow], more: tuple[QueryColumn, ...] = ()) -> Table:
    """Rows of an answer as its command prints them: what all have stands in the caption, a label links to its run, a
    confirmed delta to the one that confirms."""
    columns = (*rows[0].columns, *more) if rows else ()
    found = printed(at_floor(columns, evidence.floor), rows)
    told = "".join(f", {header} {value}" for header, value in found.shared.items())

    def cell(column: QueryColumn, text: str, row: PlaceRow) -> Cell:
        run_id = getattr(row, _LINKED.get(column.header, ""), None)
        return Cell(text or (MISSING if column.is_number else ""), run_id)

    headers = tuple(Column(column.header, column.is_number) for column in found.columns)
    cells = (
        tuple(cell(column, text, row) for column, text in zip(found.columns, texts, strict=True))
        for row, texts in zip(rows, found.cells, strict=True)
    )
    return Table(f"{caption}{told}", headers, tuple(cells))


def key_places(evidence: Evidence, places: Iterable[Place], most: int | None) -> list[Place]:
    """At most so many of the places, in their order: the best of each model and trait first, then the others."""
    every = list(places)
    if most is None or len(every) <= most:
        return every
    best: dict[tuple[str, str], tuple[float, Place]] = {}
    for place in every:
        gain, pair = evidence.top_gain(place), (place.model, place.trait)
        if pair not in best or gain > best[pair][0]:
            best[pair] = (gain, place)
    first = [place for _, place in best.values()]
    kept = set([*first, *(place for place in every if place not in first)][:most])
    return [place for place in every if place in kept]


def rest_of(n: int, most: int | None, function: str, what: str = "places") -> str:
    """What a caption says of what is not drawn, by `key_places` or in the report's order; nothing where all is."""
    if most is None or n <= most:
        return ""
    return f" {most} of {n} {what} are drawn; any other: massact.plot.{function}."


def _cell(value: "Cell | str | None") -> Cell:
    return value if isinstance(value, Cell) else Cell(value or MISSING)


def number(value: float | None, spec: str) -> str:
    """A number as a format specification says, or an em dash."""
    return MISSING if value is None else format(value, spec)


def signed(value: float | None, digits: int = 1) -> str:
    """A delta with its sign; what rounds to nothing is `+0.0`, never `-0.0`."""
    text = f"{value or 0.0:+.{digits}f}"
    return text.replace("-", "+") if not text.strip("+-0.") else text


def result(point: Point) -> str:
    """Delta and coherence, such as `+93.1 @ 97`."""
    return f"{number(point.delta, '+.1f')} @ {number(point.coherence_mean, '.0f')}"


def span(low: float | None, high: float | None) -> str:
    """An interval of deltas, such as `+90.2 to +95.0`; empty where there is none."""
    return "" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"


def interval(evidence: Evidence, place: Place, label: str) -> str:
    return span(*(evidence.interval(place, label) or (None, None)))


def bracketed(evidence: Evidence, place: Place, label: str) -> str:
    """The same with a space and brackets around it; empty where there is none."""
    text = interval(evidence, place, label)
    return f" ({text})" if text else ""


def where(point: Point) -> str:
    """Layer and coefficient, such as `layer 2, 10`."""
    return f"layer {point.layer}, {point.coefficient:g}"


def group_cell(evidence: Evidence, place: Place, label: str) -> Cell:
    """What the store says of one group: its best with its interval, n and whose result it is; or its state."""
    best, status = evidence.best(place, label), evidence.status(place, label)
    if best is not None:
        scored = f"{best.n_scored}" + (f" of {best.n_scored + best.n_unscored}" if best.n_unscored else "")
        details = (interval(evidence, place, label), f"n {scored}", f"as {best.same_as}" if best.same_as else "")
        return Cell(result(best), best.run_id, "ok", ", ".join(filter(None, details)), best.delta)
    miss = evidence.nearest_miss(place, label)
    if miss is not None:
        return Cell(f"below floor ({evidence.floor.shown(evidence.floor.value_of(miss))})", miss.run_id, status)
    if status == "missing" and group_at(place, label) in evidence.evaluated:
        return Cell(f"{MISSING} (not in this setting)", state=status)
    return Cell(MISSING if status == "missing" else status, state=status)


def escape_markdown(text: str) -> str:
    """Text from outside, such as an error or a model's name, so that no HTML, link or table comes of it."""
    safe = re.sub(r"\s*\n\s*", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return safe.replace("](", "]\\(").replace("|", "\\|")
