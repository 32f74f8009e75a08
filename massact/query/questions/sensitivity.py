"""Which label wins at every coherence floor from 60 to 80, and where the winner flips."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from massact.domain import Direction, Group
from massact.errors import UsageError
from massact.query.evaluations import StoredEvaluations
from massact.query.rows import Answer, Point, SettingRow, Status
from massact.query.same_vector import Side, is_one
from massact.query.selection import (
    Slice,
    Stratum,
    all_parts,
    rank,
    setting_notes,
    short_note,
    slices,
    strata,
    told_apart,
)
from massact.query.split_half import HalvesRow

FLOORS = tuple(float(floor) for floor in range(60, 81))
"""Coherence, 0 to 100. Write-ups of one study have used 68, 70 and 77."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityRow(SettingRow):
    """Consecutive floors at which one evaluation is the best of a model, trait and position.

    The fields from `label` to `run_id` are the winner's; `None` where nothing qualifies.
    """

    model: str
    trait: str
    position: str
    floor_from: float
    """The first of the floors asked about, 0 to 100."""
    floor_to: float
    """The last of them; between two floors that were asked about nothing is claimed."""
    status: Status
    label: str | None = None
    layer: int | None = None
    coefficient: float | None = None
    delta: float | None = None
    """`trait_mean` minus the baseline's."""
    coherence_mean: float | None = None
    """0 to 100."""
    key: str | None = None
    run_id: str | None = None
    flips: bool = False
    """Whether another label won at the floors just below, of another vector."""
    at_grid_end: bool = False
    """Whether no larger, or no smaller, coefficient was scored at its layer, so that one may be better."""
    winner: Point | None = None
    nearest_miss: Point | None = None
    """The most coherent evaluation below the first floor; only where nothing qualifies."""
    nearest_miss_label: str | None = None
    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    baseline_trait_mean: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityAnswer(Answer[SensitivityRow]):
    """The answer of `sensitivity`; its `floor` is the lowest of the floors."""

    floors: tuple[float, ...] = ()
    halves: tuple[HalvesRow, ...] = ()
    """The winners on halves of the questions, where the store has scores by question."""


@dataclass(frozen=True, slots=True)
class _Win:
    """What a model, trait and position come to at one floor."""

    floor: float
    status: Status
    label: str | None
    point: Point | None


def sensitivity(
    rows: StoredEvaluations,
    *,
    floors: Iterable[float] = FLOORS,
    groups: Sequence[Group] = (),
    labels: Collection[str] = (),
) -> SensitivityAnswer:
    """The best label and its evaluation at every floor, and where the best label flips.

    Labels tie as evaluations of one label do: to the better delta, the smaller |coefficient|, the
    lower layer; then to a label that was evaluated itself, then to the first in the
    alphabet.

    Args:
        rows: finished evaluations, in any order.
        floors: least `coherence_mean` that counts, 0 to 100, each asked about in turn.
        groups: the declared matrix: a model, trait and position that was not run is answered as missing.
        labels: those that compete, in their one spelling; empty is all.

    Raises:
        UsageError: no floor, or one that is not between 0 and 100.
    """
    ladder = _ladder(floors)
    by_group = {group: parts for group, parts in slices(rows).items() if not labels or group.label in labels}
    declared = [group for group in groups if not labels or group.label in labels]
    all_strata = strata(by_group, declared)
    answered = [_runs(stratum, _wins(stratum, ladder)) for stratum in all_strata]
    named = zip(_names(all_strata), answered, strict=True)
    answer = SensitivityAnswer(
        question="sensitivity",
        floor=ladder[0],
        rows=tuple(row for runs in answered for row in runs),
        notes=(
            *setting_notes(by_group),
            *short_note(all_parts(by_group)),
            *(f"{name}: {_in_words(runs, ladder)}" for name, runs in named),
        ),
        floors=ladder,
    )
    return told_apart(answer, by_group)


def _ladder(floors: Iterable[float]) -> tuple[float, ...]:
    ladder = tuple(sorted({float(floor) for floor in floors}))
    if not ladder:
        raise UsageError("no coherence floor to ask about: name at least one between 0 and 100")
    for floor in ladder:
        if not 0 <= floor <= 100:
            raise UsageError(f"coherence floor {floor:g}: coherence runs from 0 to 100")
    return ladder


def _wins(stratum: Stratum, ladder: Sequence[float]) -> list[_Win]:
    bests = {label: _bests(part, ladder) for label, part in stratum.slices.items()}
    direction = stratum.sample.direction if stratum.sample else None
    wins = []
    for index, floor in enumerate(ladder):
        entries = ((label, points[index]) for label, points in bests.items())
        rivals = [(label, point) for label, point in entries if point is not None]
        label, point = min(rivals, key=lambda one: rank(one, direction), default=(None, None))
        wins.append(_Win(floor, "ok" if point else _status(stratum, floor), label, point))
    return wins


def _bests(part: Slice, ladder: Sequence[float]) -> list[Point | None]:
    """The best at each floor. One that reaches the next floor too is the best there: fewer compete."""
    found = [part.best(ladder[0])]
    for floor in ladder[1:]:
        last = found[-1]
        is_still_best = last is None or (last.coherence_mean is not None and last.coherence_mean >= floor)
        found.append(last if is_still_best else part.best(floor))
    return found


def _status(stratum: Stratum, floor: float) -> Status:
    """Why nothing qualifies."""
    found = {part.status(floor) for part in stratum.slices.values()}
    return "below_floor" if "below_floor" in found else "missing"


def _runs(stratum: Stratum, wins: Sequence[_Win]) -> list[SensitivityRow]:
    """One row for each maximal run of floors with one winner (or with one reason for none)."""
    found: list[SensitivityRow] = []
    for _, same in groupby(
        wins, key=lambda win: (win.label, win.point.key if win.point else None, win.status)
    ):
        first, *rest = same
        below = found[-1] if found else None
        found.append(_row(stratum, first, rest[-1].floor if rest else first.floor, below))
    return found


def _row(stratum: Stratum, win: _Win, floor_to: float, below: SensitivityRow | None) -> SensitivityRow:
    point = win.point
    miss_label, miss = _nearest_miss(stratum, win.floor) if win.status == "below_floor" else (None, None)
    return SensitivityRow(
        **stratum.fields(),
        floor_from=win.floor,
        floor_to=floor_to,
        status=win.status,
        label=win.label,
        layer=point.layer if point else None,
        coefficient=point.coefficient if point else None,
        delta=point.delta if point else None,
        coherence_mean=point.coherence_mean if point else None,
        key=point.key if point else None,
        run_id=point.run_id if point else None,
        # that no label is coherent any more is told by the status: nothing took the winner's place
        flips=_flips(stratum, below, win),
        at_grid_end=point is not None and point.at_grid_end,
        winner=point,
        nearest_miss=miss,
        nearest_miss_label=miss_label,
    )


def _flips(stratum: Stratum, below: SensitivityRow | None, win: _Win) -> bool:
    """Whether another label wins than at the floors below, and its vector is another."""
    if below is None or below.label is None or below.winner is None or win.label is None or win.point is None:
        return False
    sides = ((below.label, below.winner), (win.label, win.point))
    before, now = (Side(label, best, stratum.slices[label].points) for label, best in sides)
    return not is_one(before, now)


def _nearest_miss(stratum: Stratum, floor: float) -> tuple[str | None, Point | None]:
    misses = [(label, stratum.nearest_miss(label, floor)) for label in sorted(stratum.slices)]
    known = [(label, point) for label, point in misses if point is not None]
    return max(known, key=lambda entry: entry[1].coherence_mean or 0.0, default=(None, None))


def _in_words(runs: Sequence[SensitivityRow], ladder: Sequence[float]) -> str:
    """Where the best label flips, how often, and from where on nothing is coherent."""
    between = f"between {ladder[0]:g} and {ladder[-1]:g}"
    best = runs[0].label
    if best is None:
        is_low = any(run.status == "below_floor" for run in runs)
        why = (
            "nothing that can be ranked reaches the floor" if is_low else "nothing that counts was evaluated"
        )
        return f"{why}, {between}"
    flips = [f"at floor {b.floor_from:g} from {a.label} to {b.label}" for a, b in pairwise(runs) if b.flips]
    if not flips:
        same = dict.fromkeys(run.label for run in runs if run.label not in (None, best))
        also = "".join(f", or {label} of the same vector" for label in same)
        words = f"no flip {between}; the best label is {best}{also}"
    elif len(flips) == 1:
        words = f"the best label flips {flips[0]}"
    else:
        words = f"the best label flips {len(flips)} times: {', '.join(flips)}"
    end = next((run.floor_from for run in runs if run.label is None), None)
    return words if end is None else f"{words}; nothing that can be ranked reaches floor {end:g} or more"


def _names(all_strata: Sequence[Stratum]) -> Iterator[str]:
    """What the notes call each; with setting and baseline where a place has several."""
    places = [f"{one.model}, {one.trait}, {one.position}" for one in all_strata]
    counts = Counter(places)
    for place, one in zip(places, all_strata, strict=True):
        baseline = (
            "no baseline" if one.baseline_trait_mean is None else f"baseline {one.baseline_trait_mean:g}"
        )
        yield place if counts[place] == 1 else f"{place}, setting {(one.setting or '')[:8]}, {baseline}"
