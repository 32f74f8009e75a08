"""The report's figures with their captions and the words that stand for them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from massact.report.coefficient_tables import spreads
from massact.report.contents import Evidence, Place, ReportInput
from massact.report.figure_style import fixed, save_png, save_svg
from massact.report.figures import drawn_layers, strength_figure, tradeoff_figure
from massact.report.result_figures import before_after_figure, curve_figure, massive_figure

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
    """What it shows, for those who cannot see it; the numbers are in the tables."""
    png: bytes
    svg: str

    @property
    def path(self) -> str:
        """Where the PNG lies, relative to the Markdown report."""
        return f"figures/{self.name}.png"


def report_pictures(given: ReportInput, evidence: Evidence) -> tuple[Picture, ...]:
    """Every figure that has something to show, in the report's order."""
    return tuple(_pictures(given, evidence))


def _pictures(given: ReportInput, evidence: Evidence) -> Iterator[Picture]:
    for place in evidence.places():
        yield from _tradeoff(evidence, place)
    yield from _drawn(
        "before-after",
        "before-after",
        lambda: before_after_figure(evidence),
        caption="Best delta and its coherence (@), uncleaned, cleaned after and cleaned before extraction.",
        alt="Bars of the best delta uncleaned, cleaned after and cleaned before, a panel per place.",
    )
    yield from _drawn(
        "curve",
        "cleaning-curve",
        lambda: curve_figure(evidence),
        caption="Best delta at or above the floor against the number of cleaned dims; a cross is a step "
        "without a result.",
        alt="Lines of the best delta against the number of cleaned massive dims, a panel per place.",
    )
    yield from _drawn(
        "coefficients",
        "relative-strength",
        lambda: strength_figure(evidence),
        caption=f"All models on the axis of relative strength, each label at the layer of its best. "
        f"{_scatter(evidence)}",
        alt="Delta and coherence against relative strength, a line per label, a colour per model.",
    )
    models = [model.name for model in given.experiment.models]
    planted = " Planted in the toys, not discovered." if given.toy else ""
    yield from _drawn(
        "massive",
        "massive-dims",
        lambda: massive_figure(given.calibrations, models),
        caption=f"Absolute mean activation of the top dims over the median of all dims, by layer; coloured "
        f"are those of the uniform list.{planted}",
        alt="Ratio of the massive dims to the median against the layer, a panel per model.",
    )


def _tradeoff(evidence: Evidence, place: Place) -> Iterator[Picture]:
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
        caption=f"{name}. Layer: {at}.",
        alt=f"Delta and coherence against the coefficient on {name}, a column per method, a line per label.",
    )


def _drawn(
    section: str, name: str, draw: "Callable[[], Figure | None]", *, caption: str, alt: str
) -> Iterator[Picture]:
    figure = draw()
    if figure is not None:
        safe = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
        figure = fixed(figure)
        yield Picture(section, safe, caption, alt, save_png(figure), save_svg(figure))


def _scatter(evidence: Evidence) -> str:
    every = [spread for spread in spreads(evidence) if spread.strength is not None]
    if not every:
        return ""
    last = every[-1]
    return f"Median of the bests over {last.model}: {last.strength:.2f} ({last.n_groups} groups)."
