"""Figures of results: the cleaning curve, before against after.

Each function returns a figure, or `None` where there is nothing to draw.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from massact.domain import AllDims
from massact.labels import format_label, parse_label
from massact.query import ComparisonRow, CurveRow, Point
from massact.report.chosen import key_places
from massact.report.comparisons import comparisons
from massact.report.contents import Evidence, Place, place_of
from massact.report.curves import Curve, CurveKind, cleaning_curves
from massact.report.figure_style import (
    BLUE,
    INK,
    MARKERS,
    ORANGE,
    QUIET,
    legend_below,
    mark_grid_end,
    method_colour,
    panel_grid,
    style,
)
from massact.report.positions import error_bar
from massact.report.published_places import PrintedPlace, printed_places
from massact.report.table import number, signed
from massact.schema import PublishedRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ANNOTATED_LINES = 2


def curve_figure(
    evidence: Evidence, published: Sequence[PublishedRow] = (), most: int | None = None
) -> "Figure | None":
    """Best delta against the number of cleaned dims, a panel per place, a line per method.

    Bars are 95 % intervals; what was published for the same label stands beside the line.
    """
    curves = drawn_curves(evidence, most)
    if not curves:
        return None
    printed = {one.our_place: one for one in printed_places(evidence, published)}
    sources: dict[str, str] = {}
    has_gap = False
    with style():
        figure, panels = panel_grid(len(curves), 3.0)
        for axes, curve in zip(panels, curves, strict=False):
            for index, (kind, rows) in enumerate(curve.lines.items()):
                _draw_curve(axes, evidence, curve, (kind, rows), index)
                has_gap |= any(row.best is None for row in rows)
                if curve.place in printed:
                    _draw_published(axes, curve, (kind, rows), printed[curve.place], sources)
            axes.set_title(evidence.name(curve.place))
            axes.set_xticks(range(len(curve.steps)), [str(step) for step in curve.steps])
            axes.set_xlabel("massive dims cleaned")
            # from zero, so that noise of a point does not look like a cliff
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
            axes.margins(x=0.08, y=0.15)
        panels[0].set_ylabel("best delta at the floor")
        kinds = sorted(
            {kind for one in curves for kind, rows in one.lines.items() if any(row.best for row in rows)}
        )
        handles = _curve_handles(kinds, sources, has_gap=has_gap)
        legend_below(figure, handles, min(len(handles), 4))
    return figure


def drawn_curves(evidence: Evidence, most: int | None = None) -> list[Curve]:
    """The curves that have a result, of at most so many places."""
    curves = {curve.place: curve for curve in cleaning_curves(evidence) if curve.has_result}
    return [curves[place] for place in key_places(evidence, curves, most)]


def _draw_curve(
    axes: "Axes", evidence: Evidence, curve: Curve, line: tuple[CurveKind, Sequence[CurveRow]], index: int
) -> None:
    kind, rows = line
    by_step = {row.n_dims: row for row in rows}
    colour = method_colour(kind.method)
    heights = []
    for x, step in enumerate(curve.steps):
        row = by_step.get(step)
        best = row.best if row else None
        heights.append(best.delta if best and best.delta is not None else math.nan)
        if row is not None and best is None:
            # a step without a result is marked at the foot, it is no zero
            axes.plot(x, 0.03 + 0.06 * index, "x", color=colour, transform=axes.get_xaxis_transform())
        if row is not None and best is not None:
            draw_interval(axes, evidence, (curve.place, row.label), best, x, colour)
    axes.plot(range(len(heights)), heights, marker="o", **_curve_look(kind))
    if len(curve.lines) > _ANNOTATED_LINES:
        return  # numbers of more lines would lie on each other; the table has them
    for x, height in enumerate(heights):
        if not math.isnan(height):
            others = [by.best.delta for by in _others(curve, kind, curve.steps[x]) if by.best]
            above = all(other is None or height >= other for other in others)
            axes.annotate(
                signed(height, 0),
                (x, height),
                xytext=(0, 6 if above else -6),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=8,
                color=colour,
            )


def draw_interval(
    axes: "Axes", evidence: Evidence, group: tuple[Place, str], best: Point, x: float, colour: str
) -> None:
    """The 95 % interval of a best as a bar, where one is known, and whether its grid ends there."""
    mark_grid_end(axes, best, x, best.delta or 0.0)
    reach = error_bar(evidence, *group, best)
    if reach is not None and best.delta is not None:
        axes.errorbar(
            x,
            best.delta,
            yerr=[[reach[0]], [reach[1]]],
            fmt="none",
            ecolor=colour,
            elinewidth=1.0,
            capsize=2.5,
        )


def _draw_published(
    axes: "Axes",
    curve: Curve,
    line: tuple[CurveKind, Sequence[CurveRow]],
    printed: PrintedPlace,
    sources: dict[str, str],
) -> None:
    """Published bests of the line's labels, a marker per source, to the right of ours."""
    kind, rows = line
    by_label = {one.label: one for one in printed.labels}
    for row in rows:
        one = by_label.get(row.label)
        for source in one.by_source if one else ():
            marker = sources.setdefault(source, MARKERS[(len(sources) + 1) % len(MARKERS)])
            best = one.headline(source) if one else None
            if best is not None and best.delta is not None:
                axes.plot(curve.steps.index(row.n_dims) + 0.14, best.delta, marker=marker, markersize=5,
                          color=method_colour(kind.method), markerfacecolor="none", linestyle="")  # fmt: skip


def _others(curve: Curve, kind: CurveKind, step: int | AllDims) -> list[CurveRow]:
    return [row for other, rows in curve.lines.items() if other != kind for row in rows if row.n_dims == step]


def _curve_look(kind: CurveKind) -> dict[str, Any]:
    dashes = {("after", "uniform"): "-", ("before", "uniform"): "--", ("after", "layer"): ":"}
    return {"color": method_colour(kind.method), "linestyle": dashes.get((kind.when, kind.scope), "-.")}


def _curve_handles(kinds: Sequence[CurveKind], sources: Mapping[str, str], *, has_gap: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles: list[Any] = [Line2D([], [], marker="o", label=kind.name, **_curve_look(kind)) for kind in kinds]
    if has_gap:
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="", label="no result at the floor"))
    hollow: dict[str, Any] = {"color": INK, "markerfacecolor": "none", "linestyle": ""}
    handles += [
        Line2D([], [], marker=marker, label=f"published: {source}", **hollow)
        for source, marker in sources.items()
    ]
    return handles


def before_after_figure(evidence: Evidence, most: int | None = None) -> "Figure | None":
    """Best delta uncleaned, cleaned after and cleaned before, a panel per place."""
    shown = drawn_pairs(evidence, most)
    if not shown:
        return None
    with style():
        figure, panels = panel_grid(len(shown), 3.4)
        for axes, (place, rows) in zip(panels, shown.items(), strict=False):
            for index, row in enumerate(rows):
                _draw_bars(axes, evidence, row, index)
            axes.set_title(evidence.name(place))
            axes.set_xticks(range(len(rows)), [_pair_name(row) for row in rows])
            axes.tick_params(axis="x", length=0)
            axes.grid(visible=False, axis="x")
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.margins(y=0.18)
        panels[0].set_ylabel("best delta at the floor")
        legend_below(figure, _bar_handles(evidence, [row for rows in shown.values() for row in rows]), 3)
    return figure


def drawn_pairs(evidence: Evidence, most: int | None = None) -> dict[Place, list[ComparisonRow]]:
    """The pairs of at most so many places where one of the two has a result."""
    by_place: dict[Place, list[ComparisonRow]] = {}
    for row in comparisons(evidence):
        by_place.setdefault(place_of(row), []).append(row)
    shown = {place: rows for place, rows in by_place.items() if any(r.best_a or r.best_b for r in rows)}
    return {place: shown[place] for place in key_places(evidence, shown, most)}


_BARS = (("uncleaned", QUIET), ("cleaned after", ORANGE), ("cleaned before", BLUE))


def bars(evidence: Evidence, row: ComparisonRow) -> tuple[tuple[str, Point | None], ...]:
    """The labels of a pair's bars with their bests: uncleaned, cleaned after, cleaned before."""
    plain = format_label(parse_label(row.label_a).uncleaned)
    best = evidence.best(place_of(row), plain)
    return ((plain, best), (row.label_b, row.best_b), (row.label_a, row.best_a))


def _draw_bars(axes: "Axes", evidence: Evidence, row: ComparisonRow, index: int) -> None:
    place = place_of(row)
    for offset, (label, best), (_, colour) in zip((-1, 0, 1), bars(evidence, row), _BARS, strict=True):
        x = index + offset * 0.27
        if best is None or best.delta is None:
            if label not in evidence.labels(place):
                continue  # neither declared nor run: its absence says nothing
            axes.annotate("no result", (x, 0), xytext=(0, 4), textcoords="offset points", rotation=90,
                          ha="center", va="bottom", fontsize=8, color=INK)  # fmt: skip
            continue
        # two bars of one vector are not there to be compared
        is_twin = row.same_vector is not None and offset >= 0
        axes.bar(x, best.delta, width=0.25, color=colour, alpha=0.45 if is_twin else 1.0)
        draw_interval(axes, evidence, (place, label), best, x, INK)
        side = 1 if best.delta >= 0 else -1
        reach = error_bar(evidence, place, label, best) or (0.0, 0.0)
        end = best.delta + side * reach[side > 0]
        text = f"{signed(best.delta, 0)}\n@ {number(best.coherence_mean, '.0f')}"
        axes.annotate(text, (x, end), xytext=(0, 2 * side), textcoords="offset points", ha="center",
                      va="bottom" if side > 0 else "top", fontsize=7.5, color=INK)  # fmt: skip


def _pair_name(row: ComparisonRow) -> str:
    recipe = parse_label(row.label_a)
    dims = "all dims" if recipe.cleaning.n_dims == "all" else f"top {recipe.cleaning.n_dims}"
    own = ", own dims" if recipe.cleaning.scope == "layer" else ""
    same = row.same_vector
    same = "\n" + re.split(r":| by | at ", same)[0] if same else ""
    return f"{recipe.method}\n{dims}{own}{same}"


def _bar_handles(evidence: Evidence, rows: Sequence[ComparisonRow]) -> list[Any]:
    from matplotlib.patches import Patch

    drawn = [any(bars(evidence, row)[i][1] for row in rows) for i in range(len(_BARS))]
    return [
        Patch(color=colour, label=name)
        for (name, colour), is_drawn in zip(_BARS, drawn, strict=True)
        if is_drawn
    ]
