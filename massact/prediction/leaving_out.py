"""How well each form predicts of models and traits that it was not fitted on."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from massact.prediction.cases import Case, Group
from massact.prediction.forms import FITS, TARGETS, Fit, Predictor, Target, groups_of, log_of
from massact.prediction.prior import Prior, RelativeStrengthPrior

GIVEN = "given"
"""Relative strength with the constants that massact comes with, which nothing here is fitted for."""
WITHIN_FACTOR = 1.2
_N_DRAWS = 4000
_LEVEL = 0.95
MIN_GROUPS_FOR_INTERVAL = 5
"""With fewer groups a bootstrap over them says nothing that can be relied on."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One form's factor of error over another's on the same vectors: geometric mean, every group weighs the same."""

    value: float
    """Below 1: the first predicts better."""
    low: float | None = None
    high: float | None = None
    """Of the interval that holds it in 95 of 100; `None` with too few groups."""

    @property
    def is_better(self) -> bool:
        return self.high is not None and self.high < 1

    @property
    def is_worse(self) -> bool:
        return self.low is not None and self.low > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How far one form's predictions of one target were off, on groups that it had not seen."""

    form: str
    target: Target
    median_factor: float
    """Half of the predictions are within this factor of what was found."""
    high_factor: float
    """Nine in ten are within this one."""
    share_within: float
    """Share within a factor of 1.2."""
    errors: tuple[float, ...]
    """Mean |log error| of each group, in the order of `groups_of`."""
    spread: float
    """Root mean square of the log error over the groups: what a prediction's standard deviation is said to be."""

    @property
    def error(self) -> float:
        """Mean |log error|, every group weighing the same."""
        return sum(self.errors) / len(self.errors)

    def against(self, other: "Score") -> Ratio:
        """Paired by group; the interval is the bootstrap's over groups."""
        import numpy as np

        differences = np.array(self.errors) - np.array(other.errors)
        value = float(np.exp(differences.mean()))
        if len(differences) < MIN_GROUPS_FOR_INTERVAL:
            return Ratio(value)
        draws = np.random.default_rng(0).integers(len(differences), size=(_N_DRAWS, len(differences)))
        tail = (1 - _LEVEL) / 2
        low, high = np.quantile(differences[draws].mean(axis=1), (tail, 1 - tail))
        return Ratio(value, float(np.exp(low)), float(np.exp(high)))


@dataclass(frozen=True, slots=True)
class Trial:
    """All forms on all cases, each predicted without its group."""

    cases: tuple[Case, ...]
    scores: Mapping[tuple[Target, str], Score]
    predicted: Mapping[tuple[Target, str], tuple[float, ...]]
    """Coefficients, in the order of the cases."""

    @property
    def groups(self) -> list[Group]:
        return groups_of(self.cases)


def leave_groups_out(
    cases: Sequence[Case],
    *,
    fits: Mapping[str, Fit] = FITS,
    targets: Sequence[Target] = TARGETS,
    step: Callable[[int], None] = lambda _n: None,
) -> Trial:
    """Predict every case by every form, fitted on the cases of the other models and traits alone.

    Args:
        cases: of two groups at least, in any order.
        fits: the forms that are fitted; what massact expects without any fit is scored as `GIVEN`.
        step: told of each form that was fitted, `n_steps` in all.
    """
    cases = sorted(cases, key=_order)
    prior = RelativeStrengthPrior()
    errors: dict[tuple[Target, str], list[float]] = {}
    for target in targets:
        for form, fit in fits.items():
            errors[target, form] = _errors(cases, target, fit, step)
        errors[target, GIVEN] = [_expected(prior, target)(c.facts) - log_of(c, target) for c in cases]
    return Trial(
        tuple(cases),
        {key: _score(key, cases, some) for key, some in errors.items()},
        {
            (target, form): tuple(
                math.exp(log_of(case, target) + error) for case, error in zip(cases, some, strict=True)
            )
            for (target, form), some in errors.items()
        },
    )


def n_steps(cases: Sequence[Case]) -> int:
    """How often `leave_groups_out` says that it came a step further."""
    return len(TARGETS) * len(FITS) * len(groups_of(cases))


def _order(case: Case) -> tuple[object, ...]:
    one = case.outcome
    return (one.group, one.position, one.label, one.layer, one.setting, one.best, one.cliff)


def _errors(cases: Sequence[Case], target: Target, fit: Fit, step: Callable[[int], None]) -> list[float]:
    """Log of predicted over found, by case."""
    predictors = {}
    for group in groups_of(cases):
        predictors[group] = fit([case for case in cases if case.group != group], target)
        step(1)
    return [predictors[case.group](case.facts) - log_of(case, target) for case in cases]


def _expected(prior: Prior, target: Target) -> Predictor:
    return lambda facts: math.log(getattr(prior.expect(facts), target))


def _score(key: tuple[Target, str], cases: Sequence[Case], errors: Sequence[float]) -> Score:
    import numpy as np

    target, form = key
    sizes = np.abs(errors)
    squares = _group_means(cases, (sizes**2).tolist())
    return Score(
        form=form,
        target=target,
        median_factor=float(np.exp(np.median(sizes))),
        high_factor=float(np.exp(np.quantile(sizes, 0.9))),
        share_within=float((sizes <= math.log(WITHIN_FACTOR)).mean()),
        errors=tuple(_group_means(cases, sizes.tolist())),
        spread=float(np.sqrt(np.mean(squares))),
    )


def _group_means(cases: Sequence[Case], values: Sequence[float]) -> list[float]:
    by_group = defaultdict(list)
    for case, value in zip(cases, values, strict=True):
        by_group[case.group].append(value)
    return [sum(some) / len(some) for _, some in sorted(by_group.items())]
