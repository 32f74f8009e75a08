"""Figures of results: the cleaning curve, before against after.

Each function returns a figure, or `None` where there is nothing to draw.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from massact.domain import AllDims, Scope, When
from massact.labels import format_label, parse_label
from massact.query import ComparisonRow, CurveRow, Point
from massact.query.groups import recipe_of
from massact.query.questions.compare import ask_compare
from massact.query.questions.curve import ask_curve
from massact.report.evidence import TIE_POINTS, Evidence, Place, counted, place_of
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
from massact.report.limits import key_places
from massact.report.positions import error_bar
from massact.report.published import PrintedPlace, printed_places
from massact.report.result_tables import group_at, group_cell
from massact.report.table import Cell, Table, cells, columns, number, signed, where
from massact.store.schema import PublishedRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Clean-before against clean-after: which is ahead, or why that cannot be said.

Outcome = Literal["same", "a", "b", "tied", "untested", "unknown"]
SIGNIFICANT = 0.05
"""A corrected p above it is chance."""
_LACKS = {
    "below_floor": "is below the floor everywhere",
    "missing": "has no scored evaluation",
    "failed": "failed",
}

_BOTH_LACK = {
    "ok": "a delta is missing",
    "below_floor": "both are below the floor everywhere",
    "missing": "neither has a scored evaluation",
    "failed": "both failed",
}


def comparisons(evidence: Evidence) -> list[ComparisonRow]:
    """Clean-before against clean-after wherever clean-before is declared or was run."""
    return evidence.once("comparisons", lambda: _comparisons(evidence))


def _comparisons(evidence: Evidence) -> list[ComparisonRow]:
    declared = set(evidence.answers.groups)
    order = {place: index for index, place in enumerate(evidence.places())}
    rows = [
        row
        for row in ask_compare.of(replace(evidence.answers, cosines=evidence.cosines), evidence.floor).rows
        if evidence.is_current(row)
        and (row.status_a != "missing" or group_at(place_of(row), row.label_a) in declared)
    ]
    return sorted(rows, key=lambda row: order[place_of(row)])


def uncleaned_comparisons(evidence: Evidence) -> dict[Place, ComparisonRow]:
    """Probe against mean difference, both uncleaned, where it was evaluated."""
    pairs = (("probe", "mean_diff"),)
    answers = replace(evidence.answers, cosines=evidence.cosines)
    rows = ask_compare.of(answers, evidence.floor, pairs=pairs).rows
    return {place_of(row): row for row in rows if evidence.is_current(row)}


def before_after_table(evidence: Evidence) -> Table:
    """Clean-before against clean-after; where the two are one vector it says so and gives no difference."""
    rows = []
    for row in comparisons(evidence):
        place = place_of(row)
        plain = format_label(parse_label(row.label_a).uncleaned)
        rows.append(
            cells(
                evidence.name(place),
                row.label_a,
                group_cell(evidence, place, plain),
                group_cell(evidence, place, row.label_b),
                group_cell(evidence, place, row.label_a),
                comparison_verdict(row),
                Cell("; ".join(row.warnings)),
            )
        )
    headers = ["place", "label", "uncleaned", "clean after", "clean before", "verdict", "beware"]
    if not any(row[-1].text for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return Table("Clean-before against clean-after", columns(*headers), tuple(rows))


def comparison_outcome(row: ComparisonRow) -> Outcome:
    """What a comparison comes to; `a` and `b` are ahead by more than chance gives."""
    if row.same_vector:
        return "same"
    if row.difference is None:
        return "unknown"
    if row.difference_low is None or row.difference_high is None or row.p_corrected is None:
        return "tied" if abs(row.difference) < TIE_POINTS or row.better is None else "untested"
    if row.better is None or row.difference_low <= 0 <= row.difference_high or row.p_corrected > SIGNIFICANT:
        return "tied"
    return "a" if row.better == row.label_a else "b"


def comparison_verdict(row: ComparisonRow, names: tuple[str, str] = ("before", "after")) -> str:
    """What a comparison says: one vector, tied, ahead by how much, or that it cannot say and why.

    Args:
        names: what A and B are called.
    """
    if row.same_vector:
        return row.same_vector
    if row.difference is None:
        return f"cannot say: {_lacking(row)}"
    if abs(row.difference) < TIE_POINTS or row.better is None:
        return "tied"
    ahead = f"{names[row.better != row.label_a]} ahead by {abs(row.difference):.1f}"
    if row.difference_low is None or row.difference_high is None or row.p_corrected is None:
        return f"{ahead} (not tested: no scores by question)"
    sign = 1 if row.difference > 0 else -1
    low, high = sorted((sign * row.difference_low, sign * row.difference_high))
    lead = "cannot be told apart: " if comparison_outcome(row) == "tied" else ""
    n = f", {counted(row.n_questions, 'question')}" if row.n_questions else ""
    return f"{lead}{ahead} (95 %: {low:.1f} to {high:.1f}, p {row.p_corrected:.2g}{n})"


def _lacking(row: ComparisonRow) -> str:
    if row.status_a == row.status_b:
        return _BOTH_LACK[row.status_a]
    pairs = ((row.label_a, row.status_a), (row.label_b, row.status_b))
    return " and ".join(f"{label} {_LACKS[status]}" for label, status in pairs if status != "ok")


# The cleaning curve: the best delta against the number of cleaned dims.


@dataclass(frozen=True, slots=True, order=True)
class CurveKind:
    """One line of the cleaning curve."""

    method: str
    when: When
    scope: Scope

    @property
    def name(self) -> str:
        scope = "" if self.scope == "uniform" else ", each layer's own dims"
        return f"{self.method}{', before' if self.when == 'before' else ''}{scope}"


@dataclass(frozen=True, slots=True)
class Curve:
    """The cleaning curve of one place: per kind the points that were declared or run."""

    place: Place
    lines: dict[CurveKind, tuple[CurveRow, ...]]

    @property
    def steps(self) -> tuple[int | AllDims, ...]:
        found = {row.n_dims for rows in self.lines.values() for row in rows}
        numbers = sorted(step for step in found if isinstance(step, int))
        return (*numbers, "all") if "all" in found else tuple(numbers)

    @property
    def has_result(self) -> bool:
        return any(row.best for rows in self.lines.values() for row in rows)


def cleaning_curves(evidence: Evidence) -> list[Curve]:
    """The curves of each place where a method has at least two cleaned steps declared or run."""
    return evidence.once("curves", lambda: _cleaning_curves(evidence))


def _cleaning_curves(evidence: Evidence) -> list[Curve]:
    labels = {place: set(evidence.labels(place)) for place in evidence.places()}
    found: dict[Place, dict[CurveKind, tuple[CurveRow, ...]]] = {place: {} for place in labels}
    for kind in _kinds(label for some in labels.values() for label in some):
        rows: dict[Place, list[CurveRow]] = {place: [] for place in labels}
        answer = ask_curve.of(
            evidence.answers, evidence.floor, method=kind.method, when=kind.when, scope=kind.scope
        )
        for row in answer.rows:
            place = place_of(row)
            if evidence.is_current(row) and row.label in labels.get(place, ()):
                rows[place].append(row)
        for place, some in rows.items():
            if sum(row.n_dims != 0 for row in some) >= 2:
                found[place][kind] = tuple(some)
    return [Curve(place, lines) for place, lines in found.items() if lines]


def _kinds(labels: Iterable[str]) -> list[CurveKind]:
    recipes = (recipe_of(label) for label in labels)
    cleaned = (r for r in recipes if r is not None and r.cleaning.scope is not None)
    kinds = {CurveKind(r.method, r.cleaning.when, r.cleaning.scope) for r in cleaned if r.cleaning.scope}
    return sorted(kinds)


def curve_tables(evidence: Evidence) -> tuple[Table, ...]:
    """Best delta against the number of cleaned dims, a table per place and a column per method."""
    curves = (curve for curve in cleaning_curves(evidence) if curve.place in evidence.strata)
    return tuple(_curve_table(evidence, curve) for curve in curves)


def _curve_table(evidence: Evidence, curve: Curve) -> Table:
    rows = []
    for step in curve.steps:
        by_kind = {kind: _step(rows_, step) for kind, rows_ in curve.lines.items()}
        some = next((row.best for row in by_kind.values() if row and row.best), None)
        zeroed = some.n_dims_cleaned if some else None
        name = f"all ({zeroed})" if step == "all" and zeroed is not None else str(step)
        rows.append(cells(name, *(_curve_cell(evidence, curve.place, row) for row in by_kind.values())))
    return Table(
        f"Cleaning curve, {evidence.name(curve.place)}",
        columns("#dims", *(kind.name for kind in curve.lines)),
        tuple(rows),
    )


def _step(rows: Sequence[CurveRow], step: int | AllDims) -> CurveRow | None:
    return next((row for row in rows if row.n_dims == step), None)


def _curve_cell(evidence: Evidence, place: Place, row: CurveRow | None) -> Cell:
    if row is None:
        return Cell("")
    if row.best is None:
        return group_cell(evidence, place, row.label)
    shown = group_cell(evidence, place, row.label)
    end = "end of grid" if row.best.at_grid_end else ""
    return replace(shown, detail=", ".join(part for part in (where(row.best), shown.detail, end) if part))


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
