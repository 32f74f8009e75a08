"""Which coefficient each ladder should try next, or why none, in words: one round of the search for all of them."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from massact.domain import DEFAULT_BUDGET, DEFAULT_TOLERANCE, LEAST_EFFECT
from massact.floors import as_floor
from massact.sweep.search.curves import (
    OWN_SPREAD,
    CoherenceBelief,
    GainBelief,
    Numbers,
    Observation,
    Process,
    Shape,
    alike,
    gain_trend,
)
from massact.words import counted

MOVES = LEAST_EFFECT  # a trait that changed by fewer points than this has not moved


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to try."""

    reason: str


def conclude(observations: Sequence[Observation], floor: float, allowed: tuple[float, float], why: str) -> Done:
    """Why a ladder is over: no text was coherent, the trait did not move, or `why` where there is nothing else to
    say."""
    scored = sorted(
        (
            (observation.coefficient, observation.coherence, observation)
            for observation in observations
            if observation.coherence is not None
        ),
        key=lambda each: each[0],
    )
    coherent = [
        observation for _, coherence, observation in scored if coherence >= floor and not observation.is_partial
    ]
    asked = as_floor(floor)
    if scored and not coherent:
        least, coherence, _ = scored[0]
        is_least = allowed[0] > 0 and math.isclose(least, allowed[0], rel_tol=0.03)
        which = "the least coefficient allowed" if is_least else "the least coefficient tried"
        return Done(f"at {least:g}, {which}, {asked.metric} is {asked.shown(asked.value_at(coherence))}")
    if not coherent:
        return Done(why)
    gain = max((observation.gain for observation in coherent if observation.gain is not None), default=None)
    last = coherent[-1].coefficient
    beyond = next(((c, coherence) for c, coherence, _ in scored if c > last and coherence < floor), None)
    if beyond is None or gain is None or gain >= MOVES:
        return Done(why)
    falls = "falls below" if asked.is_coherence else "passes"
    return Done(
        f"{asked.metric} {falls} the floor before the trait moves: up to {last:g} it changes by {gain:.1f} at most, "
        f"at {beyond[0]:g} {asked.metric} is {asked.shown(asked.value_at(beyond[1]))}"
    )


POOL_SPREAD, LAYER_SPREAD = 0.35, 0.15
"""How far the ladders of one model and of one layer may lie off the prior together, as standard deviations of
ln(coefficient): on SmolLM2 layers differ by up to 1.5 times."""
PILOT_SHARE = 9  # one ladder in so many goes ahead where nothing is known of a model yet
WIDER_ACROSS_LAYERS, NO_LOSS = 2.0, 0.05
"""Where only the best layer is wanted: how much wider what a ladder has to itself is believed to scatter, since the
best of many is one that surprises, and what share more of its gain is no reason to look on at another."""
WIDEST_AT_CLIFF, WIDEST_BELOW = 1.25, 2.0
"""By what factor two neighbouring coefficients may lie apart at most before a search says that none moves the trait:
the last coherent and the first incoherent one, and two coherent ones."""
WEAK = 0.2  # share of the most that a ladder of the model gained below which another tells nothing of its trend
KEPT_FOR_GAPS = 2  # evaluations of the budget that are kept for such gaps
MAX_FAILURES = 2  # coefficients that may fail before a ladder is given up
SIGNIFICANT_DIGITS = 3
_STEP = 0.033  # distance of two candidates, in ln(coefficient)
_REACH = 1.2  # how far around the cliff candidates reach, in ln(coefficient)
_LEAST_STEP = 0.03  # two coefficients closer than this, in ln(coefficient), are one
_TREND_STEP = 0.05  # observations of different ladders within this of each other are averaged for the trend


@dataclass(frozen=True, slots=True)
class Settings:
    """When a search is over."""

    floor: float
    budget: int = DEFAULT_BUDGET
    tolerance: float = DEFAULT_TOLERANCE  # a coefficient that is expected to gain fewer points than this is not tried
    drop: float | None = None
    """A ladder that is better than the best of its group, by more than `NO_LOSS`, with a smaller chance than this is
    given up, and no other; `None`: there are no groups, each ladder's own best is looked for."""

    @property
    def own_spread(self) -> float:
        """How far a ladder's gains may lie off what others have in common, as a share of the ceiling."""
        return OWN_SPREAD if self.drop is None else WIDER_ACROSS_LAYERS * OWN_SPREAD


class LadderKey(NamedTuple):
    """A ladder of one model and trait."""

    position: str
    label: str
    layer: int
    sign: int  # of its coefficients


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The coefficients of one vector at one layer, by size: whoever asks keeps the sign."""

    key: Any  # by what its step is found: anything that can be hashed
    pool: Hashable  # ladders of one model and trait, which lie off the prior together, share one
    layer: float = 0  # ladders of one layer lie off it together too, and those of near layers nearly so
    best: float  # where the best coefficient is expected
    cliff: float  # where coherence is expected to fall below the floor
    spread: float  # standard deviation of the logarithm of either
    baseline_coherence: float
    ceiling: float  # the most that can be gained, in points
    group: Hashable = None  # ladders of one label at several layers share one; perhaps only the best of them is wanted
    allowed: tuple[float, float] = (0.0, math.inf)  # least and greatest coefficient that may be tried
    observations: tuple[Observation, ...] = ()  # what was tried, by this search or before it
    spent: int = 0

    def best_gain(self, floor: float) -> float:
        """The best gain at or above the floor; 0, which is no steering, where nothing gains."""
        return max((gain for gain, _ in self._coherent(floor)), default=0.0)

    def best_coefficient(self, floor: float) -> float | None:
        """The coefficient of the best gain at or above the floor; `None` where there is none."""
        return max(self._coherent(floor), default=(0.0, None))[1]

    def _coherent(self, floor: float) -> list[tuple[float, float]]:
        return [
            (observation.gain, observation.coefficient)
            for observation in self.observations
            if observation.gain is not None and (observation.coherence or 0.0) >= floor and not observation.is_partial
        ]


@dataclass(frozen=True, slots=True)
class Try:
    """Evaluate this coefficient next."""

    coefficient: float
    coherent_chance: float  # the chance that its text is coherent, as far as is known by now
    worth: float = math.inf  # points that it is expected to gain


Step = Try | Done


def next_steps(ladders: Sequence[Ladder], settings: Settings) -> dict[Any, Step]:
    """The next step of each ladder. The same input gives the same output. Where nothing was tried of a pool yet, one of
    its ladders in nine goes first and the others have no step in that round: what the first tell of the model makes the
    others' first coefficient a better one."""
    pools: dict[Hashable, list[Ladder]] = defaultdict(list)
    steps: dict[Any, Step] = {}
    for ladder in ladders:
        if ladder.baseline_coherence > settings.floor:
            pools[ladder.pool].append(ladder)
        else:
            steps[ladder.key] = Done(
                f"the baseline's own coherence, {ladder.baseline_coherence:.1f}, is not above the floor of "
                f"{settings.floor:g}"
            )
    for members in pools.values():
        shifts = _shifts(members, settings.floor)
        beliefs = {ladder.key: _believe(ladder, shifts[ladder.layer], settings.floor) for ladder in members}
        trends = _trends(members, beliefs, settings.own_spread)
        rivals = {} if settings.drop is None else _rivals(members, settings.floor)
        is_known = any(ladder.observations for ladder in members)
        of_pool = {
            member.key: _step(member, beliefs[member.key], trends[member.key], rivals.get(member.group), settings)
            for member in (members if is_known else members[::PILOT_SHARE])
        }
        steps |= of_pool if settings.drop is None else _better_halves(members, of_pool)
    return steps


def _rivals(members: Sequence[Ladder], floor: float) -> dict[Hashable, Ladder]:
    """The best ladder of each group so far."""
    best: dict[Hashable, Ladder] = {}
    for ladder in members:
        if ladder.best_gain(floor) > 0:
            best[ladder.group] = max(ladder, best.get(ladder.group, ladder), key=lambda member: member.best_gain(floor))
    return best


def _better_halves(members: Sequence[Ladder], steps: Mapping[Any, Step]) -> dict[Any, Step]:
    """Of the ladders of a group that have something to try the half that it is worth most at; the others wait until it
    is known how good the best of these are (successive halving)."""
    worth: dict[Hashable, list[float]] = defaultdict(list)
    for ladder in members:
        if isinstance(step := steps.get(ladder.key), Try):
            worth[ladder.group].append(step.worth)
    least = {group: sorted(some, reverse=True)[(len(some) - 1) // 2] for group, some in worth.items()}
    return {
        ladder.key: step
        for ladder in members
        if (step := steps.get(ladder.key)) is not None
        and not (isinstance(step, Try) and step.worth < least[ladder.group])
    }


class _Shift(NamedTuple):
    """How far the ladders of a layer lie off the prior together, in ln(coefficient)."""

    mean: float = 0.0
    deviation: float = math.hypot(POOL_SPREAD, LAYER_SPREAD)


class _Belief(NamedTuple):
    """What is believed of a ladder by its own observations and those of its pool."""

    shape: Shape  # its `best` moves with the cliff: where the text breaks earlier, the trait moves earlier
    coherence: CoherenceBelief
    is_blind: bool  # nothing is known but the prior


def _believe(ladder: Ladder, shift: _Shift, floor: float) -> _Belief:
    shape = _shape(ladder, shift, floor)
    coherence = CoherenceBelief(shape, ladder.observations)
    best = math.log(ladder.best) + coherence.cliff()[0] - math.log(ladder.cliff)
    is_blind = not ladder.observations and shift.deviation > 0.999 * _Shift().deviation
    return _Belief(replace(shape, best=best), coherence, is_blind)


def _shifts(members: Sequence[Ladder], floor: float) -> dict[float, _Shift]:
    """Per layer, how far its ladders' cliffs lie off the prior: a Gaussian process over layers, each ladder's own part
    and what its observations leave open being noise."""
    layers = np.array(sorted({ladder.layer for ladder in members}))
    at, offsets, noise = [], [], []
    for ladder in members:
        if not ladder.observations:
            continue
        shape = _shape(ladder, _Shift(), floor)
        cliff, deviation = CoherenceBelief(shape, ladder.observations, may_surprise=False).cliff()
        # what the observations add to what was believed before them
        added = 1 / max(deviation, 1e-3) ** 2 - 1 / shape.spread**2
        if added > 0:
            # the belief is drawn towards what was expected: without it, it lies further off
            at.append(ladder.layer)
            offsets.append((cliff - shape.cliff) / (added * deviation**2))
            noise.append(1 / added + ladder.spread**2)
    shifts = Process(np.zeros_like, _covariance, np.array(at), np.array(offsets), np.array(noise))
    deviations = np.sqrt(np.diag(shifts.covariance(layers, layers)))
    return {k: _Shift(*each) for k, *each in zip(layers.tolist(), shifts.mean(layers), deviations, strict=True)}


def _covariance(a: Numbers, b: Numbers) -> Numbers:
    """Covariance of two layers' shifts."""
    return np.asarray(POOL_SPREAD**2 + LAYER_SPREAD**2 * alike(a, b))


def _trends(
    members: Sequence[Ladder], beliefs: Mapping[Hashable, _Belief], own_spread: float
) -> dict[Hashable, Process]:
    """What the gains of ladders have in common, by ladder. That a random direction, or a weak vector, gains nothing
    where others break tells nothing of what these gain there."""
    tried = [ladder for ladder in members if len(ladder.observations) > 1]
    gains = {ladder.key: max(0.0, *(seen.gain or 0.0 for seen in ladder.observations)) for ladder in tried}
    least = WEAK * max(gains.values(), default=0.0)
    strong = [ladder for ladder in members if gains.get(ladder.key, least) >= least]
    of_all, of_strong = (_trend(some, beliefs, own_spread) for some in (members, strong))
    return {ladder.key: of_all for ladder in members} | {ladder.key: of_strong for ladder in strong}


def _trend(members: Sequence[Ladder], beliefs: Mapping[Hashable, _Belief], own_spread: float) -> Process:
    by_place: dict[tuple[int, float], list[float]] = defaultdict(list)
    for ladder in members:
        for observation in ladder.observations:
            if observation.gain is not None and not observation.is_partial:
                x = math.log(observation.coefficient) - beliefs[ladder.key].shape.best
                by_place[round(x / _TREND_STEP), ladder.layer].append(observation.gain)
    points = [
        (_TREND_STEP * place, layer, math.fsum(gains) / len(gains), len(gains))
        for (place, layer), gains in sorted(by_place.items())
    ]
    return gain_trend(max(ladder.ceiling for ladder in members), points, own_spread)


def _shape(ladder: Ladder, shift: _Shift, floor: float) -> Shape:
    return Shape(
        cliff=math.log(ladder.cliff) + shift.mean,
        best=math.log(ladder.best),
        spread=math.hypot(ladder.spread, shift.deviation),
        floor=floor,
        baseline_coherence=ladder.baseline_coherence,
        ceiling=ladder.ceiling,
        layer=ladder.layer,
    )


def _step(ladder: Ladder, belief: _Belief, trend: Process, rival: Ladder | None, settings: Settings) -> Step:
    if (over := _over(ladder, settings)) is not None:
        return over
    if belief.is_blind:
        return Try(_rounded(ladder.best, ladder.allowed), math.nan)
    unseen = None if rival else _downward(ladder, settings.floor) or _between(ladder, settings.floor)
    if unseen is not None and settings.budget - ladder.spent <= KEPT_FOR_GAPS:
        return _try(unseen, belief.coherence)
    step = _most_worth(ladder, belief, trend, rival or ladder, settings)
    if isinstance(step, Done) and unseen is not None:
        return _try(unseen, belief.coherence)
    return step


def _most_worth(ladder: Ladder, belief: _Belief, trend: Process, rival: Ladder, settings: Settings) -> Step:
    """The coefficient whose expected improvement on the rival's best, times its chance of being coherent, is
    greatest."""
    shape, coherence, _ = belief
    x = _candidates(ladder, coherence.cliff()[0], settings.floor)
    if not len(x):
        return _conclude(ladder, settings, "every coefficient allowed is tried")
    chances, best = coherence.chance(x), rival.best_gain(settings.floor)
    gain = GainBelief(shape, trend, ladder.observations, settings.own_spread)
    worth = gain.improvement(x, best) * chances
    index = int(worth.argmax())
    if rival is not ladder:
        chance = float((gain.exceeding(x, (1 + NO_LOSS) * best) * chances).max())
        if chance < (settings.drop or 0.0):
            reached = f"layer {rival.layer:g} reaches {best:.1f}"
            return Done(f"{reached}, which this one passes with a chance of {chance:.0%}")
    if worth[index] >= settings.tolerance or rival is not ladder or not ladder.observations:
        return Try(_rounded(math.exp(x[index]), ladder.allowed), float(chances[index]), float(worth[index]))
    return _conclude(ladder, settings, f"no other is expected to gain {settings.tolerance:g} points more")


def _try(coefficient: float, coherence: CoherenceBelief) -> Try:
    return Try(coefficient, float(coherence.chance(np.log([coefficient]))[0]))


def _downward(ladder: Ladder, floor: float) -> float | None:
    """What is still to be tried before it may be said that no text is coherent."""
    sizes = [observation.coefficient for observation in ladder.observations if observation.coherence is not None]
    if not sizes or any((observation.coherence or 0.0) >= floor for observation in ladder.observations):
        return None
    least, _ = ladder.allowed
    wanted = least if least > 0 else _rounded(min(sizes) / 2, ladder.allowed)
    return wanted if wanted < min(sizes) else None


def _between(ladder: Ladder, floor: float) -> float | None:
    """What is still to be tried before it may be said that no coefficient moves the trait."""
    if ladder.best_gain(floor) >= MOVES:
        return None
    seen = sorted(
        (observation.coefficient, observation.coherence)
        for observation in ladder.observations
        if observation.coherence is not None
    )
    for (size, coherence), (above, coherence_above) in pairwise(seen):
        widest = WIDEST_AT_CLIFF if coherence_above < floor else WIDEST_BELOW
        if coherence >= floor and above / size > widest:
            return _rounded(math.sqrt(size * above), ladder.allowed)
    return None


def _over(ladder: Ladder, settings: Settings) -> Done | None:
    """Why a ladder is over before anything is asked of the curves."""
    if ladder.best_gain(settings.floor) >= ladder.ceiling - settings.tolerance:
        return _conclude(ladder, settings, "no more can be gained")
    n_failed = sum(observation.coherence is None for observation in ladder.observations)
    if n_failed >= MAX_FAILURES:
        return Done(f"{counted(n_failed, 'coefficient')} failed or not scored")
    if ladder.spent >= settings.budget:
        return _conclude(ladder, settings, f"the budget of {settings.budget} is spent")
    return None


def _conclude(ladder: Ladder, settings: Settings, why: str) -> Done:
    return conclude(ladder.observations, settings.floor, ladder.allowed, why)


def _candidates(ladder: Ladder, cliff: float, floor: float) -> Numbers:
    """ln(coefficient) of those that may be tried, none of them tried: around the cliff and around the best."""
    least, most = ladder.allowed
    best = ladder.best_coefficient(floor)
    low = min(cliff, cliff if best is None else math.log(best)) - _REACH
    low = max(low, math.log(least)) if least > 0 else low
    high = min(cliff + _REACH, math.log(most))
    if low > high:  # the cliff lies outside what is allowed: only the end next to it can be of use
        low = high = math.log(least) if least > 0 and cliff < math.log(least) else math.log(most)
    n = max(1, round((high - low) / _STEP) + 1)
    x: Numbers = np.linspace(low, high, n)
    tried = np.log([observation.coefficient for observation in ladder.observations])
    if not len(tried):
        return x
    return np.compress(np.abs(x[:, None] - tried).min(axis=1) > _LEAST_STEP, x)


def _rounded(value: float, allowed: tuple[float, float]) -> float:
    return min(max(float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}"), allowed[0]), allowed[1])
