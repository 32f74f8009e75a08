"""The cleaning curve: the best delta against the number of cleaned dims."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

from massact.domain import AllDims, Scope, When
from massact.query.equal_grids import EqualGrids
from massact.query.groups import recipe_of
from massact.query.questions.curve import CurveRow
from massact.report import style
from massact.report.evidence import Evidence, Place, once, place_of
from massact.report.published import PrintedPlace, printed_places
from massact.report.section import (
    MOST_PANELS,
    Cell,
    Row,
    Section,
    Table,
    bracketed,
    group_cell,
    key_places,
    rest_of,
    signed,
    where,
)
from massact.report.trade_off import some_words

_ANNOTATED_LINES = 2


def curve_section(evidence: Evidence) -> Section:
    tables = tuple(_table(evidence, curve) for curve in cleaning_curves(evidence) if curve.place in evidence.strata)
    text = "Nothing was evaluated that makes a curve."
    if tables:
        text = (
            "Best delta at or above the floor against the number of cleaned dims. Each step has its own best "
            "layer and coefficient, of those that all steps of its line have."
        )
    left_out = tuple(
        f"{evidence.name(curve.place)}, {kind.name}: the steps are {grids.words}."
        for curve in cleaning_curves(evidence)
        for kind, (_, grids) in curve.parts.items()
        if grids.words
    )
    figures = (CleaningCurve(evidence, MOST_PANELS),)
    return Section("curve", "Cleaning curve", (text,), tables, left_out, figures)


@dataclass(frozen=True, slots=True, order=True)
class CurveKind:
    method: str
    when: When
    scope: Scope
    mode: Literal["zero", "keep"] = "zero"

    @property
    def name(self) -> str:
        scope = "" if self.scope == "uniform" else ", each layer's own dims"
        kept = ", all others zeroed" if self.mode == "keep" else ""
        return f"{self.method}{', before' if self.when == 'before' else ''}{scope}{kept}"

    @property
    def look(self) -> style.Look:
        dash = "-." if self.mode == "keep" else style.CLEANING_LOOKS[self.when, self.scope][0]
        return {"color": style.method_colour(self.method), "linestyle": dash}


@dataclass(frozen=True, slots=True)
class Curve:
    """The cleaning curve of one place: per kind the points that were declared or run."""

    place: Place
    lines: dict[CurveKind, tuple[CurveRow, ...]]
    parts: dict[CurveKind, tuple[Evidence, EqualGrids]]
    """Of each line, the evidence with those evaluations alone that its steps are compared by, and what is left out."""

    @property
    def steps(self) -> tuple[int | AllDims, ...]:
        steps = {row.n_dims for rows in self.lines.values() for row in rows}
        numbers = sorted(step for step in steps if isinstance(step, int))
        return (*numbers, "all") if "all" in steps else tuple(numbers)

    def at(self, step: int | AllDims) -> dict[CurveKind, CurveRow]:
        return {kind: row for kind, rows in self.lines.items() for row in rows if row.n_dims == step}


@once
def cleaning_curves(evidence: Evidence) -> list[Curve]:
    """The curves of each place where a method has at least two cleaned steps declared or run."""
    labels = {place: set(evidence.labels(place)) for place in evidence.places()}
    lines: dict[Place, dict[CurveKind, tuple[CurveRow, ...]]] = {place: {} for place in labels}
    cleanings = ((r.method, r.cleaning) for r in map(recipe_of, set().union(*labels.values())) if r is not None)
    kinds = {CurveKind(method, c.when, c.scope, "keep" if c.mode else "zero") for method, c in cleanings if c.scope}
    for kind in sorted(kinds):
        rows: dict[Place, list[CurveRow]] = {place: [] for place in labels}
        for row in evidence.curve(**asdict(kind)):
            if row.label in labels.get(place_of(row), ()):
                rows[place_of(row)].append(row)
        for place, some in rows.items():
            if sum(row.n_dims != 0 for row in some) >= 2:
                lines[place][kind] = tuple(some)

    def parts(place: Place) -> dict[CurveKind, tuple[Evidence, EqualGrids]]:
        return {
            kind: evidence.on_equal_grids(place, (row.label for row in rows)) for kind, rows in lines[place].items()
        }

    return [Curve(place, some, parts(place)) for place, some in lines.items() if some]


def _table(evidence: Evidence, curve: Curve) -> Table:
    rows: list[Row] = []
    for step in curve.steps:
        points = curve.at(step)
        zeroed = next((row.best.n_dims_cleaned for row in points.values() if row.best), None)
        name = f"all ({zeroed})" if step == "all" and zeroed is not None else str(step)
        rows.append(
            (name, *(_curve_cell(part, curve.place, points.get(kind)) for kind, (part, _) in curve.parts.items()))
        )
    headers = ("#dims", *(kind.name for kind in curve.lines))
    return Table.of(f"Cleaning curve, {evidence.name(curve.place)}", headers, rows)


def _curve_cell(evidence: Evidence, place: Place, row: CurveRow | None) -> Cell:
    if row is None:
        return Cell("")
    cell = group_cell(evidence, place, row.label)
    if row.best is None:
        return cell
    parts = (where(row.best), cell.detail, "end of grid" if row.best.at_grid_end else "")
    return replace(cell, detail=", ".join(filter(None, parts)))


@dataclass(frozen=True)
class CleaningCurve:
    """Best delta against the number of cleaned dims, a panel per place, a line per method."""

    evidence: Evidence
    most: int | None = None
    name = "cleaning-curve"

    @cached_property
    def data(self) -> dict[Place, Curve]:
        curves = cleaning_curves(self.evidence)
        return {
            curve.place: curve for curve in curves if any(row.best for rows in curve.lines.values() for row in rows)
        }

    def draw(self) -> style.Drawing:
        evidence = self.evidence
        shown = [self.data[place] for place in key_places(evidence, self.data, self.most)]
        printed = {place.our_place: place for place in printed_places(evidence)}
        sources: dict[str, str] = {}
        titles = [evidence.name(curve.place) for curve in shown]
        figure, panels = style.panel_grid(titles, 3.0, "best delta at the floor")
        for axes, curve in zip(panels, shown, strict=True):
            for index, kind in enumerate(curve.lines):
                self._line(axes, curve, kind, index)
                if curve.place in printed:
                    _draw_published(axes, curve, kind, printed[curve.place], sources)
            axes.set_xticks(range(len(curve.steps)), [str(step) for step in curve.steps])
            axes.set_xlabel("massive dims cleaned")
            # from zero, so that noise of a point does not look like a cliff
            axes.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
            axes.margins(x=0.08, y=0.15)
        style.legend_below(figure, _entries(shown, sources), 4)
        return figure

    def _line(self, axes: style.Axes, curve: Curve, kind: CurveKind, index: int) -> None:
        colour = style.method_colour(kind.method)
        heights = []
        for x, step in enumerate(curve.steps):
            row = curve.at(step).get(kind)
            best = row.best if row else None
            heights.append(best.delta if best and best.delta is not None else math.nan)
            if row is not None and best is None:
                # a step without a result is marked at the foot, it is no zero
                axes.plot(x, 0.03 + 0.06 * index, "x", color=colour, transform=axes.get_xaxis_transform())
            if row is not None and best is not None:
                style.draw_interval(axes, best, curve.parts[kind][0].interval(curve.place, row.label), x, colour)
        axes.plot(range(len(heights)), heights, marker="o", **kind.look)
        if len(curve.lines) > _ANNOTATED_LINES:
            return  # numbers of more lines would lie on each other; the table has them
        for x, height in enumerate(heights):
            if not math.isnan(height):
                others = [row.best.delta for other, row in curve.at(curve.steps[x]).items()
                          if other != kind and row.best]  # fmt: skip
                above = all(other is None or height >= other for other in others)
                axes.annotate(signed(height, 0), (x, height), xytext=(0, 6 if above else -6), ha="center",
                              textcoords="offset points", va="bottom" if above else "top", fontsize=8,
                              color=colour)  # fmt: skip

    def caption(self) -> str:
        published = " Hollow markers are published figures." if self.evidence.facts.published else ""
        return (
            "Best delta at or above the floor against the number of cleaned dims, with 95 % intervals; a cross is a "
            f"step without a result.{published}{rest_of(len(self.data), self.most, 'cleaning_curve')}"
        )

    def alt(self) -> str:
        words = []
        for curve in cleaning_curves(self.evidence):
            for kind in curve.lines:
                rows = [row for step in curve.steps if (row := curve.at(step).get(kind))]
                said = ", ".join(
                    f"{row.n_dims} {signed(row.best.delta)}{bracketed(curve.parts[kind][0], curve.place, row.label)}"
                    if row.best and row.best.delta is not None
                    else f"{row.n_dims} no result"
                    for row in rows
                )
                words.append(f"{self.evidence.name(curve.place)}, {kind.name}: {said}")
        return f"Best delta by the number of cleaned massive dims, with 95 % intervals. {some_words(words)}."


def _draw_published(
    axes: style.Axes, curve: Curve, kind: CurveKind, printed: PrintedPlace, sources: dict[str, str]
) -> None:
    """Published bests of the line's labels, a marker per source, to the right of ours."""
    by_label = {label.label: label for label in printed.labels}
    for row in curve.lines[kind]:
        label = by_label.get(row.label)
        for source, figures in label.by_source.items() if label else ():
            marker = sources.setdefault(source, style.MARKERS[(len(sources) + 1) % len(style.MARKERS)])
            axes.plot(curve.steps.index(row.n_dims) + 0.14, figures[0].delta or 0.0, marker=marker, markersize=5,
                      color=style.method_colour(kind.method), markerfacecolor="none", linestyle="")  # fmt: skip


def _entries(curves: Sequence[Curve], sources: dict[str, str]) -> list[tuple[str, style.Look]]:
    """Of the legend: only what is drawn."""
    lines = [(kind, rows) for curve in curves for kind, rows in curve.lines.items()]
    kinds = sorted({kind for kind, rows in lines if any(row.best for row in rows)})
    entries: list[tuple[str, style.Look]] = [(kind.name, {"marker": "o", **kind.look}) for kind in kinds]
    if any(row.best is None for _, rows in lines for row in rows):
        entries.append(("no result at the floor", {"color": style.INK, "marker": "x", "linestyle": ""}))
    hollow: style.Look = {"color": style.INK, "markerfacecolor": "none", "linestyle": ""}
    return entries + [(f"published: {name}", hollow | {"marker": marker}) for name, marker in sources.items()]
