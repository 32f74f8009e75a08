"""Labels compared over the evaluations that all of them have: a best of many beside a best of few is no comparison."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

from massact.query.evaluations import PointSet
from massact.query.groups import ComparableGroups, GroupInSetting
from massact.words import counted

Parts = Mapping[str, GroupInSetting]


class EqualGrids(NamedTuple):
    """Labels of a place, as they may be compared."""

    stratum: ComparableGroups
    """The place, with those evaluations of the labels that are compared; with all where nothing is."""
    words: str = ""  # what was left out, or why nothing is compared; empty where the grids are equal
    is_refused: bool = False


def on_equal_grids(stratum: ComparableGroups, labels: Iterable[str], floor: float) -> EqualGrids:
    """The labels that have a best, over the cells that all have: of one layer and coefficient, or relative strength.
    Where that leaves one of them without a best, as after a search, which has coefficients of its own, over the layers
    that all have. Where that does too they are not compared."""
    parts = {label: stratum.slices[label] for label in labels if stratum.best(label, floor)}
    if len(parts) < 2 or any(part.is_control for part in parts.values()):
        return EqualGrids(stratum)
    ways: tuple[tuple[Callable[[PointSet, PointSet], PointSet], str], ...] = (
        (PointSet.at_cells_of, ""),
        (lambda points, other: points.at_layers(other.layers), "at unequal coefficients, "),
    )
    for keep, unequal in ways:
        # of each label what all others have too
        points = {label: part.points for label, part in parts.items()}
        shared = {
            label: reduce(keep, [points[other] for other in parts if other != label], points[label]) for label in parts
        }
        kept = {label: replace(part, points=shared[label]) for label, part in parts.items()}
        if all(part.best(floor) for part in kept.values()):
            lost = ", ".join(_lost(parts, kept, floor, is_all=bool(unequal)))
            if not lost:
                return EqualGrids(stratum)
            words = f"compared {unequal}over {lost}"
            return EqualGrids(replace(stratum, slices={**stratum.slices, **kept}), words)
    layers = {label: ", ".join(map(str, sorted(part.points.layers))) for label, part in parts.items()}
    where = ", ".join(f"{label} at layer{'s' * (',' in some)} {some}" for label, some in layers.items())
    return EqualGrids(stratum, f"not compared: not all are coherent at layers that all have ({where})", True)


def _lost(parts: Parts, kept: Parts, floor: float, *, is_all: bool) -> Iterator[str]:
    """Of each label that lost any, or of all, how many evaluations are left, and its best where that was lost."""
    for label, part in parts.items():
        n, of = len(kept[label].points), len(part.points)
        if n < of or is_all:
            best, left = part.best(floor), kept[label].best(floor)
            lost = ""
            if best and left and best.run_id != left.run_id:
                lost = f" without its best ({best.delta:+.1f} at layer {best.layer}, {best.coefficient:g})"
            yield f"{n} of {counted(of, 'evaluation')} of {label}{lost}"
