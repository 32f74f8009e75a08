"""The evaluations that a question is asked about: points by place, and a whole row of each setting."""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from massact._lazy import Indices, Mask, Numbers, np
from massact.domain import DEFAULT_LEAST_SCORED, STRENGTH_TOLERANCE, Direction, Group
from massact.floors import as_floor
from massact.store.read.base import FINISHED, Stored
from massact.store.schema import EvaluationRow, Kind, Points, StoredPoint, point_of
from massact.store.schema.points import HEAD, Place


class Vector(NamedTuple):
    """What a store tells of a vector at one layer."""

    digest: str | None
    same_as: str | None  # label whose result was taken over there
    cosine: float | None


@dataclass(frozen=True, slots=True)
class PointSet:
    """Some of many points. Iterating gives them one by one; what ranks them works on whole columns."""

    all: Points
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[StoredPoint]:
        return map(self.all.at, self.indices.tolist())

    @property
    def last(self) -> int:
        """When the last of the runs ended, in milliseconds since 1970."""
        return int(self.all.finished_at[self.indices].max())

    @property
    def layers(self) -> set[int]:
        return {int(layer) for layer in set(self.column("layer").tolist())}

    @property
    def n_unscored(self) -> int:
        """Points that lack a coherence or a delta."""
        return int((np.isnan(self.column("coherence_mean")) | np.isnan(self.column("delta"))).sum())

    @property
    def n_short(self) -> int:
        """Those of them that have scores of too few responses."""
        return 0 if self.all.short is None else int(self.all.short[self.indices].sum())

    def told(self) -> Iterator[StoredPoint]:
        """One by one as the store tells them, also what is scored too little to count."""
        return map((self.all.told or self.all).at, self.indices.tolist())

    def is_at_grid_end(self, point: StoredPoint, floor: float) -> bool:
        """Whether the curve of a best was not seen to fall or to break beyond it. So it is where no larger coefficient
        of its sign and layer was scored, or no smaller one: its own is the largest coherent one, or the smallest, and
        what lies beyond is not known."""
        coefficients, coherence = self.column("coefficient"), self.measures(floor)
        is_seen = (coherence < floor) | ((coherence >= floor) & ~np.isnan(self.column("delta")))
        is_same_side = np.sign(coefficients) * np.sign(point.coefficient) > 0
        here = is_seen & (self.column("layer") == point.layer) & is_same_side
        sizes = np.abs(coefficients[here])
        return bool(len(sizes)) and not sizes.min() < abs(point.coefficient) < sizes.max()

    def vectors(self) -> dict[int, "Vector"]:
        """By layer what is known of the vector; of several the last."""
        heads = (self.all.heads[head] for head in dict.fromkeys(self.all.head[self.indices].tolist()))
        named = (dict(zip(HEAD, head, strict=True)) for head in heads)
        return {
            stored["layer"]: Vector(stored["vector_digest"], stored["same_as"], stored["same_as_cosine"])
            for stored in named
        }

    def best(self, floor: float, direction: Direction | None) -> StoredPoint | None:
        """The best delta at or above the floor; ties to the smaller |coefficient|, lower layer, key."""
        coherent = self._where(self._is_coherent(floor))
        return coherent._with_best_delta(direction)._first()

    def nearest_miss(self, floor: float, direction: Direction | None) -> StoredPoint | None:
        """The most coherent point below the floor; ties to the better delta, then as `best`."""
        misses = self._where(self._is_miss(floor))
        if not len(misses):
            return None
        coherence = misses.measures(floor)
        nearest = misses._where(coherence == coherence.max())
        with_delta = nearest._with_best_delta(direction)
        return (with_delta if len(with_delta) else nearest)._first()

    def has_best(self, floor: float) -> bool:
        return bool(self._rankable(floor).any())

    def has_miss(self, floor: float) -> bool:
        return bool(self._is_miss(floor).any())

    def coherent(self, floor: float) -> "PointSet":
        """Those that may be a best."""
        return self._where(self._rankable(floor))

    def coherent_runs(self, floor: float) -> list[str]:
        return self.coherent(floor).run_ids()

    def _rankable(self, floor: float) -> Mask:
        return self._is_coherent(floor) & ~np.isnan(self.column("delta"))

    def _is_coherent(self, floor: float) -> Mask:
        mask: Mask = self.measures(floor) >= floor
        return mask if self.all.doubtful is None else mask & ~self.all.doubtful[self.indices]

    def _is_miss(self, floor: float) -> Mask:
        """Which have a coherence and do not count as coherent."""
        return ~np.isnan(self.measures(floor)) & ~self._is_coherent(floor)

    def with_delta(self) -> "PointSet":
        return self._where(~np.isnan(self.column("delta")))

    def ties(self) -> list[tuple[float, float, bool, str]]:
        """Of each what decides between equal deltas, among labels too: the least is the best; the last is the key."""
        of_head = [head[HEAD.index("same_as")] is not None for head in self.all.heads]
        columns = (abs(self.column("coefficient")).tolist(), self.column("layer").tolist())
        taken = (of_head[head] for head in self.all.head[self.indices].tolist())
        keys = (self.all.keys[index] for index in self.indices.tolist())
        return list(zip(*columns, taken, keys, strict=True))

    def by_baseline(self) -> dict[float | None, "PointSet"]:
        """The same by the baseline they are compared with; baselines that differ by rounding are one."""
        rounded = np.round(self.column("baseline_trait_mean"), 6)
        if (rounded == rounded[0]).all():
            return {float(rounded[0]): self}
        found = {}
        for value in np.unique(rounded):  # one NaN at most, the last
            is_missing = bool(np.isnan(value))
            same = np.isnan(rounded) if is_missing else rounded == value
            found[None if is_missing else float(value)] = self._where(same)
        return found

    def with_keys(self, keys: Container[str]) -> Iterator[StoredPoint]:
        return (self.all.at(index) for index in self.indices.tolist() if self.all.keys[index] in keys)

    def at_layers(self, layers: Collection[int]) -> "PointSet":
        return self._where(np.isin(self.column("layer"), list(layers)))

    def at_cells_of(self, other: "PointSet") -> "PointSet":
        """Those of whose layer and coefficient, or relative strength, the others have a scored evaluation."""
        layers, there = self.column("layer"), other._where(~np.isnan(other.column("coherence_mean")))
        mask = np.zeros(len(self), dtype=bool)
        for layer in self.layers & there.layers:
            here, others = layers == layer, there.at_layers([layer])
            for name, tolerance in (("coefficient", 0.0), ("relative_strength", STRENGTH_TOLERANCE)):
                values = self.column(name)[here][:, None]
                mask[here] |= np.isclose(values, others.column(name), rtol=tolerance, atol=1e-12).any(axis=1)
        return self._where(mask)

    def steered_grid(self, floor: float) -> tuple[Numbers, Numbers, Numbers]:
        """Layer, coefficient and coherence, or what else the floor is of, of those whose coefficient is not 0; NaN
        where it is missing, 0 in doubt."""
        coefficients = self.column("coefficient")
        is_steered = coefficients != 0  # 0 is the baseline itself
        layers, coherences = self.column("layer"), self.measures(floor)
        if self.all.doubtful is not None:
            coherences = np.where(self.all.doubtful[self.indices], 0.0, coherences)
        return layers[is_steered], coefficients[is_steered], coherences[is_steered]

    def run_ids(self) -> list[str]:
        return [self.all.run_ids[index] for index in self.indices.tolist()]

    def keys(self) -> list[str]:
        return [self.all.keys[index] for index in self.indices.tolist()]

    def column(self, name: str) -> Numbers:
        """One of `massact.store.schema.points.NUMBERS` and `COUNTS`, the layer or a metric; NaN where missing."""
        return self.all.column(name)[self.indices]

    def measures(self, floor: float) -> Numbers:
        """What a floor is of, on its scale; see `massact.floors`."""
        asked = as_floor(floor)
        return asked.measure(self.column("coherence_mean" if asked.is_coherence else asked.metric))

    def n_unmeasured(self, floor: float) -> int:
        """Points with a coherence that lack the metric which a floor is of."""
        return int((np.isnan(self.measures(floor)) & ~np.isnan(self.column("coherence_mean"))).sum())

    def _where(self, mask: Mask) -> "PointSet":
        return PointSet(self.all, self.indices[mask])

    def _with_best_delta(self, direction: Direction | None) -> "PointSet":
        scored = self.with_delta()
        if not len(scored):
            return scored
        delta = scored.column("delta")
        return scored._where(delta == (delta.min() if direction == "negative" else delta.max()))

    def _first(self) -> StoredPoint | None:
        return min(self, key=lambda p: (abs(p.coefficient or 0.0), p.layer or 0, p.key), default=None)


@cache
def no_points() -> PointSet:
    points = Points.of(())
    return PointSet(points, points.head)


@dataclass(frozen=True, slots=True)
class Evaluations:
    """Finished evaluations, each key once, by their place. Iterating gives the points."""

    by_place: Mapping[Place, PointSet] = field(default_factory=dict)
    samples: Mapping[str, EvaluationRow] = field(default_factory=dict)
    """A whole row of each setting: it tells what the setting is."""

    @classmethod
    def of(cls, rows: Iterable[Stored[EvaluationRow]], least_scored: float = DEFAULT_LEAST_SCORED) -> "Evaluations":
        """From whole rows. Of a key with several finished runs the newest counts."""
        points, samples = [], {}
        for row in rows:
            if row.status != FINISHED or row.row.kind != Kind.EVALUATION:
                continue
            point = point_of(row.row, row.run_id, row.finished_at)
            if point is not None:
                points.append(point)
                samples[point.setting] = row.row
        return cls.from_points(Points.of(points).newest().counting(least_scored), samples)

    @classmethod
    def from_points(cls, points: Points, samples: Mapping[str, EvaluationRow]) -> "Evaluations":
        """Those points whose setting has a sample; `Points.counting` says which figures of them count."""
        places = points.by_place().items()
        return cls({p: PointSet(points, indices) for p, indices in places if p[0] in samples}, samples)

    def doubting(self, run_ids: Collection[str]) -> "Evaluations":
        """The same where some runs do not count as coherent."""
        marked: dict[int, Points] = {}
        for points in self.by_place.values():
            if id(points.all) not in marked:
                marked[id(points.all)] = points.all.doubting(run_ids)
        sets = {place: PointSet(marked[id(points.all)], points.indices) for place, points in self.by_place.items()}
        return Evaluations(sets, self.samples)

    def only(self, admits: Callable[[Place], bool], layers: Collection[int] = ()) -> "Evaluations":
        """Those at places that a condition admits, and at some layers (empty: at any)."""
        kept = {place: points for place, points in self.by_place.items() if admits(place)}
        if layers:
            kept = {place: points.at_layers(layers) for place, points in kept.items()}
            kept = {place: points for place, points in kept.items() if len(points)}
        return Evaluations(kept, {place[0]: self.samples[place[0]] for place in kept})

    def __iter__(self) -> Iterator[StoredPoint]:
        for points in self.by_place.values():
            yield from points

    def __len__(self) -> int:
        return sum(map(len, self.by_place.values()))


def group_of(place: Place) -> Group:
    return Group(*place[1:])


def group_of_row(row: EvaluationRow) -> Group:
    """The group of a row; a baseline's has neither position nor label."""
    return Group(row.model, row.trait, row.position or "", row.label or "")
