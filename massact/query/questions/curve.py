"""The best delta against the number of cleaned dims."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from massact.domain import METHODS, NO_CLEANING, AllDims, Cleaning, Direction, Group, Recipe, Scope, When
from massact.errors import UsageError
from massact.labels import format_label, parse_label
from massact.query.evaluations import StoredEvaluations
from massact.query.rows import Answer, Point, SettingRow, Status
from massact.query.same_vector import Side, same_vector
from massact.query.selection import (
    Stratum,
    all_parts,
    recipe_of,
    setting_notes,
    short_note,
    slices,
    strata,
    told_apart,
)

N_DIMS: tuple[int | AllDims, ...] = (0, 1, 2, 3, 5, 10, "all")
"""The curve's points; others that were evaluated join them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRow(SettingRow):
    """One point of the cleaning curve of a model, trait and position, in one setting."""

    model: str
    trait: str
    position: str
    n_dims: int | AllDims
    label: str
    status: Status
    best: Point | None = None
    """The best delta at or above the floor; `best.n_dims_cleaned` says how many dims `all` came to."""
    nearest_miss: Point | None = None
    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    baseline_trait_mean: float | None = None
    """Of the baseline that deltas are taken against, 0 to 100."""
    same_vector: str | None = None
    """Earlier step whose vector this one is, and why: what differs between the two bests is noise."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which vectors a cleaning curve runs over."""

    method: str
    when: When = "after"
    scope: Scope = "uniform"

    def recipe(self, n_dims: int | AllDims) -> Recipe:
        return Recipe(self.method, Cleaning(self.when, self.scope, n_dims) if n_dims != 0 else NO_CLEANING)

    def covers(self, label: str) -> bool:
        recipe = recipe_of(label)
        return recipe is not None and recipe == self.recipe(recipe.cleaning.n_dims)


def curve(
    rows: StoredEvaluations,
    *,
    method: str,
    floor: float,
    when: When = "after",
    scope: Scope = "uniform",
    groups: Sequence[Group] = (),
) -> Answer[CurveRow]:
    """Best delta at 0, 1, 2, 3, 5, 10 and all cleaned dims, and any other number evaluated.

    Each (model, trait, position) with an evaluation of the method on the curve, or a declared one,
    has its curve; a point that was not evaluated is there as `missing`.

    Args:
        rows: finished evaluations, in any order.
        method: such as `mean_diff`.
        floor: least `coherence_mean` that counts, 0 to 100.
        when: `after` or `before` extraction.
        scope: `uniform` (one list of dims for all layers) or `layer`.
        groups: the declared matrix.

    Raises:
        UsageError: no such method, or `when` is `none`.
    """
    recipe = parse_label(method)
    if when == "none" or recipe.cleaning != NO_CLEANING:
        raise UsageError(
            f"a curve runs over the cleaned dims of a method ({', '.join(METHODS)}), cleaned before or "
            f"after; got {method!r} and {when!r}"
        )
    kind = _Kind(recipe.method, when, scope)
    by_group = {group: parts for group, parts in slices(rows).items() if kind.covers(group.label)}
    declared = [group for group in groups if kind.covers(group.label)]
    found = [row for stratum in strata(by_group, declared) for row in _rows(stratum, kind, floor)]
    notes = (*setting_notes(by_group), *short_note(all_parts(by_group)))
    return told_apart(Answer(question="curve", floor=floor, rows=tuple(found), notes=notes), by_group)


def _steps(stratum: Stratum) -> list[int | AllDims]:
    steps = {*N_DIMS, *(parse_label(label).cleaning.n_dims for label in stratum.slices)}
    numbers = sorted(step for step in steps if isinstance(step, int))
    return [*numbers, "all"]


def _rows(stratum: Stratum, kind: _Kind, floor: float) -> Iterator[CurveRow]:
    """The steps of one curve; one whose vector is that of an earlier step says so."""
    sides: list[Side] = []
    for n_dims in _steps(stratum):
        row = _row(stratum, kind, n_dims, floor)
        if row.best is not None:
            side = Side(row.label, row.best, stratum.slices[row.label].points)
            reasons = ((one.label, same_vector(one, side)) for one in sides)
            same = next((f"{label}: {why}" for label, why in reasons if why), None)
            row = replace(row, same_vector=same)
            sides.append(side)
        yield row


def _row(stratum: Stratum, kind: _Kind, n_dims: int | AllDims, floor: float) -> CurveRow:
    label = format_label(kind.recipe(n_dims))
    return CurveRow(
        **stratum.fields(),
        n_dims=n_dims,
        label=label,
        status=stratum.status(label, floor),
        best=stratum.best(label, floor),
        nearest_miss=stratum.nearest_miss(label, floor),
    )
