"""Every way of predicting that is compared, from plain to trees."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from massact.prediction.cases import Case
from massact.prediction.features import NAMES, column, features_of
from massact.prediction.fitting import Fit, Predictor, Target, log_of, weights
from massact.prediction.prior import VectorFacts
from massact.prediction.ridge import fit_ridge

MEDIAN, NORM, STRENGTH, RIDGE, TREES = "median", "norm", "relative_strength", "ridge", "trees"
WORDS = {
    MEDIAN: "median coefficient of the others",
    NORM: "full activation norm",
    STRENGTH: "relative strength, refitted",
    RIDGE: "ridge on the vector's properties",
    TREES: "trees on the vector's properties",
}
"""Every form by name, with what it is, the plainest first."""
REGRESSORS = (RIDGE, TREES)

_N_TREES, _TREE_DEPTH = 50, 2


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant for all vectors: of the coefficient itself, or of the coefficient measured by something."""

    unit: Predictor
    """Log of what the coefficient is measured by."""
    log_value: float

    def __call__(self, facts: VectorFacts) -> float:
        return self.log_value + self.unit(facts)


def by_strength(facts: VectorFacts) -> float:
    """Log of the coefficient whose relative strength is 1."""
    return -math.log(facts.unit_strength)


def _by_nothing(_facts: VectorFacts) -> float:
    return 0.0


def _by_norm(facts: VectorFacts) -> float:
    return math.log(facts.norm)


def fit_constant(unit: Predictor) -> Callable[[Sequence[Case], Target], Constant]:
    """Fits the median over models and traits of each one's own median."""

    def fit(cases: Sequence[Case], target: Target) -> Constant:
        by_group = defaultdict(list)
        for case in cases:
            by_group[case.group].append(log_of(case, target) - unit(case.facts))
        return Constant(unit, statistics.median(map(statistics.median, by_group.values())))

    return fit


fit_strength = fit_constant(by_strength)


@dataclass(frozen=True, slots=True)
class _Trees:
    methods: tuple[str, ...]
    means: dict[str, float]
    boosted: Any

    def row(self, facts: VectorFacts) -> list[float]:
        """The features in one order; an unknown one is its mean."""
        features = features_of(facts, self.methods)
        known = ((name, features[name]) for name in self.means)
        return [self.means[name] if value is None else value for name, value in known]

    def __call__(self, facts: VectorFacts) -> float:
        return float(self.boosted.predict([self.row(facts)])[0]) + by_strength(facts)


def fit_trees(cases: Sequence[Case], target: Target) -> Predictor:
    """A few small boosted trees on what is left once relative strength is taken out; for comparison alone."""
    from sklearn.ensemble import GradientBoostingRegressor

    methods = tuple(sorted({case.facts.method for case in cases}))
    rows = [features_of(case.facts, methods) for case in cases]
    names = (*NAMES, *(name for name in rows[0] if name not in NAMES))
    means = {name: statistics.fmean(known) for name in names if (known := column(rows, name))}
    boosted = GradientBoostingRegressor(
        n_estimators=_N_TREES, max_depth=_TREE_DEPTH, min_samples_leaf=3, random_state=0
    )
    trees = _Trees(methods, means, boosted)
    strengths = [log_of(case, target) - by_strength(case.facts) for case in cases]
    boosted.fit([trees.row(case.facts) for case in cases], strengths, sample_weight=weights(cases))
    return trees


FITS: dict[str, Fit] = {
    MEDIAN: fit_constant(_by_nothing),
    NORM: fit_constant(_by_norm),
    STRENGTH: fit_strength,
    RIDGE: fit_ridge,
    TREES: fit_trees,
}
