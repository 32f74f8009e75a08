"""What all predictors share: the target, the weight of a case, and the choice of a setting without the group tested."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from massact.prediction.cases import Case
from massact.prediction.prior import VectorFacts

Target = Literal["best", "cliff"]
TARGETS: tuple[Target, ...] = ("best", "cliff")
Predictor = Callable[[VectorFacts], float]
"""Expects the logarithm of a coefficient of a vector."""
Fit = Callable[[Sequence[Case], Target], Predictor]

MAX_INNER_FOLDS = 6
SettingT = TypeVar("SettingT")


def log_of(case: Case, target: Target) -> float:
    """The logarithm of the coefficient that was found."""
    return math.log(case.outcome.best if target == "best" else case.outcome.cliff)


def error_of(predictor: Predictor, case: Case, target: Target) -> float:
    """|log error|: 0.1 is about a tenth too high or too low."""
    return abs(predictor(case.facts) - log_of(case, target))


def groups_of(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """The models and traits, sorted."""
    return sorted({case.group for case in cases})


def weights(cases: Sequence[Case]) -> list[float]:
    """Every group weighs the same, however many of its vectors were evaluated; the mean is 1."""
    counts = Counter(case.group for case in cases)
    return [len(cases) / (len(counts) * counts[case.group]) for case in cases]


def choose(
    prepare: Callable[[Sequence[Case]], Callable[[SettingT], Predictor]],
    settings: Sequence[SettingT],
    cases: Sequence[Case],
    target: Target,
) -> SettingT:
    """The setting with the least error on groups left out; the first of those alike, and of a single group.

    Args:
        prepare: takes the cases to fit on, and then a setting, so that what settings share is done once.
    """
    errors: dict[SettingT, float] = dict.fromkeys(settings, 0.0)
    for train, test in _folds(cases):
        fit = prepare(train)
        for setting in settings:
            predictor = fit(setting)
            errors[setting] += sum(error_of(predictor, case, target) for case in test)
    return min(settings, key=lambda setting: round(errors[setting], 9))


def _folds(cases: Sequence[Case]) -> Iterator[tuple[list[Case], list[Case]]]:
    groups = groups_of(cases)
    if len(groups) < 2:
        return
    n_folds = min(len(groups), MAX_INNER_FOLDS)
    for fold in range(n_folds):
        out = set(groups[fold::n_folds])
        yield [c for c in cases if c.group not in out], [c for c in cases if c.group in out]
