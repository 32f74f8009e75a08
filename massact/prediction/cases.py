"""Where evaluations found a vector's best coefficient and its coherence cliff: what predictions are tested on."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from massact._lazy import np
from massact.domain import Recipe
from massact.labels import format_label
from massact.prediction.prior import VectorFacts
from massact.query.evaluations import Evaluations, PointSet
from massact.query.groups import GroupInSetting, is_at_floor, recipe_of, slices
from massact.query.questions.gaps import brackets
from massact.query.same_vector import one_direction
from massact.store.schema import StoredPoint

Group = tuple[str, str]  # model and trait: what a prediction is for is a group that it has not seen

NEAR_POINTS = 2.0  # coefficients whose delta lies within so many points of the best are as good as the best
EFFECT_SHARE = 0.5  # of the delta that the baseline leaves possible, the best must reach this share to be one

NO_RECIPE = "not a vector of a method that this version knows"
RANDOM = "a random direction"
OTHERWISE = "not just added to all tokens of one layer"
NO_CLIFF = "no coefficient that was tried is beyond the cliff, or none before it"
_CLIFF_ALONE = " (only the cliff counts)"
NO_EFFECT = f"no coherent delta reaches half of what the baseline leaves possible{_CLIFF_ALONE}"
AT_THE_EDGE = (
    f"the best lies at the smallest coefficient that was tried, so that a smaller one may be better{_CLIFF_ALONE}"
)
SAME_VECTOR = "the vector of another label once more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the evaluations of one vector at one layer found, over its positive coefficients."""

    setting: str
    baseline_trait_mean: float | None
    model: str
    trait: str
    position: str
    label: str
    layer: int
    vector_digest: str | None
    model_id: str | None = None
    judge: str | None = None
    tokens: int | None = None  # of a response at most
    unit_strength: float | None = None
    """Relative strength of coefficient 1, as its evaluations tell it; `None`: they do not."""
    best: float | None
    """Geometric middle of the coherent coefficients that are as good as the best; `None`: the cliff alone is known."""
    low: float  # the largest coherent coefficient
    high: float  # the smallest incoherent one beyond it

    @property
    def cliff(self) -> float:
        """Geometric middle of the bracket: where coherence falls below the floor, as far as is known."""
        return math.sqrt(self.low * self.high)

    @property
    def group(self) -> Group:
        return (self.model, self.trait)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The outcomes that tell something, and why the others do not."""

    counted: tuple[Outcome, ...]
    left_out: Mapping[str, int]  # how many were left out, by the reason in words


@dataclass(frozen=True, slots=True)
class Case:
    """An outcome, and what was known of the vector before it was tried."""

    outcome: Outcome
    facts: VectorFacts

    @property
    def group(self) -> Group:
        return self.outcome.group


def find_outcomes(evaluations: Evaluations, floor: float) -> Outcomes:
    """The outcome of every vector that was evaluated, at the floor; two labels of one vector count once."""
    left_out: Counter[str] = Counter()
    counted: dict[tuple[object, ...], Outcome] = {}
    parts = (part for some in slices(evaluations).values() for part in some)
    for part in sorted(parts, key=lambda p: (p.setting, p.group, p.baseline_trait_mean or 0.0)):
        recipe = recipe_of(part.group.label)
        if recipe is None or recipe.method == "random_baseline" or recipe != recipe.of_vector:
            unfit = NO_RECIPE if recipe is None else RANDOM if recipe.method == "random_baseline" else OTHERWISE
            left_out[unfit] += len(part.points.layers)
            continue
        for points in _ladders(part):
            outcome, why = _outcome(part, points, floor)
            if why is not None:
                left_out[why] += 1
            if outcome is None:
                continue
            names = _names(part, outcome, recipe)
            if any(name in counted and counted[name].label != outcome.label for name in names):
                left_out[SAME_VECTOR] += 1
            else:
                counted |= dict.fromkeys(names, outcome)
    return Outcomes(tuple(dict.fromkeys(counted.values())), dict(left_out))


def _ladders(part: GroupInSetting) -> Iterator[PointSet]:
    """The positive coefficients of each layer and vector: an extraction made anew has other vectors."""
    indices: dict[tuple[int, str], list[int]] = defaultdict(list)
    for index, point in zip(part.points.indices.tolist(), part.points, strict=True):
        if point.coefficient > 0:
            indices[point.layer, point.vector_digest or ""].append(index)
    for _, some in sorted(indices.items()):
        yield PointSet(part.points.all, np.array(some, dtype=np.intp))


def _outcome(part: GroupInSetting, points: PointSet, floor: float) -> tuple[Outcome | None, str | None]:
    """The outcome of one ladder, and why it tells nothing, or only where the cliff lies."""
    bracket = next(iter(brackets(points, floor, allowed=None, suggest=False)), None)
    if bracket is None or bracket.low is None or bracket.high is None:
        return None, NO_CLIFF
    first: StoredPoint = next(iter(points))
    best, why = _best(part, points, floor)
    strength = first.relative_strength
    outcome = Outcome(
        setting=part.setting,
        baseline_trait_mean=part.baseline_trait_mean,
        **asdict(part.group),
        layer=first.layer,
        vector_digest=first.vector_digest,
        model_id=part.sample.model_id,
        judge=part.sample.judge,
        tokens=part.sample.max_new_tokens,
        unit_strength=None if strength is None else strength / first.coefficient,
        best=best,
        low=bracket.low,
        high=bracket.high,
    )
    return outcome, why


def _best(part: GroupInSetting, points: PointSet, floor: float) -> tuple[float | None, str | None]:
    """The best coefficient; or why there is none."""
    sign = -1 if part.sample.direction == "negative" else 1
    gains = {
        point.coefficient: sign * point.delta
        for point in points
        if is_at_floor(point, floor) and point.delta is not None
    }
    baseline, most = part.baseline_trait_mean, max(gains.values(), default=-math.inf)
    if baseline is None or most <= 0 or most < EFFECT_SHARE * (baseline if sign < 0 else 100 - baseline):
        return None, NO_EFFECT
    good = [coefficient for coefficient, gain in gains.items() if gain >= most - NEAR_POINTS]
    if min(good) == min(point.coefficient for point in points):
        return None, AT_THE_EDGE
    # by its ends: a search tries many coefficients near the best, which must not pull the middle
    return math.sqrt(min(good) * max(good)), None


def _names(part: GroupInSetting, outcome: Outcome, recipe: Recipe) -> list[tuple[object, ...]]:
    """What the vector is known by: an outcome that shares one of them is of the same vector."""
    place = (part.setting, part.baseline_trait_mean, part.group.model, part.group.trait, part.group.position)
    names: list[tuple[object, ...]] = []
    if outcome.vector_digest is not None:
        names.append((*place, outcome.layer, outcome.vector_digest))
    # the digest of the same direction cleaned first differs in its last bits, so there the label names it
    names.append((*place, outcome.layer, format_label(one_direction(recipe))))
    return names
