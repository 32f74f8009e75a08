"""What evaluating alike labels once saves, and what it costs in truth.

On a store in which every cell was evaluated itself (`massact main --alike off`):

    python benchmarks/alike.py --experiment experiments/toy.yaml --tracking-uri sqlite:///mlflow.db

Each label takes over, on paper, the result that it would have taken over at a threshold, and that is set beside
its own. It covers the cells that are in the store; a sweep that takes over results may look for others.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable

from massact.config import load_experiment
from massact.domain import Group
from massact.labels import parse_label
from massact.query import Answers, Evaluations
from massact.query.questions.best import BestRow, ask_best
from massact.store.schema import EvaluationRow, Points, StoredPoint
from massact.sweep.context import Session
from massact.sweep.vectors import StoredVectors
from massact.vectors.methods import alike_groups, likeness, vector_digest

THRESHOLDS = (0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0)
Spot = tuple[str, str, str, int, float]
"""Model, trait, position, layer and coefficient."""


class Alike:
    """How alike the vectors of two labels are at a spot."""

    def __init__(self, session: Session) -> None:
        experiment = session.experiment
        self._vectors = {
            (model.name, trait.name): StoredVectors(session, model, trait)
            for model in experiment.models
            for trait in experiment.traits
        }
        self._known: dict[tuple[str, str, str, int, str, str], float | None] = {}

    def __call__(self, spot: Spot, a: str, b: str) -> float | None:
        place = (*spot[:4], a, b)
        if place not in self._known:
            vectors = self._vectors[spot[:2]]
            first, second = (vectors.of(spot[2], parse_label(label))[spot[3]] for label in (a, b))
            is_equal = vector_digest(first) == vector_digest(second)
            dims = vectors.calibration.uniform_dims
            self._known[place] = None if is_equal else likeness(first, second, dims)
        return self._known[place]


def main() -> None:
    """Print a row for each threshold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--tracking-uri", required=True)
    given = parser.parse_args()
    session = Session(load_experiment(given.experiment), given.tracking_uri)
    session.stores.is_dry = True
    name, floor = session.experiment.name, session.experiment.coherence_floor
    with session.stores.read() as store:
        points = list(store.points(name))
        samples = {one.row.setting: one.row for one in store.evaluations(name)}
    if any(point.same_as for point in points):
        raise SystemExit("some results were taken over: evaluate them first (--alike off)")
    labels = dict.fromkeys(label for phase in session.experiment.phases for label in phase.labels)
    measured = Alike(session)
    print(
        "| threshold | cells taken over | delta off by, mean | max | by more than 1 | coherence off by, mean | max |",
        end="",
    )
    print(" other side of the floor | bests off by more than 1 | other winners |")
    print("|---:|" + "---:|" * 9)
    for threshold in THRESHOLDS:
        pairs = taken_over(points, list(labels), measured, threshold)
        print(f"| {threshold:g} | {_figures(points, pairs, samples, floor)} |")


def taken_over(
    points: list[StoredPoint], labels: list[str], measured: Alike, threshold: float
) -> dict[str, StoredPoint]:
    """By key, the point whose result a point would take over."""
    spots: dict[Spot, dict[str, StoredPoint]] = defaultdict(dict)
    for point in points:
        spots[point.model, point.trait, point.position, point.layer, point.coefficient][point.label] = point
    found = {}
    for spot, here in spots.items():
        order = [label for label in labels if label in here]
        groups = alike_groups(order, lambda a, b, spot=spot: measured(spot, a, b), threshold)  # type: ignore[misc]
        found.update({here[label].key: here[lender] for label, (lender, _) in groups.items()})
    return found


def _figures(
    points: list[StoredPoint], pairs: dict[str, StoredPoint], samples: dict[str, EvaluationRow], floor: float
) -> str:
    own = {point.key: point for point in points}
    both = [(own[key], lender) for key, lender in pairs.items()]
    delta = [abs((a.delta or 0.0) - (b.delta or 0.0)) for a, b in both]
    coherence = [abs((a.coherence_mean or 0.0) - (b.coherence_mean or 0.0)) for a, b in both]
    n_across = sum(((a.coherence_mean or 0.0) >= floor) != ((b.coherence_mean or 0.0) >= floor) for a, b in both)
    changed = [_with_result(point, pairs[point.key]) if point.key in pairs else point for point in points]
    truth, taken = (_bests(some, samples, floor) for some in (points, changed))
    n_off = sum(abs((truth[group].delta or 0.0) - (taken[group].delta or 0.0)) > 1 for group in truth)
    winners, others = _winners(truth.values()), _winners(taken.values())
    n_others = sum(winners[place] != others[place] for place in winners)
    n_far = sum(one > 1 for one in delta)
    return (
        f"{len(pairs)} of {len(points)} | {statistics.fmean(delta):.2f} | {max(delta):.1f} | {n_far} "
        f"| {statistics.fmean(coherence):.2f} | {max(coherence):.1f} | {n_across} | {n_off} of {len(truth)} "
        f"| {n_others} of {len(winners)}"
    )


def _with_result(point: StoredPoint, lender: StoredPoint) -> StoredPoint:
    result = {name: getattr(lender, name) for name in ("trait_mean", "coherence_mean", "delta")}
    return point._replace(**result, same_as=lender.label)


def _bests(points: list[StoredPoint], samples: dict[str, EvaluationRow], floor: float) -> dict[Group, BestRow]:
    rows = ask_best.of(Answers(evaluations=Evaluations.from_points(Points.of(points), samples)), floor).rows
    return {Group(row.model, row.trait, row.position, row.label): row for row in rows}


def _winners(bests: Iterable[BestRow]) -> dict[tuple[str, str, str], str]:
    """The label with the best delta of each model, trait and position, ties as in the questions."""
    found: dict[tuple[str, str, str], BestRow] = {}
    for row in sorted((one for one in bests if one.delta is not None), key=_rank):
        found.setdefault((row.model, row.trait, row.position), row)
    return {place: row.label for place, row in found.items()}


def _rank(row: BestRow) -> tuple[float, float, int, bool, str]:
    delta = (row.delta or 0.0) * (-1 if row.direction == "negative" else 1)
    return (-delta, abs(row.coefficient or 0.0), row.layer or 0, row.same_as is not None, row.label)


if __name__ == "__main__":
    main()
