"""One style for all figures: colours that colour-blind readers tell apart, and how a label looks.

Colours are those of Okabe and Ito, "Color Universal Design" (2008). Matplotlib is imported within
functions: the tables need none of it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any, TypeAlias

from massact.domain import IMPORTED, RANDOM, all_methods
from massact.floors import COHERENCE
from massact.labels import format_steering, parse_label
from massact.query import Point
from massact.query.groups import recipe_of

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Axes: TypeAlias = "matplotlib.axes.Axes"
Drawing: TypeAlias = "matplotlib.figure.Figure"
INK = "#1b1b1b"
"""Text, axes and what is uncleaned; a page may replace it by the colour of its own text."""
QUIET = "#8a8a8a"
"""Grid and helping lines, legible on white and on black."""
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE = "#56B4E9", "#CC79A7"
SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 9.0  # inches; the report shows a figure about as wide as it was drawn
_PER_ROW = 3
Look = dict[str, Any]  # matplotlib's options of a line
FLOOR_DASHES: Look = {"color": INK, "linestyle": (0, (2, 2)), "linewidth": 0.9, "zorder": 1}
_DIMS_COLOURS: dict[int | str, str] = {0: INK, 1: ORANGE, 2: SKY, 3: GREEN, 5: PURPLE, 10: QUIET, "all": BLUE}
_METHOD_COLOURS = {"mean_diff": BLUE, "probe": VERMILLION, "gradient": GREEN, "random_baseline": QUIET} | {
    "pca": ORANGE,
    "lat": PURPLE,
    "mean_centred": SKY,
}
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": QUIET,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    # a model's name is text, whatever dollars it holds
    "text.parse_math": False,
    "svg.fonttype": "none",
    # the same figure gives the same bytes
    "svg.hashsalt": "massact",
}


CLEANING_LOOKS: dict[tuple[str, str | None], tuple[str, str]] = {
    ("after", "uniform"): ("-", "s"),
    ("after", "layer"): (":", "D"),
    ("before", "uniform"): ("--", "^"),
    ("before", "layer"): ("-.", "v"),
}
"""Dashes and markers by when dims are cleaned, and of which list."""


@dataclass(frozen=True, slots=True)
class LabelStyle:
    """How a label's line looks: the colour says how many dims, the dashes when and of which list."""

    colour: str
    dashes: str
    marker: str
    name: str  # what the legend says, without the method

    @property
    def line(self) -> Look:
        return {"color": self.colour, "linestyle": self.dashes}


def label_style(label: str) -> LabelStyle:
    cleaning = parse_label(label).cleaning
    colour = _DIMS_COLOURS.get(cleaning.n_dims, QUIET)
    if (cleaning.when, cleaning.n_dims) == ("before", "all"):
        # dashes alone do not show where before and after lie on each other, as mean_diff's must
        colour = VERMILLION
    if cleaning.when == "none":
        return LabelStyle(colour, "-", "o", "uncleaned")
    if cleaning.quantile is not None:
        return LabelStyle(QUIET, "-", "P", f"winsorised at {cleaning.quantile:g}")
    name = ("all" if cleaning.n_dims == "all" else f"top {cleaning.n_dims}") + (" kept" if cleaning.mode else "")
    dashes, marker = CLEANING_LOOKS[cleaning.when, cleaning.scope]
    own = ", own dims" if cleaning.scope == "layer" else ""
    return LabelStyle(colour, dashes, "*" if cleaning.mode else marker, f"{name} {cleaning.when}{own}")


def method_of(label: str) -> str:
    """The method of a label, and how it steers; one that this version does not know stands for itself."""
    recipe = recipe_of(label)
    return recipe.method + format_steering(recipe) if recipe else label


def broken(label: str) -> str:
    """A label as a title: how it steers stands in lines of its own, which fit over a narrow panel."""
    return re.sub(r"(?=[+@])", "\n", label)


def legend_order(label: str) -> tuple[int, bool, bool, int]:
    """Labels in the order of a legend: uncleaned, then after and before, by the number of dims."""
    recipe = recipe_of(label)
    if recipe is None:
        return (0, False, False, 0)
    n_dims = recipe.cleaning.n_dims
    rank = {"none": 0, "after": 1, "before": 2}[recipe.cleaning.when]
    return (rank, recipe.cleaning.scope == "layer", n_dims == "all", n_dims if isinstance(n_dims, int) else 0)


def method_colour(method: str) -> str:
    return _METHOD_COLOURS.get(method, QUIET)


def methods_of(labels: Iterable[str], *, with_random: bool = False) -> list[str]:
    """The methods of some labels in the plan's order: probe beside mean_diff, the random direction last."""
    present = {method_of(label): recipe.method for label in labels if (recipe := recipe_of(label))}
    known = (*all_methods(), *sorted(method for method in present.values() if method.startswith(IMPORTED)))
    order = sorted(present, key=lambda name: (known.index(present[name]), name))
    return [name for name in order if with_random or present[name] != RANDOM]


def ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever reads better on a colour (red, green and blue, 0 to 1)."""
    return "#000000" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5 else "#ffffff"


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings for drawing and saving; the caller's own come back afterwards."""
    import matplotlib as mpl

    wanted: dict[Any, Any] = {**dict(dict.items(mpl.rcParamsDefault)), "backend": "agg"} | _STYLE
    known: dict[Any, Any] = dict(dict.items(mpl.rcParams))
    # each setting is checked when it is set, which for all of them takes as long as a small figure
    settings: Any = {name: value for name, value in wanted.items() if known.get(name) != value}
    with mpl.rc_context(settings):
        yield


def new_figure(shape: tuple[int, int], size: tuple[float, float], **options: Any) -> tuple[Drawing, Any]:
    """A figure of its own (nothing is registered with pyplot) and its axes as a 2-D array."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(*shape, squeeze=False, **options)


def method_grid(n_rows: int, methods: Sequence[str], height: float, **options: Any) -> tuple[Drawing, Any]:
    """A row of panels for each thing that is compared, a column for each method."""
    return new_figure((n_rows, len(methods)), (width_of(len(methods)), height), **{"sharey": True, **options})


def width_of(n_columns: int) -> float:
    """Of a figure, inches."""
    return WIDTH if n_columns > 1 else WIDTH * 0.62


def filled(axes: Any, count: int) -> list[Any]:
    """The first panels of a grid; the rest of its last row is empty."""
    flat = list(axes.flat)
    for empty in flat[count:]:
        empty.set_axis_off()
    return flat[:count]


def panel_grid(titles: Sequence[str], height: float, ylabel: str) -> tuple[Drawing, list[Any]]:
    """Panels with one y axis in rows of three; the rest of the last row is empty."""
    n_columns = min(len(titles), _PER_ROW)
    n_rows = math.ceil(len(titles) / n_columns)
    figure, axes = new_figure((n_rows, n_columns), (width_of(n_columns), height * n_rows + 0.4), sharey=True)
    panels = filled(axes, len(titles))
    for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        panel.set_title(title)
        if index % n_columns == 0:
            panel.set_ylabel(ylabel)
    return figure, panels


# By the canvases: `savefig` draws all of it once more, for layouts that only a drawing tells.


def save_png(figure: Drawing) -> bytes:
    """The figure as PNG on white, dense enough to print."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    data = BytesIO()
    with styled():
        figure.set(dpi=130, facecolor="white")
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(data, pil_kwargs={"compress_level": 4})
    return data.getvalue()


def save_svg(figure: Drawing) -> str:
    """The figure as SVG with a transparent ground and its text as text."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    data = StringIO()
    with styled():
        figure.set(dpi=72)
        for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
            patch.set_alpha(0.0)
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(data, metadata={"Date": None, "Creator": None})
    return data.getvalue()


def on_white(svg: str) -> str:
    """An SVG that stands by itself, whatever the ground of what shows it."""
    return re.sub(r"<svg[^>]*>", r'\g<0><rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)


def log_coefficients(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis, shared by all panels, with a few round ticks however narrow its range."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high * 1.0001]
    if len(ticks) < 3:
        every = sorted(set(values))
        ticks = every[:: max(1, math.ceil(len(every) / 4))]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def floor_axis(axes: Axes, metric: str, values: Sequence[float]) -> None:
    """The x axis of coherence or a metric, so that it is read from the left, as the coefficient rises."""
    if metric == COHERENCE:
        axes.set_xlim(102, -2)
    elif metric.startswith("distinct"):
        axes.invert_xaxis()
    elif values:
        axes.set_xlim(0, 1.05 * (max(values) or 1.0))


def floor_line(axes: Axes, floor: float, *, is_upright: bool = False, with_name: bool = True) -> None:
    """Dashes at the floor, across the panel or upright where the x axis is what the floor is of."""
    (axes.axvline if is_upright else axes.axhline)(floor, **FLOOR_DASHES)
    if with_name:
        at, units, shift = (0.01, floor), ("axes fraction", "data"), (0, -3)
        if is_upright:
            at, units, shift = (floor, 0.1), ("data", "axes fraction"), (3, 0)
        axes.annotate(f"floor {floor:g}", at, xycoords=units, xytext=shift, textcoords="offset points", va="top",
                      color=INK, fontsize=8)  # fmt: skip


def legend_below(figure: Drawing, entries: Iterable[tuple[str, Look]], n_columns: int) -> None:
    """One legend for all panels, under them: names with how their lines look."""
    from matplotlib.lines import Line2D

    handles: list[Any] = [Line2D([], [], label=name, **look) for name, look in entries]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(n_columns, len(handles))))


def label_entries(labels: Iterable[str], *, with_marker: bool = False) -> list[tuple[str, Look]]:
    """Entries of a legend for some labels; those that look alike, of several methods, have one."""
    looks = dict.fromkeys(label_style(label) for label in sorted(labels, key=legend_order))
    return [(look.name, look.line | ({"marker": look.marker} if with_marker else {})) for look in looks]


def mark_grid_end(axes: Axes, best: Point, x: float, y: float) -> None:
    """Draw a small arrowhead over a best that lies at the end of its grid: a better one may lie beyond it."""
    if best.at_grid_end:
        axes.scatter([x], [y], marker=">", s=12, color=INK, linewidths=0, zorder=6, gid="end of grid")


def draw_interval(
    axes: Axes, best: Point, interval: tuple[float, float] | None, x: float, colour: str, **look: Any
) -> None:
    """The 95 % interval of a best as a bar, where one is known, and whether its grid ends there."""
    height = best.delta or 0.0
    mark_grid_end(axes, best, x, height)
    if interval is not None:
        reach = [[max(0.0, height - interval[0])], [max(0.0, interval[1] - height)]]
        look = {"elinewidth": 1.0, "capsize": 2.5} | look
        axes.errorbar(x, height, yerr=reach, fmt="none", ecolor=colour, **look)
