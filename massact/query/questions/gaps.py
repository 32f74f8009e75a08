"""Which groups of the declared matrix have no evaluation at or above the coherence floor, and what to try next."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple, Unpack

from massact._lazy import np
from massact.domain import OWN_UNITS
from massact.floors import as_floor
from massact.query.answers import Answers
from massact.query.evaluations import PointSet
from massact.query.groups import GroupInSetting, all_parts, recipe_of, setting_notes, slices, told_apart, unscored_note
from massact.query.load import About, Needs
from massact.query.question import question, text
from massact.query.rows import Answer, Column, GroupRow, Point, Status
from massact.query.tables import ERROR, LABEL, PLACE, SETTING, miss_column, point_column
from massact.words import counted

N_RUNGS = 3  # how many coefficients are suggested per bracket
START_FRACTION = 0.25
"""Where the ladder starts, as a fraction of the upper end, if nothing but the baseline is coherent."""
WIDENING = 2 ** ((N_RUNGS + 1) / N_RUNGS)
"""How far beyond the largest coefficient a grid is widened: the last of the rungs inside is twice as large."""
SIGNIFICANT_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """Between which coefficients a layer's text breaks. The sign is that of the coefficients tried."""

    layer: int
    low: float | None
    """The largest |coefficient| at or above the floor; `None`: only the baseline, coefficient 0."""
    high: float | None
    """The smallest |coefficient| beyond `low` that is below the floor; `None`: none was tried."""
    try_next: tuple[float, ...] = ()
    """Coefficients to try, by rising size."""
    reason: str | None = None
    """Why there is none to try."""


def brackets(
    points: PointSet, floor: float, *, allowed: tuple[float, float] | None, suggest: bool
) -> tuple[Bracket, ...]:
    """The bracket of each layer (and sign of coefficient), the lowest layer first."""
    found = []
    for side in _sides(points, floor):
        rungs: tuple[float, ...] = ()
        reason = None
        if suggest and side.high is None:
            reason = "nothing that was scored here is below the floor"
        elif suggest and side.high is not None:
            rungs, reason = _ladder((side.low, side.high), tried=side.tried, allowed=allowed)
        low, high = (None if size is None else side.sign * size for size in (side.low, side.high))
        next_ones = tuple(side.sign * rung for rung in rungs)
        found.append(Bracket(layer=side.layer, low=low, high=high, try_next=next_ones, reason=reason))
    return tuple(found)


def widened(bracket: Bracket, size: float, points: PointSet, allowed: tuple[float, float] | None) -> Bracket:
    """The bracket of a best that lies at the end of its grid, with coefficients beyond it to try."""
    layers, coefficients, _ = points.steered_grid(0.0)
    sign = -1.0 if (bracket.low or bracket.high or 0.0) < 0 else 1.0
    tried = np.abs(coefficients[(layers == bracket.layer) & (coefficients * sign > 0)]).tolist()
    ends: list[tuple[float | None, float]] = []
    if size <= min(tried):
        ends.append((None, size))
    if size >= max(tried):
        ends.append((size, size * WIDENING))
    rungs: list[float] = []
    reason = None
    for end in ends:
        some, why = _ladder(end, tried=tried, allowed=allowed)
        rungs += some
        reason = reason or why
    return replace(bracket, try_next=tuple(sign * rung for rung in sorted(rungs)), reason=None if rungs else reason)


class _Side(NamedTuple):
    """One layer and sign: the ends of its bracket, and the sizes that were tried."""

    layer: int
    sign: float
    low: float | None
    high: float | None
    tried: list[float]


def _sides(points: PointSet, floor: float) -> Iterator[_Side]:
    """The lowest layer first, of a layer the positive coefficients first."""
    sides: dict[tuple[int, float], list[tuple[float, float]]] = defaultdict(list)
    columns = (column.tolist() for column in points.steered_grid(floor))
    for layer, coefficient, coherence in zip(*columns, strict=True):
        sides[int(layer), math.copysign(1.0, coefficient)].append((abs(coefficient), coherence))
    for (layer, sign), some in sorted(sides.items(), key=lambda side: (side[0][0], -side[0][1])):
        # a coherence of NaN, which is a missing one, is neither above the floor nor below it
        low = max((size for size, coherence in some if coherence >= floor), default=None)
        beyond = (size for size, coherence in some if coherence < floor and size > (low or 0.0))
        yield _Side(layer, sign, low, min(beyond, default=None), [size for size, _ in some])


def _ladder(
    bracket: tuple[float | None, float], *, tried: Sequence[float], allowed: tuple[float, float] | None
) -> tuple[tuple[float, ...], str | None]:
    """Geometric steps strictly inside the bracket, and if there is none the reason."""
    low, high = bracket
    least, most = allowed or (0.0, math.inf)
    # an end that was tried is left out of the ladder, one that only bounds it belongs to it
    end, takes_end = (most, True) if most < high else (high, False)
    start, takes_start = (end * START_FRACTION, True) if low is None else (low, False)
    if least > start:
        start, takes_start = least, True
    inside = f"between {low or 0:g} and {high:g}"
    if start > end or (start == end and not (takes_start and takes_end)):
        return (), f"nothing {inside} lies within the allowed {least:g} to {most:g}"
    n_steps = N_RUNGS + 1 - takes_start - takes_end
    indices = range(0 if takes_start else 1, n_steps + takes_end)
    exact = (start * (end / start) ** (index / n_steps) for index in indices)
    rungs = {float(f"{rung:.{SIGNIFICANT_DIGITS - 1}e}") for rung in exact}
    inner = [rung for rung in sorted(rungs) if (low or 0.0) < rung < high and least <= rung <= most]
    kept = [rung for rung in inner if not any(math.isclose(rung, size, rel_tol=1e-9) for size in tried)]
    reason = None if kept else f"everything {inside} is tried, to {SIGNIFICANT_DIGITS} digits"
    return tuple(kept), reason


def _try_next(row: Any) -> str:
    """What to try at the layer of the nearest miss, or of a best at the end of its grid, and at how many others."""
    some = [bracket for bracket in row.brackets if bracket.try_next]
    near = row.nearest_miss or row.best
    if near is None:
        return ""
    if not some:
        return next((bracket.reason for bracket in row.brackets if bracket.reason), "")
    first = next((bracket for bracket in some if bracket.layer == near.layer), some[0])
    more = f" (+{len(some) - 1} more)" if len(some) > 1 else ""
    return f"layer {first.layer}: {' '.join(f'{value:g}' for value in first.try_next)}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRow(GroupRow):
    """One declared group, in one setting."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        LABEL,
        Column("status", lambda row: row.status if row.is_current else f"{row.status} (old setting)"),
        point_column("best", "best: delta", is_optional=True),
        miss_column(),
        Column("try next", _try_next),
        ERROR,
        *SETTING,
    )

    label: str
    status: Status
    best: Point | None = None
    """The best delta at or above the floor."""
    nearest_miss: Point | None = None
    """The most coherent evaluation below the floor; only where there is no best."""
    brackets: tuple[Bracket, ...] = ()
    """Per layer, where the text breaks; with coefficients to try next where there is no best, or where the best lies at
    the end of its grid."""
    n_evaluated: int = 0
    n_unscored: int = 0
    """Evaluations that lack a coherence or a delta: neither coherent nor a miss."""
    n_short: int = 0
    """Those of them that have scores of too few responses."""
    n_failed: int = 0
    error: str | None = None
    """Of the newest failed run."""
    is_current: bool = True
    """Whether it is of the current setting, which alone says whether the group is a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapsAnswer(Answer[GapRow]):
    """The answer of `gaps`."""

    @property
    def remaining(self) -> tuple[GapRow, ...]:
        """The rows that are gaps still to be filled."""
        return tuple(row for row in self.rows if row.status != "ok" and row.is_current)

    def verdict(self) -> tuple[bool, str]:
        if not self.rows:
            return True, "no gaps: no group is declared"
        n_groups, n_remaining = sum(row.is_current for row in self.rows), len(self.remaining)
        if n_remaining:
            are = "is a gap" if n_remaining == 1 else "are gaps"
            return False, f"{n_remaining} of {counted(n_groups, 'group')} {are} at {as_floor(self.floor).reach}"
        reach = "the 1 group reaches" if n_groups == 1 else f"all {n_groups} groups reach"
        return True, f"no gaps: {reach} {as_floor(self.floor).reach}"


@question("gaps", text("phase", "only the groups that this phase declares"), needs=lambda **_: Needs(matrix=True))
def ask_gaps(
    answers: Answers,
    floor: float,
    /,
    *,
    phase: str | None = None,  # noqa: ARG001  what is loaded has its groups alone
    **_about: Unpack[About],
) -> GapsAnswer:
    """Which groups have no result at or above the coherence floor, and what to try next.

    Exits with 1 while gaps remain.

    \b
    Example:
      massact gaps --experiment experiments/toy.yaml --phase phase1 --floor 68
    """
    by_group = slices(answers.evaluations, answers.failures)
    declared = {group: by_group.get(group, []) for group in answers.groups}
    currency = answers.currency.over(by_group)
    rows = []
    for group, parts in declared.items():  # in the file's order
        current, recipe = currency.part(group, parts), recipe_of(group.label)
        if current is None:
            rows.append(GapRow(**asdict(group), status="missing"))
        is_length = recipe is None or recipe.operator not in OWN_UNITS
        allowed = answers.coefficient_ranges.get(group.model) if is_length else None
        ordered = sorted(parts, key=lambda part: part is not current)
        rows += [_row(part, floor, allowed=allowed, is_current=part is current) for part in ordered]
    notes = (*setting_notes(declared), *currency.notes, *unscored_note(all_parts(declared)))
    return told_apart(GapsAnswer(question="gaps", floor=floor, rows=tuple(rows), notes=notes), declared)


def _row(part: GroupInSetting, floor: float, *, allowed: tuple[float, float] | None, is_current: bool) -> GapRow:
    best = part.best(floor)
    status: Status = "ok" if best else part.status(floor)
    return GapRow(
        **asdict(part.group),
        status=status,
        best=best,
        nearest_miss=part.nearest_miss(floor) if status == "below_floor" else None,
        brackets=_brackets(part, best, floor, allowed=allowed, suggest=status == "below_floor"),
        n_evaluated=len(part.points),
        n_unscored=part.points.n_unscored,
        n_short=part.points.n_short,
        n_failed=len(part.failures),
        error=part.failures[0].error if part.failures else None,
        judge=part.sample.judge,
        direction=part.sample.direction,
        setting=part.setting,
        baseline_trait_mean=part.baseline_trait_mean,
        is_current=is_current,
    )


def _brackets(
    part: GroupInSetting, best: Point | None, floor: float, *, allowed: tuple[float, float] | None, suggest: bool
) -> tuple[Bracket, ...]:
    """The bracket of each layer; that of a best at the end of its grid says how to widen it."""
    found = brackets(part.points, floor, allowed=allowed, suggest=suggest)
    if best is None or not best.at_grid_end:
        return found
    layer, coefficient = best.spot
    return tuple(
        widened(bracket, abs(coefficient), part.points, allowed)
        if bracket.layer == layer and (bracket.low or 0.0) * coefficient > 0
        else bracket
        for bracket in found
    )
