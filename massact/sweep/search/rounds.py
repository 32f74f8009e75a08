"""The search for the best coefficients of one model and trait: rounds of evaluations, each read back from the store."""

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from massact.domain import OWN_UNITS, Coefficients, Recipe
from massact.errors import DataError, MissingPrerequisiteError
from massact.evaluation import Screening
from massact.floors import as_floor
from massact.keys import screening_key
from massact.labels import format_label, format_steering, parse_label
from massact.prediction.prior import Expectation, Part, Prior, RelativeStrengthPrior, VectorFacts, parse_prior
from massact.store.schema import EvaluationRow, Points, StoredPoint
from massact.store.write.registry import ALIAS, prior_name, read_prior
from massact.sweep.context import Session
from massact.sweep.driver import Evaluator, Tally
from massact.sweep.planner import GridRequest
from massact.sweep.reuse import is_compared
from massact.sweep.search import MOVES, Done, Ladder, Observation, Settings, Try, next_steps
from massact.sweep.search.ladders import LadderKey
from massact.sweep.search.probing import probe_cliffs
from massact.sweep.vectors import facts_of
from massact.words import counted

SURE = 0.9  # a coefficient that is coherent with this chance is asked all questions at once
UNKNOWN_SPREAD = 1.0  # standard deviation of ln(coefficient) where nothing is known but the stream's norm
LENGTH_SPREAD = 0.35  # how far cliffs of longer responses may lie off, as a standard deviation of ln(coefficient)
NORM_SHARE = 0.7  # share of the full activation norm at which the best coefficient is then expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the search of a ladder ended."""

    key: LadderKey
    coefficient: float | None  # of the best delta at or above the floor, with its sign; `None`: none was coherent
    gain: float | None  # that delta in the wanted direction, in points
    delta: float | None  # the same as it is stored
    coherence: float | None  # or what else the floor is of
    spent: int
    reason: str

    @property
    def is_of_use(self) -> bool:
        """Whether a coherent coefficient moves the trait."""
        return self.gain is not None and self.gain >= MOVES


class LadderSearch:
    """Searches the ladders of one model and trait, all of them stepping together."""

    def __init__(
        self,
        session: Session,
        evaluator: Evaluator,
        settings: Settings,
        prior: Prior,
        screening: Screening | None = None,
        *,
        probes: bool = False,
    ) -> None:
        """`screening`: how hopeless cells are given up; `None`: every cell is asked all questions."""
        self._session, self._evaluator = session, evaluator
        self._settings, self._prior, self._screening = settings, prior, screening
        self._floor = as_floor(settings.floor)
        self._probes = probes
        self._tried: set[tuple[LadderKey, float]] = set()

    def run(self, wanted: Sequence[GridRequest]) -> tuple[Tally, list[Ending]]:
        """Search until every ladder is over. Cells that the store holds are used as they are. `wanted`: positions,
        recipes and layers; of their coefficients only the signs are looked at, which those that may be tried have.
        Raises Interrupted: somebody asked to stop; the cells in hand were finished."""
        tally, n_rounds = Tally(), 0
        baseline = self._evaluator.baseline_row()
        ladders = self._ladders(wanted, baseline)
        while True:
            ladders = self._observed(ladders, baseline)
            steps = next_steps(list(ladders.values()), self._settings)
            tries: dict[LadderKey, Try] = {key: step for key, step in steps.items() if isinstance(step, Try)}
            if not tries:
                break
            n_rounds += 1
            on = f"{len(tries)} of {counted(len(ladders), 'ladder')}"
            self._session.detail(f"round {n_rounds}: one more coefficient on {on}")
            doubtful = {key: step for key, step in tries.items() if step.coherent_chance < SURE}
            sure = {key: step for key, step in tries.items() if key not in doubtful}
            for some, screening in ((sure, None), (doubtful, self._screening)):
                requests = [_request(key, [key.sign * step.coefficient]) for key, step in some.items()]
                if requests:
                    tally.add(self._evaluator.run(requests, screening))
            for key, step in tries.items():
                self._tried.add((key, step.coefficient))
                ladders[key] = replace(ladders[key], spent=ladders[key].spent + 1)
        endings = {key: step.reason for key, step in steps.items() if isinstance(step, Done)}
        return tally, [self._ending(ladders[key], endings[key]) for key in ladders]

    def _ladders(self, wanted: Sequence[GridRequest], baseline: EvaluationRow) -> dict[LadderKey, Ladder]:
        trait_mean, coherence = baseline.trait_mean, self._floor.measure_of(baseline)
        if trait_mean is None or coherence is None:
            raise MissingPrerequisiteError(
                f"the baseline of {baseline.model}, {baseline.trait} has no scores: nothing can be compared with it; "
                "see massact judge-check"
            )
        ceiling = 100 - trait_mean if self._evaluator.planner.direction == "positive" else trait_mean
        vectors = self._evaluator.planner.vectors
        facts, recipes = dict[LadderKey, VectorFacts](), dict[str, Recipe]()
        for request in wanted:
            label = format_label(request.recipe)
            recipes[label] = request.recipe
            signs = sorted({int(math.copysign(1, value)) for value in request.coefficients.values}, reverse=True)
            for layer, of_layer in facts_of(vectors, request.position, request.recipe, request.layers).items():
                facts |= {LadderKey(request.position, label, layer, sign): of_layer for sign in signs}
        probed = {}
        if self._probes:
            plain = {key: of_key for key, of_key in facts.items() if _is_plain(recipes[key.label])}
            probed = probe_cliffs(self._session, self._evaluator, wanted, plain)
        ladders = {}
        sources: dict[str, None] = {}
        for key, of_key in facts.items():
            recipe = recipes[key.label]
            expected = probed.get(key) or expect(self._prior, of_key, recipe)
            sources[expected.source] = None
            ladders[key] = Ladder(
                key=key,
                layer=key.layer,
                group=key._replace(layer=0),
                pool=(baseline.model, baseline.trait, key.sign, format_steering(recipe)),
                best=expected.best,
                cliff=expected.cliff,
                spread=expected.spread,
                baseline_coherence=coherence,
                ceiling=max(ceiling, 1e-6),
                # what the file allows are lengths
                allowed=(0.0, math.inf) if recipe.operator in OWN_UNITS else self._evaluator.allowed,
            )
        if ladders:
            self._session.say(f"first coefficients from {'; '.join(sources)}")
        return ladders

    def _observed(self, ladders: Mapping[LadderKey, Ladder], baseline: EvaluationRow) -> dict[LadderKey, Ladder]:
        """The ladders with what the store holds of exactly their cells: same vector, judge, baseline and all."""
        name, least = self._session.experiment.name, self._session.experiment.least_scored
        with self._session.stores.read() as store:
            points, failures = store.points_and_failures(name)
            points = points.counting(least)
            points = points.where(is_compared(points.numbers["baseline_trait_mean"], baseline, least))
            screenings = [screening.row for screening in store.screenings(name)]
        stopped = [row for row in screenings if self._floor.is_met(row) is False]
        seen = self._seen(points, [failure.row for failure in failures], stopped, ladders)
        coefficients: dict[LadderKey, list[float]] = defaultdict(list)
        for ladder, observation in seen.values():
            coefficients[ladder].append(ladder.sign * observation.coefficient)
        keys = set(self._evaluator.planner.cells(_request(*each) for each in coefficients.items()))
        # what was given up once and evaluated since counts as evaluated
        keys |= {screening_key(key) for key in keys if key not in seen}
        observed: dict[LadderKey, list[Observation]] = defaultdict(list)
        for key, (ladder, observation) in seen.items():
            # what failed before this search is tried again: the reason may be gone
            is_known = observation.coherence is not None
            if key in keys and (is_known or (ladder, observation.coefficient) in self._tried):
                observed[ladder].append(observation)
        return {key: replace(ladder, observations=tuple(observed[key])) for key, ladder in ladders.items()}

    def _seen(
        self, points: Points, failed: Iterable[EvaluationRow], stopped: Iterable[EvaluationRow], ladders: Container[Any]
    ) -> dict[str, tuple[LadderKey, Observation]]:
        """What was tried of the ladders by key, in whatever setting."""
        is_of, is_positive = self._evaluator.is_of, self._evaluator.planner.direction == "positive"
        told: list[tuple[EvaluationRow | StoredPoint, float | None, float | None, bool]] = []
        told += ((row, None, None, False) for row in failed if is_of(row.model, row.trait))
        told += ((row, self._floor.measure_of(row), row.delta, True) for row in stopped if is_of(row.model, row.trait))
        for (_, model, trait, *_label), indices in points.by_place().items():
            if is_of(model, trait):
                of_place = map(points.at, indices.tolist())
                told += ((point, self._floor.measure_of(point), point.delta, False) for point in of_place)
        seen = {}
        for point, coherence, delta, is_part in told:
            if point.coefficient and point.layer is not None:
                sign = int(math.copysign(1, point.coefficient))
                key = LadderKey(str(point.position), str(point.label), point.layer, sign)
                gain = delta if delta is None or is_positive else -delta
                if key in ladders:
                    seen[point.key] = key, Observation(abs(point.coefficient), coherence, gain, is_partial=is_part)
        return seen

    def _ending(self, ladder: Ladder, reason: str) -> Ending:
        key: LadderKey = ladder.key
        size = ladder.best_coefficient(self._settings.floor)
        best = next((observation for observation in ladder.observations if observation.coefficient == size), None)
        gain = best.gain if best else None
        return Ending(
            key=key,
            coefficient=None if size is None else key.sign * size,
            gain=gain,
            delta=gain if gain is None or self._evaluator.planner.direction == "positive" else -gain,
            coherence=None if best is None or best.coherence is None else self._floor.value_at(best.coherence),
            spent=ladder.spent,
            reason=reason,
        )


def expect(prior: Prior, facts: VectorFacts, recipe: Recipe) -> Expectation:
    """What a prior expects; where it expects nothing, a wide guess from the stream's norm. A prior is of what is added
    to all tokens of one layer; elsewhere the guess is wide as well."""
    if (unit := OWN_UNITS.get(recipe.operator)) is not None:
        return Expectation(unit, unit / NORM_SHARE, UNKNOWN_SPREAD, f"the unit of {recipe.operator}")
    with suppress(ValueError):
        if _is_plain(recipe):
            return prior.expect(facts)
    return Expectation(NORM_SHARE * facts.norm, facts.norm, UNKNOWN_SPREAD, "full activation norm")


def _is_plain(recipe: Recipe) -> bool:
    """Whether it is added to all tokens of one layer."""
    return recipe == recipe.of_vector


def _request(key: LadderKey, coefficients: Iterable[float]) -> GridRequest:
    return GridRequest(key.position, parse_label(key.label), (key.layer,), Coefficients(tuple(coefficients)))


def stored_prior(session: Session) -> Prior:
    """The prior that `massact predict` registered for the experiment, else relative strength as massact comes with it.
    One that was adopted at another coherence floor is left aside: its cliffs are other cliffs. Raises DataError: what
    is registered is not a prior of ours."""
    experiment = session.experiment
    name = prior_name(experiment.name)
    registered = read_prior(session.stores.tracking_uri, name)
    if registered is None:
        return RelativeStrengthPrior(source="relative strength as massact comes with it; massact predict tests it")
    try:
        prior = parse_prior(registered.text, f"{name} version {registered.version} of the model registry")
    except DataError as error:
        raise DataError(
            f"the registered model {name}, version {registered.version}: {error}. Run massact predict again, or take "
            f"the alias {ALIAS!r} off it"
        ) from error
    if prior.floor != experiment.coherence_floor:
        return RelativeStrengthPrior(
            source=f"relative strength as massact comes with it, since {name} version {registered.version} is for a "
            f"coherence floor of {prior.floor:g}"
        )
    tokens = experiment.generation.max_new_tokens
    if prior.max_new_tokens is not None and tokens > prior.max_new_tokens:
        session.say(
            f"warning: {name} was found on responses of {prior.max_new_tokens} tokens, and here they have {tokens}: "
            "longer texts break at smaller coefficients, so that the search expects less of it"
        )
        prior = replace(prior, best=_wider(prior.best), cliff=_wider(prior.cliff))
    return prior


def _wider(part: Part) -> Part:
    """Of a prior for shorter responses: on SmolLM2 cliffs of 64 tokens lay at 0.79 times those of 32."""
    return replace(part, spread=math.hypot(part.spread, LENGTH_SPREAD))
