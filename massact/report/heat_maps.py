"""Heat maps: delta at every layer and coefficient of a label, a panel per label.

A cell below the floor is faded and crossed out; the best is framed. All panels of a place share one scale.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from massact.domain import all_methods
from massact.query.selection import is_at_floor
from massact.report.evidence import Evidence, Place, counted
from massact.report.figure_style import INK, VERMILLION, ink_on, method_of, new_figure, style
from massact.report.limits import MOST_FIGURES, key_places, top_gain
from massact.report.result_tables import RANDOM
from massact.report.table import signed
from massact.store.schema import StoredPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS, FEWER_LABELS = 6, 3
"""Panels in the report: of the place with the best result of a model and trait, and of its other places."""
MANY_PLACES = 12
"""Of more places than that each has few panels."""
_PER_ROW = 3
_SHADES = 16
"""Of the scale: so few that a bar of them is drawn as shapes, which a page may hold without an image."""
_WITH_NUMBERS = 10
"""Coefficients up to which the cells of a panel have room for their numbers."""
_COLOURS = "cividis"


@dataclass(frozen=True, slots=True)
class HeatGrid:
    """What one label's heat map shows."""

    label: str
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    cells: dict[tuple[int, float], StoredPoint]
    """By layer and coefficient; a cell that was not evaluated is absent."""


def heat_grid(evidence: Evidence, place: Place, label: str) -> HeatGrid | None:
    """The evaluations of a label; `None` where there are not two of them with a delta to set side by side."""
    stratum = evidence.strata.get(place)
    part = stratum.slices.get(label) if stratum else None
    points = [point for point in part.points if point.delta is not None] if part else []
    if len(points) < 2:
        return None
    return HeatGrid(
        label,
        tuple(sorted({point.layer for point in points})),
        tuple(sorted({point.coefficient for point in points})),
        {(point.layer, point.coefficient): point for point in points},
    )


def all_grids(evidence: Evidence, place: Place, labels: Iterable[str]) -> list[HeatGrid]:
    """Those of the labels that have one."""
    return [grid for label in labels if (grid := heat_grid(evidence, place, label)) is not None]


def key_labels(evidence: Evidence, place: Place) -> tuple[str, ...]:
    """The labels that a report draws: the best of each method, then what the first phase declares."""
    drawn = [label for label in evidence.labels(place) if heat_grid(evidence, place, label) is not None]
    found = {
        label: best.delta
        for label in drawn
        if (best := evidence.best(place, label)) and best.delta is not None
    }
    gains = {label: evidence.gain(place, delta) for label, delta in found.items()}
    bests = []
    for method in (one for one in all_methods() if one != RANDOM):
        mine = [label for label in gains if method_of(label) == method]
        if mine:
            bests.append(max(mine, key=gains.__getitem__))
    first = evidence.experiment.phases[0].labels if evidence.experiment.phases else ()
    declared = [label for label in first if label in drawn]

    others = sorted(drawn, key=lambda label: -gains.get(label, -math.inf))
    return tuple(dict.fromkeys([*bests, *declared, *others]))[
        : MOST_LABELS if _is_key(evidence, place) else FEWER_LABELS
    ]


def _how_many(evidence: Evidence) -> str:
    if len(evidence.strata) > MANY_PLACES:
        return f"{FEWER_LABELS}"
    return f"{MOST_LABELS} at the best window of a model and {FEWER_LABELS} at others,"


def _is_key(evidence: Evidence, place: Place) -> bool:
    """Whether no other place of the model and trait has a better result; of equal ones the first."""
    mine = [one for one in evidence.places() if (one.model, one.trait) == (place.model, place.trait)]
    return max(mine, key=lambda one: top_gain(evidence, one)) == place


def heat_places(evidence: Evidence) -> tuple[Place, ...]:
    """The places that a report draws heat maps of, in its order."""
    return tuple(key_places(evidence, _all_places(evidence), MOST_FIGURES))


def _all_places(evidence: Evidence) -> list[Place]:
    return [place for place in evidence.places() if all_grids(evidence, place, evidence.labels(place))]


def heat_text(evidence: Evidence) -> tuple[str, ...]:
    """How the maps are read, and what is left out."""
    every = _all_places(evidence)
    if not every:
        return ("No label was evaluated at two layers or coefficients.",)
    n_labels = sum(len(all_grids(evidence, place, evidence.labels(place))) for place in every)
    n_drawn = sum(len(key_labels(evidence, place)) for place in heat_places(evidence))
    text = (
        "Colour is delta; one scale for all panels of a place. A faded, crossed cell lies below the floor of "
        f"{evidence.floor:g} and does not count; an empty one was not evaluated; the best is framed."
    )
    if n_drawn == n_labels:
        return (text,)
    left = (
        f"Drawn are {n_drawn} of {counted(n_labels, 'map')}: the best label of each method and those of the first "
        f"phase, {_how_many(evidence)} at {MOST_FIGURES} places at most. "
        'Any other: `massact.plot.heat_map("NAME", only=massact.Filters(labels=("LABEL",)))`.'
    )
    return (text, left)


def heat_figure(evidence: Evidence, place: Place, labels: Sequence[str]) -> "Figure | None":
    """Delta by layer and coefficient, a panel per label."""
    grids = all_grids(evidence, place, labels)
    if not grids:
        return None
    deltas = [point.delta for grid in grids for point in grid.cells.values() if point.delta is not None]
    low, high = min(0.0, *deltas), max(0.0, *deltas)
    n_columns = min(len(grids), _PER_ROW)
    n_rows = math.ceil(len(grids) / n_columns)
    heights = max(len(grid.layers) for grid in grids)
    size = (3.05 * n_columns + 0.9, n_rows * (0.95 + 0.3 * min(max(heights, 2), 14)) + 0.3)
    with style():
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        scale = ScalarMappable(
            Normalize(low, high if high > low else low + 1), colormaps[_COLOURS].resampled(_SHADES)
        )
        figure, axes = new_figure((n_rows, n_columns), size)
        flat = list(axes.flat)
        for panel, grid in zip(flat, grids, strict=False):
            _draw(panel, evidence, place, grid, scale)
        for empty in flat[len(grids) :]:
            empty.set_axis_off()
        bar = figure.colorbar(scale, ax=flat, shrink=0.8, pad=0.02, aspect=18)
        bar.set_label("delta (trait, points)")
        bar.outline.set_visible(False)
    return figure


def _draw(panel: "Axes", evidence: Evidence, place: Place, grid: HeatGrid, scale: Any) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    best = evidence.best(place, grid.label)
    has_numbers = len(grid.coefficients) <= _WITH_NUMBERS
    cells, colours = [], []
    cross_x: list[float] = []
    cross_y: list[float] = []
    for (layer, coefficient), point in grid.cells.items():
        x, y = grid.coefficients.index(coefficient), grid.layers.index(layer)
        counts = is_at_floor(point, evidence.floor)
        colour = scale.to_rgba(point.delta)
        cells.append(Rectangle((x - 0.5, y - 0.5), 1, 1))
        colours.append((*colour[:3], 1.0 if counts else 0.3))
        if not counts:
            cross_x += [x - 0.3, x + 0.3, math.nan, x - 0.3, x + 0.3, math.nan]
            cross_y += [y - 0.3, y + 0.3, math.nan, y + 0.3, y - 0.3, math.nan]
        elif has_numbers and point.delta is not None:
            ink = ink_on(colour)
            panel.text(x, y, signed(point.delta, 0), ha="center", va="center", fontsize=7, color=ink)
    # one collection and one line: a shape for each cell takes most of a report's time
    panel.add_collection(PatchCollection(cells, facecolors=colours, linewidths=0))
    panel.plot(cross_x, cross_y, color=INK, linewidth=0.8)
    if best is not None:
        corner = (grid.coefficients.index(best.coefficient) - 0.5, grid.layers.index(best.layer) - 0.5)
        # dashed where the grid ends at the best, so that a better one may lie beyond it
        ends = "--" if best.at_grid_end else "-"
        look = Rectangle(
            corner, 1, 1, fill=False, edgecolor=VERMILLION, linewidth=2.2, linestyle=ends, zorder=5
        )
        panel.add_patch(look)
    panel.set_xlim(-0.5, len(grid.coefficients) - 0.5)
    panel.set_ylim(-0.5, len(grid.layers) - 0.5)
    panel.grid(visible=False)
    panel.set_title(grid.label)
    _ticks(panel, grid)


def _ticks(panel: "Axes", grid: HeatGrid) -> None:
    """Values of the grid, thinned where they would lie on each other."""
    step = max(1, math.ceil(len(grid.coefficients) / 8))
    panel.set_xticks(
        range(0, len(grid.coefficients), step), [f"{value:g}" for value in grid.coefficients[::step]]
    )
    step = max(1, math.ceil(len(grid.layers) / 12))
    panel.set_yticks(range(0, len(grid.layers), step), [str(value) for value in grid.layers[::step]])
    panel.set_xlabel("coefficient")
    panel.set_ylabel("layer")
    panel.tick_params(length=0)


def heat_alt(evidence: Evidence, place: Place, labels: Sequence[str]) -> str:
    """The maps in words."""
    words = []
    for grid in all_grids(evidence, place, labels):
        best = evidence.best(place, grid.label)
        n_below = sum(not is_at_floor(point, evidence.floor) for point in grid.cells.values())
        said = (
            "nothing at the floor"
            if best is None or best.delta is None
            else f"best {signed(best.delta)} at layer {best.layer}, coefficient {best.coefficient:g}"
        )
        end = ", its best at the end of the grid" if best is not None and best.at_grid_end else ""
        cells_below = f"{n_below} of {counted(len(grid.cells), 'cell')} below the floor"
        words.append(f"{grid.label}: {said}; {cells_below}{end}")
    return f"Delta by layer and coefficient on {evidence.name(place)}. {'. '.join(words)}."
