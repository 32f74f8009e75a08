"""The trade-off itself: delta against coherence, along the coefficient."""

from typing import TYPE_CHECKING, Any

from massact.domain import METHODS
from massact.query.selection import is_at_floor, natural_order
from massact.report.contents import Evidence, Place, listed
from massact.report.figure_style import (
    INK,
    QUIET,
    WIDTH,
    label_style,
    legend_below,
    legend_order,
    mark_grid_end,
    method_of,
    new_figure,
    style,
)
from massact.report.figures import label_lines
from massact.report.result_tables import RANDOM
from massact.report.table import signed
from massact.schema import StoredPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = dict[str, list[StoredPoint]]


def tradeoff_pairs(evidence: Evidence) -> list[tuple[str, str]]:
    """Models and traits where something was run, in the report's order."""
    return list(dict.fromkeys((p.model, p.trait) for p in evidence.places() if p in evidence.strata))


def coherence_figure(evidence: Evidence, model: str, trait: str) -> "Figure | None":
    """Delta against coherence along the coefficient: a row per position, a column per method, a line per label."""
    lines = _lines_by_place(evidence, model, trait)
    methods = [
        m
        for m in METHODS
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
                _draw(panel, evidence, place, mine)
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


def _draw(panel: "Axes", evidence: Evidence, place: Place, lines: Lines) -> None:
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
