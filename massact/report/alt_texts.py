"""The figures of results in words, with their numbers: for those who cannot see them."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby

from massact.query.selection import is_below_floor
from massact.report.coefficient_tables import effective_bests
from massact.report.comparisons import comparisons
from massact.report.contents import Evidence, Place, counted, place_of
from massact.report.curves import cleaning_curves
from massact.report.figure_style import legend_order, method_of
from massact.report.figures import label_lines
from massact.report.positions import interval_text
from massact.report.result_figures import bars
from massact.report.table import number, signed
from massact.vectors.massive import Calibration

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
