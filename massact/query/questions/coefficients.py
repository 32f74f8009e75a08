"""Where the best coefficients lie, how methods and cleaning shift them, and what to start with."""

import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack

from massact.domain import LEAST_EFFECT, RANDOM, Direction, all_methods
from massact.query.answers import Answers
from massact.query.groups import ComparableGroups, is_just_added, slices, strata, told_apart, usual_notes
from massact.query.load import About
from massact.query.question import question
from massact.query.questions.best import BestRow, best_row
from massact.query.rows import Answer, AnswerTable, Column, PlaceRow, Point, with_differences
from massact.query.tables import LABEL, PLACE, POINT, SETTING, number_column


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientRatio(PlaceRow):
    """How one label's best coefficient relates to another's on one model, trait and position."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        Column("of", lambda row: f"{row.label} / {row.reference}"),
        Column("coefficients", lambda row: f"{row.coefficient:g} / {row.reference_coefficient:g}"),
        number_column("ratio", ".2f"),
        Column("layers", lambda row: f"{row.layer} / {row.reference_layer}"),
        *SETTING,
    )

    label: str
    reference: str
    coefficient: float
    reference_coefficient: float
    ratio: float
    """`coefficient` / `reference_coefficient`."""
    layer: int
    reference_layer: int
    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    baseline_trait_mean: float | None = None
    """Of the baseline that deltas are taken against, 0 to 100."""


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

    def tables(self) -> list[AnswerTable]:
        """The bests, and the ratios of both kinds in one table."""
        strength = number_column("relative_strength", ".2f")
        ratios = (*self.method_ratios, *self.cleaning_shifts)
        parts = (((*PLACE, LABEL, *POINT, strength, *SETTING), self.rows), (CoefficientRatio.columns, ratios))
        return [AnswerTable(with_differences(columns, rows), rows) for columns, rows in parts]

    def lines(self) -> list[str]:
        """The advice."""
        return list(self.recommendations)


@question("coefficients")
def ask_coefficients(answers: Answers, floor: float, /, **_about: Unpack[About]) -> CoefficientsAnswer:
    """Where the best coefficients lie, how methods and cleaning shift them, and where to start.

    \b
    Example:
      massact coefficients --experiment experiments/toy.yaml
    """
    # ratios and advice are made from bests that tell: with an effect, and not at the end of their grid
    by_group, labels = slices(answers.side_by_side), answers.filters.labels
    shown = {group: parts for group, parts in by_group.items() if not labels or group.label in labels}
    all_strata = strata(by_group)
    found = [best_row(part, floor) for one in strata(shown) for _, part in sorted(one.slices.items())]
    bests = tuple(row for row in found if row.status == "ok")
    telling = tuple(row for row in bests if tells(row))
    ratios, shifts = (
        tuple(one for one in some if not labels or {one.label, one.reference} & set(labels))
        for some in (
            _ratios(all_strata, [("mean_diff", "probe")], floor),
            _ratios(all_strata, [(f"{method}_top1", method) for method in all_methods()], floor),
        )
    )
    strengths = _strengths(telling)
    silent = tuple(row for row in bests if not tells(row))
    findings = Findings(telling, ratios, shifts, floor, silent)
    notes = (*usual_notes(shown), *_left_out(found, bests, silent))
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
    all_strata: Iterable[ComparableGroups], pairs: Sequence[tuple[str, str]], floor: float
) -> list[CoefficientRatio]:
    found = []
    for stratum in all_strata:
        for label, reference in pairs:
            a, b = stratum.best(label, floor), stratum.best(reference, floor)
            if a is None or b is None or not (tells(a, stratum.direction) and tells(b, stratum.direction)):
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


@dataclass(frozen=True, slots=True)
class Findings:
    """What advice is drawn from; each over all models and settings."""

    bests: Sequence[BestRow]
    """Those that tell where coefficients should lie."""
    ratios: Sequence[CoefficientRatio]
    shifts: Sequence[CoefficientRatio]
    floor: float
    silent: Sequence[BestRow] = ()
    """Bests that do not tell: at the end of their grid, or without an effect."""

    def why_not(self, scope: "_Scope", *labels: str) -> str:
        """Why labels (empty: all) have nothing to advise from."""
        if not any(scope.holds(row) and row.label in (labels or (row.label,)) for row in self.silent):
            return ""
        return f", inside its grid and with an effect of {LEAST_EFFECT:g} points"


@dataclass(frozen=True, slots=True, order=True)
class _Scope:
    """A model and trait in one setting, against one baseline: advice never mixes two."""

    model: str
    trait: str
    setting: str
    baseline: str
    """As text, since there may be none."""

    def holds(self, row: BestRow | CoefficientRatio) -> bool:
        return _scope(row) == self


def _scope(row: BestRow | CoefficientRatio | ComparableGroups) -> _Scope:
    return _Scope(row.model, row.trait, row.setting or "", str(row.baseline_trait_mean))


def recommend(strata: Iterable[ComparableGroups], findings: Findings, labels: Collection[str] = ()) -> tuple[str, ...]:
    """Where to start and what to expect, per model; "cannot say" where results are missing.

    Of `labels` alone, unless it is empty: what was left out is not missing.
    """
    samples = {_scope(stratum): stratum for stratum in strata if stratum.setting is not None}
    lines = []
    for scope in sorted(samples):
        name = _name(scope, samples)
        methods = [method for method in ("probe", "mean_diff") if not labels or method in labels]
        lines += [_start(method, scope, name, findings) for method in methods]
        if len(methods) > 1:
            lines.append(_method_ratio(scope, name, findings))
        lines += [
            _cleaning_shift(method, scope, name, findings)
            for method in methods
            if not labels or f"{method}_top1" in labels
        ]
        lines.append(_strength(scope, name, findings))
    return tuple(lines)


def _name(scope: _Scope, samples: dict[_Scope, ComparableGroups]) -> str:
    """The model, and what else is needed to tell the scope from the others."""
    name = scope.model
    others = [other for other in samples if other.model == scope.model and other != scope]
    if any(other.trait != scope.trait for other in others):
        name += f", {scope.trait}"
    if any(other.trait == scope.trait for other in others):
        fields = samples[scope].fields()
        name += f" (judge {fields['judge']}, {fields['direction']}, setting {scope.setting[:8]})"
    if any((other.trait, other.setting) == (scope.trait, scope.setting) for other in others):
        name += f" (baseline {scope.baseline})"
    return name


def _start(method: str, scope: _Scope, name: str, findings: Findings) -> str:
    here = [row for row in findings.bests if scope.holds(row) and row.label == method]
    values = sorted(row.coefficient for row in here if row.coefficient is not None)
    if not values:
        why = f"nothing reaches coherence {findings.floor:g}{findings.why_not(scope, method)}"
        return f"cannot say where to start {method} on {name}: {why}"
    layers = ", ".join(str(layer) for layer in sorted({row.layer for row in here if row.layer is not None}))
    return f"start {method} at {_span(values)} on {name} (layer {layers}; {_positions(len(values))})"


def _method_ratio(scope: _Scope, name: str, findings: Findings) -> str:
    here = [ratio for ratio in findings.ratios if scope.holds(ratio)]
    if not here:
        return (
            f"cannot say how mean_diff's coefficient relates to probe's on {name}: no position has both at "
            f"or above coherence {findings.floor:g}{findings.why_not(scope, 'probe', 'mean_diff')}"
        )
    return f"mean_diff takes {_factor(here)} times probe's coefficient on {name} ({_basis(here)})"


def _cleaning_shift(method: str, scope: _Scope, name: str, findings: Findings) -> str:
    here = [shift for shift in findings.shifts if scope.holds(shift) and shift.reference == method]
    if not here:
        return (
            f"cannot say how cleaning the top dim shifts {method}'s coefficient on {name}: no position has "
            f"both {method} and {method}_top1 at or above coherence {findings.floor:g}"
            f"{findings.why_not(scope, method, f'{method}_top1')}"
        )
    return f"cleaning the top dim takes {method}'s coefficient times {_factor(here)} on {name} ({_basis(here)})"


def _strength(scope: _Scope, name: str, findings: Findings) -> str:
    values = _strengths(row for row in findings.bests if scope.holds(row))
    if not values:
        why = f"no result with one has a best{findings.why_not(scope)}"
        return f"cannot say at which relative strength to start on {name}: {why}"
    spread = f"{values[0]:.2f} to {values[-1]:.2f}, {len(values)} groups" if len(values) > 1 else "1 group"
    return f"start any other vector at relative strength {statistics.median(values):.2f} on {name} ({spread})"


def _strengths(rows: Iterable[BestRow]) -> list[float]:
    """Sizes of the bests on the one axis, by size; a random direction tells nothing of real ones."""
    some = (row for row in rows if row.label != RANDOM and is_just_added(row.label))
    return sorted(abs(row.relative_strength) for row in some if row.relative_strength)


def _factor(ratios: Sequence[CoefficientRatio]) -> str:
    return f"{statistics.median(one.ratio for one in ratios):.2f}"


def _basis(ratios: Sequence[CoefficientRatio]) -> str:
    """How many positions a factor rests on, its spread, and whether layers are mixed."""
    values = sorted(one.ratio for one in ratios)
    spread = f", {values[0]:.2f} to {values[-1]:.2f}" if len(values) > 1 else ""
    n_mixed = sum(one.layer != one.reference_layer for one in ratios)
    mixed = f", the two at different layers in {n_mixed}" if n_mixed else ""
    return f"{_positions(len(ratios))}{spread}{mixed}"


def _positions(count: int) -> str:
    return "1 position" if count == 1 else f"{count} positions"


def _span(values: Sequence[float]) -> str:
    low, high = values[0], values[-1]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
