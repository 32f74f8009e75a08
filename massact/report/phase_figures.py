"""The figures that the run of a phase shows: those of its own question, as PNG."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from massact.config import Experiment
from massact.query import Answers
from massact.report.chosen import MOST_FIGURES, MOST_PANELS, key_places
from massact.report.contents import Evidence
from massact.report.figure_style import fixed, save_png
from massact.report.figures import strength_figure, tradeoff_figure
from massact.report.result_figures import before_after_figure, curve_figure
from massact.report.tables import PhaseName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST = 120  # characters of a figure's file name


def phase_figures(
    phase: PhaseName,
    experiment: Experiment,
    answers: Answers,
    cosines: Mapping[tuple[str, str], float] | None = None,
) -> dict[str, bytes]:
    """PNG by name; nothing where there is nothing to draw.

    Args:
        answers: with all that the phase's tables are made from.
        cosines: of vectors by their digests, as `Evidence.of` takes them.
    """
    whole = Evidence.of(experiment, answers, cosines)
    evidence = whole if phase == "phase4" else whole.of_phase(phase)
    made: dict[str, bytes] = {}
    for name, draw in _figures(phase, evidence):
        figure = draw()
        if figure is not None:
            made[safe_name(name, made)] = save_png(fixed(figure))
    return made


def _figures(phase: PhaseName, evidence: Evidence) -> "Iterator[tuple[str, Callable[[], Figure | None]]]":
    if phase == "phase1":
        for place in key_places(evidence, evidence.strata, MOST_FIGURES):
            name = f"tradeoff-{place.model}-{place.trait}-{place.position}"
            yield name, lambda place=place: tradeoff_figure(evidence, place)  # type: ignore[misc]
    if phase == "phase2":
        yield "before-after", lambda: before_after_figure(evidence, MOST_PANELS)
    if phase == "phase3":
        yield "cleaning-curve", lambda: curve_figure(evidence, most=MOST_PANELS)
    if phase == "phase4":
        yield "relative-strength", lambda: strength_figure(evidence)


def safe_name(name: str, taken: Iterable[str] = ()) -> str:
    """A figure's name as that of a file, and of an id in a page; none of those that are taken, whatever their case."""
    text = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    if text and len(text) <= _LONGEST and text.lower() not in {other.lower() for other in taken}:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[:_LONGEST]}-{digest}" if text else digest
