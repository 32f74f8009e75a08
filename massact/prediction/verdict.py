"""Whether the best coefficient can be predicted: ways of predicting, tested on models and traits left out of a fit."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter
from typing import Literal

from massact._lazy import np
from massact.prediction.cases import Case, Group
from massact.prediction.prior import AdoptedPrior, Part, RelativeStrengthPrior, VectorFacts

Target = Literal["best", "cliff"]
TARGETS: tuple[Target, ...] = ("best", "cliff")
MEDIAN, NORM, STRENGTH, GIVEN = "median", "norm", "relative_strength", "given"
WORDS = {
    MEDIAN: "median coefficient of the others",
    NORM: "full activation norm",
    STRENGTH: "relative strength, refitted",
    GIVEN: "relative strength, as given",
}
"""Every form by name, with what it is, the plainest first; `GIVEN` has the constants that massact comes with."""
WITHIN_FACTOR = 1.2
_N_DRAWS = 4000
_LEVEL = 0.95
MIN_GROUPS_FOR_INTERVAL = 5  # with fewer groups a bootstrap over them says nothing that can be relied on
_NOUN: dict[Target, str] = {"best": "the best coefficient", "cliff": "the coherence cliff"}
_LEAST_SPREAD = math.log(1.02)  # no grid tells where a cliff is more exactly than that


def by_strength(facts: VectorFacts) -> float:
    """Log of the coefficient whose relative strength is 1."""
    return -math.log(facts.unit_strength)


_UNITS: dict[str, Callable[[VectorFacts], float]] = {
    MEDIAN: lambda _facts: 0.0,
    NORM: lambda facts: math.log(facts.norm),
    STRENGTH: by_strength,
    GIVEN: by_strength,
}
"""Log of what each form measures a coefficient by."""


def log_of(case: Case, target: Target) -> float:
    return math.log(getattr(case.outcome, target))


def found(cases: Iterable[Case], target: Target) -> list[Case]:
    """The cases that tell of a target: a weak vector tells where its cliff lies, and has no best."""
    return [case for case in cases if getattr(case.outcome, target) is not None]


def fit_constant(cases: Sequence[Case], target: Target, form: str) -> float:
    """Log of a form's one constant: the median over models and traits of each one's own median."""
    if form == GIVEN:
        return math.log(getattr(RelativeStrengthPrior(), target))
    cases = found(cases, target)
    logs = [log_of(case, target) - _UNITS[form](case.facts) for case in cases]
    return statistics.median(statistics.median(some) for some in _by_group(cases, logs))


def groups_of(cases: Sequence[Case]) -> list[Group]:
    return sorted({case.group for case in cases})


@dataclass(frozen=True, slots=True)
class Ratio:
    """One form's factor of error over another's on the same vectors: geometric mean, every group weighs the same."""

    value: float  # below 1: the first predicts better
    low: float | None = None
    high: float | None = None  # of the interval that holds it in 95 of 100; `None` with too few groups

    def __str__(self) -> str:
        interval = "" if self.high is None else f" ({self.low:.2f} to {self.high:.2f})"
        return f"x{self.value:.2f}{interval}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How far one form's predictions of one target were off, on groups that it had not seen."""

    median_factor: float  # half of the predictions are within this factor of what was found
    high_factor: float  # nine in ten are within this one
    share_within: float  # share within a factor of 1.2
    errors: tuple[float, ...]  # mean |log error| of each group that tells of the target, in the order of `groups_of`
    spread: float
    """Root mean square of the log error over the groups: what a prediction's standard deviation is said to be."""

    @property
    def error(self) -> float:
        return statistics.fmean(self.errors)

    def against(self, other: "Score") -> Ratio:
        """Paired by group; the interval is the bootstrap's over groups."""
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
    predicted: Mapping[tuple[Target, str], tuple[float, ...]]  # coefficients, in the order of the cases

    def cases_of(self, target: Target) -> list[Case]:
        return found(self.cases, target)


def leave_groups_out(cases: Sequence[Case]) -> Trial:
    """Predict every case by every form, fitted on the cases of the other models and traits alone."""
    names = ("group", "position", "label", "layer", "setting", "cliff")
    cases = sorted(cases, key=attrgetter(*(f"outcome.{name}" for name in names)))
    scores, predicted = {}, {}
    for target in TARGETS:
        for form, unit in _UNITS.items():
            constants = {
                group: fit_constant([case for case in cases if case.group != group], target, form)
                for group in groups_of(cases)
            }
            logs = [constants[case.group] + unit(case.facts) for case in cases]
            scores[target, form] = _score(cases, target, logs)
            predicted[target, form] = tuple(map(math.exp, logs))
    return Trial(tuple(cases), scores, predicted)


def _score(cases: Sequence[Case], target: Target, logs: Sequence[float]) -> Score:
    logs = [log for case, log in zip(cases, logs, strict=True) if getattr(case.outcome, target) is not None]
    cases = found(cases, target)
    sizes = np.array([abs(log - log_of(case, target)) for case, log in zip(cases, logs, strict=True)])
    squares = [statistics.fmean(some) for some in _by_group(cases, (sizes**2).tolist())]
    return Score(
        median_factor=float(np.exp(np.median(sizes))),
        high_factor=float(np.exp(np.quantile(sizes, 0.9))),
        share_within=float((sizes <= math.log(WITHIN_FACTOR)).mean()),
        errors=tuple(statistics.fmean(some) for some in _by_group(cases, sizes.tolist())),
        spread=math.sqrt(statistics.fmean(squares)),
    )


def _by_group(cases: Sequence[Case], values: Sequence[float]) -> list[list[float]]:
    """The values of each group, in the order of `groups_of`."""
    by_group = defaultdict(list)
    for case, value in zip(cases, values, strict=True):
        by_group[case.group].append(value)
    return [by_group[group] for group in sorted(by_group)]


@dataclass(frozen=True, slots=True)
class Decision:
    target: Target
    form: str  # what is expected from now on: `relative_strength` (refitted) or `given`
    answer: str  # whether it can be predicted: `yes`, `no` or `cannot be told`
    text: str
    part: Part


@dataclass(frozen=True, slots=True)
class OwnStrengths:
    """The relative strengths that the vectors of one model and trait have in common."""

    group: Group
    n_cases: int
    best: float  # median relative strength of the best coefficients; NaN where none was found
    best_scatter: float  # one standard deviation of its logarithm, as a factor; 1 for a single case, NaN for none
    cliff: float
    cliff_scatter: float


def decide(trial: Trial, target: Target) -> Decision:
    """Whether a target can be predicted, and by which constant: the refitted one, unless the given one does better."""
    refitted, given = trial.scores[target, STRENGTH], trial.scores[target, GIVEN]
    form, score = (STRENGTH, refitted) if refitted.error <= given.error else (GIVEN, given)
    against = score.against(trial.scores[target, MEDIAN])
    answer = "cannot be told" if against.high is None else "yes" if against.high < 1 else "no"
    # fitted on all cases: nothing is left to test it on, which is why it was tested before
    part = Part(math.exp(fit_constant(trial.cases, target, form)), max(score.spread, _LEAST_SPREAD))
    how = "refitted" if form == STRENGTH else "as given, since refitted it does worse"
    cases = trial.cases_of(target)
    n_groups = len(groups_of(cases))
    text = (
        f"{_headline(target, answer, against, n_groups=n_groups)} Half of the predictions lie within a "
        f"factor of {score.median_factor:.2f} of what was found and nine in ten within {score.high_factor:.2f} "
        f"({len(cases)} vectors of {n_groups} models and traits, each predicted without its own). The "
        f"prior is relative strength {part.value:.2f}, {how} ({refitted.against(given)} of the given one's error)."
    )
    return Decision(target, form, answer, text, part)


def own_strengths(cases: Sequence[Case]) -> tuple[OwnStrengths, ...]:
    strengths = []
    for group in groups_of(cases):
        mine = [case for case in cases if case.group == group]
        figures: list[float] = []
        for target in TARGETS:
            logs = [log_of(case, target) - by_strength(case.facts) for case in found(mine, target)]
            scatter = math.exp(statistics.stdev(logs)) if len(logs) > 1 else 1.0
            figures += (math.exp(statistics.median(logs)), scatter) if logs else (math.nan, math.nan)
        strengths.append(OwnStrengths(group, len(mine), *figures))
    return tuple(strengths)


def scatter_words(strengths: Sequence[OwnStrengths]) -> str:
    """How much relative strength scatters within models and traits, and between them."""
    strengths = [strength for strength in strengths if not math.isnan(strength.best)]
    within = statistics.median(of_group.best_scatter for of_group in strengths)
    bests = [of_group.best for of_group in strengths]
    return (
        f"Within a model and trait the best lies at one relative strength to within a factor of {within:.2f} (a "
        "standard deviation, the median of them); from one to another that strength differs by up to a factor of "
        f"{max(bests) / min(bests):.2f}."
    )


@dataclass(frozen=True, slots=True)
class CarryOver:
    """How well a cliff, as a relative strength, carries over to what differs in one thing."""

    what: str
    factor: float  # half of the pairs lie within it
    n_pairs: int


_CARRIED: dict[str, Callable[[Case], tuple[object, ...]]] = {
    "to another label of the layer": lambda case: (case.outcome.label,),
    "to another layer": lambda case: (case.outcome.layer,),
    "to another trait of the model": lambda case: (case.outcome.trait,),
    "to another model": lambda case: (case.outcome.model,),
    "to responses of another length": lambda case: (case.outcome.tokens,),
}


def carry_overs(cases: Sequence[Case]) -> list[CarryOver]:
    """Over pairs of cases that differ in one thing and share the others: what carries over from what to what."""
    everything = [(tuple(read(case)[0] for read in _CARRIED.values()), case) for case in found(cases, "cliff")]
    carried = []
    for index, what in enumerate(_CARRIED):
        alike: dict[tuple[object, ...], list[tuple[object, float]]] = defaultdict(list)
        for place, case in everything:
            rest = (*place[:index], *place[index + 1 :], case.outcome.position)
            alike[rest].append((place[index], log_of(case, "cliff") - by_strength(case.facts)))
        apart = [abs(a - b) for some in alike.values() for (x, a), (y, b) in combinations(some, 2) if x != y]
        if apart:
            carried.append(CarryOver(what, math.exp(statistics.median(apart)), len(apart)))
    return carried


def resolution(cases: Sequence[Case]) -> float:
    """Median factor between the two coefficients that a cliff was found between: what no prediction can beat."""
    return statistics.median(case.outcome.high / case.outcome.low for case in cases)


def adopt(trial: Trial, decisions: Sequence[Decision], *, experiment: str, floor: float) -> AdoptedPrior:
    best, cliff = (decision.part for decision in decisions)
    tokens = [case.outcome.tokens for case in trial.cases if case.outcome.tokens is not None]
    return AdoptedPrior(
        experiment=experiment,
        floor=floor,
        n_cases=len(trial.cases),
        n_groups=len(groups_of(trial.cases)),
        max_new_tokens=max(tokens, default=None),
        best=best,
        cliff=cliff,
    )


def _headline(target: Target, answer: str, against: Ratio, *, n_groups: int) -> str:
    what = f"{_NOUN[target]} of a new model and trait"
    error = f"The prediction's error is {against} that of the median coefficient of the others."
    if answer == "yes":
        return f"Yes: {what} can be predicted. {error}"
    if answer == "no":
        return f"No: {what} is not predicted better than by a median. {error}"
    return (
        f"It cannot be told whether {what} can be predicted: {n_groups} models and traits were evaluated, "
        f"{MIN_GROUPS_FOR_INTERVAL} are needed. {error}"
    )
