"""The rules that every question shares: what counts, which is best, which setting is current.

Evaluations of different settings (another judge, question set, generation, model revision or
direction) or with different baselines are never mixed. No rule depends on the order in which rows arrive.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from massact.domain import Direction, Group, Recipe
from massact.errors import UsageError
from massact.floors import as_floor
from massact.labels import format_label, parse_label
from massact.query.evaluations import Evaluations, PointSet, group_of, no_points
from massact.query.rows import AnyPoint, Point, Status
from massact.query.settings import AnswerT, differences, with_differences
from massact.store.read.base import Failure
from massact.store.schema import DeclaredSetting, EvaluationRow, Kind, StoredPoint
from massact.words import counted


@dataclass(slots=True)
class GroupInSetting:
    """What the store holds of one group in one setting, against one baseline."""

    group: Group
    setting: str
    baseline_trait_mean: float | None
    sample: EvaluationRow  # a row of the setting: it tells what the setting is
    points: PointSet = field(default_factory=no_points)
    failures: list[Failure] = field(default_factory=list)
    last: int = -1  # when the last of its runs ended, in milliseconds since 1970

    @property
    def is_control(self) -> bool:
        """Whether it is what winners are held against, and none of the grid."""
        return self.sample.kind is Kind.CONTROL

    def best(self, floor: float) -> Point | None:
        found = self.points.best(floor, self.sample.direction)
        if found is None:
            return None
        return as_point(found, at_grid_end=not self.is_control and self.points.is_at_grid_end(found, floor))

    def nearest_miss(self, floor: float) -> Point | None:
        found = self.points.nearest_miss(floor, self.sample.direction)
        return None if found is None else as_point(found)

    def status(self, floor: float) -> Status:
        """What `best` and `nearest_miss` amount to."""
        if self.points.has_best(floor):
            return "ok"
        if self.points.has_miss(floor):
            return "below_floor"
        return "failed" if self.failures else "missing"


@dataclass(slots=True)
class ComparableGroups:
    """One model, trait and position in one setting, against one baseline: within it labels may be compared."""

    model: str
    trait: str
    position: str
    setting: str | None = None  # `None` where nothing was run
    baseline_trait_mean: float | None = None
    sample: EvaluationRow | None = None
    slices: dict[str, GroupInSetting] = field(default_factory=dict)  # by label

    @property
    def place(self) -> str:
        return f"{self.model}, {self.trait}, {self.position}"

    def fields(self) -> dict[str, Any]:
        """What an answer's row says of it: where, and in which setting against which baseline."""
        return {
            "model": self.model,
            "trait": self.trait,
            "position": self.position,
            "judge": self.sample.judge if self.sample else None,
            "direction": self.direction,
            "setting": self.setting,
            "baseline_trait_mean": self.baseline_trait_mean,
        }

    @property
    def direction(self) -> Direction | None:
        """Of the trait; `None` where nothing was run."""
        return self.sample.direction if self.sample else None

    def ranked(self, floor: float) -> list[tuple[str, Point]]:
        """The bests of all labels, the winner's first."""
        bests = ((label, part.best(floor)) for label, part in self.slices.items())
        known = [(label, best) for label, best in bests if best is not None]
        return sorted(known, key=lambda entry: rank(entry, self.direction))

    def side(self, label: str, best: Point) -> "Side":
        return Side(label, best, self.slices[label].points)

    def status(self, label: str, floor: float) -> Status:
        part = self.slices.get(label)
        return part.status(floor) if part else "missing"

    def best(self, label: str, floor: float) -> Point | None:
        part = self.slices.get(label)
        return part.best(floor) if part else None

    def nearest_miss(self, label: str, floor: float) -> Point | None:
        """The nearest miss of a label that has no best."""
        part = self.slices.get(label)
        return part.nearest_miss(floor) if part and part.status(floor) == "below_floor" else None


class Side(NamedTuple):
    """A label with its best and all its evaluations in one setting."""

    label: str
    best: Point
    points: PointSet


def gain(delta: float | None, direction: Direction | None) -> float:
    """Delta in the direction that is wanted, a missing one as nothing: the larger, the better."""
    return (delta or 0.0) * (-1 if direction == "negative" else 1)


def rank(entry: tuple[str, Point], direction: Direction | None) -> tuple[float, float, int, bool, str]:
    """Sorts the winner among labels first: ties as in `best` of a label, what was evaluated itself, the label."""
    label, point = entry
    size, layer = abs(point.coefficient or 0.0), point.layer or 0
    return (-gain(point.delta, direction), size, layer, point.same_as is not None, label)


def recipe_of(label: str) -> Recipe | None:
    """The recipe of a stored label; `None` for one that this version does not know."""
    try:
        return parse_label(label)
    except UsageError:
        return None


def one_spelling(label: str) -> str:
    """A label in its one spelling; one that is none of ours, as imported results have, as it is written."""
    recipe = recipe_of(label)
    return label if recipe is None else format_label(recipe)


def is_just_added(label: str) -> bool:
    """Whether a label's vector is added to all tokens of one layer, so that its strength compares with others'."""
    recipe = recipe_of(label)
    return recipe is None or recipe == recipe.of_vector


def is_at_floor(point: AnyPoint, floor: float) -> bool:
    """Whether a point is coherent, or within what else the floor is of; one without that is not."""
    return as_floor(floor).is_met(point) is True


def is_below_floor(point: AnyPoint, floor: float) -> bool:
    """Whether a point is incoherent; one without a coherence is not that either."""
    return as_floor(floor).is_met(point) is False


def slices(evaluations: Evaluations, failures: Iterable[Failure] = ()) -> dict[Group, list[GroupInSetting]]:
    by_group: dict[Group, list[GroupInSetting]] = defaultdict(list)
    for place, points in evaluations.by_place.items():
        for baseline, some in points.by_baseline().items():
            sample, group = evaluations.samples[place[0]], group_of(place)
            by_group[group].append(GroupInSetting(group, place[0], baseline, sample, some, last=some.last))
    for parts in by_group.values():
        parts.sort(key=recency)
    # of each model, trait and setting the baseline used last
    oldest_first = sorted(all_parts(by_group), key=recency, reverse=True)
    baselines = {(part.group.model, part.group.trait, part.setting): part.baseline_trait_mean for part in oldest_first}
    for failure in failures:
        _add_failure(by_group, failure, baselines)
    for parts in by_group.values():
        for part in parts:
            part.failures.sort(key=lambda f: (_ended(f.finished_at), f.run_id), reverse=True)
        parts.sort(key=recency)
    return dict(by_group)


def _add_failure(
    by_group: dict[Group, list[GroupInSetting]],
    failure: Failure,
    baselines: Mapping[tuple[str, str, str], float | None],
) -> None:
    """Put a failure with the newest slice of its setting: it came to no baseline of its own."""
    row = failure.row
    if row.position is None or row.label is None:
        return
    group = Group(row.model, row.trait, row.position, row.label)
    part = next((part for part in by_group[group] if part.setting == row.setting), None)
    if part is None:
        part = GroupInSetting(group, row.setting, baselines.get((row.model, row.trait, row.setting)), row)
        by_group[group].append(part)
    part.failures.append(failure)
    part.last = max(part.last, _ended(failure.finished_at))


def recency(part: GroupInSetting) -> tuple[int, str, float]:
    return (-part.last, part.setting, _or_least(part.baseline_trait_mean))


def _or_least(value: float | None) -> float:
    return -math.inf if value is None else value


def strata(by_group: Mapping[Group, Sequence[GroupInSetting]], groups: Iterable[Group] = ()) -> list[ComparableGroups]:
    """Every model, trait and position in every setting; one without a setting where nothing was run."""
    found: dict[tuple[str, str, str], dict[tuple[str, float | None], ComparableGroups]] = {
        (group.model, group.trait, group.position): {} for group in (*by_group, *groups)
    }
    for part in all_parts(by_group):
        place, among = (part.group.model, part.group.trait, part.group.position), _against(part)
        stratum = found[place].setdefault(among, ComparableGroups(*place, *among, part.sample))
        stratum.slices[part.group.label] = part
    places = sorted(found, key=lambda place: natural_order(*place))
    told = [
        found[place][among] for place in places for among in sorted(found[place], key=lambda a: (a[0], _or_least(a[1])))
    ]
    return told + [ComparableGroups(*place) for place in places if not found[place]]


def natural_order(*names: str) -> list[list[str | int]]:
    """A sort key, the order that people count in: `response[:5]` before `response[:10]`."""
    return [[int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)] for name in names]


def setting_notes(by_group: Mapping[Group, Sequence[GroupInSetting]]) -> tuple[str, ...]:
    """In words, where a model and trait were evaluated in several settings, what differs, and what an import mixed."""
    samples, baselines = _samples(by_group)
    several = tuple(
        f"{model}, {trait}: evaluated in {len(settings)} settings, answered separately and never mixed; "
        f"they differ in {differences(settings.values())}"
        for (model, trait), settings in sorted(samples.items())
        if len(settings) > 1
    )
    mixed = tuple(
        f"{model}, {trait}: imported by an earlier version, which compared results over different numbers of questions "
        "and other components of the model: import into a new experiment (massact export --superseded has all lines)"
        for (model, trait), settings in sorted(samples.items())
        if any(row.origin == "imported" and row.prompt_set is None for row in settings.values())
    )
    against = tuple(
        f"{model}, {trait}: evaluated against {len(found)} baselines "
        f"({', '.join('none' if mean is None else f'{mean:g}' for mean in sorted(found, key=_or_least))}) in setting "
        f"{setting[:8]}, answered separately and never mixed"
        for (model, trait, setting), found in sorted(baselines.items())
        if len(found) > 1
    )
    return several + mixed + against


def usual_notes(by_group: Mapping[Group, Sequence[GroupInSetting]]) -> tuple[str, ...]:
    return (*setting_notes(by_group), *short_note(all_parts(by_group)))


def told_apart(answer: AnswerT, by_group: Mapping[Group, Sequence[GroupInSetting]]) -> AnswerT:
    baselines: dict[tuple[str, str, str, str], set[float | None]] = defaultdict(set)
    for part in all_parts(by_group):
        group = part.group
        baselines[group.model, group.trait, group.position, part.setting].add(part.baseline_trait_mean)
    has_several = any(len(some) > 1 for some in baselines.values())
    return with_differences(answer, _samples(by_group)[0], has_several_baselines=has_several)


def _samples(
    by_group: Mapping[Group, Sequence[GroupInSetting]],
) -> tuple[dict[tuple[str, str], dict[str, EvaluationRow]], dict[tuple[str, str, str], set[float | None]]]:
    """A row of each setting by model and trait, and the baselines of each."""
    samples: dict[tuple[str, str], dict[str, EvaluationRow]] = defaultdict(dict)
    baselines: dict[tuple[str, str, str], set[float | None]] = defaultdict(set)
    for part in all_parts(by_group):
        samples[part.group.model, part.group.trait][part.setting] = part.sample
        if len(part.points):
            baselines[part.group.model, part.group.trait, part.setting].add(part.baseline_trait_mean)
    return samples, baselines


def unscored_note(parts: Iterable[GroupInSetting]) -> tuple[str, ...]:
    """How many evaluations could not count, if any."""
    parts = list(parts)
    count = sum(part.points.n_unscored - part.points.n_short for part in parts)
    lack = counted(count, "evaluation lacks", "evaluations lack")
    note = (f"{lack} a coherence or a delta: counted neither as coherent nor as a miss",)
    return (*(note if count else ()), *short_note(parts))


def short_note(parts: Iterable[GroupInSetting]) -> tuple[str, ...]:
    """How many evaluations have scores of too few responses, if any, and what can be done about it."""
    counts = Counter[bool]()
    for part in parts:
        counts[part.sample.origin is None] += part.points.n_short
    return tuple(
        f"{counted(count, 'evaluation has', 'evaluations have')} scores of too few responses (less than the "
        f"share least_scored): no result; {_MENDED if is_ours else _UNMENDED}"
        for is_ours, count in sorted(counts.items(), reverse=True)
        if count
    )


_MENDED = "the next sweep, or massact rejudge, has the others judged"
_UNMENDED = "imported, so that they cannot be judged here"


def all_parts(by_group: Mapping[Group, Sequence[GroupInSetting]]) -> list[GroupInSetting]:
    return [part for parts in by_group.values() for part in parts]


_STORED_FIELDS = tuple(field.name for field in fields(Point) if field.name in StoredPoint._fields)


def as_point(found: StoredPoint, *, at_grid_end: bool = False) -> Point:
    return Point(**{name: getattr(found, name) for name in _STORED_FIELDS}, at_grid_end=at_grid_end)


def _ended(finished_at: int | None) -> int:
    return finished_at if finished_at is not None else -1


# The current setting: where a file declares it, it is that one, as far as the file alone can tell; of several
# that it cannot tell apart the one run last. Where nothing of a model and trait was run as the file says,
# each place is answered in the setting that it was run in last, and a note says so. Without a file each group
# is answered in the one that it was run in last.

Spot = tuple[str, str, str]  # model, trait and position
Against = tuple[str, float | None]  # a setting, and the trait mean of the baseline in it


@dataclass(frozen=True, slots=True)
class Currency:
    """Tells what is current, once `over` has looked at what there is."""

    declared: DeclaredSetting | None = None  # `None`: no file says it
    chosen: Mapping[Spot, Against] | None = None  # `None`: each group by itself, the one run last
    undeclared: tuple[tuple[str, str], ...] = ()  # models and traits of which nothing was run in the declared setting

    def over(self, by_group: Mapping[Group, Sequence[GroupInSetting]]) -> "Currency":
        """What is current of some groups, which must be all of a model and trait, whatever is shown of them."""
        if self.declared is None or self.chosen is not None:
            return self
        ranks: dict[tuple[str, str], dict[str, tuple[bool, bool, int, str]]] = defaultdict(dict)
        for part in all_parts(by_group):
            settings, row = ranks[part.group.model, part.group.trait], part.sample
            if self.declared.holds(row):
                questions = self.declared.question_sets.get(row.trait)
                # of the settings that are as the file says the greatest is answered in
                rank = (row.origin is None, questions in (None, row.question_set), part.last, part.setting)
                settings[part.setting] = max(rank, settings.get(part.setting, rank))
        winners = {pair: max(found, key=found.__getitem__) for pair, found in ranks.items() if found}
        newest: dict[Spot, GroupInSetting] = {}
        for part in all_parts(by_group):
            spot = (part.group.model, part.group.trait, part.group.position)
            if part.setting == winners.get(spot[:2], part.setting):
                among = (part, newest.get(spot, part))
                newest[spot] = max(among, key=lambda part: (part.last, _or_least(part.baseline_trait_mean)))
        chosen = {spot: _against(part) for spot, part in newest.items()}
        return replace(self, chosen=chosen, undeclared=tuple(sorted(ranks.keys() - winners.keys())))

    @property
    def notes(self) -> tuple[str, ...]:
        """Where nothing was run in the declared setting, in words."""
        return tuple(
            f"{model}, {trait}: nothing was evaluated in the setting that the experiment file declares; what was run "
            "last is taken for current"
            for model, trait in self.undeclared
        )

    def part(self, group: Group, parts: Iterable[GroupInSetting]) -> GroupInSetting | None:
        """Of a group's parts, the one run last first, the current one."""
        if self.chosen is None:
            return next(iter(parts), None)
        wanted = self.chosen.get((group.model, group.trait, group.position))
        return next((part for part in parts if _against(part) == wanted), None)

    def stratum(self, several: Iterable[ComparableGroups]) -> ComparableGroups | None:
        """Of one place's strata the current one."""

        def is_current(group: ComparableGroups) -> bool:
            against, spot = (group.setting, group.baseline_trait_mean), (group.model, group.trait, group.position)
            return group.setting is not None and (self.chosen is None or self.chosen.get(spot) == against)

        def newest_run(group: ComparableGroups) -> tuple[int, str]:
            return (max((part.last for part in group.slices.values()), default=-1), group.setting or "")

        return max(filter(is_current, several), key=newest_run, default=None)


def _against(part: GroupInSetting) -> Against:
    return (part.setting, part.baseline_trait_mean)
