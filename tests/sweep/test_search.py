"""The search for the best coefficient, on worlds whose curves are known."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.config import load_experiment
from massact.domain import Cell, Coefficients, QuestionSet, Response, Steering, Timing
from massact.errors import UsageError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.floors import Floor
from massact.labels import parse_label
from massact.prediction.prior import RelativeStrengthPrior, VectorFacts
from massact.store.schema import Points, point_of
from massact.sweep.executors.base import Work
from massact.sweep.planner import GridRequest
from massact.sweep.search import Done, Ladder, Observation, Settings, Try, next_steps, rounds
from massact.sweep.search.gap_filling import SearchPlan, search_requests
from massact.sweep.search.ladders import LadderKey
from massact.sweep.search.probing import TOKENS, probe_cliffs
from massact.sweep.search.rounds import UNKNOWN_SPREAD, LadderSearch, expect
from tests.support.ray_stand_ins import SETTING
from tests.support.store_fixtures import evaluated, evaluation_row

FLOOR = 68.0
SETTINGS = Settings(FLOOR)


@dataclass(frozen=True)
class World:
    """Curves of one ladder. Coherence falls over `cliff`; the gain rises around `rise`, to `top`."""

    cliff: float
    rise: float
    top: float = 95.0
    peak_fall: float = 0.5
    bump: Callable[[float], float] = lambda _c: 0.0

    def coherence(self, c: float) -> float:
        half = math.log(self.cliff) - 0.1 * math.log(100 / FLOOR - 1)
        return 100 / (1 + math.exp(min(50, (math.log(c) - half) / 0.1)))

    def gain(self, c: float) -> float:
        rise = 1 / (1 + math.exp(min(50, (math.log(self.rise) - math.log(c)) / 0.1)))
        return self.top * rise * (self.coherence(c) / 100) ** self.peak_fall + self.bump(c)

    def best(self) -> float:
        return max(self.gain(c) for c in (self.cliff * 1.002**i for i in range(-900, 1)))


def search(
    worlds: dict[str, World], ladders: list[Ladder], how: Settings = SETTINGS
) -> tuple[list[Ladder], dict[str, str]]:
    """Ladders after the search, and why each was over."""
    by_key = {ladder.key: ladder for ladder in ladders}
    while True:
        steps = next_steps(list(by_key.values()), how)
        if all(isinstance(step, Done) for step in steps.values()):
            return list(by_key.values()), {str(key): step.reason for key, step in steps.items()}  # type: ignore[union-attr]
        for key, step in steps.items():
            if isinstance(step, Done):
                continue
            ladder, world = by_key[key], worlds[str(key)]
            assert ladder.allowed[0] <= step.coefficient <= ladder.allowed[1]
            assert step.coefficient not in [one.coefficient for one in ladder.observations]
            seen = Observation(step.coefficient, world.coherence(step.coefficient), world.gain(step.coefficient))
            by_key[key] = replace(ladder, observations=(*ladder.observations, seen), spent=ladder.spent + 1)
            assert by_key[key].spent <= how.budget


def ladder(key: str = "a", **fields: object) -> Ladder:
    given_: dict[str, object] = {
        "pool": "model", "best": 8.2, "cliff": 10.3, "spread": math.log(1.16), "baseline_coherence": 100.0,
        "ceiling": 99.0,
    }  # fmt: skip
    return Ladder(key=key, **{**given_, **fields})  # type: ignore[arg-type]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    shift=st.floats(-0.5, 0.5), own=st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=6), rise=st.floats(0.4, 0.75)
)
def test_finds_the_best_wherever_the_cliff_lies(shift: float, own: list[float], rise: float) -> None:
    cliffs = [10.3 * math.exp(shift + one) for one in own]
    worlds = {str(i): World(cliff, cliff * rise) for i, cliff in enumerate(cliffs)}
    found, _ = search(worlds, [ladder(key) for key in worlds], replace(SETTINGS, budget=12))
    near = sum(one.best_gain(FLOOR) >= 0.93 * worlds[str(one.key)].best() for one in found)
    assert near == len(found)


@pytest.mark.slow
def test_a_good_prior_makes_the_search_short() -> None:
    worlds = {str(i): World(10.3, 6.0) for i in range(30)}
    found, _ = search(worlds, [ladder(key) for key in worlds])
    spent = Counter(one.spent for one in found)
    assert sorted(spent.elements())[15] <= 6
    assert all(one.best_gain(FLOOR) >= 0.95 * World(10.3, 6.0).best() for one in found)


def test_one_ladder_in_nine_goes_first_and_the_rest_learn_from_it() -> None:
    ladders = [ladder(str(i)) for i in range(18)]
    first = next_steps(ladders, SETTINGS)
    assert list(first) == ["0", "9"]
    assert all(isinstance(step, Try) and step.coefficient == 8.2 for step in first.values())
    seen = Observation(8.2, 2.0, 1.0)  # far beyond the cliff
    ladders = [replace(one, observations=(seen,), spent=1) if one.key in first else one for one in ladders]
    second = next_steps(ladders, SETTINGS)
    others = [step for key, step in second.items() if key not in first]
    assert len(others) == 16
    assert all(isinstance(step, Try) and step.coefficient < 8.0 for step in others)


def test_the_best_between_the_first_try_and_the_way_back_is_found() -> None:
    # as on SmolLM2, layer 13: the prior's first coefficient lies far over the cliff, and half of it moves nothing
    world = World(37.0, 27.0, top=45.0)
    found, _ = search({"a": world}, [ladder(best=82.0, cliff=103.0, ceiling=95.0)])
    assert found[0].best_gain(FLOOR) >= 0.95 * world.best()


def test_no_gap_stays_before_it_is_said_that_nothing_moves_the_trait() -> None:
    world = World(10.3, 6.0, top=1.0)
    found, reasons = search({"a": world}, [ladder()])
    assert reasons["a"].startswith("coherence falls below the floor before the trait moves")
    seen = sorted((one.coefficient, one.coherence or 0.0) for one in found[0].observations)
    coherent = [c for c, coherence in seen if coherence >= FLOOR]
    broken = [c for c, coherence in seen if coherence < FLOOR]
    assert broken[0] / coherent[-1] <= 1.25
    assert all(above / below <= 2 for below, above in pairwise(coherent))


def test_ladders_of_a_layer_and_its_neighbours_tell_where_its_cliff_lies() -> None:
    worlds = {layer: World(10.3 * math.exp(off), 6.0) for layer, off in ((4, -0.6), (5, -0.55), (20, 0.3))}
    tried = [
        ladder(
            f"{layer} {c}",
            layer=layer,
            observations=(Observation(c, worlds[layer].coherence(c), worlds[layer].gain(c)),),
        )
        for layer in (4, 20)
        for c in (5.0, 7.0, 12.0, 15.0)
    ]
    others = [ladder(str(layer), layer=layer) for layer in worlds]
    steps = next_steps([*tried, *others], SETTINGS)
    first = {layer: step.coefficient for layer in worlds if isinstance(step := steps[str(layer)], Try)}
    assert first.keys() == worlds.keys()
    assert first[4] < worlds[4].cliff * 1.1 < first[20] / 1.4
    assert abs(math.log(first[5] / first[4])) < 0.2
    assert first[20] < worlds[20].cliff * 1.1


def test_where_only_the_best_layer_is_wanted_the_others_are_given_up_early() -> None:
    worlds = {str(layer): World(10.3, 6.0, top=20.0 + 8 * layer) for layer in range(8)}
    ladders = [ladder(key, layer=3.0 * int(key), group="probe") for key in worlds]
    every, _ = search(worlds, ladders)
    best, reasons = search(worlds, ladders, replace(SETTINGS, drop=0.05))
    assert max(one.best_gain(FLOOR) for one in best) >= 0.95 * worlds["7"].best()
    assert sum(one.spent for one in best) <= 0.6 * sum(one.spent for one in every)
    others = [why for key, why in reasons.items() if key != "7"]
    assert all(why.startswith("layer ") and "passes with a chance of" in why for why in others), "and for nothing else"
    tried = [replace(one, observations=(Observation(8.2, 95.0, 40.0),)) for one in ladders[:1]]
    steps = next_steps([*tried, *ladders[1:]], replace(SETTINGS, drop=0.05))
    assert sum(isinstance(step, Try) for step in steps.values()) <= 4, "the half that is worth less waits"


@pytest.mark.parametrize(
    ("lost", "floor"), [("failed", FLOOR), ("unscored", FLOOR), ("unscored", Floor.of("kl", 0.3, is_most=True))]
)
def test_a_probe_finds_where_texts_break_and_takes_what_it_cannot_read_for_unknown(lost: str, floor: float) -> None:
    breaks, unknown = LadderKey("p", "probe", 1, 1), LadderKey("p", "probe", 2, 1)
    facts = {breaks: VectorFacts(unit_strength=0.01, norm=100.0), unknown: VectorFacts(unit_strength=0.02, norm=50.0)}

    def cells(requests: Iterable[GridRequest]) -> dict[str, PlannedCell]:
        planned = {}
        for one in requests:
            (layer,), (coefficient,) = one.layers, one.coefficients.values
            steering = Steering(str(layer), one.position, one.recipe, layer, coefficient, "positive")
            planned[str(layer)] = PlannedCell(Cell(SETTING, steering), None)
        return planned

    of_metric = isinstance(floor, Floor)

    def evaluate(work: Work, some: Sequence[PlannedCell], **_watch: object) -> Iterator[Evaluation | FailedCell]:
        assert work.part.measured.names == (("kl",) if of_metric else ())
        for one in some:
            steering = one.cell.steering
            assert steering is not None
            assert one.cell.setting.generation.max_new_tokens == TOKENS
            if steering.layer == 2 and lost == "failed":
                yield FailedCell(one, "out of memory")
                continue
            coherence = None if steering.layer == 2 else 90.0 if steering.coefficient < 50 else 10.0
            if of_metric:  # the metric breaks at 50, and the coherence nowhere
                metrics = {} if coherence is None else {"kl": 0.1 if steering.coefficient < 50 else 5.0}
                yield Evaluation(one, (Response("q", "r", None, 100.0, metrics=metrics),), Timing(0.0, 0.0, 0))
                continue
            yield Evaluation(one, (Response("q", "r", None, coherence),), Timing(0.0, 0.0, 0))

    kept: list[Any] = []
    store = SimpleNamespace(screenings=lambda _name: [])
    session: Any = SimpleNamespace(
        judges=SimpleNamespace(of=lambda *_of, config: SimpleNamespace(identity=SETTING.judge)),
        datasets=SimpleNamespace(questions=lambda *_: QuestionSet(("q",), "digest", 1)),
        models=SimpleNamespace(
            loaded=lambda *_: SimpleNamespace(attention="eager"), use=lambda *_: None,
            executor=SimpleNamespace(evaluate=evaluate, keep=lambda result, _maker, home: kept.append((result, home))),
        ),
        stores=SimpleNamespace(read=lambda: nullcontext(store)), progress=None,
        interruption=SimpleNamespace(is_requested=False, finishing=nullcontext),
        experiment=SimpleNamespace(name="x", coherence_floor=floor, confirm_share=None, metric_tokens=8),
    )  # fmt: skip
    instruct = SimpleNamespace(name="instruct")
    subject = SimpleNamespace(trait=None, model=SimpleNamespace(name="m", instruct=instruct))
    planner = SimpleNamespace(questions=SimpleNamespace(questions=("q",)), cells=cells)
    evaluator: Any = SimpleNamespace(
        subject=subject, planner=planner, parent="run", baseline_row=lambda: SimpleNamespace(key="baseline")
    )
    request = GridRequest("p", parse_label("probe"), (1, 2), Coefficients(()))
    found = probe_cliffs(session, evaluator, [request], facts)
    assert all(result.given_up and home == "run" for result, home in kept)
    assert set(found) == {breaks}, "what is not known is not taken for broken"
    assert abs(math.log(found[breaks].cliff / 50)) <= math.log(32) / 2**6 + 1e-9
    session.experiment.coherence_floor = Floor.of("longest_loop", 8, is_most=True)
    with pytest.raises(UsageError, match=f"texts of {TOKENS} tokens do not tell longest_loop"):
        probe_cliffs(session, evaluator, [request], facts)


def test_what_the_store_holds_is_used_and_not_spent() -> None:
    world = World(10.3, 6.0)
    seen = tuple(Observation(c, world.coherence(c), world.gain(c)) for c in (4.0, 6.5, 8.6, 9.6, 10.2, 11.5))
    found, _ = search({"a": world}, [ladder(observations=seen)])
    assert found[0].spent <= 3
    assert found[0].best_gain(FLOOR) >= 0.97 * world.best()


def test_stops_where_no_more_can_be_gained() -> None:
    seen = (Observation(8.2, 97.0, 98.8),)
    assert next_steps([ladder(observations=seen)], SETTINGS) == {"a": Done("no more can be gained")}


def test_says_why_a_gap_stays() -> None:
    hopeless = World(2.0, 1.0)
    found, reasons = search({"a": hopeless}, [ladder(allowed=(7.0, 40.0))])
    assert reasons["a"] == f"at 7, the least coefficient allowed, coherence is {hopeless.coherence(7.0):.1f}"
    assert found[0].best_gain(FLOOR) == 0

    _, reasons = search({"a": World(8.0, 30.0)}, [ladder()])
    assert "coherence falls below the floor before the trait moves" in reasons["a"]

    step = next_steps([ladder(baseline_coherence=61.0)], SETTINGS)["a"]
    assert isinstance(step, Done)
    assert step.reason == "the baseline's own coherence, 61.0, is not above the floor of 68"


def test_failures_end_a_ladder() -> None:
    failed = (Observation(8.2, None, None), Observation(6.0, None, None))
    assert next_steps([ladder(observations=failed)], SETTINGS) == {"a": Done("2 coefficients failed or not scored")}


def test_the_budget_is_kept() -> None:
    _, reasons = search({"a": World(60.0, 55.0)}, [ladder()], replace(SETTINGS, budget=2))
    assert reasons["a"] == "the budget of 2 is spent"
    step = next_steps([ladder()], replace(SETTINGS, budget=0))["a"]
    assert isinstance(step, Done)


def test_a_partial_observation_is_never_the_best() -> None:
    seen = Observation(8.2, 95.0, 99.0, is_partial=True)
    one = ladder(observations=(seen,))
    assert one.best_gain(FLOOR) == 0
    assert isinstance(next_steps([one], SETTINGS)["a"], Try)


@pytest.mark.parametrize("allowed", [(0.0, 5.0), (20.0, math.inf), (9.0, 9.0)])
def test_only_what_is_allowed_is_tried(allowed: tuple[float, float]) -> None:
    search({"a": World(10.3, 6.0)}, [ladder(allowed=allowed)])


def test_after_a_scan_a_smaller_coefficient_that_works_is_refined() -> None:
    """A curve that is good, then bad, then middling: a search goes for the cliff, a scan sees the first peak."""
    world = World(30.0, 20.0, top=50.0, bump=lambda c: 70 * math.exp(-0.5 * ((math.log(c / 3)) / 0.1) ** 2))
    grid = tuple(Observation(c, world.coherence(c), world.gain(c)) for c in (2.0, 2.8, 4.0, 5.6, 8, 11, 16, 22, 30))
    found, _ = search({"a": world}, [ladder(observations=grid)])
    assert found[0].best_gain(FLOOR) >= 0.95 * 70


def test_a_delta_against_another_baseline_than_the_stores_steers_nothing() -> None:
    now = replace(evaluation_row(), key="baseline", trait_mean=10.0, n_scored=4, layer=None)
    rows = [
        evaluated("probe", coefficient=8.0, baseline_trait_mean=10.0, trait_mean=30.0, delta=20.0),
        evaluated("probe", coefficient=9.0, baseline_trait_mean=99.0, trait_mean=35.0, delta=-64.0),
    ]
    points = Points.of([point_of(one.row, one.run_id, 1) for one in rows])  # type: ignore[misc]
    store = SimpleNamespace(points_and_failures=lambda _: (points, []), screenings=lambda _: [])
    session = SimpleNamespace(
        stores=SimpleNamespace(read=lambda: nullcontext(store)), experiment=SimpleNamespace(name="x", least_scored=0.8)
    )
    evaluator = SimpleNamespace(
        is_of=lambda *_: True,
        planner=SimpleNamespace(direction="positive", cells=lambda _: {one.row.key: None for one in rows}),
    )
    key = LadderKey("response[:5]", "probe", 15, 1)
    searching = LadderSearch(session, evaluator, SETTINGS, None)  # type: ignore[arg-type]
    (seen,) = searching._observed({key: replace(ladder(), key=key)}, now).values()
    assert [(one.coefficient, one.gain) for one in seen.observations] == [(8.0, 20.0)]


def test_a_ladder_keeps_to_the_grid_of_its_phase_and_a_share_not_to_the_models_lengths(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(root / "experiments/ablation.yaml")
    (model,), places = (
        experiment.models,
        [("response[:5]", f"mean_diff_cleaned{how}") for how in ("", "+ablate", "@prompt")],
    )
    session: Any = SimpleNamespace(experiment=experiment, say=lambda _: None)
    added, ablated, undeclared = search_requests(session, model, 8, SearchPlan(), places)
    assert (ablated.coefficients.values, ablated.layers) == ((0.5, 1, 1.5, 2, 2.5), (2, 3, 4, 5))
    assert added.coefficients == undeclared.coefficients == model.grid.coefficients
    assert search_requests(session, model, 8, SearchPlan(layers="7"), places)[1] == replace(ablated, layers=(7,))

    planner = SimpleNamespace(direction="positive", vectors=None)
    evaluator: Any = SimpleNamespace(planner=planner, allowed=(800.0, 2500.0))
    monkeypatch.setattr(rounds, "facts_of", lambda *_: {3: VectorFacts(unit_strength=0.01, norm=900.0)})
    searching = LadderSearch(session, evaluator, SETTINGS, RelativeStrengthPrior())
    ladders = searching._ladders([added, ablated], evaluation_row(trait_mean=1.0, coherence_mean=99.0))
    found = {(key.label, key.sign): one.allowed for key, one in ladders.items()}
    lengths = dict.fromkeys([("mean_diff_cleaned", 1), ("mean_diff_cleaned", -1)], (800.0, 2500.0))
    assert found == {**lengths, ("mean_diff_cleaned+ablate", 1): (0.0, math.inf)}


def test_a_prior_expects_nothing_of_what_is_not_just_added_to_all_tokens_of_one_layer() -> None:
    prior, facts = RelativeStrengthPrior(), VectorFacts(unit_strength=0.01, norm=900.0)
    assert expect(prior, facts, parse_label("probe_top1")) == prior.expect(facts)
    for label in ("probe+clamp", "probe+3layers", "probe@response"):
        guess = expect(prior, facts, parse_label(label))
        assert (guess.cliff, guess.spread, guess.source) == (900.0, UNKNOWN_SPREAD, "full activation norm")
    assert expect(prior, facts, parse_label("probe+ablate")).best == 1.0
    assert expect(prior, facts, parse_label("probe+rotate")).best == 30.0


def test_a_random_direction_that_gains_nothing_does_not_end_the_search_of_what_does() -> None:
    # as on SmolLM2 at layer 12 with 64 tokens: what gains 51 of 73 at 0.41 gains 62 at 0.6, where it is still coherent
    tried = [(0.39, 51.0, 90.0), (0.36, 52.0, 94.0), (0.3, 32.0, 96.0), (0.41, 51.0, 87.0)]
    nothing = [(c, 3.0, 100 - 60 * c) for c in (0.3, 0.38, 0.45, 0.5, 0.55, 0.62, 0.75, 0.95)]
    known = {"best": 0.82, "cliff": 1.03, "ceiling": 73.0, "baseline_coherence": 97.0, "layer": 12}
    strong, weak = (
        ladder(key, observations=tuple(Observation(c, coherence, gain) for c, gain, coherence in seen), **known)
        for key, seen in (("probe", tried), ("random", nothing))
    )
    step = next_steps([strong, weak], SETTINGS)["probe"]
    assert isinstance(step, Try)
    assert step.coefficient > 0.45


def test_where_all_that_was_tried_moves_the_trait_the_wrong_way_the_search_goes_on() -> None:
    tried = (Observation(8.0, 95.0, -2.0), Observation(9.0, 90.0, -1.0))
    ladders = [ladder(key, observations=tried, spent=2) for key in ("a", "b")]
    assert all(isinstance(step, Try) for step in next_steps(ladders, SETTINGS).values())
