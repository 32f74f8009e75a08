"""Every way of predicting that is compared, from plain to trees."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from massact.prediction.cases import Case
from massact.prediction.prior import VectorFacts

# What all predictors share: the target, the weight of a case, and the choice of a setting without the group tested.

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


# What a regression reads off a vector, besides its relative strength.

NAMES = (
    "depth",
    "massive_energy",
    "log_norm_ratio",
    "cosine_to_mean",
    "cosine_to_uncleaned",
    "effect_size",
)
"""Of every vector; a method has one more each, 1 for its own vectors and 0 for others."""
METHOD = "method="
"""Prefix of the features that stand for a method."""


def features_of(facts: VectorFacts, methods: Collection[str]) -> dict[str, float | None]:
    """By name; `None` where it is not known.

    Args:
        methods: those that a regression knows; of a vector of another one no method is known.
    """
    known = {
        "depth": facts.depth,
        "massive_energy": facts.massive_energy,
        # by how much massive dims lengthen the stream
        "log_norm_ratio": math.log(facts.norm / facts.norm_without_massive),
        "cosine_to_mean": facts.cosine_to_mean,
        "cosine_to_uncleaned": facts.cosine_to_uncleaned,
        "effect_size": facts.effect_size,
    }
    is_known = facts.method in methods
    own = {f"{METHOD}{one}": float(facts.method == one) if is_known else None for one in methods}
    return {name: _finite(value) for name, value in (known | own).items()}


def named_methods(names: Collection[str]) -> tuple[str, ...]:
    """The methods that feature names stand for."""
    return tuple(name.removeprefix(METHOD) for name in names if name.startswith(METHOD))


def column(rows: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    """The known values of a feature."""
    return [value for row in rows if (value := row[name]) is not None]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# A ridge regression on what is left of log coefficient once relative strength is taken out.

PENALTIES = (1e6, 10.0, 1.0, 0.1, 0.01)
"""Per case; the first leaves relative strength alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One feature's part. The feature is clipped to the range it was fitted on; an unknown one is its mean."""

    name: str
    weight: float
    """Change of log coefficient per standard deviation of the feature."""
    mean: float
    deviation: float
    """Standard deviation, above 0."""
    low: float
    high: float

    def __call__(self, value: float | None) -> float:
        if value is None:
            return 0.0
        return self.weight * (min(max(value, self.low), self.high) - self.mean) / self.deviation


@dataclass(frozen=True, slots=True)
class Ridge:
    """A fitted regression."""

    intercept: float
    """Log of the relative strength of an average vector."""
    terms: tuple[Term, ...]

    def __call__(self, facts: VectorFacts) -> float:
        """Log of the coefficient that is expected of a vector."""
        features = features_of(facts, named_methods([term.name for term in self.terms]))
        strength = self.intercept + sum(term(features[term.name]) for term in self.terms)
        return strength - math.log(facts.unit_strength)


def fit_ridge(cases: Sequence[Case], target: Target) -> Ridge:
    """Fit with the penalty that predicts best of groups left out among these cases."""
    penalty = choose(lambda some: _prepared(some, target), PENALTIES, cases, target)
    return _prepared(cases, target)(penalty)


def _prepared(cases: Sequence[Case], target: Target) -> Callable[[float], Ridge]:
    """What fits with a penalty, its features read off once for all penalties."""
    import numpy as np
    from sklearn.linear_model import Ridge as Regression

    terms, columns = _columns(cases)
    values = np.array(columns)
    strengths = np.array([log_of(c, target) + math.log(c.facts.unit_strength) for c in cases])
    weight = np.array(weights(cases))

    def fit(penalty: float) -> Ridge:
        if not terms:
            return Ridge(float(np.average(strengths, weights=weight)), ())
        fitted = Regression(alpha=penalty * len(cases)).fit(values, strengths, sample_weight=weight)
        pairs = zip(terms, fitted.coef_, strict=True)
        return Ridge(float(fitted.intercept_), tuple(replace(term, weight=float(w)) for term, w in pairs))

    return fit


def _columns(cases: Sequence[Case]) -> tuple[list[Term], list[list[float]]]:
    """The features that vary, each with its range and with weight 1, and their values by case, standardised."""
    import numpy as np

    methods = sorted({case.facts.method for case in cases})
    rows = [features_of(case.facts, methods) for case in cases]
    terms = []
    for name in (*NAMES, *(name for name in rows[0] if name not in NAMES)):
        values = column(rows, name)
        if len(values) > 1 and (deviation := float(np.std(values))) > 1e-9 * max(map(abs, values)):
            terms.append(
                Term(
                    name=name,
                    weight=1.0,
                    mean=float(np.mean(values)),
                    deviation=deviation,
                    low=min(values),
                    high=max(values),
                )
            )
    return terms, [[term(row[term.name]) for term in terms] for row in rows]


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
