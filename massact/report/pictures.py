"""The report's figures with their captions and the words that stand for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from massact.report.alt_texts import before_after_alt, curve_alt, massive_alt, strength_alt, tradeoff_alt
from massact.report.chosen import (
    MOST_PAIRS,
    MOST_PANELS,
    MOST_ROWS,
    MOST_TRADEOFFS,
    key_places,
    left_out,
)
from massact.report.coefficient_tables import spreads
from massact.report.coherence_figures import coherence_alt, coherence_figure, tradeoff_pairs
from massact.report.contents import Evidence, Place, ReportInput
from massact.report.figure_style import fixed, save_png, save_svg
from massact.report.figures import drawn_layers, strength_figure, tradeoff_figure
from massact.report.heat_maps import heat_alt, heat_figure, heat_places, key_labels
from massact.report.massive_figure import massive_figure
from massact.report.phase_figures import safe_name
from massact.report.positions import window_alt, window_figure, windows
from massact.report.published_figure import published_alt, published_figure
from massact.report.result_figures import (
    before_after_figure,
    curve_figure,
    drawn_curves,
    drawn_pairs,
)
from massact.report.vector_figures import (
    cosine_alt,
    cosine_figure,
    drawn_energies,
    energy_alt,
    energy_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
