"""Vectors against massive dims: how much of each lies in them, and how alike the vectors of the labels are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from massact.query.groups import recipe_of
from massact.report.evidence import CosineMatrix, Evidence, Place, VectorFact, counted, listed
from massact.report.figure_style import (
    WIDTH,
    ink_on,
    label_style,
    legend_below,
    legend_order,
    method_colour,
    method_of,
    new_figure,
    panel_grid,
    style,
)
from massact.report.limits import key_places
from massact.report.result_tables import RANDOM
from massact.report.table import MISSING, Table, cells, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
import math
from typing import TYPE_CHECKING

from massact.report.figure_style import QUIET, SERIES
from massact.vectors.massive_dims import Calibration

LEAST_ENERGY = 0.005
"""Energies below are not drawn: a line along zero says nothing."""
MOST_MATRICES = 6
_COLOURS = "PuOr"
_SHADES = 16
_LEVELS = 4
"""Layers up to which a table gives each layer's energy."""

Energies = Mapping[Place, Mapping[str, Mapping[int, float]]]
"""Energy by place, label and layer."""


def energies(facts: Sequence[VectorFact]) -> Energies:
    """The facts by place, label and layer."""
    found: dict[Place, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for fact in facts:
        found[Place(fact.model, fact.trait, fact.position)][fact.label][fact.layer] = fact.massive_energy
    return {
        place: {label: dict(sorted(layers.items())) for label, layers in by_label.items()}
        for place, by_label in sorted(found.items())
    }


def energy_tables(evidence: Evidence, facts: Sequence[VectorFact]) -> tuple[Table, ...]:
    """Energy in the massive dims, a table per model and trait: labels against positions."""
    by_place = energies(facts)
    pairs = dict.fromkeys((place.model, place.trait) for place in _ordered(evidence, by_place))
    found = []
    for model, trait in pairs:
        places = [one for one in _ordered(evidence, by_place) if (one.model, one.trait) == (model, trait)]
        labels = sorted(
            {label for place in places for label in _with_energy(by_place[place])}, key=_by_method
        )
        rows = [
            cells(label, *(_energy_text(by_place[place].get(label, {})) for place in places))
            for label in labels
        ]
        of_trait = f", {trait}" if len(evidence.experiment.traits) > 1 else ""
        found.append(
            Table(
                f"Share of each vector's energy in the massive dims, {model}{of_trait} (layer: share)",
                columns("label", *(place.position for place in places)),
                tuple(rows),
            )
        )
    return tuple(found)


def energy_lines(facts: Sequence[VectorFact]) -> tuple[str, ...]:
    """Which labels the table and the figure leave out."""
    by_place = energies(facts)
    nothing = {label for lines in by_place.values() for label in lines}
    nothing -= {label for lines in by_place.values() for label in _with_energy(lines)}
    if not nothing:
        return ()
    return (
        f"Vectors with less than {LEAST_ENERGY:.1%} of their energy in the massive dims are left out: "
        f"{listed(sorted(nothing, key=_by_method), limit=12)}.",
    )


def _energy_text(layers: Mapping[int, float]) -> str:
    if not layers:
        return MISSING
    if len(layers) <= _LEVELS:
        return ", ".join(f"{layer}: {_share(energy)}" for layer, energy in layers.items())
    return f"{_share(min(layers.values()))} to {_share(max(layers.values()))} at {len(layers)} layers"


def _share(energy: float) -> str:
    return "0" if energy < 0.0005 else f"{energy:.3f}" if energy < 0.1 else f"{energy:.2f}"


def drawn_energies(evidence: Evidence, facts: Sequence[VectorFact], most: int | None = None) -> list[Place]:
    """At most so many of the places whose energies are known."""
    return key_places(evidence, _ordered(evidence, energies(facts)), most)


def energy_figure(
    evidence: Evidence, facts: Sequence[VectorFact], most: int | None = None
) -> "Figure | None":
    """Energy in the massive dims by layer, a panel per place."""
    by_place = energies(facts)
    lines_of = {place: _with_energy(by_place[place]) for place in drawn_energies(evidence, facts, most)}
    shown = {place: lines for place, lines in lines_of.items() if lines}
    if not shown:
        return None
    drawn: set[str] = set()
    with style():
        from matplotlib.ticker import MaxNLocator

        figure, panels = panel_grid(len(shown), 2.5)
        for index, (panel, (place, lines)) in enumerate(zip(panels, shown.items(), strict=False)):
            for label in sorted(lines, key=legend_order):
                layers = lines[label]
                panel.plot(list(layers), list(layers.values()), **_look(label))
                drawn.add(label)
            panel.set_ylim(-0.02, 1.02)
            panel.set_title(evidence.name(place))
            panel.set_xlabel("layer")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            if index % 3 == 0:
                panel.set_ylabel("energy in massive dims")
        handles = [_handle(label) for label in sorted(drawn, key=_by_method)]
        legend_below(figure, handles, 5)
    return figure


def _look(label: str) -> dict[str, Any]:
    look = label_style(label)
    return {"color": method_colour(method_of(label)), "linestyle": look.dashes, "marker": _marker(label)}


def _marker(label: str) -> str:
    """By the number of dims cleaned: methods have the colours here."""
    order = legend_order(label)
    return "o" if order[0] == 0 else {1: "s", 2: "^", 3: "D", 5: "v", 10: "P"}.get(order[3], "X")


def _handle(label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **_look(label))


def _with_energy(lines: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    return {
        label: layers
        for label, layers in lines.items()
        if recipe_of(label) is not None and max(layers.values()) >= LEAST_ENERGY
    }


def energy_alt(evidence: Evidence, facts: Sequence[VectorFact]) -> str:
    """The figure in words."""
    by_place = energies(facts)
    words = []
    for place in _ordered(evidence, by_place):
        lines = _with_energy(by_place[place])
        tops = sorted(lines, key=lambda label: -max(lines[label].values()))
        said = [f"{label} {_share(max(lines[label].values()))}" for label in tops]
        rest = len(by_place[place]) - len(lines)
        nothing = f"; {counted(rest, 'label')} with none" if rest else ""
        words.append(f"{evidence.name(place)}: {listed(said, limit=6) or 'none'}{nothing}")
    return f"Largest share of each vector's energy in the massive dims. {'. '.join(words)}."


def cosine_figure(evidence: Evidence, matrices: Sequence[CosineMatrix]) -> "Figure | None":
    """Cosines between the labels' vectors, a panel per place."""
    shown = [matrix for matrix in matrices if len(matrix.labels) > 1][:MOST_MATRICES]
    if not shown:
        return None
    n_columns = min(2, len(shown))
    rows = [shown[start : start + n_columns] for start in range(0, len(shown), n_columns)]
    heights = [0.55 + 0.25 * max(len(matrix.labels) for matrix in row) for row in rows]
    with style():
        from matplotlib import colormaps

        colours = colormaps[_COLOURS].resampled(_SHADES)
        size = (WIDTH / 2 * n_columns, sum(heights))
        figure, axes = new_figure((len(rows), n_columns), size, height_ratios=heights)
        flat = list(axes.flat)
        for panel, matrix in zip(flat, shown, strict=False):
            _draw_matrix(panel, matrix, colours)
            name = evidence.name(Place(matrix.model, matrix.trait, matrix.position))
            panel.set_title(f"{name}, layer {matrix.layer}")
        for empty in flat[len(shown) :]:
            empty.set_axis_off()
    return figure


def _draw_matrix(panel: "Axes", matrix: CosineMatrix, colours: Any) -> None:
    """The lower half, rows and columns numbered alike: labels beneath the columns would take more room than it."""
    from matplotlib.patches import Rectangle

    count = len(matrix.labels)
    for row in range(1, count):
        for column in range(row):
            value = matrix.values[row][column]
            colour = colours((value + 1) / 2)
            panel.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, linewidth=0))
            panel.text(
                column, row, cosine_text(value), ha="center", va="center", fontsize=7, color=ink_on(colour)
            )
    panel.set_xlim(-0.5, count - 1.5)
    panel.set_ylim(count - 0.5, -0.5)
    panel.set_xticks(range(count - 1), [str(index + 1) for index in range(count - 1)])
    panel.set_yticks(range(count), [f"{label}  {index + 1}" for index, label in enumerate(matrix.labels)])
    panel.grid(visible=False)
    panel.tick_params(length=0)
    for side in ("left", "bottom"):
        panel.spines[side].set_visible(False)


def cosine_text(value: float) -> str:
    """Two digits; nothing that is not 1 prints as 1, and nothing that is not 0 as -0."""
    if abs(value) >= 0.995 and abs(value) < 0.99995:
        return f"{int(value * 1000) / 1000:.3f}"
    text = f"{value:.2f}"
    return text.lstrip("-") if text.strip("-0.") == "" else text


def cosine_alt(evidence: Evidence, matrices: Sequence[CosineMatrix]) -> str:
    """The matrices in words."""
    words = []
    for matrix in matrices[:MOST_MATRICES]:
        name = evidence.name(Place(matrix.model, matrix.trait, matrix.position))
        pairs = [
            (matrix.values[row][column], f"{matrix.labels[column]} and {matrix.labels[row]}")
            for row in range(len(matrix.labels))
            for column in range(row)
        ]
        if pairs:
            (low, least), (high, most) = min(pairs), max(pairs)
            words.append(
                f"{name}, layer {matrix.layer}: from {cosine_text(low)} ({least}) to {cosine_text(high)} ({most})"
            )
    return f"Cosines between the vectors of the labels. {'. '.join(words)}."


def cosine_text_lines(matrices: Sequence[CosineMatrix]) -> tuple[str, ...]:
    """What a reader of the matrices must know."""
    if not matrices:
        return ("Cosines between labels: no vectors could be read.",)
    left = len(matrices) - MOST_MATRICES
    more = f" Drawn are the first {MOST_MATRICES} places of {len(matrices)}." if left > 0 else ""
    return (
        "Cosines are those of the stored vectors at the layer of each place's best; 1.00 is one direction to the "
        f"digits shown.{more}",
    )


def _ordered(evidence: Evidence, by_place: Energies) -> list[Place]:
    order = [place for place in evidence.places() if place in by_place]
    return [*order, *(place for place in by_place if place not in order)]


def _by_method(label: str) -> tuple[bool, str, Any]:
    return (method_of(label) == RANDOM, method_of(label), legend_order(label))


# How far massive dims stand out, as a figure.

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
