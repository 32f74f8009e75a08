"""Tables of coefficients and of massive dims."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from massact.query import BestRow, CoefficientRatio
from massact.query.questions.coefficients import tells
from massact.report.evidence import Evidence, Place, place_of
from massact.report.result_tables import RANDOM
from massact.report.table import MISSING, Cell, Table, cells, columns, number
from massact.vectors.massive_dims import UNIFORM_LAYERS, UNIFORM_TOP, Calibration


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the best coefficients of one model scatter, by each of two measures."""

    model: str
    n_groups: int
    strength: float | None
    """Median relative strength of the bests; `None` where none has one."""
    by_coefficient: float | None
    """exp of the standard deviation of ln |coefficient|: a factor; `None` for fewer than two groups."""
    by_strength: float | None
    """The same of relative strength."""


def current_ratios(evidence: Evidence) -> tuple[list[CoefficientRatio], list[CoefficientRatio]]:
    """mean_diff over probe, and top dim cleaned over none, each in its place's setting."""
    answer = evidence.coefficients()
    order = {place: index for index, place in enumerate(evidence.places())}
    ratios, shifts = (
        sorted((row for row in rows if evidence.is_current(row)), key=lambda row: order[place_of(row)])
        for rows in (answer.method_ratios, answer.cleaning_shifts)
    )
    return ratios, shifts


def effective_bests(evidence: Evidence) -> list[BestRow]:
    """Bests that say where coefficients should lie; see `massact.query.questions.coefficients.tells`."""
    rows = evidence.coefficients().rows
    return [row for row in rows if evidence.is_current(row) and row.label != RANDOM and tells(row)]


def spreads(evidence: Evidence) -> list[Spread]:
    """Per model, and for all models together where there is more than one."""
    bests = effective_bests(evidence)
    declared = [model.name for model in evidence.experiment.models]
    models = dict.fromkeys([*declared, *sorted({row.model for row in bests})])
    by_model = [(model, [row for row in bests if row.model == model]) for model in models]
    every = [("all models", bests)] if len({row.model for row in bests}) > 1 else []
    return [_spread(name, rows) for name, rows in (*by_model, *every) if rows]


def _spread(name: str, rows: Sequence[BestRow]) -> Spread:
    # both measures over the same groups, so that the two factors can be compared
    pairs = [(abs(row.coefficient), row.relative_strength) for row in rows if row.coefficient]
    known = [(size, abs(strength)) for size, strength in pairs if strength]
    strengths = [strength for _, strength in known]
    return Spread(
        name,
        len(known),
        statistics.median(strengths) if strengths else None,
        _factor([size for size, _ in known]),
        _factor(strengths),
    )


def _factor(values: Sequence[float]) -> float | None:
    return math.exp(statistics.stdev(map(math.log, values))) if len(values) > 1 else None


def ratio_table(evidence: Evidence) -> Table:
    """Best coefficients of probe and mean_diff, and the ratio of the two."""
    ratios, _ = current_ratios(evidence)
    by_place = {place_of(row): row for row in ratios}
    rows = [
        cells(
            evidence.name(place),
            _coefficient(evidence, place, "probe"),
            _coefficient(evidence, place, "mean_diff"),
            _ratio(by_place.get(place)),
        )
        for place in evidence.places()
    ]
    return Table(
        "Best coefficients, and the ratio of mean_diff to probe",
        columns("place", "probe", "mean_diff", "#mean_diff : probe"),
        tuple(rows),
    )


def shift_table(evidence: Evidence) -> Table:
    """How cleaning the top dim shifts a method's best coefficient."""
    _, shifts = current_ratios(evidence)
    rows = [
        cells(
            evidence.name(place_of(row)),
            row.reference,
            _coefficient(evidence, place_of(row), row.reference),
            _coefficient(evidence, place_of(row), row.label),
            _ratio(row),
        )
        for row in shifts
    ]
    headers = ("place", "method", "uncleaned", "top 1 cleaned", "#shift")
    return Table("Shift of the best coefficient from cleaning the top dim", columns(*headers), tuple(rows))


def spread_table(evidence: Evidence) -> Table:
    """How well one relative strength predicts the best coefficients, measured on this store."""
    rows = [
        cells(
            spread.model,
            str(spread.n_groups),
            number(spread.strength, ".2f"),
            number(spread.by_strength, ".2f"),
            number(spread.by_coefficient, ".2f"),
        )
        for spread in spreads(evidence)
    ]
    return Table(
        "Scatter of the best coefficients (one standard deviation of the logarithm, as a factor)",
        columns("model", "#groups", "#median relative strength", "#by relative strength", "#by coefficient"),
        tuple(rows),
    )


def massive_tables(calibrations: Mapping[str, Calibration], models: Sequence[str]) -> tuple[Table, ...]:
    """Per model that was calibrated, layer by layer: the top dims and what they weigh."""
    return tuple(_massive_table(model, calibrations[model]) for model in models if model in calibrations)


def uniform_line(model: str, calibration: Calibration | None) -> str:
    """The uniform list of a model, in words."""
    if calibration is None:
        return f"{model}: not calibrated, or its calibration could not be read."
    dims = ", ".join(map(str, calibration.uniform_dims)) or "none"
    return (
        f"{model}: uniform list {dims} (top {UNIFORM_TOP} at {UNIFORM_LAYERS} layers or more; "
        f"{calibration.n_prompts} prompts, {calibration.n_tokens} tokens)."
    )


def _massive_table(model: str, calibration: Calibration) -> Table:
    rows = []
    for index, layer in enumerate(calibration.layers):
        top = list(zip(layer.top_dims, layer.ratio_to_median, strict=False))[:UNIFORM_TOP]
        rows.append(
            cells(
                str(index),
                ", ".join(f"{dim} ({ratio:,.0f})" for dim, ratio in top),
                f"{layer.norm:,.1f}",
                f"{layer.norm_without_massive:,.1f}",
                f"{layer.mean_alignment:.2f}",
            )
        )
    return Table(
        f"Massive dims of {model}",
        columns(
            "#layer", f"top {UNIFORM_TOP} dims (ratio to median)", "#norm", "#norm without", "#mean alignment"
        ),
        tuple(rows),
    )


def _coefficient(evidence: Evidence, place: Place, label: str) -> Cell:
    best = evidence.best(place, label)
    if best is None:
        return Cell(MISSING, state=evidence.status(place, label))
    end = ", end of grid" if best.at_grid_end else ""
    return Cell(f"{best.coefficient:g} (layer {best.layer}{end})", best.run_id, "ok")


def _ratio(row: CoefficientRatio | None) -> str:
    if row is None:
        return MISSING
    return f"{row.ratio:.2f}" + (" (layers differ)" if row.layer != row.reference_layer else "")
