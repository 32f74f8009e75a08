"""Published versions as a figure: a dot per source and label."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from massact.report.contents import Evidence
from massact.report.figure_style import INK, MARKERS, QUIET, SERIES, WIDTH, legend_below, style
from massact.report.published_places import PrintedPlace, printed_places
from massact.report.published_section import told
from massact.schema import PublishedRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 8


def published_figure(evidence: Evidence, published: Sequence[PublishedRow]) -> "Figure | None":
    """A dot per source, a line per label, a panel per place that several sources print."""
    places = _drawn_places(evidence, published)
    if not places:
        return None
    sources = sorted({source for place in places for source in place.sources})
    n_columns = min(2, len(places))
    n_rows = math.ceil(len(places) / n_columns)
    tallest = [
        max(len(place.labels) for place in places[row * n_columns : (row + 1) * n_columns])
        for row in range(n_rows)
    ]
    with style():
        from matplotlib.figure import Figure

        heights = [0.75 + 0.26 * count for count in tallest]
        width = WIDTH if n_columns > 1 else WIDTH * 0.7
        figure = Figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
        axes = figure.subplots(
            n_rows, n_columns, squeeze=False, gridspec_kw={"height_ratios": heights}, sharex=True
        )
        flat = list(axes.flat)
        for panel, place in zip(flat, places, strict=False):
            _draw(panel, place, sources)
        for panel in flat[max(0, len(places) - n_columns) : len(places)]:
            panel.set_xlabel("delta (trait, points)")
            panel.tick_params(labelbottom=True)
        for empty in flat[len(places) :]:
            empty.set_axis_off()
        has_ours = any(one.ours for place in places for one in place.labels)
        legend_below(figure, _handles(sources, has_ours=has_ours), len(sources) + 2)
    return figure


def _drawn_places(evidence: Evidence, published: Sequence[PublishedRow]) -> list[PrintedPlace]:
    """Those with several sources; the ones with the most labels first, so that panels of a row are alike."""
    several = [one for one in printed_places(evidence, published) if one.has_several]
    return sorted(several, key=lambda one: -len(one.labels))[:MOST_PANELS]


def _draw(panel: "Axes", place: PrintedPlace, sources: Sequence[str]) -> None:
    for y, one in enumerate(place.labels):
        bests = [rows[0].delta for rows in one.by_source.values() if rows[0].delta is not None]
        if len(bests) > 1:
            panel.plot([min(bests), max(bests)], [y, y], color=QUIET, linewidth=1.4, zorder=1)
        for source, rows in one.by_source.items():
            look = _look(sources.index(source))
            for index, row in enumerate(rows):
                # a source's further figures for the label are hollow: they were not its best
                face = "none" if index else look["color"]
                panel.plot(row.delta or 0.0, y, markerfacecolor=face, zorder=3, **look)
        if one.ours is not None and one.ours.delta is not None:
            panel.plot(one.ours.delta, y, marker="*", markersize=8, color=INK, linestyle="", zorder=4)
    panel.axvline(0, color=INK, linewidth=0.8, zorder=1)
    panel.set_yticks(range(len(place.labels)), [one.label for one in place.labels])
    panel.set_ylim(len(place.labels) - 0.4, -0.6)
    panel.set_title(f"{place.model.rpartition('/')[2]}, {place.trait}, {place.position}")


def _look(index: int) -> dict[str, Any]:
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKERS[index % len(MARKERS)],
        # what lies beneath another shows around it
        "markersize": max(4.0, 7.5 - 1.5 * index),
        "linestyle": "",
    }


def _handles(sources: Sequence[str], *, has_ours: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=source, **_look(index)) for index, source in enumerate(sources)]
    if has_ours:
        handles.append(Line2D([], [], label="ours", marker="*", markersize=8, color=INK, linestyle=""))
    hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "color": QUIET, "linestyle": ""}
    return [*handles, Line2D([], [], label="printed too, not the best", **hollow)]


def published_alt(evidence: Evidence, published: Sequence[PublishedRow]) -> str:
    """The figure in words."""
    places = _drawn_places(evidence, published)
    words = []
    for place in places:
        apart = [one for one in place.labels if one.spread is not None]
        apart.sort(key=lambda one: -(one.spread or 0.0))
        said = [f"{one.label}: {told(place, one)}" for one in apart]
        words.append(f"{place.name}: {'; '.join(said[:4]) or 'no label in common'}")
    return f"Published deltas, a dot per source. {'. '.join(words)}."
