"""Massive dims: what the calibrations measured, how much of each vector lies in them, how alike the vectors are."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from massact.domain import RANDOM
from massact.query.groups import recipe_of
from massact.report import style
from massact.report.evidence import CosineMatrix, Energies, Evidence, Place, listed
from massact.report.section import MISSING, MOST_PANELS, Section, Table, key_places, rest_of
from massact.report.trade_off import some_words
from massact.vectors.massive_dims import UNIFORM_LAYERS, UNIFORM_TOP, Calibration
from massact.words import counted

_LEAST_ENERGY = 0.005  # energies below are not drawn: a line along zero says nothing
_MOST_MATRICES = 6
_SHADES = 16
_MOST_LAYERS = 4  # layers up to which a table gives each layer's energy
_NAMED_DIMS = 6  # so many massive dims have a colour of their own


def massive_section(evidence: Evidence) -> Section:
    facts, models = evidence.facts, [model.name for model in evidence.experiment.models]
    figures = (
        MassiveDims(facts.calibrations, models, planted=facts.toy),
        MassiveEnergy(evidence, MOST_PANELS),
        Cosines(evidence),
    )
    planted = ("These dims were planted when the toys were made, not discovered.",) if facts.toy else ()
    about_vectors = (_cosine_text(facts.label_cosines),) if facts.energies else ()
    tables = (
        *(_massive_table(model, facts.calibrations[model]) for model in models if model in facts.calibrations),
        *_energy_tables(evidence),
    )
    lines = tuple(_uniform_line(model, facts.calibrations.get(model)) for model in models)
    return Section("massive", "Massive dims", (*planted, *about_vectors), tables, lines, figures)


def _uniform(calibration: Calibration) -> str:
    return f"uniform list {', '.join(map(str, calibration.uniform_dims)) or 'none'}"


def _uniform_line(model: str, calibration: Calibration | None) -> str:
    if calibration is None:
        return f"{model}: not calibrated, or its calibration could not be read."
    sink = calibration.sink or ("none" if calibration.layers[0].first else "not measured")
    return (
        f"{model}: {_uniform(calibration)} (top {UNIFORM_TOP} at {UNIFORM_LAYERS} layers or more; "
        f"{calibration.n_prompts} prompts, {calibration.n_tokens} tokens). Massive at the first token alone: {sink}."
    )


def _massive_table(model: str, calibration: Calibration) -> Table:
    """Layer by layer the top dims and what they weigh, at every token and at the first."""
    rows = []
    for index, layer in enumerate(calibration.layers):
        top = list(zip(layer.top_dims, layer.ratio_to_median, strict=False))[:UNIFORM_TOP]
        dims = ", ".join(f"{dim} ({ratio:,.0f})" for dim, ratio in top)
        norms = (f"{layer.norm:,.1f}", f"{layer.norm_without_massive:,.1f}")
        sun = f"{layer.response.max_to_median:,.0f}" if layer.response else MISSING
        first = f"{layer.first.norm:,.1f}" if layer.first else MISSING
        sink = ", ".join(map(str, layer.sink_dims[:UNIFORM_TOP])) or MISSING
        rows.append((str(index), dims, sun, *norms, f"{layer.mean_alignment:.2f}", first, sink))
    dims = f"top {UNIFORM_TOP} dims (abs mean / median abs mean)"
    every = ("#max abs h / median abs h", "#norm", "#norm without", "#mean alignment")
    headers = ("#layer", dims, *every, "#norm of the first token", "dims massive at the first token alone")
    return Table.of(f"Massive dims of {model}", headers, rows)


@dataclass(frozen=True)
class MassiveDims:
    """How far the massive dims stand out at each layer, a panel per model."""

    calibrations: Mapping[str, Calibration]
    models: Sequence[str]
    planted: bool = False
    name = "massive-dims"

    @cached_property
    def data(self) -> dict[str, Calibration]:
        known = {model: self.calibrations[model] for model in self.models if model in self.calibrations}
        return {model: calibration for model, calibration in known.items() if calibration.layers}

    def draw(self) -> style.Drawing:
        figure, panels = style.panel_grid(list(self.data), 3.3, "|mean| / median |mean|")
        for axes, calibration in zip(panels, self.data.values(), strict=True):
            _draw_massive(axes, calibration)
            axes.set_xlabel("layer")
        return figure

    def caption(self) -> str:
        planted = " Planted in the toys, not discovered." if self.planted else ""
        return (
            "|mean| of the top dims over the median of all dims' |mean|, at response tokens, by layer; coloured are "
            f"those of the uniform list. Sun et al.'s ratio, max |h| over median |h|, is in the table.{planted}"
        )

    def alt(self) -> str:
        words = []
        for model, calibration in self.data.items():
            every = [
                (ratio, dim, layer)
                for layer, magnitudes in enumerate(calibration.layers)
                for dim, ratio in zip(magnitudes.top_dims, magnitudes.ratio_to_median, strict=False)
            ]
            if every:
                ratio, dim, layer = max(every)
                at = f"largest {ratio:,.0f} times, dim {dim} at layer {layer}"
                words.append(f"{model}: {at}; {_uniform(calibration)}")
        return f"Mean activation of the massive dims over the median of all dims, by layer. {some_words(words)}."


def _draw_massive(axes: style.Axes, calibration: Calibration) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ratios: dict[int, dict[int, float]] = defaultdict(dict)
    for index, layer in enumerate(calibration.layers):
        for dim, ratio in zip(layer.top_dims, layer.ratio_to_median, strict=False):
            if ratio > 0:  # a log axis has no place for less
                ratios[dim][index] = ratio
    uniform = calibration.uniform_dims
    rest = [point for dim, line in ratios.items() if dim not in uniform for point in line.items()]
    if rest:
        axes.plot(*zip(*rest, strict=True), ".", color=style.QUIET, markersize=4, alpha=0.7, label="other top dims")
    for rank, dim in enumerate(uniform):
        line = [ratios[dim].get(index, math.nan) for index in range(len(calibration.layers))]
        colour, name = (style.SERIES[rank], f"dim {dim}") if rank < _NAMED_DIMS else (style.QUIET, "_nolegend_")
        axes.plot(range(len(line)), line, marker="o", markersize=3.5, color=colour, label=name)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ratios:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def _energies(evidence: Evidence) -> Energies:
    energies = evidence.facts.energies
    places = dict.fromkeys([*evidence.places(), *sorted(energies)])
    return {place: energies[place] for place in places if place in energies}


def _with_energy(lines: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    return {
        label: layers
        for label, layers in lines.items()
        if recipe_of(label) is not None and max(layers.values()) >= _LEAST_ENERGY
    }


def _energy_tables(evidence: Evidence) -> list[Table]:
    """A table per model and trait: labels against positions."""
    energies, tables = _energies(evidence), []
    for model, trait in dict.fromkeys((place.model, place.trait) for place in energies):
        places = [place for place in energies if (place.model, place.trait) == (model, trait)]
        labels = {label for place in places for label in energies[place]}
        rows = [
            (label, *(_energy_text(energies[place].get(label, {})) for place in places))
            for label in sorted(labels, key=_by_method)
        ]
        name = f"{model}{evidence.of_trait(trait)}"
        caption = f"Share of each vector's energy in the massive dims, {name} (layer: share)"
        tables.append(Table.of(caption, ("label", *(place.position for place in places)), rows))
    return tables


def _energy_text(layers: Mapping[int, float]) -> str:
    if not layers:
        return MISSING
    if len(layers) <= _MOST_LAYERS:
        return ", ".join(f"{layer}: {_share(energy)}" for layer, energy in layers.items())
    return f"{_share(min(layers.values()))} to {_share(max(layers.values()))} at {len(layers)} layers"


def _share(energy: float) -> str:
    return "0" if energy < 0.0005 else f"{energy:.3f}" if energy < 0.1 else f"{energy:.2f}"


def _by_method(label: str) -> tuple[bool, str, Any]:
    return (style.method_of(label) == RANDOM, style.method_of(label), style.legend_order(label))


@dataclass(frozen=True)
class MassiveEnergy:
    """Share of each vector's energy in the massive dims by layer, a panel per place."""

    evidence: Evidence
    most: int | None = None
    name = "massive-energy"

    @cached_property
    def data(self) -> Energies:
        """Of the places that are drawn, without labels that have next to none."""
        energies = _energies(self.evidence)
        lines = {place: _with_energy(energies[place]) for place in key_places(self.evidence, energies, self.most)}
        return {place: some for place, some in lines.items() if some}

    def draw(self) -> style.Drawing:
        from matplotlib.ticker import MaxNLocator

        titles = [self.evidence.name(place) for place in self.data]
        figure, panels = style.panel_grid(titles, 2.5, "energy in massive dims")
        for panel, lines in zip(panels, self.data.values(), strict=True):
            for label in sorted(lines, key=style.legend_order):
                panel.plot(list(lines[label]), list(lines[label].values()), **_energy_look(label))
            panel.set_ylim(-0.02, 1.02)
            panel.set_xlabel("layer")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        labels = sorted({label for lines in self.data.values() for label in lines}, key=_by_method)
        style.legend_below(figure, [(label, _energy_look(label)) for label in labels], 5)
        return figure

    def caption(self) -> str:
        rest = rest_of(len(_energies(self.evidence)), self.most, "massive_energy")
        energy = "Share of each vector's energy in the massive dims, by layer"
        return f"{energy}. Labels with next to none are not drawn.{rest}"

    def alt(self) -> str:
        words = []
        for place, every in _energies(self.evidence).items():
            lines = _with_energy(every)
            tops = sorted(lines, key=lambda label: -max(lines[label].values()))
            said = listed((f"{label} {_share(max(lines[label].values()))}" for label in tops), limit=6)
            rest = len(every) - len(lines)
            nothing = f"; {counted(rest, 'label')} with none" if rest else ""
            words.append(f"{self.evidence.name(place)}: {said or 'none'}{nothing}")
        return f"Largest share of each vector's energy in the massive dims. {'. '.join(words)}."


def _energy_look(label: str) -> style.Look:
    """Methods have the colours here, the number of dims cleaned the markers."""
    order = style.legend_order(label)
    marker = "o" if order[0] == 0 else {1: "s", 2: "^", 3: "D", 5: "v", 10: "P"}.get(order[3], "X")
    return {
        "color": style.method_colour(style.method_of(label)),
        "linestyle": style.label_style(label).dashes,
        "marker": marker,
    }


@dataclass(frozen=True)
class Cosines:
    """Cosines between the labels' vectors, a panel per place."""

    evidence: Evidence
    name = "cosines"

    @cached_property
    def data(self) -> list[CosineMatrix]:
        return [matrix for matrix in self.evidence.facts.label_cosines if len(matrix.labels) > 1][:_MOST_MATRICES]

    def draw(self) -> style.Drawing:
        from matplotlib import colormaps

        shown, n_columns = self.data, min(2, len(self.data))
        sizes = [len(matrix.labels) for matrix in shown]
        heights = [0.55 + 0.25 * max(sizes[at : at + n_columns]) for at in range(0, len(shown), n_columns)]
        colours = colormaps["PuOr"].resampled(_SHADES)
        size = (style.WIDTH / 2 * n_columns, sum(heights))
        figure, axes = style.new_figure((len(heights), n_columns), size, height_ratios=heights)
        for panel, matrix in zip(style.filled(axes, len(shown)), shown, strict=True):
            _draw_matrix(panel, matrix, colours)
            panel.set_title(self._title(matrix))
        return figure

    def _title(self, matrix: CosineMatrix) -> str:
        place = Place(matrix.model, matrix.trait, matrix.position)
        return f"{self.evidence.name(place)}, layer {matrix.layer}"

    def caption(self) -> str:
        return "Cosines between the vectors of the labels, at the layer of each place's best."

    def alt(self) -> str:
        words = []
        for matrix in self.data:
            pairs = [
                (matrix.values[row][column], f"{matrix.labels[column]} and {matrix.labels[row]}")
                for row in range(len(matrix.labels))
                for column in range(row)
            ]
            (low, least), (high, most) = min(pairs), max(pairs)
            span = f"from {cosine_text(low)} ({least}) to {cosine_text(high)} ({most})"
            words.append(f"{self._title(matrix)}: {span}")
        return f"Cosines between the vectors of the labels. {'. '.join(words)}."


def _draw_matrix(panel: style.Axes, matrix: CosineMatrix, colours: Any) -> None:
    """The lower half, rows and columns numbered alike: labels beneath the columns would take more room than it."""
    from matplotlib.patches import Rectangle

    count = len(matrix.labels)
    for row in range(1, count):
        for column in range(row):
            value = matrix.values[row][column]
            colour, text = colours((value + 1) / 2), cosine_text(value)
            panel.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, linewidth=0))
            panel.text(column, row, text, ha="center", va="center", fontsize=7, color=style.ink_on(colour))
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
    if 0.995 <= abs(value) < 0.99995:
        return f"{int(value * 1000) / 1000:.3f}"
    text = f"{value:.2f}"
    return text.lstrip("-") if text.strip("-0.") == "" else text


def _cosine_text(matrices: Sequence[CosineMatrix]) -> str:
    """What a reader of the matrices must know."""
    if not matrices:
        return "Cosines between labels: no vectors could be read."
    left = len(matrices) - _MOST_MATRICES
    more = f" Drawn are the first {_MOST_MATRICES} places of {len(matrices)}." if left > 0 else ""
    return (
        "Cosines are those of the stored vectors at the layer of each place's best; 1.00 is one direction to the "
        f"digits shown.{more}"
    )
