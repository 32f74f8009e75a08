"""Figures of trade-offs: delta and coherence against coefficient, and against relative strength.

Each function returns a figure, or `None` where there is nothing to draw.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from massact.domain import all_methods
from massact.query.rows import AnyPoint
from massact.query.selection import Stratum, recipe_of
from massact.report.coefficient_tables import effective_bests, spreads
from massact.report.evidence import Evidence, Place
from massact.report.figure_style import (
    INK,
    MARKERS,
    QUIET,
    SERIES,
    WIDTH,
    floor_line,
    label_style,
    legend_below,
    legend_order,
    log_coefficients,
    method_of,
    new_figure,
    style,
)
from massact.store.schema import StoredPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from massact.query.selection import is_at_floor, natural_order
from massact.report.evidence import listed
from massact.report.figure_style import (
    mark_grid_end,
)
from massact.report.result_tables import RANDOM
from massact.report.table import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


XValue = Callable[[AnyPoint], float | None]


def tradeoff_figure(evidence: Evidence, place: Place) -> "Figure | None":
    """Delta and coherence against |coefficient|: a column per method, a line per label."""
    stratum = evidence.strata.get(place)
    lines = _lines(stratum, evidence.floor, _size) if stratum else {}
    if not lines:
        return None
    methods = _methods(lines)
    every = [point for points in lines.values() for point in points]
    name = "|coefficient|" if any(point.coefficient < 0 for point in every) else "coefficient"
    with style():
        figure, axes = _tradeoff_axes(len(methods))
        for column, method in enumerate(methods):
            mine = {label: pts for label, pts in lines.items() if method_of(label) == method}
            for label, points in sorted(mine.items(), key=lambda line: _layering(line[0])):
                _draw_trade_off(
                    axes[:, column], points, evidence.floor, look=label_style(label).line, x_of=_size
                )
            axes[0, column].set_title(method)
            axes[1, column].set_xlabel(name)
            floor_line(axes[1, column], evidence.floor, with_name=column == 0)
        log_coefficients(axes[1, 0], [abs(point.coefficient) for point in every])
        _legend_of_labels(figure, lines)
    return figure


def strength_figure(evidence: Evidence) -> "Figure | None":
    """The same against relative strength, all models on one axis; the bests with an effect stand out."""
    drawn = [
        (place, label, points)
        for place, stratum in sorted(evidence.strata.items())
        for label, points in _lines(stratum, evidence.floor, _strength).items()
    ]
    if not drawn:
        return None
    methods = _methods({label: points for _, label, points in drawn})
    models = [
        m.name for m in evidence.experiment.models if any(place.model == m.name for place, _, _ in drawn)
    ]
    models += sorted({place.model for place, _, _ in drawn} - set(models))
    values = [x for _, _, points in drawn for p in points if (x := _strength(p)) is not None]
    with style():
        figure, axes = _tradeoff_axes(len(methods))
        for place, label, points in drawn:
            column, model = methods.index(method_of(label)), models.index(place.model) % len(SERIES)
            look = {"color": SERIES[model], "alpha": 0.35, "linewidth": 1.0}
            _draw_trade_off(
                axes[:, column], points, evidence.floor, look=look, x_of=_strength, with_points=False
            )
        for column, method in enumerate(methods):
            axes[0, column].set_title(method)
            axes[1, column].set_xlabel("relative strength")
            floor_line(axes[1, column], evidence.floor, with_name=column == 0)
        log_coefficients(axes[1, 0], values)
        _mark_bests(evidence, axes, methods, models)
        handles = [*_model_handles(models), *_mark_median(evidence, axes)]
        legend_below(figure, handles, min(len(handles), 3))
    return figure


def drawn_layers(stratum: Stratum, floor: float) -> dict[str, int]:
    """Per label the layer it is drawn at: that of its best, or of its nearest miss."""
    found = {}
    for label in stratum.slices:
        point = stratum.best(label, floor) or stratum.nearest_miss(label, floor)
        if point is not None and recipe_of(label) is not None:
            found[label] = point.layer
    return found


def label_lines(stratum: Stratum, floor: float) -> dict[str, list[StoredPoint]]:
    """Per label the steered points of the layer that it is drawn at, by rising |coefficient|."""
    return _lines(stratum, floor, _size)


def _lines(stratum: Stratum, floor: float, x_of: XValue) -> dict[str, list[StoredPoint]]:
    """Per label the points of its layer that can be drawn, by rising x."""
    found = {}
    for label, layer in sorted(drawn_layers(stratum, floor).items(), key=lambda item: legend_order(item[0])):
        points = [p for p in stratum.slices[label].points if p.layer == layer and x_of(p) is not None]
        if points:
            found[label] = sorted(points, key=lambda p: x_of(p) or 0.0)
    return found


def _layering(label: str) -> int:
    """What is drawn over what: dashes (before) over lines (after), the uncleaned over all."""
    recipe = recipe_of(label)
    return {"after": 0, "before": 1, "none": 2}[recipe.cleaning.when] if recipe else 0


def _size(point: AnyPoint) -> float | None:
    return abs(point.coefficient) or None


def _strength(point: AnyPoint) -> float | None:
    return None if point.relative_strength is None else abs(point.relative_strength) or None


def _methods(labels: Iterable[str]) -> list[str]:
    present = {method_of(label) for label in labels}
    # the plan's order: probe beside mean_diff, the random direction last
    return [method for method in all_methods() if method in present]


def _tradeoff_axes(n_columns: int) -> "tuple[Figure, Any]":
    size = (WIDTH, 4.6) if n_columns > 1 else (WIDTH * 0.62, 4.6)
    figure, axes = new_figure((2, n_columns), size, sharex=True, sharey="row")
    axes[0, 0].set_ylabel("delta (trait, points)")
    axes[1, 0].set_ylabel("coherence")
    for column in range(n_columns):
        axes[0, column].axhline(0, color=QUIET, linewidth=0.8, zorder=1)
        axes[1, column].set_ylim(-4, 105)
    return figure, axes


def _draw_trade_off(
    axes: Any,
    points: Sequence[AnyPoint],
    floor: float,
    *,
    look: dict[str, Any],
    x_of: XValue,
    with_points: bool = True,
) -> None:
    """A label's line in both panels; hollow below the floor, and a break where a score is missing."""
    xs = [x_of(point) for point in points]
    for panel, name in zip(axes, ("delta", "coherence_mean"), strict=True):
        ys = [getattr(point, name) for point in points]
        heights = [math.nan if y is None else y for y in ys]
        panel.plot(xs, heights, **look)
        if not with_points:
            continue
        counts = [point.coherence_mean is not None and point.coherence_mean >= floor for point in points]
        for wanted, face in ((True, look["color"]), (False, "none")):
            shown = [
                y if is_coherent is wanted else math.nan
                for y, is_coherent in zip(heights, counts, strict=True)
            ]
            panel.plot(xs, shown, "o", color=look["color"], markerfacecolor=face, markeredgewidth=1.0)


def _legend_of_labels(figure: "Figure", lines: dict[str, list[StoredPoint]]) -> None:
    from matplotlib.lines import Line2D

    styles = dict.fromkeys(label_style(label) for label in sorted(lines, key=legend_order))
    handles: list[Any] = [Line2D([], [], label=one.name, **one.line) for one in styles]
    point: dict[str, Any] = {"linestyle": "", "marker": "o", "color": INK}
    handles += [
        Line2D([], [], label="at or above the floor", **point),
        Line2D([], [], label="below the floor", markerfacecolor="none", **point),
    ]
    legend_below(figure, handles, 5)


def _mark_bests(evidence: Evidence, axes: Any, methods: list[str], models: list[str]) -> None:
    for row in effective_bests(evidence):
        if row.relative_strength is None or row.method not in methods:
            continue
        column, model = methods.index(row.method), models.index(row.model) % len(SERIES)
        look = {
            "color": SERIES[model],
            "marker": MARKERS[model],
            "markersize": 6,
            "markeredgecolor": "white",
            "linestyle": "",
        }
        for panel, y in ((axes[0, column], row.delta), (axes[1, column], row.coherence_mean)):
            panel.plot(abs(row.relative_strength), y, alpha=0.85, markeredgewidth=0.6, **look)


def _mark_median(evidence: Evidence, axes: Any) -> list[Any]:
    """Where the bests lie, all models together: what one value for every vector would be. Its legend."""
    from matplotlib.lines import Line2D

    strength = spreads(evidence)[-1].strength if spreads(evidence) else None
    if strength is None:
        return []
    dots: Any = (0, (1, 2))
    for panel in axes.flat:
        panel.axvline(strength, color=INK, linestyle=dots, linewidth=0.9, zorder=1)
    return [
        Line2D([], [], color=INK, linestyle=dots, linewidth=0.9, label=f"median of the bests, {strength:.2f}")
    ]


def _model_handles(models: list[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    looks = ((SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]) for i in range(len(models)))
    return [
        Line2D([], [], color=colour, marker=marker, label=f"{name} (marker: a best)")
        for name, (colour, marker) in zip(models, looks, strict=True)
    ]


# The trade-off itself: delta against coherence, along the coefficient.

Lines = dict[str, list[StoredPoint]]


def tradeoff_pairs(evidence: Evidence) -> list[tuple[str, str]]:
    """Models and traits where something was run, in the report's order."""
    return list(dict.fromkeys((p.model, p.trait) for p in evidence.places() if p in evidence.strata))


def coherence_figure(evidence: Evidence, model: str, trait: str) -> "Figure | None":
    """Delta against coherence along the coefficient: a row per position, a column per method, a line per label."""
    lines = _lines_by_place(evidence, model, trait)
    methods = [
        m
        for m in all_methods()
        if m != RANDOM and any(method_of(label) == m for one in lines.values() for label in one)
    ]
    rows = [place for place, one in lines.items() if any(method_of(label) in methods for label in one)]
    if not methods or not rows:
        return None
    width = WIDTH if len(methods) > 1 else WIDTH * 0.62
    with style():
        figure, axes = new_figure(
            (len(rows), len(methods)), (width, 2.1 * len(rows) + 0.9), sharex=True, sharey=True
        )
        drawn: set[str] = set()
        for row, place in zip(axes, rows, strict=True):
            for panel, method in zip(row, methods, strict=True):
                mine = {label: points for label, points in lines[place].items() if method_of(label) == method}
                _draw_coherence(panel, evidence, place, mine)
                drawn.update(mine)
                panel.set_title(f"{place.position}: {method}")
            row[0].set_ylabel("delta (points)")
        for panel in axes[-1]:
            panel.set_xlabel("coherence")
        # read from the left, as the coefficient rises and coherence falls
        axes[0, 0].set_xlim(102, -2)
        _name_floor(axes[0, 0], evidence.floor)
        legend_below(figure, _handles(drawn), 5)
    return figure


def _lines_by_place(evidence: Evidence, model: str, trait: str) -> dict[Place, Lines]:
    places = [p for p in evidence.places() if (p.model, p.trait) == (model, trait) and p in evidence.strata]
    places.sort(key=lambda place: natural_order(place.position))
    found = {}
    for place in places:
        lines = label_lines(evidence.strata[place], evidence.floor)
        whole = {
            label: [p for p in points if p.delta is not None and p.coherence_mean is not None]
            for label, points in lines.items()
        }
        if any(whole.values()):
            found[place] = {label: points for label, points in whole.items() if points}
    return found


def _draw_coherence(panel: "Axes", evidence: Evidence, place: Place, lines: Lines) -> None:
    panel.axhline(0, color=QUIET, linewidth=0.8, zorder=1)
    panel.axvline(evidence.floor, color=INK, linestyle=(0, (2, 2)), linewidth=0.9, zorder=1)
    for label in sorted(lines, key=legend_order, reverse=True):
        points, look = lines[label], label_style(label)
        xs, ys = [p.coherence_mean or 0.0 for p in points], [p.delta or 0.0 for p in points]
        panel.plot(xs, ys, linewidth=1.1, **look.line)
        for wanted, face in ((True, look.colour), (False, "none")):
            shown = [
                (x, y)
                for p, x, y in zip(points, xs, ys, strict=True)
                if is_at_floor(p, evidence.floor) is wanted
            ]
            if shown:
                panel.plot(
                    *zip(*shown, strict=True), "o", color=look.colour, markerfacecolor=face, markersize=3
                )
        best = evidence.best(place, label)
        if best is not None and best.delta is not None and best.coherence_mean is not None:
            panel.plot(best.coherence_mean, best.delta, "o", color=look.colour, markersize=7, markeredgecolor=INK,
                       markeredgewidth=0.8)  # fmt: skip
            mark_grid_end(panel, best, best.coherence_mean, best.delta)


def _name_floor(panel: "Axes", floor: float) -> None:
    panel.annotate(
        f"floor {floor:g}",
        (floor, 0.45),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )


def _handles(labels: set[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    looks = dict.fromkeys(label_style(label) for label in sorted(labels, key=legend_order))
    point: dict[str, Any] = {"linestyle": "", "marker": "o", "color": QUIET}
    return [
        *(Line2D([], [], label=look.name, **look.line) for look in looks),
        Line2D([], [], label="a best", markersize=7, markeredgecolor=INK, **point),
        Line2D([], [], label="below the floor", markersize=3, markerfacecolor="none", **point),
    ]


def coherence_alt(evidence: Evidence, model: str, trait: str) -> str:
    """The figure in words: how much coherence each place's best label pays for its delta."""
    words = []
    for place, lines in _lines_by_place(evidence, model, trait).items():
        said = []
        for label, points in lines.items():
            best = evidence.best(place, label)
            if best is None or best.delta is None or method_of(label) == RANDOM:
                continue
            first = points[0]
            said.append(
                (
                    evidence.gain(place, best.delta),
                    f"{label} from {signed(first.delta or 0.0)} at coherence {first.coherence_mean:.0f} to its best "
                    f"{signed(best.delta)} at {best.coherence_mean:.0f}",
                )
            )
        tops = [text for _, text in sorted(said, key=lambda one: -one[0])]
        words.append(f"{place.position}: {listed(tops, limit=3) or 'nothing at the floor'}")
    return f"Delta against coherence along the coefficient on {model}, floor {evidence.floor:g}. {'. '.join(words)}."
