"""Which groups of the declared matrix have no evaluation at or above the coherence floor."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Unpack

from massact.domain import OWN_UNITS, Direction
from massact.floors import as_floor
from massact.query.answers import Answers
from massact.query.groups import GroupInSetting, all_parts, recipe_of, setting_notes, slices, told_apart, unscored_note
from massact.query.load import About, Needs
from massact.query.next_coefficients import Bracket, brackets, widened
from massact.query.question import question, text
from massact.query.rows import Answer, Column, PlaceRow, Point, Status
from massact.query.tables import LABEL, PLACE, SETTING, error_column, miss_column, point_column
from massact.words import counted


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
class GapRow(PlaceRow):
    """One declared group, in one setting."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        LABEL,
        Column("status", lambda row: row.status if row.is_current else f"{row.status} (old setting)"),
        point_column("best", "best: delta", is_optional=True),
        miss_column(),
        Column("try next", _try_next),
        error_column(),
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
    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    """Digest of judge, questions, generation, model revision and direction; `None`: nothing was run."""
    baseline_trait_mean: float | None = None
    """Of the baseline that deltas are taken against, 0 to 100."""
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
        current = currency.part(group, parts)
        if current is None:
            rows.append(GapRow(**asdict(group), status="missing"))
        recipe = recipe_of(group.label)
        is_length = recipe is None or recipe.operator not in OWN_UNITS
        allowed = answers.coefficient_ranges.get(group.model) if is_length else None
        others = [part for part in parts if part is not current]
        ordered = others if current is None else [current, *others]
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
        widened(one, abs(coefficient), part.points, allowed)
        if one.layer == layer and (one.low or 0.0) * coefficient > 0
        else one
        for one in found
    )
