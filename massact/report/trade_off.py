"""The trade-off between trait and coherence: delta against coherence, and both against the coefficient."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from massact.domain import RANDOM
from massact.floors import COHERENCE, Floor, value_of
from massact.query.groups import ComparableGroups, is_at_floor, is_below_floor, natural_order, recipe_of
from massact.query.rows import AnyPoint
from massact.report import style
from massact.report.evidence import Evidence, Place, listed
from massact.report.section import MOST_FIGURES, Figure, Section, key_places, number, rest_of, signed
from massact.store.schema import StoredPoint

_MOST_PLACES = 2  # figures against the coefficient; that against coherence shows every window of a model
_MOST_PAIRS = 2
_MOST_WORDS = 8
XValue = Callable[[AnyPoint], float | None]
Lines = dict[str, list[StoredPoint]]  # by label the points of the layer that it is drawn at, by rising x


def tradeoff_section(evidence: Evidence) -> Section:
    text = "Nothing was evaluated."
    if evidence.strata:
        text = (
            f"Delta against {evidence.floor.metric} along the coefficient, then both against the coefficient. Each "
            "label is drawn at the layer of its best, or of its nearest miss. Hollow points lie below the floor of "
            f"{evidence.floor:g} and do not count."
        )
    pairs = tradeoff_pairs(evidence)
    rest = rest_of(len(pairs), _MOST_PAIRS, "tradeoff", "models and traits")
    figures: list[Figure] = [AgainstCoherence(evidence, *pair, rest) for pair in pairs[:_MOST_PAIRS]]
    figures += against_coefficient(evidence, _MOST_PLACES)
    return Section("tradeoff", "Trade-off between trait and coherence", (text,), figures=tuple(figures))


def tradeoff_pairs(evidence: Evidence) -> list[tuple[str, str]]:
    """Models and traits where something was run, in the report's order."""
    return list(dict.fromkeys((place.model, place.trait) for place in evidence.run_places))


def against_coefficient(evidence: Evidence, most: int = MOST_FIGURES) -> "list[Figure]":
    """The figures of at most so many places."""
    places = evidence.run_places
    rest = rest_of(len(places), most, "tradeoff")
    return [AgainstCoefficient(evidence, place, rest) for place in key_places(evidence, places, most)]


def label_lines(stratum: ComparableGroups, floor: float, x_of: XValue) -> Lines:
    """Per label the points that can be drawn at the layer of its best, or else of its nearest miss."""
    lines = {}
    for label in sorted(stratum.slices, key=style.legend_order):
        at = stratum.best(label, floor) or stratum.nearest_miss(label, floor)
        if at is not None and recipe_of(label) is not None:
            points = [p for p in stratum.slices[label].points if p.layer == at.layer and x_of(p) is not None]
            if points:
                lines[label] = sorted(points, key=lambda p: x_of(p) or 0.0)
    return lines


def coherence_lines(evidence: Evidence, place: Place, against: str) -> Lines:
    """The same of those points of real vectors that have a delta, and the coherence or metric of that name."""
    return {
        label: whole
        for label, points in label_lines(evidence.strata[place], evidence.floor, coefficient_size).items()
        if style.method_of(label) != RANDOM
        and (whole := [p for p in points if p.delta is not None and value_of(p, against) is not None])
    }


def coefficient_size(point: AnyPoint) -> float | None:
    """The x value where lines are drawn against the coefficient: 0 has no place on a log axis."""
    return abs(point.coefficient or 0.0) or None


@dataclass(frozen=True)
class AgainstCoefficient:
    """Delta and coherence against |coefficient|: a column per method, a line per label."""

    evidence: Evidence
    place: Place
    rest: str = ""  # what the caption says of the places that are not drawn

    @property
    def name(self) -> str:
        return f"tradeoff-{self.place.model}-{self.place.trait}-{self.place.position}"

    @cached_property
    def data(self) -> Lines:
        stratum = self.evidence.strata.get(self.place)
        return label_lines(stratum, self.evidence.floor, coefficient_size) if stratum else {}

    def draw(self) -> style.Drawing:
        methods = style.methods_of(self.data, with_random=True)
        every = [point for points in self.data.values() for point in points]
        floor = self.evidence.floor
        figure, axes = two_rows(methods, floor)
        for column, method in enumerate(methods):
            labels = [label for label in self.data if style.method_of(label) == method]
            # dashes (before) over lines (after), the uncleaned over all
            for label in sorted(labels, key=lambda label: (style.legend_order(label)[0] + 2) % 3):
                look = style.label_style(label).line
                draw_line(axes[:, column], self.data[label], floor, look=look, x_of=coefficient_size)
        name = "|coefficient|" if any(point.coefficient < 0 for point in every) else "coefficient"
        for panel in axes[1]:
            panel.set_xlabel(name)
        style.log_coefficients(axes[1, 0], [abs(point.coefficient) for point in every])
        point: style.Look = {"linestyle": "", "marker": "o", "color": style.INK}
        counts = [("at or above the floor", point), ("below the floor", point | {"markerfacecolor": "none"})]
        style.legend_below(figure, [*style.label_entries(self.data), *counts], 5)
        return figure

    def caption(self) -> str:
        layers = {label: points[0].layer for label, points in self.data.items()}
        at = ", ".join(f"{label} {layer}" for label, layer in sorted(layers.items()))
        if len(set(layers.values())) == 1:
            at = f"{next(iter(layers.values()))} for all labels"
        return f"{self.evidence.name(self.place)}. Layer: {at}.{self.rest}"

    def alt(self) -> str:
        floor = self.evidence.floor
        words = []
        for label in sorted(self.data, key=lambda label: (style.method_of(label), style.legend_order(label))):
            points, best = self.data[label], self.evidence.best(self.place, label)
            below = [abs(point.coefficient) for point in points if is_below_floor(point, floor)]
            last = max((abs(p.coefficient) for p in points if not is_below_floor(p, floor)), default=0.0)
            beyond = [size for size in below if size > last]
            cliff = f", below the floor from {min(beyond):g} on" if beyond else ""
            words.append(f"{label}: {best_words(best, 'no result at the floor')}{cliff}{end_words(best)}")
        return (
            f"Delta and {floor.metric} against the coefficient on {self.evidence.name(self.place)}, floor {floor:g}. "
            f"{some_words(words)}."
        )


@dataclass(frozen=True)
class AgainstCoherence:
    """Delta against coherence, or a metric, along the coefficient: a row per position, a column per method, a line per
    label."""

    evidence: Evidence
    model: str
    trait: str
    rest: str = ""
    against: str = ""  # `coherence` or a metric; empty: what the floor is of

    @property
    def metric(self) -> str:
        return self.against or self.evidence.floor.metric

    @property
    def name(self) -> str:
        return f"tradeoff-{self.metric}-{self.model}-{self.trait}"

    @cached_property
    def data(self) -> dict[Place, Lines]:
        evidence, lines = self.evidence, {}
        places = [place for place in evidence.run_places if (place.model, place.trait) == (self.model, self.trait)]
        for place in sorted(places, key=lambda place: natural_order(place.position)):
            if here := coherence_lines(evidence, place, self.metric):
                lines[place] = here
        return lines

    def draw(self) -> style.Drawing:
        labels = {label for lines in self.data.values() for label in lines}
        methods = style.methods_of(labels)
        figure, axes = style.method_grid(len(self.data), methods, 2.1 * len(self.data) + 0.9, sharex=True)
        for row, (place, lines) in zip(axes, self.data.items(), strict=True):
            for panel, method in zip(row, methods, strict=True):
                self._panel(panel, place, [label for label in lines if style.method_of(label) == method])
                panel.set_title(f"{place.position}: {style.broken(method)}")
            row[0].set_ylabel("delta (points)")
        for panel in axes[-1]:
            panel.set_xlabel(self.metric)
        every = [point for lines in self.data.values() for points in lines.values() for point in points]
        style.floor_axis(axes[0, 0], self.metric, [value_of(point, self.metric) or 0.0 for point in every])
        for panel in axes.flat if self.metric == self.evidence.floor.metric else ():
            style.floor_line(panel, self.evidence.floor.limit, is_upright=True, with_name=panel is axes[0, 0])
        point: style.Look = {"linestyle": "", "marker": "o", "color": style.QUIET}
        best = ("a best", point | {"markersize": 7, "markeredgecolor": style.INK})
        below = ("below the floor", point | {"markersize": 3, "markerfacecolor": "none"})
        style.legend_below(figure, [*style.label_entries(labels), best, below], 5)
        return figure

    def _panel(self, panel: style.Axes, place: Place, labels: Sequence[str]) -> None:
        panel.axhline(0, color=style.QUIET, linewidth=0.8, zorder=1)
        for label in sorted(labels, key=style.legend_order, reverse=True):
            points, look = self.data[place][label], style.label_style(label)
            panel.plot(*self._at(points), linewidth=1.1, **look.line)
            for wanted, face in ((True, look.colour), (False, "none")):
                shown = [p for p in points if is_at_floor(p, self.evidence.floor) is wanted]
                if shown:
                    panel.plot(*self._at(shown), "o", color=look.colour, markerfacecolor=face, markersize=3)
            best = self.evidence.best(place, label)
            x = None if best is None else value_of(best, self.metric)
            if best is not None and best.delta is not None and x is not None:
                edge: style.Look = {"markersize": 7, "markeredgecolor": style.INK, "markeredgewidth": 0.8}
                panel.plot(x, best.delta, "o", color=look.colour, **edge)
                style.mark_grid_end(panel, best, x, best.delta)

    def _at(self, points: Sequence[StoredPoint]) -> tuple[list[float], list[float]]:
        return [value_of(point, self.metric) or 0.0 for point in points], [point.delta or 0.0 for point in points]

    def caption(self) -> str:
        return f"{self.model}: delta against {self.metric} as the coefficient rises, from left to right.{self.rest}"

    def alt(self) -> str:
        words = []
        for place, lines in self.data.items():
            bests = self.evidence.bests(place, lines)
            tops = sorted(bests, key=lambda label: -self.evidence.gain(place, bests[label].delta))
            said = (
                f"{label} from {signed(lines[label][0].delta)} at {self.metric} {self._shown(lines[label][0])} to "
                f"its best {signed(bests[label].delta)} at {self._shown(bests[label])}"
                for label in tops
            )
            words.append(f"{place.position}: {listed(said, limit=3) or 'nothing at the floor'}")
        return (
            f"Delta against {self.metric} along the coefficient on {self.model}, floor {self.evidence.floor:g}. "
            f"{'. '.join(words)}."
        )

    def _shown(self, point: AnyPoint) -> str:
        return number(value_of(point, self.metric), ".0f" if self.metric == COHERENCE else ".3g")


def two_rows(methods: Sequence[str], floor: Floor) -> tuple[style.Drawing, Any]:
    """Panels of delta above panels of coherence, or of what else the floor is, a column per method."""
    figure, axes = style.method_grid(2, methods, 4.6, sharex=True, sharey="row")
    axes[0, 0].set_ylabel("delta (trait, points)")
    axes[1, 0].set_ylabel(floor.metric)
    for column, method in enumerate(methods):
        axes[0, column].set_title(style.broken(method))
        axes[0, column].axhline(0, color=style.QUIET, linewidth=0.8, zorder=1)
        if floor.is_coherence:
            axes[1, column].set_ylim(-4, 105)
        style.floor_line(axes[1, column], floor.limit, with_name=column == 0)
    return figure, axes


def draw_line(
    axes: Any, points: Sequence[AnyPoint], floor: Floor, *, look: style.Look, x_of: XValue, with_points: bool = True
) -> None:
    """A label's line in both panels; hollow below the floor, and a break where a score is missing."""
    xs = [x_of(point) for point in points]
    for panel, ys in zip(
        axes, ([point.delta for point in points], [floor.value_of(point) for point in points]), strict=True
    ):
        heights = [math.nan if y is None else y for y in ys]
        panel.plot(xs, heights, **look)
        for wanted, face in ((True, look["color"]), (False, "none")) if with_points else ():
            shown = [
                y if is_at_floor(point, floor) is wanted else math.nan for y, point in zip(heights, points, strict=True)
            ]
            panel.plot(xs, shown, "o", color=look["color"], markerfacecolor=face, markeredgewidth=1.0)


def best_words(best: Any, otherwise: str) -> str:
    """`best +93.1 at layer 2, coefficient 10`, or what is said where there is none."""
    if best is None or best.delta is None:
        return otherwise
    return f"best {signed(best.delta)} at layer {best.layer}, coefficient {best.coefficient:g}"


def end_words(best: Any) -> str:
    """Whether a better one may lie beyond the grid."""
    return ", its best at the end of the grid" if best is not None and best.at_grid_end else ""


def some_words(words: Sequence[str]) -> str:
    """The first of many words that stand for a figure: the tables have the others."""
    left = len(words) - _MOST_WORDS
    return "; ".join(words[:_MOST_WORDS]) + (f"; {left} more in the tables" if left > 0 else "")
