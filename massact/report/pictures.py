"""The report's figures with their captions and the words that stand for them."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from massact.query.groups import is_below_floor
from massact.report.coefficient_tables import effective_bests, spreads
from massact.report.comparisons import (
    bars,
    before_after_figure,
    cleaning_curves,
    comparisons,
    curve_figure,
    drawn_curves,
    drawn_pairs,
)
from massact.report.evidence import Evidence, Place, ReportInput, counted, place_of
from massact.report.figure_style import fixed, legend_order, method_of, save_png, save_svg
from massact.report.heat_maps import heat_alt, heat_figure, heat_places, key_labels
from massact.report.limits import MOST_PAIRS, MOST_PANELS, MOST_ROWS, MOST_TRADEOFFS, key_places, left_out
from massact.report.phase_notes import safe_name
from massact.report.positions import interval_text, window_alt, window_figure, windows
from massact.report.published import published_alt, published_figure
from massact.report.table import number, signed
from massact.report.trade_off import (
    coherence_alt,
    coherence_figure,
    drawn_layers,
    label_lines,
    strength_figure,
    tradeoff_figure,
    tradeoff_pairs,
)
from massact.report.vectors import (
    cosine_alt,
    cosine_figure,
    drawn_energies,
    energy_alt,
    energy_figure,
    massive_figure,
)
from massact.vectors.massive_dims import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# The figures of results in words, with their numbers: for those who cannot see them.

_MOST_LABELS = 8


def tradeoff_alt(evidence: Evidence, place: Place) -> str:
    """Per label its best, and from which coefficient on it lies below the floor."""
    stratum = evidence.strata.get(place)
    lines = label_lines(stratum, evidence.floor) if stratum else {}
    words = []
    for label in sorted(lines, key=lambda one: (method_of(one), legend_order(one))):
        points = lines[label]
        best = evidence.best(place, label)
        said = (
            "no result at the floor"
            if best is None or best.delta is None
            else f"best {signed(best.delta)} at layer {best.layer}, coefficient {best.coefficient:g}"
        )
        sizes = [abs(point.coefficient) for point in points if is_below_floor(point, evidence.floor)]
        last = max((abs(p.coefficient) for p in points if not is_below_floor(p, evidence.floor)), default=0.0)
        beyond = [size for size in sizes if size > last]
        cliff = f", below the floor from {min(beyond):g} on" if beyond else ""
        end = ", its best at the end of the grid" if best is not None and best.at_grid_end else ""
        words.append(f"{label}: {said}{cliff}{end}")
    return (
        f"Delta and coherence against the coefficient on {evidence.name(place)}, floor {evidence.floor:g}. "
        f"{_some(words)}."
    )


def strength_alt(evidence: Evidence) -> str:
    """Per model where its bests lie on the axis of relative strength."""
    rows = sorted(effective_bests(evidence), key=lambda row: row.model)
    words = []
    for model, some in groupby(rows, key=lambda row: row.model):
        strengths = [abs(row.relative_strength) for row in some if row.relative_strength]
        if strengths:
            words.append(
                f"{model}: {counted(len(strengths), 'best')} between {min(strengths):.2f} and {max(strengths):.2f}, "
                f"median {statistics.median(strengths):.2f}"
            )
    return (
        f"Delta and coherence against relative strength, all models on one axis. "
        f"{_some(words) if words else 'No best with an effect'}."
    )


def curve_alt(evidence: Evidence) -> str:
    """Per place and method the best delta at each number of cleaned dims."""
    words = []
    for curve in cleaning_curves(evidence):
        for kind, rows in curve.lines.items():
            by_step = {row.n_dims: row for row in rows}
            said = []
            for step in curve.steps:
                row = by_step.get(step)
                if row is None:
                    continue
                best = row.best
                if best is None or best.delta is None:
                    said.append(f"{step} no result")
                else:
                    said.append(
                        f"{step} {signed(best.delta)}{interval_text(evidence.belief(curve.place, row.label))}"
                    )
            words.append(f"{evidence.name(curve.place)}, {kind.name}: {', '.join(said)}")
    return f"Best delta by the number of cleaned massive dims, with 95 % intervals. {_some(words)}."


def before_after_alt(evidence: Evidence) -> str:
    """Per pair the three bests."""
    words = []
    for row in comparisons(evidence):
        place = place_of(row)
        said = []
        for label, best in bars(evidence, row):
            if best is None or best.delta is None:
                said.append(f"{label} no result")
                continue
            interval = interval_text(evidence.belief(place, label))
            said.append(
                f"{label} {signed(best.delta)}{interval} at coherence {number(best.coherence_mean, '.0f')}"
            )
        words.append(f"{evidence.name(place)}: {', '.join(said)}")
    return f"Best delta uncleaned, cleaned after and cleaned before extraction. {_some(words)}."


def massive_alt(calibrations: Mapping[str, Calibration], models: Sequence[str]) -> str:
    """Per model the dim that stands out most, and where."""
    words = []
    for model in models:
        calibration = calibrations.get(model)
        if calibration is None:
            continue
        every = [
            (ratio, dim, layer)
            for layer, magnitudes in enumerate(calibration.layers)
            for dim, ratio in zip(magnitudes.top_dims, magnitudes.ratio_to_median, strict=False)
        ]
        if every:
            ratio, dim, layer = max(every)
            uniform = ", ".join(map(str, calibration.uniform_dims)) or "none"
            words.append(
                f"{model}: largest {ratio:,.0f} times, dim {dim} at layer {layer}; uniform list {uniform}"
            )
    return f"Mean activation of the massive dims over the median of all dims, by layer. {_some(words)}."


def _some(words: Sequence[str]) -> str:
    shown, left = list(words)[:_MOST_LABELS], len(words) - _MOST_LABELS
    more = f"; {left} more in the tables" if left > 0 else ""
    return f"{'; '.join(shown)}{more}"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure, drawn."""

    section: str
    """`Section.key` of the section it belongs to."""
    name: str
    caption: str
    alt: str
    """What it shows in words and numbers, for those who cannot see it."""
    png: bytes
    svg: str

    @property
    def path(self) -> str:
        """Where the PNG lies, relative to the Markdown report."""
        return f"figures/{self.name}.png"


def report_pictures(given: ReportInput, evidence: Evidence) -> tuple[Picture, ...]:
    """Every figure that has something to show, in the report's order."""
    pictures: list[Picture] = []
    for one in _pictures(given, evidence):
        pictures.append(replace(one, name=safe_name(one.name, (other.name for other in pictures))))
    return tuple(pictures)


def _pictures(given: ReportInput, evidence: Evidence) -> Iterator[Picture]:
    yield from _tradeoffs(evidence)
    for place in heat_places(evidence):
        yield from _heat_maps(evidence, place)
    yield from _drawn(
        "positions",
        "positions",
        lambda: window_figure(evidence, MOST_ROWS),
        caption="Best delta at or above the floor by position window, with 95 % intervals."
        + _first_of(len(windows(evidence)), MOST_ROWS, "positions"),
        alt=lambda: window_alt(evidence),
    )
    yield from _drawn(
        "before-after",
        "before-after",
        lambda: before_after_figure(evidence, MOST_PANELS),
        caption="Best delta and its coherence (@), uncleaned, cleaned after and cleaned before extraction; bars are "
        "95 % intervals." + _rest(len(drawn_pairs(evidence)), MOST_PANELS, "before_after"),
        alt=lambda: before_after_alt(evidence),
    )
    yield from _drawn(
        "curve",
        "cleaning-curve",
        lambda: curve_figure(evidence, given.published, MOST_PANELS),
        caption="Best delta at or above the floor against the number of cleaned dims, with 95 % intervals; a cross is "
        f"a step without a result.{' Hollow markers are published figures.' if given.published else ''}"
        + _rest(len(drawn_curves(evidence)), MOST_PANELS, "cleaning_curve"),
        alt=lambda: curve_alt(evidence),
    )
    yield from _drawn(
        "published",
        "published",
        lambda: published_figure(evidence, given.published),
        caption="Deltas as printed, a marker per source; a line joins the best that each source prints for a label.",
        alt=lambda: published_alt(evidence, given.published),
    )
    yield from _drawn(
        "coefficients",
        "relative-strength",
        lambda: strength_figure(evidence),
        caption=f"All models on the axis of relative strength, each label at the layer of its best. "
        f"{_scatter(evidence)}",
        alt=lambda: strength_alt(evidence),
    )
    yield from _massive(given, evidence)


def _massive(given: ReportInput, evidence: Evidence) -> Iterator[Picture]:
    models = [model.name for model in given.experiment.models]
    planted = " Planted in the toys, not discovered." if given.toy else ""
    yield from _drawn(
        "massive",
        "massive-dims",
        lambda: massive_figure(given.calibrations, models),
        caption=f"Absolute mean activation of the top dims over the median of all dims, by layer; coloured "
        f"are those of the uniform list.{planted}",
        alt=lambda: massive_alt(given.calibrations, models),
    )
    yield from _drawn(
        "massive",
        "massive-energy",
        lambda: energy_figure(evidence, given.vectors, MOST_PANELS),
        caption="Share of each vector's energy in the massive dims, by layer. Labels with next to none are not drawn."
        + _rest(len(drawn_energies(evidence, given.vectors)), MOST_PANELS, "massive_energy"),
        alt=lambda: energy_alt(evidence, given.vectors),
    )
    yield from _drawn(
        "massive",
        "cosines",
        lambda: cosine_figure(evidence, given.cosines),
        caption="Cosines between the vectors of the labels, at the layer of each place's best.",
        alt=lambda: cosine_alt(evidence, given.cosines),
    )


def _tradeoffs(evidence: Evidence) -> Iterator[Picture]:
    pairs = tradeoff_pairs(evidence)
    for model, trait in pairs[:MOST_PAIRS]:
        yield from _drawn(
            "tradeoff",
            f"tradeoff-coherence-{model}-{trait}",
            lambda model=model, trait=trait: coherence_figure(evidence, model, trait),  # type: ignore[misc]
            caption=f"{model}: delta against coherence as the coefficient rises, from left to right."
            + _first_of(len(pairs), MOST_PAIRS, "tradeoff"),
            alt=lambda model=model, trait=trait: coherence_alt(evidence, model, trait),  # type: ignore[misc]
        )
    places = [place for place in evidence.places() if place in evidence.strata]
    for place in key_places(evidence, places, MOST_TRADEOFFS):
        yield from _tradeoff(evidence, place, _rest(len(places), MOST_TRADEOFFS, "tradeoff"))


def _heat_maps(evidence: Evidence, place: Place) -> Iterator[Picture]:
    labels = key_labels(evidence, place)
    yield from _drawn(
        "heat-maps",
        f"heat-map-{place.model}-{place.trait}-{place.position}",
        lambda: heat_figure(evidence, place, labels),
        caption=f"{evidence.name(place)}: delta by layer and coefficient.",
        alt=lambda: heat_alt(evidence, place, labels),
    )


def _tradeoff(evidence: Evidence, place: Place, rest: str) -> Iterator[Picture]:
    stratum = evidence.strata.get(place)
    layers = drawn_layers(stratum, evidence.floor) if stratum else {}
    name = evidence.name(place)
    at = ", ".join(f"{label} {layer}" for label, layer in sorted(layers.items()))
    if len(set(layers.values())) == 1:
        at = f"{next(iter(layers.values()))} for all labels"
    yield from _drawn(
        "tradeoff",
        f"tradeoff-{place.model}-{place.trait}-{place.position}",
        lambda: tradeoff_figure(evidence, place),
        caption=f"{name}. Layer: {at}.{rest}",
        alt=lambda: tradeoff_alt(evidence, place),
    )


def _drawn(
    section: str, name: str, draw: "Callable[[], Figure | None]", *, caption: str, alt: Callable[[], str]
) -> Iterator[Picture]:
    figure = draw()
    if figure is not None:
        figure = fixed(figure)
        yield Picture(section, name, caption, alt(), save_png(figure), save_svg(figure))


def _rest(of: int, most: int, function: str) -> str:
    """What a caption says of the places that are not drawn."""
    return left_out(min(of, most), of, "places", f"massact.plot.{function}")


def _first_of(of: int, most: int, function: str) -> str:
    """The same of models and traits."""
    return (
        ""
        if of <= most
        else f" The first {most} of {of} models and traits; any other: massact.plot.{function}."
    )


def _scatter(evidence: Evidence) -> str:
    every = [spread for spread in spreads(evidence) if spread.strength is not None]
    if not every:
        return ""
    last = every[-1]
    return f"Median of the bests over {last.model}: {last.strength:.2f} ({last.n_groups} groups)."
