"""The best delta against the number of cleaned dims."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Unpack

from massact.domain import NO_CLEANING, AllDims, Cleaning, Mode, Recipe, Scope, When, all_methods
from massact.errors import UsageError
from massact.labels import format_label, parse_label
from massact.query.answers import Answers
from massact.query.controls import controls_of, with_controls
from massact.query.equal_grids import on_equal_grids
from massact.query.groups import ComparableGroups, Side, recipe_of, slices, strata, told_apart, usual_notes
from massact.query.load import About, Needs
from massact.query.question import choice, question, text
from massact.query.rows import Answer, Column, GroupRow, Point, Status
from massact.query.same_vector import same_vector
from massact.query.tables import LABEL, PLACE, SETTING, STATUS, miss_column, number_column, point_column

N_DIMS: tuple[int | AllDims, ...] = (0, 1, 2, 3, 5, 10, "all")
"""The curve's points; others that were evaluated join them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRow(GroupRow):
    """One point of the cleaning curve of a model, trait and position, in one setting."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        Column("dims", lambda row: "" if row.n_dims is None else str(row.n_dims), is_number=True),
        number_column("n_dims_cleaned", "d", "in all", within="best"),
        LABEL,
        STATUS,
        point_column("best", "best: delta"),
        number_column("coherence_mean", ".1f", "coherence", within="best"),
        miss_column(),
        *SETTING,
    )

    n_dims: int | AllDims | None
    """`None` of what winners are held against, which has no vector, or a random one."""
    label: str
    status: Status
    best: Point | None = None
    """The best delta at the floor of the cells that all steps have; its `n_dims_cleaned` says what `all` came to."""
    nearest_miss: Point | None = None
    same_vector: str | None = None
    """Earlier step whose vector this one is, and why: what differs between the two bests is noise."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which vectors a cleaning curve runs over."""

    uncleaned: Recipe
    when: When = "after"
    scope: Scope = "uniform"
    mode: Mode | None = None

    def recipe(self, n_dims: int | AllDims) -> Recipe:
        cleaning = Cleaning(self.when, self.scope, n_dims, self.mode) if n_dims != 0 else NO_CLEANING
        return replace(self.uncleaned, cleaning=cleaning)

    def covers(self, label: str) -> bool:
        recipe = recipe_of(label)
        return recipe is not None and recipe == self.recipe(recipe.cleaning.n_dims)


@question(
    "curve",
    text("method", "vector method, such as mean_diff or pca", metavar="METHOD"),
    choice("when", "dims zeroed in the vector, or in the activations before extraction", ("after", "before")),
    choice("scope", "one list of massive dims for all layers, or each layer's own", ("uniform", "layer")),
    choice("mode", "massive dims zeroed, or kept and all others zeroed", ("zero", "keep")),
    needs=lambda **_: Needs(controls=True),
)
def ask_curve(
    answers: Answers,
    floor: float,
    /,
    *,
    method: str = "mean_diff",
    when: When = "after",
    scope: Scope = "uniform",
    mode: Literal["zero", "keep"] = "zero",
    **_about: Unpack[About],
) -> Answer[CurveRow]:
    """The best delta against the number of cleaned dims: 0, 1, 2, 3, 5, 10 and all.

    \b
    Example:
      massact curve --method mean_diff --position 'response[:5]' --format markdown
    """
    recipe = parse_label(method)
    if when == "none" or recipe.cleaning != NO_CLEANING:
        raise UsageError(
            f"a curve runs over the cleaned dims of a method ({', '.join(all_methods())}), cleaned before or "
            f"after; got {method!r} and {when!r}"
        )
    kind = _Kind(recipe, when, scope, "keep" if mode == "keep" else None)
    by_group = {g: parts for g, parts in slices(answers.side_by_side).items() if kind.covers(g.label)}
    declared = [group for group in answers.groups if kind.covers(group.label)]
    curves = [on_equal_grids(stratum, stratum.slices, floor) for stratum in strata(by_group, declared)]
    shown = tuple(r for curve in curves for r in _rows(curve.stratum, kind, floor) if answers.shows(r.label))
    beside = strata(slices(answers.side_by_side)) if answers.controls and shown else []
    shown += tuple(
        _row(with_controls(answers, place, floor), None, part.group.label, floor)
        for place in beside
        for part in controls_of(answers, place, floor)
    )
    unequal = tuple(f"{curve.stratum.place}: the steps are {curve.words}" for curve in curves if curve.words)
    if curves and not shown:
        unequal = (f"no step of {method}'s curve is among the labels of --label: --method names another curve",)
    notes = (*usual_notes(by_group), *unequal)
    return told_apart(Answer(question="curve", floor=floor, rows=shown, notes=notes), by_group)


def _rows(stratum: ComparableGroups, kind: _Kind, floor: float) -> Iterator[CurveRow]:
    sides: list[Side] = []
    steps = {*N_DIMS, *(parse_label(label).cleaning.n_dims for label in stratum.slices)}
    numbers = sorted(step for step in steps if isinstance(step, int))
    every: tuple[int | AllDims, ...] = (*numbers, "all")
    for n_dims in every:
        row = _row(stratum, n_dims, format_label(kind.recipe(n_dims)), floor)
        if row.best is not None:
            side = stratum.side(row.label, row.best)
            reasons = ((other.label, same_vector(other, side)) for other in sides)
            same = next((f"{label}: {why}" for label, why in reasons if why), None)
            row = replace(row, same_vector=same)
            sides.append(side)
        yield row


def _row(stratum: ComparableGroups, n_dims: int | AllDims | None, label: str, floor: float) -> CurveRow:
    return CurveRow(
        **stratum.fields(),
        n_dims=n_dims,
        label=label,
        status=stratum.status(label, floor),
        best=stratum.best(label, floor),
        nearest_miss=stratum.nearest_miss(label, floor),
    )
