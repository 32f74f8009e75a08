"""Position windows: the best delta of each label where activations are averaged over another window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from massact.domain import all_methods
from massact.query import Point
from massact.query.selection import natural_order
from massact.query.stats.intervals import Believed
from massact.report.evidence import Evidence, Place
from massact.report.figure_style import (
    INK,
    WIDTH,
    label_style,
    legend_below,
    legend_order,
    mark_grid_end,
    method_of,
    new_figure,
    style,
)
from massact.report.result_tables import RANDOM, group_cell
from massact.report.table import Cell, Table, cells, columns, result, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Windows:
    """One model and trait with the position windows that it was answered at, in natural order."""

    model: str
    trait: str
    positions: tuple[str, ...]
    labels: tuple[str, ...]
    """Those with a result or a place in the matrix at two windows or more."""

    def place(self, position: str) -> Place:
        return Place(self.model, self.trait, position)


def windows(evidence: Evidence) -> list[Windows]:
    """Every model and trait with two windows or more where something was run."""
    by_pair: dict[tuple[str, str], list[Place]] = {}
    for place in evidence.places():
        if place in evidence.strata:
            by_pair.setdefault((place.model, place.trait), []).append(place)
    found = []
    for (model, trait), places in by_pair.items():
        counts: dict[str, int] = {}
        for place in places:
            for label in evidence.labels(place):
                counts[label] = counts.get(label, 0) + 1
        labels = tuple(label for label, count in counts.items() if count > 1)
        if labels:
            positions = sorted((place.position for place in places), key=natural_order)
            found.append(Windows(model, trait, tuple(positions), labels))
    return found


def window_tables(evidence: Evidence) -> tuple[Table, ...]:
    """Labels against windows, a table per model and trait: the best, its interval and its n."""
    return tuple(_table(evidence, one) for one in windows(evidence))


def _table(evidence: Evidence, one: Windows) -> Table:
    rows = [
        cells(label, *(_cell(evidence, one.place(position), label) for position in one.positions))
        for label in one.labels
    ]
    name = one.model if len(evidence.experiment.traits) <= 1 else f"{one.model}, {one.trait}"
    return Table(
        f"Best delta @ coherence by position window, {name}: 95 % interval, n responses scored",
        columns("label", *one.positions),
        tuple(rows),
    )


def _cell(evidence: Evidence, place: Place, label: str) -> Cell:
    best = evidence.best(place, label)
    if best is None:
        return group_cell(evidence, place, label) if label in evidence.labels(place) else Cell("")
    text = f"{result(best)}{interval_text(evidence.belief(place, label))}, n {best.n_scored}"
    return Cell(text, best.run_id, "ok")


def interval_text(believed: Believed) -> str:
    """` (+90.1 to +96.0)`, or nothing where no interval is known."""
    if believed.delta_low is None or believed.delta_high is None:
        return ""
    return f" ({believed.delta_low:+.1f} to {believed.delta_high:+.1f})"


def error_bar(evidence: Evidence, place: Place, label: str, best: Point) -> tuple[float, float] | None:
    """How far the interval reaches below and above a best, for matplotlib; `None` where none is known."""
    believed = evidence.belief(place, label)
    if believed.delta_low is None or believed.delta_high is None or best.delta is None:
        return None
    return max(0.0, best.delta - believed.delta_low), max(0.0, believed.delta_high - best.delta)


def window_figure(evidence: Evidence, most: int | None = None) -> "Figure | None":
    """Best delta against the window: a row per model and trait, a column per method, a line per label."""
    shown = [one for one in windows(evidence) if any(_points(evidence, one, label) for label in one.labels)]
    shown = shown[:most]
    methods = [
        m
        for m in all_methods()
        if m != RANDOM and any(method_of(label) == m for one in shown for label in one.labels)
    ]
    if not shown or not methods:
        return None
    width = WIDTH if len(methods) > 1 else WIDTH * 0.62
    drawn: set[str] = set()
    with style():
        figure, axes = new_figure((len(shown), len(methods)), (width, 2.2 * len(shown) + 0.8), sharey=True)
        for row, one in zip(axes, shown, strict=True):
            for panel, method in zip(row, methods, strict=True):
                mine = [label for label in sorted(one.labels, key=legend_order) if method_of(label) == method]
                drawn.update(_draw(panel, evidence, one, mine))
                panel.set_title(f"{one.model}: {method}")
            row[0].set_ylabel("best delta at the floor")
        legend_below(figure, _handles(drawn), 5)
    return figure


def _draw(panel: "Axes", evidence: Evidence, one: Windows, labels: Sequence[str]) -> set[str]:
    """Draw the lines of some labels; those that had a point."""
    drawn = set()
    for index, label in enumerate(labels):
        points = _points(evidence, one, label)
        if not points:
            continue
        drawn.add(label)
        look = label_style(label)
        # side by side, so that intervals do not lie on each other
        shift = 0.0 if len(labels) == 1 else (index / (len(labels) - 1) - 0.5) * 0.36
        xs = [position + shift for position in range(len(one.positions))]
        bests = [points.get(position) for position in one.positions]
        heights = [math.nan if best is None or best.delta is None else best.delta for best in bests]
        panel.plot(xs, heights, marker=look.marker, **look.line)
        for x, position, best in zip(xs, one.positions, bests, strict=True):
            reach = error_bar(evidence, one.place(position), label, best) if best else None
            if best is not None:
                mark_grid_end(panel, best, x, best.delta or 0.0)
            if best is not None and reach is not None:
                panel.errorbar(x, best.delta or 0.0, yerr=[[reach[0]], [reach[1]]], fmt="none", ecolor=look.colour,
                               elinewidth=0.9, capsize=1.5, alpha=0.7)  # fmt: skip
    panel.axhline(0, color=INK, linewidth=0.8, zorder=1)
    panel.set_xticks(range(len(one.positions)), list(one.positions))
    panel.set_xlim(-0.5, len(one.positions) - 0.5)
    return drawn


def _points(evidence: Evidence, one: Windows, label: str) -> dict[str, Point]:
    found = ((position, evidence.best(one.place(position), label)) for position in one.positions)
    return {position: best for position, best in found if best is not None and best.delta is not None}


def _handles(labels: set[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    looks = dict.fromkeys(label_style(label) for label in sorted(labels, key=legend_order))
    return [Line2D([], [], label=look.name, marker=look.marker, **look.line) for look in looks]


def window_alt(evidence: Evidence) -> str:
    """The figure in words: per model the best label at each window."""
    words = []
    for one in windows(evidence):
        for position in one.positions:
            found = ((label, _points(evidence, one, label).get(position)) for label in one.labels)
            bests = [
                (label, best) for label, best in found if best is not None and method_of(label) != RANDOM
            ]
            if bests:
                place = one.place(position)
                label, best = max(bests, key=lambda pair: evidence.gain(place, pair[1].delta or 0.0))
                interval = interval_text(evidence.belief(place, label))
                words.append(
                    f"{one.model} at {position}: best {label} with {signed(best.delta or 0.0)}{interval}"
                )
    return f"Best delta by position window, with 95 % intervals. {'; '.join(words)}."
