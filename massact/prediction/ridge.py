"""A ridge regression on what is left of log coefficient once relative strength is taken out.

With all its weights at 0 it is relative strength, so it can only be more than that.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from massact.prediction.cases import Case
from massact.prediction.features import NAMES, column, features_of, named_methods
from massact.prediction.fitting import Target, choose, log_of, weights
from massact.prediction.prior import VectorFacts

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
