"""Where the best coefficients lie, how methods and cleaning shift them, and what to start with."""

import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Unpack

from massact.domain import LEAST_EFFECT, RANDOM, Direction, all_methods
from massact.floors import as_floor
from massact.query.answers import Answers
from massact.query.groups import ComparableGroups, gain, is_just_added, slices, strata, told_apart, usual_notes
from massact.query.load import About
from massact.query.question import question
from massact.query.questions.best import BestRow, best_row
from massact.query.rows import Answer, AnswerTable, Column, GroupRow, Point, with_differences
from massact.query.tables import LABEL, PLACE, POINT, SETTING, number_column
from massact.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientRatio(GroupRow):
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
    found = [best_row(part, floor) for stratum in strata(shown) for _, part in sorted(stratum.slices.items())]
    bests = tuple(row for row in found if row.status == "ok")
    telling, silent = (tuple(row for row in bests if tells(row) is wanted) for wanted in (True, False))
    ratios, shifts = (
        tuple(ratio for ratio in some if not labels or {ratio.label, ratio.reference} & set(labels))
        for some in (
            _ratios(all_strata, [("mean_diff", "probe")], floor),
            _ratios(all_strata, [(f"{method}_top1", method) for method in all_methods()], floor),
        )
    )
    strengths = _strengths(telling)
    # of a method that nobody declared or evaluated nothing is asked
    named = labels or {label for group in by_group for label in (group.label, f"{group.label}_top1")}
    notes = (*usual_notes(shown), *_left_out(found, bests, silent))
    answer = CoefficientsAnswer(
        question="coefficients",
        floor=floor,
        rows=bests,
        notes=notes,
        method_ratios=ratios,
        cleaning_shifts=shifts,
        relative_strength=statistics.median(strengths) if strengths else None,
        recommendations=_recommend(strata(shown), (telling, silent), (ratios, shifts), floor, named),
    )
    return told_apart(answer, by_group)


def tells(best: BestRow | Point, direction: Direction | None = None) -> bool:
    """Whether a best says where coefficients should lie: it has an effect and does not lie at the end of its grid."""
    if isinstance(best, BestRow):
        direction = best.direction
    return gain(best.delta, direction) >= LEAST_EFFECT and not best.at_grid_end


def _left_out(found: Sequence[BestRow], bests: Sequence[BestRow], silent: Sequence[BestRow]) -> Iterator[str]:
    n_without = len(found) - len(bests)
    if n_without:
        yield f"{n_without} of {counted(len(found), 'group')} left out, without a best"
    if silent:
        n_ends = sum(row.at_grid_end for row in silent)
        yield (
            f"nothing is advised from {len(silent)} of {counted(len(bests), 'best')}: {n_ends} at the end of the grid, "
            f"{len(silent) - n_ends} without an effect (a delta of {LEAST_EFFECT:g} points)"
        )


def _ratios(
    all_strata: Iterable[ComparableGroups], pairs: Sequence[tuple[str, str]], floor: float
) -> Iterator[CoefficientRatio]:
    for stratum, (label, reference) in product(all_strata, pairs):
        a, b = stratum.best(label, floor), stratum.best(reference, floor)
        if a and b and tells(a, stratum.direction) and tells(b, stratum.direction):
            (layer, coefficient), (reference_layer, of_reference) = a.spot, b.spot
            yield CoefficientRatio(
                **stratum.fields(),
                label=label,
                reference=reference,
                coefficient=coefficient,
                reference_coefficient=of_reference,
                ratio=coefficient / of_reference,
                layer=layer,
                reference_layer=reference_layer,
            )


@dataclass(frozen=True, slots=True, order=True)
class _Scope:
    """A model and trait in one setting, against one baseline: advice never mixes two."""

    model: str
    trait: str
    setting: str
    baseline: str
    """As text, since there may be none."""

    @classmethod
    def of(cls, row: BestRow | CoefficientRatio | ComparableGroups) -> "_Scope":
        return cls(row.model, row.trait, row.setting or "", str(row.baseline_trait_mean))


def _recommend(
    all_strata: Iterable[ComparableGroups],
    bests: tuple[Sequence[BestRow], Sequence[BestRow]],
    ratios: tuple[Sequence[CoefficientRatio], Sequence[CoefficientRatio]],
    floor: float,
    labels: Collection[str],
) -> tuple[str, ...]:
    """Where to start and what to expect, per model; "cannot say" where results are missing."""
    samples = {_Scope.of(stratum): stratum for stratum in all_strata if stratum.setting is not None}
    lines: list[str] = []
    for scope in sorted(samples):
        own: list[Any] = [[row for row in some if _Scope.of(row) == scope] for some in (*bests, *ratios)]
        advice = _Advice(_name(scope, samples), own[0], own[1], own[2], own[3], floor)
        methods = [method for method in ("probe", "mean_diff") if method in labels]
        lines += map(advice.start, methods)
        lines += [advice.method_ratio()] if len(methods) > 1 else []
        lines += [advice.cleaning_shift(m) for m in methods if f"{m}_top1" in labels]
        lines.append(advice.strength())
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


@dataclass(frozen=True, slots=True)
class _Advice:
    """Advice of one scope, and what it is drawn from."""

    name: str
    bests: Sequence[BestRow]
    silent: Sequence[BestRow]
    ratios: Sequence[CoefficientRatio]
    shifts: Sequence[CoefficientRatio]
    floor: float

    def start(self, method: str) -> str:
        here = [row for row in self.bests if row.label == method]
        values = sorted(row.coefficient for row in here if row.coefficient is not None)
        if not values:
            why = f"nothing reaches {as_floor(self.floor).reach}{self._why_not(method)}"
            return f"cannot say where to start {method} on {self.name}: {why}"
        layers = ", ".join(str(layer) for layer in sorted({row.layer for row in here if row.layer is not None}))
        span = f"{values[0]:g}" + (f" to {values[-1]:g}" if values[-1] > values[0] else "")
        return f"start {method} at {span} on {self.name} (layer {layers}; {counted(len(values), 'position')})"

    def method_ratio(self) -> str:
        if not self.ratios:
            why = f"no position has both at or above {as_floor(self.floor).reach}{self._why_not('probe', 'mean_diff')}"
            return f"cannot say how mean_diff's coefficient relates to probe's on {self.name}: {why}"
        factor, basis = _factor(self.ratios)
        return f"mean_diff takes {factor} times probe's coefficient on {self.name} ({basis})"

    def cleaning_shift(self, method: str) -> str:
        here = [shift for shift in self.shifts if shift.reference == method]
        if not here:
            why = f"no position has both {method} and {method}_top1 at or above {as_floor(self.floor).reach}"
            told = f"cannot say how cleaning the top dim shifts {method}'s coefficient on {self.name}"
            return f"{told}: {why}{self._why_not(method, f'{method}_top1')}"
        factor, basis = _factor(here)
        return f"cleaning the top dim takes {method}'s coefficient times {factor} on {self.name} ({basis})"

    def strength(self) -> str:
        values = _strengths(self.bests)
        if not values:
            why = f"no result with one has a best{self._why_not()}"
            return f"cannot say at which relative strength to start on {self.name}: {why}"
        spread = f"{values[0]:.2f} to {values[-1]:.2f}, " * (len(values) > 1) + counted(len(values), "group")
        return f"start any other vector at relative strength {statistics.median(values):.2f} on {self.name} ({spread})"

    def _why_not(self, *labels: str) -> str:
        """Why labels (empty: all) have nothing to advise from."""
        if not any(row.label in (labels or (row.label,)) for row in self.silent):
            return ""
        return f", inside its grid and with an effect of {LEAST_EFFECT:g} points"


def _strengths(rows: Iterable[BestRow]) -> list[float]:
    """Sizes of the bests on the one axis, by size; a random direction tells nothing of real ones."""
    some = (row for row in rows if row.label != RANDOM and is_just_added(row.label))
    return sorted(abs(row.relative_strength) for row in some if row.relative_strength)


def _factor(ratios: Sequence[CoefficientRatio]) -> tuple[str, str]:
    """The median factor; and how many positions it rests on, its spread, and whether layers are mixed."""
    values = sorted(ratio.ratio for ratio in ratios)
    spread = f", {values[0]:.2f} to {values[-1]:.2f}" if len(values) > 1 else ""
    n_mixed = sum(ratio.layer != ratio.reference_layer for ratio in ratios)
    mixed = f", the two at different layers in {n_mixed}" if n_mixed else ""
    return f"{statistics.median(values):.2f}", f"{counted(len(ratios), 'position')}{spread}{mixed}"
