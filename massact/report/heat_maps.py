"""Heat maps: delta at every layer and coefficient of a label, a panel per label.

A cell below the floor is faded and crossed out; the best is framed. All panels of a place share one scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from massact.query.groups import is_at_floor
from massact.report.evidence import Evidence, Place, counted
from massact.report.figure_style import (
    INK,
    VERMILLION,
    Look,
    filled,
    ink_on,
    method_of,
    methods_of,
    new_figure,
)
from massact.report.section import MOST_FIGURES, Section, key_places, signed
from massact.report.trade_off import best_words, end_words
from massact.store.schema import StoredPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_MOST_LABELS, FEWER_LABELS = 6, 3
"""Panels in the report: of the place with the best result of a model and trait, and of its other places."""
_MANY_PLACES = 12
"""Of more places than that each has few panels."""
_PER_ROW = 3
_SHADES = 16
"""Of the scale: so few that a bar of them is drawn as shapes, which a page may hold without an image."""
_WITH_NUMBERS = 10
"""Coefficients up to which the cells of a panel have room for their numbers."""


def heat_section(evidence: Evidence) -> Section:
    """The maps that a report draws, how they are read, and what is left out."""
    maps = {place: mapped_labels(evidence, place) for place in evidence.places()}
    maps = {place: labels for place, labels in maps.items() if labels}
    places = key_places(evidence, maps, MOST_FIGURES)
    figures = tuple(HeatMap(evidence, place, key_labels(evidence, place)) for place in places)
    n_labels = sum(map(len, maps.values()))
    text = _text(evidence, n_labels, sum(len(figure.labels) for figure in figures))
    return Section("heat-maps", "Layer and coefficient", text, figures=figures)


def _text(evidence: Evidence, n_labels: int, n_drawn: int) -> tuple[str, ...]:
    if not n_labels:
        return ("No label was evaluated at two layers or coefficients.",)
    how = (
        "Colour is delta; one scale for all panels of a place. A faded, crossed cell lies below the floor of "
        f"{evidence.floor:g} and does not count; an empty one was not evaluated; the best is framed."
    )
    if n_drawn == n_labels:
        return (how,)
    per_place = f"{_MOST_LABELS} at the best window of a model and {FEWER_LABELS} at others,"
    left = (
        f"Drawn are {n_drawn} of {counted(n_labels, 'map')}: the best label of each method and those of the first "
        f"phase, {FEWER_LABELS if len(evidence.strata) > _MANY_PLACES else per_place} at {MOST_FIGURES} places at "
        'most. Any other: `massact.plot.heat_map("NAME", only=massact.Filters(labels=("LABEL",)))`.'
    )
    return (how, left)


def mapped_labels(evidence: Evidence, place: Place) -> list[str]:
    """The labels that have a map: two evaluations or more with a delta."""
    return [label for label in evidence.labels(place) if len(_points(evidence, place, label)) > 1]


def key_labels(evidence: Evidence, place: Place) -> tuple[str, ...]:
    """The labels that a report draws: the best of each method, then what the first phase declares."""
    mapped = mapped_labels(evidence, place)
    bests = evidence.bests(place, mapped)
    tops = [
        evidence.top(place, {label: best for label, best in bests.items() if method_of(label) == method})
        for method in methods_of(bests)
    ]
    first = evidence.experiment.phases[0].labels if evidence.experiment.phases else ()
    gains = {label: evidence.gain(place, best.delta) for label, best in bests.items()}
    others = sorted(mapped, key=lambda label: -gains.get(label, -math.inf))
    ranked = tuple(dict.fromkeys([*tops, *(label for label in first if label in mapped), *others]))
    return ranked[: _MOST_LABELS if _is_key(evidence, place) else FEWER_LABELS]


def _is_key(evidence: Evidence, place: Place) -> bool:
    """Whether no other place of the model and trait has a better result; of equal ones the first."""
    rivals = [
        rival for rival in evidence.places() if (rival.model, rival.trait) == (place.model, place.trait)
    ]
    return max(rivals, key=evidence.top_gain) == place


def _points(evidence: Evidence, place: Place, label: str) -> list[StoredPoint]:
    stratum = evidence.strata.get(place)
    part = stratum.slices.get(label) if stratum else None
    return [point for point in part.points if point.delta is not None] if part else []


@dataclass(frozen=True, slots=True)
class HeatGrid:
    """What one label's heat map shows."""

    label: str
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    cells: dict[tuple[int, float], StoredPoint]
    """By layer and coefficient; a cell that was not evaluated is absent."""

    def at(self, layer: int, coefficient: float) -> tuple[int, int]:
        return self.coefficients.index(coefficient), self.layers.index(layer)


@dataclass(frozen=True)
class HeatMap:
    """Delta by layer and coefficient at one place, a panel per label."""

    evidence: Evidence
    place: Place
    labels: Sequence[str]

    @property
    def name(self) -> str:
        return f"heat-map-{self.place.model}-{self.place.trait}-{self.place.position}"

    @cached_property
    def data(self) -> list[HeatGrid]:
        by_label = {label: _points(self.evidence, self.place, label) for label in self.labels}
        return [
            HeatGrid(
                label,
                tuple(sorted({point.layer for point in points})),
                tuple(sorted({point.coefficient for point in points})),
                {(point.layer, point.coefficient): point for point in points},
            )
            for label, points in by_label.items()
            if len(points) > 1
        ]

    def draw(self) -> "Drawing":
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        deltas = [point.delta or 0.0 for grid in self.data for point in grid.cells.values()]
        low, high = min(0.0, *deltas), max(0.0, *deltas)
        shades = colormaps["cividis"].resampled(_SHADES)
        scale = ScalarMappable(Normalize(low, high if high > low else low + 1), shades)
        n_columns = min(len(self.data), _PER_ROW)
        n_rows = math.ceil(len(self.data) / n_columns)
        n_layers = min(max(2, *(len(grid.layers) for grid in self.data)), 14)
        figure, axes = new_figure(
            (n_rows, n_columns), (3.05 * n_columns + 0.9, n_rows * (0.95 + 0.3 * n_layers) + 0.3)
        )
        for panel, grid in zip(filled(axes, len(self.data)), self.data, strict=True):
            self._panel(panel, grid, scale)
            _ticks(panel, grid)
        bar = figure.colorbar(scale, ax=list(axes.flat), shrink=0.8, pad=0.02, aspect=18)
        bar.set_label("delta (trait, points)")
        bar.outline.set_visible(False)
        return figure

    def _panel(self, panel: "Axes", grid: HeatGrid, scale: Any) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        cells, colours = [], []
        crosses: list[tuple[float, float]] = []
        for (layer, coefficient), point in grid.cells.items():
            x, y = grid.at(layer, coefficient)
            counts = is_at_floor(point, self.evidence.floor)
            colour = scale.to_rgba(point.delta)
            cells.append(Rectangle((x - 0.5, y - 0.5), 1, 1))
            colours.append((*colour[:3], 1.0 if counts else 0.3))
            if not counts:
                crosses += [(x - 0.3, y - 0.3), (x + 0.3, y + 0.3), (math.nan, math.nan)]
                crosses += [(x - 0.3, y + 0.3), (x + 0.3, y - 0.3), (math.nan, math.nan)]
            elif len(grid.coefficients) <= _WITH_NUMBERS:
                text = signed(point.delta, 0)
                panel.text(x, y, text, ha="center", va="center", fontsize=7, color=ink_on(colour))
        # one collection and one line: a shape for each cell takes most of a report's time
        panel.add_collection(PatchCollection(cells, facecolors=colours, linewidths=0))
        panel.plot([x for x, _ in crosses], [y for _, y in crosses], color=INK, linewidth=0.8)
        best = self.evidence.best(self.place, grid.label)
        if best is not None:
            x, y = grid.at(best.layer, best.coefficient)
            # dashed where the grid ends at the best, so that a better one may lie beyond it
            look: Look = {
                "edgecolor": VERMILLION,
                "linewidth": 2.2,
                "linestyle": "--" if best.at_grid_end else "-",
            }
            panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, zorder=5, **look))

    def caption(self) -> str:
        return f"{self.evidence.name(self.place)}: delta by layer and coefficient."

    def alt(self) -> str:
        words = []
        for grid in self.data:
            best = self.evidence.best(self.place, grid.label)
            n_below = sum(not is_at_floor(point, self.evidence.floor) for point in grid.cells.values())
            cells = f"{n_below} of {counted(len(grid.cells), 'cell')} below the floor"
            words.append(
                f"{grid.label}: {best_words(best, 'nothing at the floor')}; {cells}{end_words(best)}"
            )
        return f"Delta by layer and coefficient on {self.evidence.name(self.place)}. {'. '.join(words)}."


def _ticks(panel: "Axes", grid: HeatGrid) -> None:
    """Values of the grid, thinned where they would lie on each other."""
    panel.set_xlim(-0.5, len(grid.coefficients) - 0.5)
    panel.set_ylim(-0.5, len(grid.layers) - 0.5)
    panel.grid(visible=False)
    panel.set_title(grid.label)
    step = max(1, math.ceil(len(grid.coefficients) / 8))
    panel.set_xticks(range(0, len(grid.coefficients), step), [f"{c:g}" for c in grid.coefficients[::step]])
    step = max(1, math.ceil(len(grid.layers) / 12))
    panel.set_yticks(range(0, len(grid.layers), step), [str(layer) for layer in grid.layers[::step]])
    panel.set_xlabel("coefficient")
    panel.set_ylabel("layer")
    panel.tick_params(length=0)
