"""The rules that every question shares: what counts, which is best, which missed the floor by least.

Evaluations of different settings (another judge, question set, generation, model revision or
direction) are never mixed: the setting's digest is part of every group. No rule depends on the
order in which rows arrive.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from massact.domain import Group, Recipe
from massact.errors import UsageError
from massact.labels import parse_label
from massact.query.rows import Point, Status
from massact.schema import EvaluationRow, Kind
from massact.store.base import FINISHED, Failure, Stored, newest_per_key

StoredEvaluations = Iterable[Stored[EvaluationRow]]

_SETTING_FIELDS = (
    "direction", "judge", "judge_model", "judge_prompt", "question_set", "subset", "max_new_tokens",
    "temperature", "seed", "model_id", "model_revision", "dtype",
)  # fmt: skip


@dataclass(slots=True)
class Slice:
    """What the store holds of one group in one setting."""

    group: Group
    setting: str
    sample: EvaluationRow
    """Any of its rows: it tells what the setting is."""
    points: list[Point] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    last: int = -1
    """When the last of its runs ended, in milliseconds since 1970."""

    def best(self, floor: float) -> Point | None:
        """The best delta at or above the floor; ties to the smaller |coefficient|, lower layer, key."""
        allowed = [p for p in self.points if is_at_floor(p, floor) and p.delta is not None]
        return min(allowed, key=self._goodness, default=None)

    def nearest_miss(self, floor: float) -> Point | None:
        """The most coherent point below the floor; ties to the better delta, then as `best`."""
        misses = [p for p in self.points if is_below_floor(p, floor)]
        return min(misses, key=lambda p: (-(p.coherence_mean or 0.0), *self._goodness(p)), default=None)

    def status(self, floor: float) -> Status:
        """What `best` and `nearest_miss` amount to."""
        if self.best(floor) is not None:
            return "ok"
        if any(is_below_floor(p, floor) for p in self.points):
            return "below_floor"
        return "failed" if self.failures else "missing"

    @property
    def n_unscored(self) -> int:
        """Evaluations that lack a coherence or a delta and so are neither at the floor nor a miss."""
        return sum(p.coherence_mean is None or p.delta is None for p in self.points)

    def _goodness(self, point: Point) -> tuple[bool, float, float, int, str]:
        delta = point.delta or 0.0
        signed = delta if self.sample.direction == "negative" else -delta
        return (point.delta is None, signed, abs(point.coefficient), point.layer, point.key)


@dataclass(slots=True)
class Stratum:
    """One model, trait and position in one setting: within it labels may be compared."""

    model: str
    trait: str
    position: str
    setting: str | None = None
    """`None` where nothing was run."""
    sample: EvaluationRow | None = None
    slices: dict[str, Slice] = field(default_factory=dict)
    """By label."""

    def fields(self) -> dict[str, Any]:
        """What an answer's row says of it: model, trait, position, judge, direction, setting."""
        return {
            "model": self.model,
            "trait": self.trait,
            "position": self.position,
            "judge": self.sample.judge if self.sample else None,
            "direction": self.sample.direction if self.sample else None,
            "setting": self.setting,
        }

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


def recipe_of(label: str) -> Recipe | None:
    """The recipe of a stored label; `None` for one that this version does not know."""
    try:
        return parse_label(label)
    except UsageError:
        return None


def is_at_floor(point: Point, floor: float) -> bool:
    """Whether a point is coherent; one without a coherence is not."""
    return point.coherence_mean is not None and point.coherence_mean >= floor


def is_below_floor(point: Point, floor: float) -> bool:
    """Whether a point is incoherent; one without a coherence is not that either."""
    return point.coherence_mean is not None and point.coherence_mean < floor


def slices(rows: StoredEvaluations, failures: Iterable[Failure] = ()) -> dict[Group, list[Slice]]:
    """Evaluations by group and setting, the setting that was evaluated last first; each key once."""
    found: dict[tuple[Group, str], Slice] = {}
    for stored in newest_per_key(stored for stored in rows if stored.status == FINISHED):
        group, point = _group(stored.row), _point(stored)
        if group is None or point is None:
            continue
        part = found.setdefault((group, stored.row.setting), Slice(group, stored.row.setting, stored.row))
        part.points.append(point)
        part.last = max(part.last, _ended(stored.finished_at))
    for failure in failures:
        group = _group(failure.row)
        if group is None:
            continue
        part = found.setdefault((group, failure.row.setting), Slice(group, failure.row.setting, failure.row))
        part.failures.append(failure)
        part.last = max(part.last, _ended(failure.finished_at))
    by_group: dict[Group, list[Slice]] = defaultdict(list)
    for part in sorted(found.values(), key=lambda s: (-s.last, s.setting)):
        part.failures.sort(key=lambda f: (-_ended(f.finished_at), f.run_id))
        by_group[part.group].append(part)
    return dict(by_group)


def strata(by_group: Mapping[Group, Sequence[Slice]], groups: Iterable[Group] = ()) -> list["Stratum"]:
    """Every model, trait and position in every setting; one without a setting where nothing was run."""
    found: dict[tuple[str, str, str], dict[str, Stratum]] = {
        (group.model, group.trait, group.position): {} for group in (*by_group, *groups)
    }
    for group, parts in by_group.items():
        place = (group.model, group.trait, group.position)
        for part in parts:
            stratum = found[place].setdefault(part.setting, Stratum(*place, part.setting, part.sample))
            stratum.slices[group.label] = part
    return [
        stratum
        for place, settings in sorted(found.items())
        for stratum in (settings[name] for name in sorted(settings))
    ] + [Stratum(*place) for place, settings in sorted(found.items()) if not settings]


def setting_notes(by_group: Mapping[Group, Sequence[Slice]]) -> tuple[str, ...]:
    """In words, where a model and trait were evaluated in several settings and what differs."""
    samples: dict[tuple[str, str], dict[str, EvaluationRow]] = defaultdict(dict)
    for group, parts in by_group.items():
        for part in parts:
            samples[group.model, group.trait][part.setting] = part.sample
    return tuple(
        f"{model}, {trait}: evaluated in {len(settings)} settings, answered separately and never mixed; "
        f"they differ in {_differences(settings.values())}"
        for (model, trait), settings in sorted(samples.items())
        if len(settings) > 1
    )


def unscored_note(parts: Iterable[Slice]) -> tuple[str, ...]:
    """How many evaluations could not count, if any."""
    count = sum(part.n_unscored for part in parts)
    if not count:
        return ()
    lacking = "evaluation lacks" if count == 1 else "evaluations lack"
    return (f"{count} {lacking} a coherence or a delta: counted neither as coherent nor as a miss",)


def _differences(samples: Iterable[EvaluationRow]) -> str:
    rows = sorted(samples, key=attrgetter("setting"))
    words = []
    for name in _SETTING_FIELDS:
        values = dict.fromkeys(_short(getattr(row, name)) for row in rows)
        if len(values) > 1:
            words.append(f"{name} ({', '.join(values)})")
    # what a row does not hold itself but its setting's digest does
    return "; ".join(words) or "the trait's dataset or the chat template"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _group(row: EvaluationRow) -> Group | None:
    if row.kind != Kind.EVALUATION or row.position is None or row.label is None:
        return None
    return Group(row.model, row.trait, row.position, row.label)


def _point(stored: Stored[EvaluationRow]) -> Point | None:
    row = stored.row
    if row.layer is None or row.coefficient is None:
        return None
    return Point(
        layer=row.layer,
        coefficient=row.coefficient,
        trait_mean=row.trait_mean,
        coherence_mean=row.coherence_mean,
        delta=row.delta,
        baseline_trait_mean=row.baseline_trait_mean,
        n_scored=row.n_scored,
        n_unscored=row.n_unscored,
        n_dims_cleaned=row.n_dims_cleaned,
        relative_strength=row.relative_strength,
        vector_digest=row.vector_digest,
        key=row.key,
        run_id=stored.run_id,
    )


def _ended(finished_at: int | None) -> int:
    return finished_at if finished_at is not None else -1
