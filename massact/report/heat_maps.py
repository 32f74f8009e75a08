"""Where bests lie: delta by layer and coefficient, a map per label; and the best of a label by position window.

A map's cell below the floor is faded and crossed out; the best is framed. All panels of a place share one scale.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from massact.domain import RANDOM, is_same_strength
from massact.query.groups import is_at_floor, natural_order
from massact.query.rows import AnyPoint, Point
from massact.report import style
from massact.report.evidence import Evidence, Place
from massact.report.section import MOST_FIGURES, Section, bracketed, key_places, rest_of, signed
from massact.report.trade_off import best_words, end_words
from massact.store.schema import StoredPoint
from massact.words import counted

_MOST_LABELS, FEWER_LABELS = 6, 3
"""Panels in the report: of the place with the best result of a model and trait, and of its other places."""
_PER_ROW = 3
_SHADES = 16  # of the scale: so few that a bar of them is drawn as shapes, which a page may hold without an image
_WITH_NUMBERS = 10  # coefficients up to which the cells of a panel have room for their numbers


def heat_section(evidence: Evidence) -> Section:
    """The maps that a report draws, how they are read, and what is left out."""
    maps = {place: labels for place in evidence.places() if (labels := mapped_labels(evidence, place))}
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
    left = (
        f"Drawn are {n_drawn} of {counted(n_labels, 'map')}, the best of each method and labels of the first phase "
        f"before others, at {MOST_FIGURES} places at most. Any other: "
        '`massact.plot.heat_map("NAME", only=massact.Filters(labels=("LABEL",)))`.'
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
        evidence.top(place, {label: best for label, best in bests.items() if style.method_of(label) == method})
        for method in style.methods_of(bests)
    ]
    first = evidence.experiment.phases[0].labels if evidence.experiment.phases else ()
    gains = {label: evidence.gain(place, best.delta) for label, best in bests.items()}
    others = sorted(mapped, key=lambda label: -gains.get(label, -math.inf))
    ranked = tuple(dict.fromkeys([*tops, *(label for label in first if label in mapped), *others]))
    return ranked[: _MOST_LABELS if _is_key(evidence, place) else FEWER_LABELS]


def _is_key(evidence: Evidence, place: Place) -> bool:
    """Whether no other place of the model and trait has a better result; of equal ones the first."""
    rivals = [rival for rival in evidence.places() if (rival.model, rival.trait) == (place.model, place.trait)]
    return max(rivals, key=evidence.top_gain) == place


def _points(evidence: Evidence, place: Place, label: str) -> list[StoredPoint]:
    stratum = evidence.strata.get(place)
    part = stratum.slices.get(label) if stratum else None
    return list(part.points.with_delta()) if part else []


@dataclass(frozen=True)
class HeatGrid:
    label: str
    strengths: tuple[float, ...]
    """The relative strengths that the file declares, as which a column is then given; else it is a coefficient."""
    cells: dict[tuple[int, float], StoredPoint]  # by layer and column; a cell that was not evaluated is absent

    @classmethod
    def of(cls, label: str, points: Sequence[StoredPoint], strengths: tuple[float, ...]) -> "HeatGrid":
        if any(point.relative_strength is None for point in points):
            strengths = ()
        return cls(label, strengths, {(point.layer, _column(point, strengths)): point for point in points})

    @cached_property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({layer for layer, _ in self.cells}))

    @cached_property
    def columns(self) -> tuple[float, ...]:
        return tuple(sorted({column for _, column in self.cells}))

    def at(self, point: AnyPoint) -> tuple[int, int]:
        return self.columns.index(_column(point, self.strengths)), self.layers.index(point.layer)


def _column(point: AnyPoint, strengths: Sequence[float]) -> float:
    """A point's relative strength, as declared or in three digits, where any is declared; else its coefficient."""
    strength = point.relative_strength
    if not strengths or strength is None:
        return point.coefficient or 0.0
    return next((other for other in strengths if is_same_strength(other, strength)), float(f"{strength:.2e}"))


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
        strengths = self.evidence.strengths(self.place.model)
        by_label = ((label, _points(self.evidence, self.place, label)) for label in self.labels)
        return [HeatGrid.of(label, points, strengths) for label, points in by_label if len(points) > 1]

    def draw(self) -> style.Drawing:
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
        figure, axes = style.new_figure(
            (n_rows, n_columns), (3.05 * n_columns + 0.9, n_rows * (0.95 + 0.3 * n_layers) + 0.3)
        )
        for panel, grid in zip(style.filled(axes, len(self.data)), self.data, strict=True):
            self._panel(panel, grid, scale)
            _ticks(panel, grid)
        bar = figure.colorbar(scale, ax=list(axes.flat), shrink=0.8, pad=0.02, aspect=18)
        bar.set_label("delta (trait, points)")
        bar.outline.set_visible(False)
        return figure

    def _panel(self, panel: style.Axes, grid: HeatGrid, scale: Any) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        cells, colours = [], []
        crosses: list[tuple[float, float]] = []
        for point in grid.cells.values():
            x, y = grid.at(point)
            counts = is_at_floor(point, self.evidence.floor)
            colour = scale.to_rgba(point.delta)
            cells.append(Rectangle((x - 0.5, y - 0.5), 1, 1))
            colours.append((*colour[:3], 1.0 if counts else 0.3))
            if not counts:
                crosses += [(x - 0.3, y - 0.3), (x + 0.3, y + 0.3), (math.nan, math.nan)]
                crosses += [(x - 0.3, y + 0.3), (x + 0.3, y - 0.3), (math.nan, math.nan)]
            elif len(grid.columns) <= _WITH_NUMBERS:
                text = signed(point.delta, 0)
                panel.text(x, y, text, ha="center", va="center", fontsize=7, color=style.ink_on(colour))
        # one collection and one line: a shape for each cell takes most of a report's time
        collection = PatchCollection(cells, facecolors=colours, linewidths=0)
        collection.values = [point.delta for point in grid.cells.values()]  # type: ignore[attr-defined]  # for plotly's
        panel.add_collection(collection)
        panel.plot([x for x, _ in crosses], [y for _, y in crosses], color=style.INK, linewidth=0.8)
        best = self.evidence.best(self.place, grid.label)
        if best is not None:
            x, y = grid.at(best)
            # dashed where the grid ends at the best, so that a better one may lie beyond it
            look: style.Look = {"edgecolor": style.VERMILLION, "linestyle": "--" if best.at_grid_end else "-"}
            panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, linewidth=2.2, zorder=5, **look))

    def caption(self) -> str:
        return f"{self.evidence.name(self.place)}: delta by layer and coefficient."

    def alt(self) -> str:
        words = []
        for grid in self.data:
            best = self.evidence.best(self.place, grid.label)
            n_below = sum(not is_at_floor(point, self.evidence.floor) for point in grid.cells.values())
            cells = f"{n_below} of {counted(len(grid.cells), 'cell')} below the floor"
            words.append(f"{grid.label}: {best_words(best, 'nothing at the floor')}; {cells}{end_words(best)}")
        return f"Delta by layer and coefficient on {self.evidence.name(self.place)}. {'. '.join(words)}."


def _ticks(panel: style.Axes, grid: HeatGrid) -> None:
    """Values of the grid, thinned where they would lie on each other."""
    panel.set_xlim(-0.5, len(grid.columns) - 0.5)
    panel.set_ylim(-0.5, len(grid.layers) - 0.5)
    panel.grid(visible=False)
    panel.set_title(style.broken(grid.label))
    step = max(1, math.ceil(len(grid.columns) / 8))
    panel.set_xticks(range(0, len(grid.columns), step), [f"{c:g}" for c in grid.columns[::step]])
    step = max(1, math.ceil(len(grid.layers) / 12))
    panel.set_yticks(range(0, len(grid.layers), step), [str(layer) for layer in grid.layers[::step]])
    panel.set_xlabel("relative strength" if grid.strengths else "coefficient")
    panel.set_ylabel("layer")
    panel.tick_params(length=0)


_MOST_ROWS = 3  # rows of panels, each of its own model and trait


def positions_section(evidence: Evidence) -> Section:
    """Labels against windows; the matrix of results has their numbers."""
    text = "No label was evaluated at two position windows."
    if windows(evidence):
        text = (
            "Vectors of one label from another window of tokens. Each has its own best layer and coefficient; bars are "
            "95 % intervals that allow for the best having been picked."
        )
    return Section("positions", "Position windows", (text,), figures=(ByWindow(evidence, _MOST_ROWS),))


@dataclass(frozen=True, slots=True)
class Windows:
    """One model and trait with the position windows that it was answered at, in natural order."""

    model: str
    trait: str
    positions: tuple[str, ...]
    labels: tuple[str, ...]  # those with a result or a place in the matrix at two windows or more

    def place(self, position: str) -> Place:
        return Place(self.model, self.trait, position)


def windows(evidence: Evidence) -> list[Windows]:
    """Every model and trait with two windows or more where something was run."""
    by_pair: dict[tuple[str, str], list[Place]] = {}
    for place in evidence.run_places:
        by_pair.setdefault((place.model, place.trait), []).append(place)
    every = []
    for pair, places in by_pair.items():
        counts = Counter(label for place in places for label in evidence.labels(place))
        labels = tuple(label for label, count in counts.items() if count > 1)
        if labels:
            positions = sorted((place.position for place in places), key=natural_order)
            every.append(Windows(*pair, tuple(positions), labels))
    return every


@dataclass(frozen=True)
class ByWindow:
    """Best delta against the window: a row per model and trait, a column per method, a line per label."""

    evidence: Evidence
    most: int | None = None
    name = "positions"

    @cached_property
    def data(self) -> list[Windows]:
        every = windows(self.evidence)
        return [pair for pair in every if any(self._bests(pair, label) for label in pair.labels if label != RANDOM)]

    def _bests(self, pair: Windows, label: str) -> dict[str, Point]:
        bests = ((position, self.evidence.bests(pair.place(position), (label,))) for position in pair.positions)
        return {position: best[label] for position, best in bests if best}

    def draw(self) -> style.Drawing:
        shown = self.data[: self.most]
        methods = style.methods_of(label for pair in shown for label in pair.labels)
        figure, axes = style.method_grid(len(shown), methods, 2.2 * len(shown) + 0.8)
        drawn: set[str] = set()
        for row, pair in zip(axes, shown, strict=True):
            for panel, method in zip(row, methods, strict=True):
                labels = [label for label in pair.labels if style.method_of(label) == method]
                drawn.update(label for label in labels if self._bests(pair, label))
                self._panel(panel, pair, sorted(labels, key=style.legend_order))
                panel.set_title(f"{pair.model}: {style.broken(method)}")
            row[0].set_ylabel("best delta at the floor")
        style.legend_below(figure, style.label_entries(drawn, with_marker=True), 5)
        return figure

    def _panel(self, panel: style.Axes, pair: Windows, labels: Sequence[str]) -> None:
        for index, label in enumerate(labels):
            bests = self._bests(pair, label)
            if not bests:
                continue
            look = style.label_style(label)
            # side by side, so that intervals do not lie on each other
            shift = 0.0 if len(labels) == 1 else (index / (len(labels) - 1) - 0.5) * 0.36
            heights = [bests[p].delta if p in bests else math.nan for p in pair.positions]
            panel.plot([x + shift for x in range(len(heights))], heights, marker=look.marker, **look.line)  # type: ignore[arg-type]
            for x, position in enumerate(pair.positions):
                if position in bests:
                    interval = self.evidence.interval(pair.place(position), label)
                    thin = {"elinewidth": 0.9, "capsize": 1.5, "alpha": 0.7}
                    style.draw_interval(panel, bests[position], interval, x + shift, look.colour, **thin)
        panel.axhline(0, color=style.INK, linewidth=0.8, zorder=1)
        panel.set_xticks(range(len(pair.positions)), list(pair.positions))
        panel.set_xlim(-0.5, len(pair.positions) - 0.5)

    def caption(self) -> str:
        rest = rest_of(len(windows(self.evidence)), self.most, "positions", "models and traits")
        return f"Best delta at or above the floor by position window, with 95 % intervals.{rest}"

    def alt(self) -> str:
        words = []
        for pair in windows(self.evidence):
            for position in pair.positions:
                place = pair.place(position)
                bests = self.evidence.bests(place, (label for label in pair.labels if label != RANDOM))
                if bests:
                    label = self.evidence.top(place, bests)
                    said = f"{signed(bests[label].delta)}{bracketed(self.evidence, place, label)}"
                    words.append(f"{pair.model} at {position}: best {label} with {said}")
        return f"Best delta by position window, with 95 % intervals. {'; '.join(words)}."
