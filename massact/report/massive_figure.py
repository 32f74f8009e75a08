"""How far massive dims stand out, as a figure."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from massact.report.figure_style import QUIET, SERIES, panel_grid, style
from massact.vectors.massive import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED_DIMS = 6
"""So many massive dims have a colour of their own."""


def massive_figure(calibrations: Mapping[str, Calibration], models: Sequence[str]) -> "Figure | None":
    """How far the massive dims stand out at each layer, a panel per model."""
    known = [(model, calibrations[model]) for model in models if model in calibrations]
    known = [(model, calibration) for model, calibration in known if calibration.layers]
    if not known:
        return None
    with style():
        figure, panels = panel_grid(len(known), 3.3)
        for axes, (model, calibration) in zip(panels, known, strict=False):
            _draw_massive(axes, calibration)
            axes.set_title(model)
            axes.set_xlabel("layer")
        panels[0].set_ylabel("mean activation / median of all dims")
    return figure


def _draw_massive(axes: "Axes", calibration: Calibration) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    uniform = calibration.uniform_dims
    ratios: dict[int, dict[int, float]] = {}
    for index, layer in enumerate(calibration.layers):
        for dim, ratio in zip(layer.top_dims, layer.ratio_to_median, strict=False):
            if ratio > 0:  # a log axis has no place for less
                ratios.setdefault(dim, {})[index] = ratio
    rest = [(i, r) for dim, line in ratios.items() if dim not in uniform for i, r in line.items()]
    if rest:
        axes.plot(*zip(*rest, strict=True), ".", color=QUIET, markersize=4, alpha=0.7, label="other top dims")
    for rank, dim in enumerate(uniform):
        line = [ratios.get(dim, {}).get(index, math.nan) for index in range(len(calibration.layers))]
        is_named = rank < _NAMED_DIMS
        colour = SERIES[rank] if is_named else QUIET
        name = f"dim {dim}" if is_named else "_nolegend_"
        axes.plot(range(len(line)), line, marker="o", markersize=3.5, color=colour, label=name)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ratios:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
