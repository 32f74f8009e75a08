"""A figure of the report as plotly's: the same panels, lines, bars and cells, which answer to the pointer."""

import math
from collections.abc import Iterator
from typing import Any

from massact.errors import UsageError

_MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
            "x": "x-thin", "*": "star", ">": "triangle-right", "<": "triangle-left", ".": "circle", "d": "diamond-tall",
            "X": "x", "|": "line-ns", "_": "line-ew"}  # fmt: skip
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
_PIXELS = 96.0
"""Of an inch."""
_POINTS = 4 / 3
"""Pixels of a point."""


def interactive(figure: Any) -> Any:
    """The same as a figure of plotly's. Raises UsageError: plotly is not installed."""
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise UsageError('engine="plotly" needs plotly: pip install "massact[explore]"') from error
    figure.draw_without_rendering()  # it settles where the panels lie
    made = go.Figure()
    width, height = (size * _PIXELS for size in figure.get_size_inches())
    look = {"paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest", "font_size": 12}
    made.update_layout(width=width, height=height, margin={"l": 0, "r": 0, "t": 0, "b": 0}, **look)
    entries = {
        _look(handle): str(handle.get_label()) for legend in _legends(figure) for handle in legend.legend_handles
    }
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    for number, axes in enumerate(panels, 1):
        _lay_out(made, axes, number)
        for trace in (*_cells(axes), *_lines(axes, entries), *_marks(axes)):
            made.add_trace({"xaxis": f"x{number}", "yaxis": f"y{number}", "showlegend": False, **trace})
    for colour, name in dict.fromkeys((handle_colour, name) for (handle_colour, *_), name in entries.items()):
        line = {"color": colour}
        made.add_trace({"type": "scatter", "x": [None], "y": [None], "name": name, "legendgroup": name, "line": line})
    made.update_layout(legend={"orientation": "h", "y": 0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"})
    return made


def _legends(figure: Any) -> list[Any]:
    return [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]


def _look(artist: Any) -> tuple[str, str, str]:
    """What a line and its entry in the legend share."""
    from matplotlib.colors import to_hex

    marker = artist.get_marker() if hasattr(artist, "get_marker") else ""
    return (
        (to_hex(artist.get_color()), str(artist.get_linestyle()), str(marker)) if marker is not None else ("", "", "")
    )


def _lay_out(made: Any, axes: Any, number: int) -> None:
    """A panel's place, its axes with their ticks and names, its title and its texts."""
    place = axes.get_position()
    for name, axis, domain in (("x", axes.xaxis, (place.x0, place.x1)), ("y", axes.yaxis, (place.y0, place.y1))):
        limits = axes.get_xlim() if name == "x" else axes.get_ylim()
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
        shown = [(float(at), tick.get_text()) for at, tick in ticks]
        made.update_layout(
            {
                f"{name}axis{number}": {
                    "domain": [min(max(end, 0.0), 1.0) for end in domain],
                    "anchor": f"{'y' if name == 'x' else 'x'}{number}",
                    "type": axis.get_scale(),
                    "range": [_axis(axis, limit) for limit in limits],
                    "tickvals": [at for at, _ in shown],
                    "ticktext": [text for _, text in shown],
                    "title": {"text": axis.get_label_text(), "standoff": 4},
                    "gridcolor": "#e5e5e5",
                    "zeroline": False,
                    "linecolor": "#1b1b1b",
                }
            }
        )
    if title := axes.get_title(loc="left") or axes.get_title():
        made.add_annotation(x=place.x0, y=place.y1, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
                            showarrow=False, text=f"<b>{_plain(title)}</b>")  # fmt: skip
    for text in axes.texts:
        if said := text.get_text():
            box = text.get_window_extent()
            x, y = _data(axes, [((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)])[0]
            at = {"xref": f"x{number}", "yref": f"y{number}", "x": _axis(axes.xaxis, x), "y": _axis(axes.yaxis, y)}
            size = {"size": text.get_fontsize() * _POINTS, "color": _hex(text.get_color())}
            made.add_annotation(**at, text=_plain(said), showarrow=False, font=size, textangle=-text.get_rotation())


def _axis(axis: Any, value: float) -> float:
    """A place as annotations have it: of a logarithmic axis its exponent."""
    return math.log10(value) if axis.get_scale() == "log" else value


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")


def _hex(colour: Any) -> str:
    from matplotlib.colors import to_hex

    return str(to_hex(colour))


def _data(axes: Any, points: Any) -> list[list[float]]:
    """Points on the drawing as the panel's own, whichever way they were given."""
    found: list[list[float]] = axes.transData.inverted().transform(points).tolist()
    return found


def _of(kind: type[Any], artists: Any) -> list[Any]:
    return [artist for artist in artists if isinstance(artist, kind)]


def _lines(axes: Any, entries: dict[tuple[str, str, str], str]) -> Iterator[dict[str, Any]]:
    """Lines and points; those of a label belong to its entry in the legend."""
    from matplotlib.collections import LineCollection

    for line in axes.lines:
        points = _data(axes, line.get_transform().transform(line.get_xydata()))
        marker, dash = _MARKERS.get(str(line.get_marker())), line.get_linestyle()
        mode = "+".join(["lines"] * (dash not in ("None", "", " ")) + ["markers"] * (marker is not None))
        own = str(line.get_label())
        name = entries.get(_look(line), "" if own.startswith("_") else own)
        is_filled = line.get_markerfacecolor() not in ("none", "None")
        face = _hex(line.get_markerfacecolor()) if is_filled else "white"
        edge = {"color": _hex(line.get_markeredgecolor()), "width": line.get_markeredgewidth()}
        if points and mode:
            yield {
                "type": "scatter", "x": [x for x, _ in points], "y": [y for _, y in points], "mode": mode, "name": name,
                "legendgroup": name, "line": {"color": _hex(line.get_color()), "width": line.get_linewidth() * _POINTS,
                "dash": _DASHES.get(str(dash), "dash")}, "opacity": line.get_alpha() or 1.0,
                "marker": {"symbol": marker, "size": line.get_markersize() * _POINTS, "color": face, "line": edge},
                "hovertemplate": f"{_plain(name)}<br>%{{x:.4g}}, %{{y:.4g}}<extra></extra>",
            }  # fmt: skip
    for collection in _of(LineCollection, axes.collections):  # the bars of intervals
        for segment in collection.get_segments():
            x, y = zip(*segment.tolist(), strict=True)
            look = {"color": _hex(collection.get_color()[0]), "width": collection.get_linewidth()[0] * _POINTS}
            yield {"type": "scatter", "x": x, "y": y, "mode": "lines", "line": look, "hoverinfo": "skip"}


def _marks(axes: Any) -> Iterator[dict[str, Any]]:
    """Points that are drawn one by one."""
    from matplotlib.collections import PathCollection

    for collection in _of(PathCollection, axes.collections):
        x, y = zip(*collection.get_offsets().tolist(), strict=True)
        marker = {"symbol": "triangle-right", "size": 6, "color": _hex(collection.get_facecolor()[0])}
        yield {"type": "scatter", "x": x, "y": y, "mode": "markers", "marker": marker, "hoverinfo": "skip"}


def _cells(axes: Any) -> Iterator[dict[str, Any]]:
    """Bars, cells of a map and frames: closed lines, told what they stand for in their middle."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    for collection in _of(PatchCollection, axes.collections):
        paths = [path.vertices for path in collection.get_paths()]
        for vertices, colour in zip(paths, collection.get_facecolor(), strict=True):
            yield _box(vertices[:5].tolist(), colour, {"width": 0})
        middles = [vertices[:4].mean(0).tolist() for vertices in paths]
        values = collection.values
        texts = ["no delta" if value is None else f"{value:+.1f}" for value in values]
        yield _told([x for x, _ in middles], [y for _, y in middles], texts)
    for patch in _of(Rectangle, axes.patches):
        box, is_filled = patch.get_bbox(), patch.get_fill()
        line = {"color": _hex(patch.get_edgecolor()), "width": 0 if is_filled else patch.get_linewidth() * _POINTS}
        colour = patch.get_facecolor()
        yield _box(_corners(box.x0, box.y0, box.x1, box.y1), colour if is_filled else None, line)
        if is_filled and (value := box.y1 if box.y0 == 0 else None) is not None:
            yield _told([(box.x0 + box.x1) / 2], [value], [f"{value:+.1f}"])


def _corners(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _box(points: list[list[float]], colour: Any, line: dict[str, Any]) -> dict[str, Any]:
    fill = {} if colour is None else {"fill": "toself", "fillcolor": _rgba(colour)}
    x, y = zip(*points, strict=True)
    return {"type": "scatter", "x": x, "y": y, "mode": "lines", "line": line, "hoverinfo": "skip", **fill}


def _rgba(colour: Any) -> str:
    red, green, blue, alpha = (float(part) for part in colour)
    return f"rgba({red * 255:.0f},{green * 255:.0f},{blue * 255:.0f},{alpha:.3g})"


def _told(x: list[float], y: list[float], texts: list[str]) -> dict[str, Any]:
    """Points that nobody sees and the pointer finds."""
    return {"type": "scatter", "x": x, "y": y, "mode": "markers", "marker": {"size": 14, "opacity": 0}, "text": texts,
            "hovertemplate": "%{text}<extra></extra>"}  # fmt: skip
