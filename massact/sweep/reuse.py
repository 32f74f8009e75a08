"""Labels whose vectors are alike: which cells need no generation, since another label's result is taken over."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from massact.domain import DEFAULT_LEAST_SCORED, Coefficients, Steering
from massact.evaluation import PlannedCell
from massact.floors import as_floor
from massact.labels import format_label, format_layers, format_steering, parse_label
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Points, StoredPoint, is_scored
from massact.store.schema.points import HEAD, has_enough_scores, or_nan
from massact.store.write.evaluations import Source
from massact.sweep.context import Session
from massact.sweep.planner import GridRequest, Planner
from massact.sweep.stored import Subject
from massact.vectors.methods import alike_groups, likeness

_SAME_MEAN = 1e-5  # points by which two means differ at most that were rounded alike

Spot = tuple[str, int, float, str]  # position, layer and coefficient, and how it is steered there besides


@dataclass(frozen=True, slots=True)
class Same:
    """Whose result a cell takes over."""

    label: str
    key: str  # of the cell that is evaluated
    likeness: float  # of the two vectors; see `massact.vectors.methods`


@dataclass(frozen=True, slots=True)
class Known:
    """What the store holds of one model and trait."""

    evaluated: set[str] = field(default_factory=set)  # keys of cells that were evaluated themselves
    taken: set[str] = field(default_factory=set)  # keys of cells whose result was taken over and still counts as theirs
    labels: set[tuple[str, str, int]] = field(default_factory=set)  # position, label and layer of what was evaluated

    def has(self, key: str) -> bool:
        """Whether a cell is finished."""
        return key in self.evaluated or key in self.taken


def known_results(
    points: Points,
    threshold: float | None,
    *,
    model: str,
    trait: str,
    least_scored: float = DEFAULT_LEAST_SCORED,
    baseline: EvaluationRow | None = None,
) -> Known:
    """What is finished, told apart by whether it was evaluated itself.
    A result that was taken over counts while its vector is alike enough for this command, and while the figures are
    still those of the evaluation that it came from: that one may have been deleted, or been evaluated again since. What
    has scores of too few responses is not finished, nor is what was compared with another baseline than the store's.
    `threshold`: likeness that must be exceeded; `None`: nothing that was taken over counts. `baseline`: the store's;
    `None`: it has none."""
    numbers = points.numbers
    finished = has_enough_scores(numbers["n_scored"], numbers["n_unscored"], least_scored)
    if baseline is not None:
        finished &= is_compared(numbers["baseline_trait_mean"], baseline, least_scored)
        finished &= abs(numbers["delta"]) >= 0  # there is one
    points = points.where(finished)
    heads = [dict(zip(HEAD, head, strict=True)) for head in points.heads]
    mine = [i for i, head in enumerate(heads) if (head["model"], head["trait"]) == (model, trait)]
    marked = {i for i in mine if heads[i]["same_as"] is not None}
    plain = set(mine) - marked
    known = Known(
        evaluated={key for key, head in zip(points.keys, points.head.tolist(), strict=True) if head in plain},
        labels={(heads[i]["position"], heads[i]["label"], heads[i]["layer"]) for i in plain},
    )
    if threshold is None or not marked:
        return known
    mine_at = set(mine)
    results = [points.at(i) for i, head in enumerate(points.head.tolist()) if head in mine_at]
    figures = {_figures(result, result.label) for result in results if result.same_as is None}
    for result in results:
        cosine = result.same_as_cosine or 0.0
        is_alike = result.same_as is not None and (cosine > threshold or cosine >= 1.0)
        if is_alike and _figures(result, result.same_as) in figures:
            known.taken.add(result.key)
    return known


def is_compared(means: Any, baseline: EvaluationRow, least_scored: float) -> Any:
    """Whether results were compared with a baseline that counts, and as the store has it now. `means`: the baseline's
    as the results have it, a number or a column; NaN where they have none."""
    counts = baseline.trait_mean is not None and is_scored(baseline, least_scored)
    return abs(means - (baseline.trait_mean or 0.0)) < (_SAME_MEAN if counts else 0.0)


def finished_rows(
    session: Session, stored: Mapping[str, Stored[EvaluationRow]], baselines: Mapping[str, Stored[EvaluationRow]]
) -> dict[str, Stored[EvaluationRow]]:
    """Those of some results, by key, that have scores enough and were compared with their baseline as it is now."""
    least = session.experiment.least_scored

    def is_finished(row: EvaluationRow) -> bool:
        baseline, mean = baselines.get(row.baseline_key or ""), or_nan(row.baseline_trait_mean)
        return (baseline is None or bool(is_compared(mean, baseline.row, least))) and is_scored(row, least)

    return {key: result for key, result in stored.items() if is_finished(result.row)}


def is_baseline(session: Session, row: EvaluationRow, *, generates: bool = True) -> bool:
    """Whether a stored baseline counts: it has scores enough and, for what is generated, the metric of the floor."""
    floor = as_floor(session.experiment.coherence_floor)
    return is_scored(row, session.experiment.least_scored) and not (generates and floor.is_lacking(row))


def _figures(point: StoredPoint, label: str | None) -> tuple[object, ...]:
    """Where a result lies, under a label, and what came of it."""
    return (
        point.setting, point.position, label, point.layer, point.coefficient, point.trait_mean, point.coherence_mean,
        point.delta, point.n_scored, point.n_unscored,
    )  # fmt: skip


class Alikeness:
    """Finds, cell by cell, which labels of one model and trait are alike."""

    def __init__(self, planner: Planner, session: Session) -> None:
        self._planner, self._threshold = planner, session.workload.alike
        self._least_scored = session.experiment.least_scored
        self._floor = as_floor(session.experiment.coherence_floor)
        labels = (label for phase in session.experiment.phases for label in phase.labels)
        self._declared = tuple(dict.fromkeys(labels))  # in the order in which others may take over their results
        self._measured: dict[tuple[str, str], float] = {}

    def known(self, points: Points, subject: Subject, baseline: EvaluationRow | None) -> Known:
        """What of a model and trait is finished for this command; see `known_results`."""
        names, least = {"model": subject.model.name, "trait": subject.trait.name}, self._least_scored
        known = known_results(points, self._threshold, **names, least_scored=least, baseline=baseline)
        if lacking := self.lacking(points):
            known = replace(known, evaluated=known.evaluated - lacking, taken=known.taken - lacking)
        return known

    def lacking(self, points: Points) -> set[str]:
        """The keys of results that lack the metric which the floor is of, and so can neither count nor be a miss."""
        if self._floor.is_coherence:
            return set()
        lacks = (points.column(self._floor.metric) != points.column(self._floor.metric)).tolist()  # NaN is not itself
        return {key for key, is_lacking in zip(points.keys, lacks, strict=True) if is_lacking}

    def of(self, todo: Mapping[str, PlannedCell], known: Known) -> dict[str, Same]:
        """Of the cells that are not finished, those that need no generation, by key. A cell takes over the result of an
        earlier label's at the same position, layer and coefficient, where that one is to be evaluated too or was
        evaluated already."""
        if self._threshold is None:
            return {}
        spots: dict[Spot, dict[str, tuple[str, PlannedCell]]] = defaultdict(dict)
        for key, planned in (*self._evaluated(todo, known), *todo.items()):
            spots[_spot(planned)][_label(planned)] = key, planned
        order = dict.fromkeys((*self._declared, *map(_label, todo.values())))
        same = {}
        for by_label in spots.values():
            cells = {label: by_label[label][1] for label in order if label in by_label}
            for label, (source, measured) in alike_groups(
                cells, partial(self._likeness, cells), self._threshold
            ).items():
                if (key := by_label[label][0]) in todo:
                    same[key] = Same(source, by_label[source][0], measured)
        return same

    def _evaluated(self, todo: Mapping[str, PlannedCell], known: Known) -> Iterator[tuple[str, PlannedCell]]:
        """Cells of declared labels at the same spots that were evaluated already."""
        layers, coefficients = defaultdict[str, set[int]](set), defaultdict[str, set[float]](set)
        for position, layer, coefficient, _ in map(_spot, todo.values()):
            layers[position].add(layer)
            coefficients[position].add(coefficient)
        requests = [
            GridRequest(position, parse_label(label), there, Coefficients(tuple(coefficients[position])))
            for position in layers
            for label in self._declared
            # elsewhere it may not even be possible
            if (there := tuple(layer for layer in layers[position] if (position, label, layer) in known.labels))
        ]
        for key, planned in self._planner.cells(requests).items():
            if key in known.evaluated:
                yield key, planned

    def _likeness(self, by_label: Mapping[str, PlannedCell], first: str, second: str) -> float | None:
        a, b = by_label[first], by_label[second]
        digests = (_steering(a).vector_digest, _steering(b).vector_digest)
        if digests[0] == digests[1] or a.vector is None or b.vector is None:
            return None
        if digests not in self._measured:
            vector, other = (each.reshape(-1, each.shape[-1]) for each in (a.vector, b.vector))
            pairs = zip(vector, other, strict=True)
            self._measured[digests] = min(likeness(*pair, self._planner.massive_dims) for pair in pairs)
        return self._measured[digests]


def alike_lines(same: Mapping[str, Same], cells: Mapping[str, PlannedCell]) -> list[str]:
    """Which labels take over whose results, a line for each source at a position."""
    places: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for key, taken in same.items():
        position, layer, *_ = _spot(cells[key])
        by_label = places.setdefault((position, taken.label), {})
        by_label.setdefault(_label(cells[key]), {})[layer] = taken.likeness
    return [
        f"{position}: " + ", ".join(f"{label} ({_at(layers)})" for label, layers in by_label.items()) + f" as {source}"
        for (position, source), by_label in sorted(places.items())
    ]


def _at(likenesses: Mapping[int, float]) -> str:
    layers, low, high = sorted(likenesses), min(likenesses.values()), max(likenesses.values())
    # rounded down, so that nothing is said to be more alike than it is
    figures = dict.fromkeys(f"{int(value * 10_000) / 10_000:.4f}" for value in (low, high))
    words = "layer" if len(layers) == 1 else "layers"
    return f"{words} {format_layers(layers)}, cosine {' to '.join(figures)}"


def _steering(planned: PlannedCell) -> Steering:
    if planned.cell.steering is None:
        raise ValueError("a baseline has no vector that could be like another")
    return planned.cell.steering


def _spot(planned: PlannedCell) -> Spot:
    steering = _steering(planned)
    how = format_steering(steering.recipe)
    return (steering.position, steering.layer, float(steering.coefficient) + 0.0, how)


def _label(planned: PlannedCell) -> str:
    return format_label(_steering(planned).recipe)


# Evaluations that others take over the result of, read back from the run store.


def read_sources(session: Session, keys: Collection[str]) -> dict[str, Source]:
    """The newest finished evaluation of each key, with its scores by question; a key without one is absent."""
    with session.stores.read() as store:
        points = store.points(session.experiment.name)
        runs = {key: run for key, run in zip(points.keys, points.run_ids, strict=True) if key in keys}
        rows, scores = store.rows(runs.values()), store.scores(runs.values())
        scores = store.with_metrics(scores, {name for row in rows.values() for name in row.metrics or ()})
    return {key: Source(run, rows[run], scores.get(run)) for key, run in runs.items() if run in rows}
