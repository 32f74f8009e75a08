"""Where the best coefficients lie, how methods and cleaning shift them, and what to start with."""

import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from massact.domain import LEAST_EFFECT, METHODS, Direction
from massact.query.evaluations import StoredEvaluations
from massact.query.recommendations import CoefficientRatio, Findings, recommend
from massact.query.rows import Answer, Point
from massact.query.selection import Stratum, all_parts, setting_notes, short_note, slices, strata, told_apart
from massact.query.winners import BestRow, best_row


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientsAnswer(Answer[BestRow]):
    """The groups that have a best, with their coefficients, and what follows from them."""

    method_ratios: tuple[CoefficientRatio, ...] = ()
    """mean_diff's coefficient over probe's."""
    cleaning_shifts: tuple[CoefficientRatio, ...] = ()
    """The coefficient with one dim cleaned (after, uniform) over that with none."""
    relative_strength: float | None = None
    """Median over the rows that tell and have one; no unit."""
    recommendations: tuple[str, ...] = ()


def coefficients(
    rows: StoredEvaluations, *, floor: float, labels: Collection[str] = ()
) -> CoefficientsAnswer:
    """Best coefficients, the ratio of mean_diff to probe, the shift from cleaning, and advice.

    Ratios and advice are made from bests that tell: steering had an effect (`LEAST_EFFECT`), and the best does not lie
    at the end of its grid, beyond which a better one may lie.

    Args:
        rows: finished evaluations, in any order.
        floor: least `coherence_mean` that counts, 0 to 100.
        labels: those answered about, in their one spelling; empty is all. A ratio of one of them to another is given.
    """
    by_group = slices(rows)
    shown = {group: parts for group, parts in by_group.items() if not labels or group.label in labels}
    all_strata = strata(by_group)
    found = [best_row(part, floor) for one in strata(shown) for _, part in sorted(one.slices.items())]
    bests = tuple(row for row in found if row.status == "ok")
    telling = tuple(row for row in bests if tells(row))
    ratios, shifts = (
        tuple(one for one in some if not labels or {one.label, one.reference} & set(labels))
        for some in (
            _ratios(all_strata, [("mean_diff", "probe")], floor),
            _ratios(all_strata, [(f"{method}_top1", method) for method in METHODS], floor),
        )
    )
    strengths = [row.relative_strength for row in telling if row.relative_strength is not None]
    silent = tuple(row for row in bests if not tells(row))
    findings = Findings(telling, ratios, shifts, floor, silent)
    notes = (*setting_notes(shown), *short_note(all_parts(shown)), *_left_out(found, bests, silent))
    answer = CoefficientsAnswer(
        question="coefficients",
        floor=floor,
        rows=bests,
        notes=notes,
        method_ratios=ratios,
        cleaning_shifts=shifts,
        relative_strength=statistics.median(strengths) if strengths else None,
        recommendations=recommend(strata(shown), findings, labels),
    )
    return told_apart(answer, by_group)


def tells(best: BestRow | Point, direction: Direction | None = None) -> bool:
    """Whether a best says where coefficients should lie: it has an effect and does not lie at the end of its grid."""
    if isinstance(best, BestRow):
        direction = best.direction
    gain = -(best.delta or 0.0) if direction == "negative" else best.delta or 0.0
    return gain >= LEAST_EFFECT and not best.at_grid_end


def _left_out(found: Sequence[BestRow], bests: Sequence[BestRow], silent: Sequence[BestRow]) -> Iterator[str]:
    n_without = len(found) - len(bests)
    if n_without:
        yield f"{n_without} of {len(found)} groups have no best and are left out"
    if silent:
        n_ends = sum(row.at_grid_end for row in silent)
        yield (
            f"nothing is advised from {len(silent)} of {len(bests)} bests: {n_ends} lie at the end of their grid, "
            f"{len(silent) - n_ends} have no effect (a delta of {LEAST_EFFECT:g} points)"
        )


def _ratios(
    all_strata: Iterable[Stratum], pairs: Sequence[tuple[str, str]], floor: float
) -> list[CoefficientRatio]:
    found = []
    for stratum in all_strata:
        direction = stratum.fields()["direction"]
        for label, reference in pairs:
            a, b = stratum.best(label, floor), stratum.best(reference, floor)
            if a is None or b is None or not (tells(a, direction) and tells(b, direction)):
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
    return found
