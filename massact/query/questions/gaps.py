"""Which groups of the declared matrix have no evaluation at or above the coherence floor."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from massact.domain import Direction, Group
from massact.query.current import Currency
from massact.query.evaluations import StoredEvaluations
from massact.query.next_coefficients import Bracket, brackets, widened
from massact.query.rows import Answer, Point, SettingRow, Status
from massact.query.selection import Slice, all_parts, setting_notes, slices, told_apart, unscored_note
from massact.store.read.base import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRow(SettingRow):
    """One declared group, in one setting."""

    model: str
    trait: str
    position: str
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


def gaps(
    rows: StoredEvaluations,
    *,
    failures: Iterable[Failure] = (),
    groups: Sequence[Group],
    floor: float,
    coefficient_ranges: Mapping[str, tuple[float, float]] | None = None,
    currency: Currency | None = None,
) -> GapsAnswer:
    """For each declared group whether it has a best at or above the floor, and if not what to try.

    A group that was run in several settings has a row for each; the current one decides whether the group is filled.

    Args:
        rows: finished evaluations, in any order.
        failures: evaluations that failed and were not finished since.
        groups: the declared matrix; the answer keeps its order.
        floor: least `coherence_mean` that counts, 0 to 100.
        coefficient_ranges: per model, the least and greatest |coefficient| that may be tried.
        currency: which setting is current; `None`: the one run last.
    """
    by_group = slices(rows, failures)
    declared = {group: by_group.get(group, []) for group in groups}
    currency = (currency or Currency()).over(by_group)
    found = []
    for group, parts in declared.items():
        current = currency.part(group, parts)
        if current is None:
            found.append(GapRow(**asdict(group), status="missing"))
        allowed = (coefficient_ranges or {}).get(group.model)
        others = [part for part in parts if part is not current]
        ordered = others if current is None else [current, *others]
        found += [_row(part, floor, allowed=allowed, is_current=part is current) for part in ordered]
    notes = (*setting_notes(declared), *currency.notes, *unscored_note(all_parts(declared)))
    return told_apart(GapsAnswer(question="gaps", floor=floor, rows=tuple(found), notes=notes), declared)


def _row(part: Slice, floor: float, *, allowed: tuple[float, float] | None, is_current: bool) -> GapRow:
    best = part.best(floor)
    status: Status = "ok" if best else part.status(floor)
    return GapRow(
        **asdict(part.group),
        status=status,
        best=best,
        nearest_miss=part.nearest_miss(floor) if status == "below_floor" else None,
        brackets=_brackets(part, best, floor, allowed=allowed, suggest=status == "below_floor"),
        n_evaluated=len(part.points),
        n_unscored=part.n_unscored,
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
    part: Slice, best: Point | None, floor: float, *, allowed: tuple[float, float] | None, suggest: bool
) -> tuple[Bracket, ...]:
    """The bracket of each layer; that of a best at the end of its grid says how to widen it."""
    found = brackets(part.points, floor, allowed=allowed, suggest=suggest)
    if best is None or not best.at_grid_end:
        return found

    def is_of_best(one: Bracket) -> bool:
        return one.layer == best.layer and (one.low or 0.0) * best.coefficient > 0

    size = abs(best.coefficient)
    return tuple(widened(one, size, part.points, allowed) if is_of_best(one) else one for one in found)
