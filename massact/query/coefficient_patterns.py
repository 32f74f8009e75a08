"""Where the best coefficients lie, how methods and cleaning shift them, and what to start with."""

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from massact.domain import METHODS
from massact.query.evaluations import StoredEvaluations
from massact.query.recommendations import CoefficientRatio, Findings, recommend
from massact.query.rows import Answer
from massact.query.selection import Stratum, setting_notes, slices, strata, told_apart
from massact.query.winners import BestRow, best_row


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientsAnswer(Answer[BestRow]):
    """The groups that have a best, with their coefficients, and what follows from them."""

    method_ratios: tuple[CoefficientRatio, ...] = ()
    """mean_diff's coefficient over probe's."""
    cleaning_shifts: tuple[CoefficientRatio, ...] = ()
    """The coefficient with one dim cleaned (after, uniform) over that with none."""
    relative_strength: float | None = None
    """Median over the rows that have one; no unit."""
    recommendations: tuple[str, ...] = ()


def coefficients(
    rows: StoredEvaluations, *, floor: float, labels: Collection[str] = ()
) -> CoefficientsAnswer:
    """Best coefficients, the ratio of mean_diff to probe, the shift from cleaning, and advice.

    Args:
        rows: finished evaluations, in any order.
        floor: least `coherence_mean` that counts, 0 to 100.
        labels: those answered about, in their one spelling; empty is all.
    """
    by_group = {group: parts for group, parts in slices(rows).items() if not labels or group.label in labels}
    all_strata = strata(by_group)
    found = [best_row(part, floor) for stratum in all_strata for _, part in sorted(stratum.slices.items())]
    bests = tuple(row for row in found if row.status == "ok")
    ratios = _ratios(all_strata, [("mean_diff", "probe")], floor)
    shifts = _ratios(all_strata, [(f"{method}_top1", method) for method in METHODS], floor)
    strengths = [row.relative_strength for row in bests if row.relative_strength is not None]
    findings = Findings(bests, ratios, shifts, floor)
    n_without = len(found) - len(bests)
    dropped = (f"{n_without} of {len(found)} groups have no best and are left out",) if n_without else ()
    answer = CoefficientsAnswer(
        question="coefficients",
        floor=floor,
        rows=bests,
        notes=(*setting_notes(by_group), *dropped),
        method_ratios=ratios,
        cleaning_shifts=shifts,
        relative_strength=statistics.median(strengths) if strengths else None,
        recommendations=recommend(all_strata, findings, labels),
    )
    return told_apart(answer, by_group)


def _ratios(
    all_strata: Iterable[Stratum], pairs: Sequence[tuple[str, str]], floor: float
) -> tuple[CoefficientRatio, ...]:
    found = []
    for stratum in all_strata:
        for label, reference in pairs:
            a, b = stratum.best(label, floor), stratum.best(reference, floor)
            if a is None or b is None or b.coefficient == 0:
                continue
            found.append(
                CoefficientRatio(
                    **stratum.fields(),
                    label=label,
                    reference=reference,
                    coefficient=a.coefficient,
                    reference_coefficient=b.coefficient,
                    ratio=a.coefficient / b.coefficient,
                    layer=a.layer,
                    reference_layer=b.layer,
                )
            )
    return tuple(found)
