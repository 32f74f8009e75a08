"""Whether the best coefficient can be predicted, in words, and what is expected of vectors from now on."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from massact.prediction.adopted import AdoptedPrior, Form, Part, Strength
from massact.prediction.cases import Case, Group
from massact.prediction.forms import (
    MEDIAN,
    NORM,
    RIDGE,
    STRENGTH,
    TREES,
    Target,
    by_strength,
    fit_ridge,
    fit_strength,
    groups_of,
    log_of,
)
from massact.prediction.leaving_out import GIVEN, MIN_GROUPS_FOR_INTERVAL, Ratio, Trial
from massact.prediction.prior import RelativeStrengthPrior

_NOUN: dict[Target, str] = {"best": "the best coefficient", "cliff": "the coherence cliff"}
_LEAST_SPREAD = math.log(1.02)
"""No grid tells where a cliff is more exactly than that."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is concluded of one target."""

    target: Target
    form: str
    """What is expected from now on: `ridge`, `relative_strength` (refitted) or `given`."""
    answer: str
    """Whether it can be predicted: `yes`, `no` or `cannot be told`."""
    text: str
    part: Part


@dataclass(frozen=True, slots=True)
class OwnStrengths:
    """The relative strengths that the vectors of one model and trait have in common."""

    group: Group
    n_cases: int
    best: float
    """Median relative strength of the best coefficients."""
    best_scatter: float
    """One standard deviation of its logarithm, as a factor; 1 for a single case."""
    cliff: float
    cliff_scatter: float


def decide(trial: Trial, target: Target) -> Decision:
    """What is expected from now on: a ridge where it beats all that is plainer, else relative strength."""
    form = chosen_form(trial, target)
    score = trial.scores[target, form]
    against = score.against(trial.scores[target, MEDIAN])
    answer = _answer(against)
    part = Part(_fitted(trial.cases, target, form), max(score.spread, _LEAST_SPREAD))
    text = " ".join(
        (
            _headline(target, answer, against, n_groups=len(trial.groups)),
            f"Half of the predictions lie within a factor of {score.median_factor:.2f} of what was found and nine "
            f"in ten within {score.high_factor:.2f} ({len(trial.cases)} vectors of {len(trial.groups)} models and "
            "traits, each predicted without its own).",
            _prior_words(trial, target, form, part),
        )
    )
    return Decision(target, form, answer, text, part)


def own_strengths(cases: Sequence[Case]) -> tuple[OwnStrengths, ...]:
    """Of each model and trait, from its own cases: this describes them and tests nothing."""
    found = []
    for group in groups_of(cases):
        mine = [case for case in cases if case.group == group]
        best, cliff = (_middle([log_of(c, t) - by_strength(c.facts) for c in mine]) for t in _NOUN)
        found.append(OwnStrengths(group, len(mine), *best, *cliff))
    return tuple(found)


def scatter_words(own: Sequence[OwnStrengths]) -> str:
    """How much relative strength scatters within models and traits, and between them."""
    within = statistics.median(one.best_scatter for one in own)
    between = max(one.best for one in own) / min(one.best for one in own)
    return (
        f"Within a model and trait the best lies at one relative strength to within a factor of {within:.2f} (a "
        f"standard deviation, the median of them); from one to another that strength differs by up to a factor of "
        f"{between:.2f}."
    )


def resolution(cases: Sequence[Case]) -> float:
    """Median factor between the two coefficients that a cliff was found between: what no prediction can beat."""
    return statistics.median(case.outcome.high / case.outcome.low for case in cases)


def adopt(trial: Trial, decisions: Sequence[Decision], *, experiment: str, floor: float) -> AdoptedPrior:
    """The prior that the decisions amount to."""
    parts = {decision.target: decision.part for decision in decisions}
    return AdoptedPrior(
        experiment=experiment,
        floor=floor,
        n_cases=len(trial.cases),
        n_groups=len(trial.groups),
        best=parts["best"],
        cliff=parts["cliff"],
    )


def chosen_form(trial: Trial, target: Target) -> str:
    """The ridge where it beats relative strength and all that is plainer, else the better of the two constants."""
    scores = {form: score for (of, form), score in trial.scores.items() if of == target}
    plain = STRENGTH if scores[STRENGTH].error <= scores[GIVEN].error else GIVEN
    ridge = scores[RIDGE]
    # `against` has no interval with too few groups, and then nothing is better
    wins = ridge.against(scores[STRENGTH]).is_better and ridge.error < min(
        scores[form].error for form in (GIVEN, NORM, MEDIAN)
    )
    return RIDGE if wins else plain


def _fitted(cases: Sequence[Case], target: Target, form: str) -> Form:
    """Fitted on all cases: nothing is left to test it on, which is why it was tested before."""
    if form == RIDGE:
        return fit_ridge(cases, target)
    if form == STRENGTH:
        return Strength(math.exp(fit_strength(cases, target).log_value))
    return Strength(getattr(RelativeStrengthPrior(), target))


def _answer(against: Ratio) -> str:
    if against.high is None:
        return "cannot be told"
    return "yes" if against.is_better else "no"


def _headline(target: Target, answer: str, against: Ratio, *, n_groups: int) -> str:
    what = f"{_NOUN[target]} of a new model and trait"
    ratio = f"{ratio_words(against)} that of the median coefficient of the others"
    if answer == "yes":
        return f"Yes: {what} can be predicted. The prediction's error is {ratio}."
    if answer == "no":
        return f"No: {what} is not predicted better than by a median. The prediction's error is {ratio}."
    return (
        f"It cannot be told whether {what} can be predicted: {n_groups} models and traits were evaluated, "
        f"{MIN_GROUPS_FOR_INTERVAL} are needed. The prediction's error is {ratio}."
    )


def _prior_words(trial: Trial, target: Target, form: str, part: Part) -> str:
    strength = trial.scores[target, STRENGTH]
    ridge = trial.scores[target, RIDGE].against(strength)
    if form == RIDGE:
        return (
            "The prior is a ridge on the vector's properties: its error is "
            f"{ratio_words(ridge)} of relative strength's."
        )
    assert isinstance(part.form, Strength)
    given = strength.against(trial.scores[target, GIVEN])
    how = "refitted" if form == STRENGTH else "as given, since refitted it does worse"
    refit = f"relative strength {part.form.value:.2f}, {how} ({ratio_words(given)} of the given one's error)"
    enough = len(trial.groups) >= MIN_GROUPS_FOR_INTERVAL
    why = "does not beat it" if enough else f"is not adopted on fewer than {MIN_GROUPS_FOR_INTERVAL} groups"
    trees = trial.scores[target, TREES].against(strength)
    return (
        f"The prior stays {refit}; a ridge on the vector's properties {why} ({ratio_words(ridge)}; trees, which "
        f"are only compared, {ratio_words(trees)})."
    )


def ratio_words(ratio: Ratio) -> str:
    """Such as `x0.93 (0.89 to 0.97)`."""
    if ratio.low is None or ratio.high is None:
        return f"x{ratio.value:.2f}"
    return f"x{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _middle(logs: Sequence[float]) -> tuple[float, float]:
    """The median, and one standard deviation, as factors."""
    return math.exp(statistics.median(logs)), math.exp(statistics.stdev(logs)) if len(logs) > 1 else 1.0
