"""Position windows: the best delta of each label where activations are averaged over another window."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from massact.query import Point
from massact.query.groups import natural_order
from massact.report.evidence import RANDOM, Evidence, Place
from massact.report.figure_style import (
    INK,
    draw_interval,
    label_entries,
    label_style,
    legend_below,
    legend_order,
    method_grid,
    method_of,
    methods_of,
)
from massact.report.section import (
    Cell,
    Row,
    Section,
    Table,
    bracketed,
    group_cell,
    rest_of_pairs,
    result,
    signed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_MOST_ROWS = 3
"""Rows of panels, each of its own model and trait."""


def positions_section(evidence: Evidence) -> Section:
    """Labels against windows: the best of each, its interval and its n."""
    text = "No label was evaluated at two position windows."
    every = windows(evidence)
    if every:
        text = (
            "Vectors of one label from another window of tokens. Each has its own best layer and coefficient; bars are "
            "95 % intervals that allow for the best having been picked."
        )
    tables = tuple(_table(evidence, pair) for pair in every)
    return Section(
        "positions", "Position windows", (text,), tables, figures=(ByWindow(evidence, _MOST_ROWS),)
    )


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


def _table(evidence: Evidence, pair: Windows) -> Table:
    rows: list[Row] = [
        (label, *(_cell(evidence, pair.place(position), label) for position in pair.positions))
        for label in pair.labels
    ]
    name = f"{pair.model}{evidence.of_trait(pair.trait)}"
    caption = f"Best delta @ coherence by position window, {name}: 95 % interval, n responses scored"
    return Table.of(caption, ("label", *pair.positions), rows)


def _cell(evidence: Evidence, place: Place, label: str) -> Cell:
    best = evidence.best(place, label)
    if best is None:
        return group_cell(evidence, place, label) if label in evidence.labels(place) else Cell("")
    text = f"{result(best)}{bracketed(evidence, place, label)}, n {best.n_scored}"
    return Cell(text, best.run_id, "ok")


@dataclass(frozen=True)
class ByWindow:
    """Best delta against the window: a row per model and trait, a column per method, a line per label."""

    evidence: Evidence
    most: int | None = None
    name = "positions"

    @cached_property
    def data(self) -> list[Windows]:
        every = windows(self.evidence)
        return [
            pair
            for pair in every
            if any(self._bests(pair, label) for label in pair.labels if label != RANDOM)
        ]

    def _bests(self, pair: Windows, label: str) -> dict[str, Point]:
        """By position."""
        bests = (
            (position, self.evidence.bests(pair.place(position), (label,))) for position in pair.positions
        )
        return {position: best[label] for position, best in bests if best}

    def draw(self) -> "Drawing":
        shown = self.data[: self.most]
        methods = methods_of(label for pair in shown for label in pair.labels)
        figure, axes = method_grid(len(shown), methods, 2.2 * len(shown) + 0.8)
        drawn: set[str] = set()
        for row, pair in zip(axes, shown, strict=True):
            for panel, method in zip(row, methods, strict=True):
                labels = [label for label in pair.labels if method_of(label) == method]
                drawn.update(label for label in labels if self._bests(pair, label))
                self._panel(panel, pair, sorted(labels, key=legend_order))
                panel.set_title(f"{pair.model}: {method}")
            row[0].set_ylabel("best delta at the floor")
        legend_below(figure, label_entries(drawn, with_marker=True), 5)
        return figure

    def _panel(self, panel: "Axes", pair: Windows, labels: Sequence[str]) -> None:
        for index, label in enumerate(labels):
            bests = self._bests(pair, label)
            if not bests:
                continue
            look = label_style(label)
            # side by side, so that intervals do not lie on each other
            shift = 0.0 if len(labels) == 1 else (index / (len(labels) - 1) - 0.5) * 0.36
            heights = [bests[p].delta if p in bests else math.nan for p in pair.positions]
            panel.plot([x + shift for x in range(len(heights))], heights, marker=look.marker, **look.line)  # type: ignore[arg-type]
            for x, position in enumerate(pair.positions):
                if position in bests:
                    interval = self.evidence.interval(pair.place(position), label)
                    thin = {"elinewidth": 0.9, "capsize": 1.5, "alpha": 0.7}
                    draw_interval(panel, bests[position], interval, x + shift, look.colour, **thin)
        panel.axhline(0, color=INK, linewidth=0.8, zorder=1)
        panel.set_xticks(range(len(pair.positions)), list(pair.positions))
        panel.set_xlim(-0.5, len(pair.positions) - 0.5)

    def caption(self) -> str:
        rest = rest_of_pairs(len(windows(self.evidence)), self.most, "positions")
        return f"Best delta at or above the floor by position window, with 95 % intervals.{rest}"

    def alt(self) -> str:
        """Per model the best label at each window."""
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
