"""What winners are held against, as labels of their place: a prompt, examples, random directions of the same norm."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from massact.domain import RANDOM, Direction, Group
from massact.labels import format_steering
from massact.query.answers import Answers
from massact.query.evaluations import PointSet
from massact.query.groups import ComparableGroups, GroupInSetting, gain, recipe_of
from massact.query.rows import Point
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Points, StoredPoint

RANDOM_LABEL = "random"  # stands for all random directions: as a label it is the one with the median delta
CONTROLS = ("prompt", "few_shot", RANDOM_LABEL)


def with_controls(answers: Answers, place: ComparableGroups, floor: float) -> ComparableGroups:
    """A place with what its winner is held against among its labels; the median of random directions stands for all."""
    parts = {part.group.label: part for part in _parts(answers, place, floor)}
    return replace(place, slices={**place.slices, **parts})


def controls_of(answers: Answers, place: ComparableGroups, floor: float) -> list[GroupInSetting]:
    """The same parts alone, as far as labels that are shown go."""
    return [part for part in _parts(answers, place, floor) if answers.shows(part.group.label)]


def _parts(answers: Answers, place: ComparableGroups, floor: float) -> Iterator[GroupInSetting]:
    prompted = {
        control.row.label: control for control in _of(answers, place) if control.row.prompting_digest
    }  # the newest counts
    by_label = {label: prompted[label] for label in CONTROLS if label in prompted}
    random = sorted(
        random_rows(answers, place, floor), key=lambda stored: (stored.row.delta or 0.0, stored.row.label or "")
    )
    if random:
        by_label[RANDOM_LABEL] = random[len(random) // 2]
    for label, stored in by_label.items():
        group = Group(place.model, place.trait, place.position, label)
        values = {name: getattr(stored.row, name) for name in StoredPoint._fields[2:]}
        ended = -1 if stored.finished_at is None else stored.finished_at
        point = StoredPoint(stored.run_id, ended, **values | {"position": place.position, "label": label})
        points = Points.of([point]).counting(answers.least_scored)
        baseline = place.baseline_trait_mean
        yield GroupInSetting(group, stored.row.setting, baseline, stored.row, PointSet(points, points.head), last=ended)


def winner_of(place: ComparableGroups, floor: float) -> tuple[str, Point] | None:
    """The label with the best delta that is no random direction, and its best; `None`: nothing is coherent."""
    ranked = ((label, best, recipe_of(label)) for label, best in place.ranked(floor))
    return next(((label, best) for label, best, recipe in ranked if recipe is None or recipe.method != RANDOM), None)


def random_rows(answers: Answers, place: ComparableGroups, floor: float) -> list[Stored[EvaluationRow]]:
    """The random directions at the place of its winner, of the same norm and steering in the same way."""
    winner = winner_of(place, floor)
    recipe = recipe_of(winner[0]) if winner else None
    if winner is None or recipe is None:
        return []
    at = (place.position, *winner[1].spot, format_steering(recipe))
    return [
        control
        for control in _of(answers, place)
        if (known := recipe_of(control.row.label or "")) is not None
        and known.method == RANDOM
        and control.row.delta is not None
        and (control.row.position, control.row.layer, control.row.coefficient, format_steering(known)) == at
    ]


def _of(answers: Answers, place: ComparableGroups) -> Iterator[Stored[EvaluationRow]]:
    """Those of a place's model, trait and setting that are compared with its baseline, the oldest first."""
    about = (place.model, place.trait, place.setting)
    for control in answers.controls:
        means = control.row.baseline_trait_mean, place.baseline_trait_mean
        is_same = means[0] == means[1] or (None not in means and abs((means[0] or 0.0) - (means[1] or 0.0)) < 1e-5)
        if is_same and (control.row.model, control.row.trait, control.row.setting) == about:
            yield control


def random_p(delta: float, random: Sequence[float], direction: Direction | None) -> float | None:
    """The chance of a random direction with as good a delta as the winner's: (1 + #{as good}) / (1 + n), a permutation
    p-value (Phipson and Smyth, arXiv:1603.05766). `None`: there is no random direction."""
    n_better = sum(gain(other, direction) >= gain(delta, direction) for other in random)
    return (1 + n_better) / (1 + len(random)) if random else None
