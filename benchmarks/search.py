"""How many evaluations it takes to find the best coefficient: a fixed grid, the usual adaptive search, and ours.

Run from the project's root; it works in a folder of its own and takes it away afterwards:

    python benchmarks/search.py
    python benchmarks/search.py --layers 3 --labels mean_diff,probe     # a quick look
    python benchmarks/search.py --recorded held_out     # on the ladders of record of a real model, in seconds

On both embedded models, at every layer and label, the truth is a dense grid over the coefficient, in steps of 12 %. Of
the ladders of record (ladders.py) it is their sixteen coefficients, and curves are straight between them over ln(c).
These look for the best delta at or above the floor, each evaluating its own cells:

(a) grid:       the coefficients of the plan's experiment file, in their order;
(b) adaptive 5: trait-interp's: start at 0.7 x the full activation norm, x 1.3 where the text is coherent and x 0.85
                where not, smoothed with momentum 0.1, 5 steps; adaptive 8: 8 steps;
(c) tpe:        Optuna's TPE sampler with its defaults, 8 trials, where the package optuna is there (recorded only);
(d) before:     `massact search` as it was before it knew layers, from the history of this repository (`BEFORE`);
(e) search:     massact.sweep.search, as `massact search` uses it; probed: from where short texts break (recorded only).

Counted is the evaluation with which the best delta found so far comes within 5 % of the dense grid's, which no way
knows; and how many evaluations each makes in all. Ladders whose dense grid never moves the trait have no best to find:
they count only among the evaluations made.
"""

import argparse
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

from ladders import RecordedLadder, read_ladders

from massact.config import ModelConfig, load_experiment
from massact.domain import Coefficients
from massact.evaluation import Evaluation
from massact.labels import format_label, parse_label
from massact.prediction.prior import RelativeStrengthPrior, VectorFacts
from massact.sweep import search as engine
from massact.sweep.context import Session
from massact.sweep.executors.local import evaluate_cells
from massact.sweep.planner import GridRequest, Planner
from massact.sweep.search import MOVES, Observation
from massact.sweep.search.rounds import expect
from massact.sweep.vectors import facts_of
from massact.workflow.steps import run_calibrate, run_extract

POSITION = "response[:5]"
LABELS = (
    "mean_diff,mean_diff_top1,mean_diff_top2,mean_diff_cleaned,mean_diff_preclean,"
    "probe,probe_top1,probe_cleaned,probe_preclean"
)
DENSE_FROM, DENSE_STEP, DENSE_N = 0.25, 1.12, 24
"""The dense grid: relative strength 0.25 to 3.4."""
CLOSE = 0.95
DROP, N_QUESTIONS = (0.05, 0.2), 6
"""`--drop-layers`, and the questions of the ladders of record."""
DENSE = 12  # coefficients that a ladder of record must have to be searched on
RECORDED_GRID = (0.2, 0.3, 0.5)
"""Relative strengths: the grid of experiments/smollm2.yaml."""
ADAPTIVE_START, ADAPTIVE_UP, ADAPTIVE_DOWN, ADAPTIVE_MOMENTUM, ADAPTIVE_STEPS = 0.7, 1.3, 0.85, 0.1, (5, 8)
BEFORE = "e506600~1"
"""The commit of (d)."""

Place = tuple[str, int]
"""Label and layer."""
Seen = dict[Place, list[Observation]]


class Looked(Protocol):
    """What a way of looking is shown of one model and trait."""

    name: str
    facts: dict[Place, VectorFacts]
    baseline: float
    baseline_coherence: float
    seconds: float

    def evaluate(self, wanted: Iterable[tuple[Place, float]]) -> dict[tuple[Place, float], Observation]:
        """Observations of cells, all in one sweep."""


class Recorded:
    """Ladders of record of one trait and length: what was not evaluated is read off between its neighbours."""

    def __init__(self, name: str, ladders: Mapping[Place, RecordedLadder]) -> None:
        self.name, self.ladders, self.seconds = name, ladders, 0.0
        first = next(iter(ladders.values()))
        self.baseline, self.baseline_coherence = first.baseline, first.baseline_coherence
        self.facts = {place: ladder.facts for place, ladder in ladders.items()}

    def evaluate(self, wanted: Iterable[tuple[Place, float]]) -> dict[tuple[Place, float], Observation]:
        """Observations between those of record; beyond the ends those at the ends."""
        return {(place, c): self._at(self.ladders[place].observations, c) for place, c in wanted}

    @staticmethod
    def _at(seen: Sequence[Observation], coefficient: float) -> Observation:
        x = np.log([one.coefficient for one in seen])
        coherence, gain = (
            float(np.interp(math.log(coefficient), x, [getattr(one, name) for one in seen]))
            for name in ("coherence", "gain")
        )
        return Observation(coefficient, coherence, gain)


class Subject:
    """One model: its cells, evaluated many at a time and never kept."""

    def __init__(self, session: Session, config: ModelConfig, labels: Sequence[str], layers: Sequence[int]) -> None:
        self._session, self.name, self.config = session, config.name, config
        trait = session.experiment.traits[0]
        self._planner = Planner(session, config, trait)
        self._judge = session.judges.of(trait, config)
        self._model = session.models.get(config, config.instruct)
        self.facts: dict[Place, VectorFacts] = {
            (label, layer): facts
            for label in labels
            for layer, facts in facts_of(self._planner.vectors, POSITION, parse_label(label), layers).items()
        }
        baseline = next(iter(self._evaluate([self._planner.baseline()]))).summary
        assert baseline.trait_mean is not None
        assert baseline.coherence_mean is not None
        self.baseline, self.baseline_coherence = baseline.trait_mean, baseline.coherence_mean
        self.seconds = 0.0

    def evaluate(self, wanted: Iterable[tuple[Place, float]]) -> dict[tuple[Place, float], Observation]:
        """Observations of cells, all in one sweep."""
        requests = [
            GridRequest(POSITION, parse_label(label), (layer,), Coefficients((coefficient,)))
            for (label, layer), coefficient in wanted
        ]
        began = time.perf_counter()
        found = {}
        for one in self._evaluate(list(self._planner.cells(requests).values())):
            steering, summary = one.planned.cell.steering, one.summary
            assert steering is not None
            assert summary.trait_mean is not None
            place = (format_label(steering.recipe), steering.layer)
            found[place, steering.coefficient] = Observation(
                steering.coefficient, summary.coherence_mean, summary.trait_mean - self.baseline
            )
        self.seconds += time.perf_counter() - began
        return found

    def _evaluate(self, cells: Sequence[object]) -> Iterable[Evaluation]:
        questions = self._planner.questions.questions
        for result in evaluate_cells(self._model, cells, questions, self._judge):  # type: ignore[arg-type]
            assert isinstance(result, Evaluation), result
            yield result


@dataclass
class Way:
    """What one way of looking came to."""

    name: str
    seen: Seen = field(default_factory=dict)
    seconds: float = 0.0

    def hit(self, place: Place, goal: float, floor: float) -> int | None:
        """The evaluation, from 1, that comes close enough; `None`: none does."""
        for number, one in enumerate(self.seen[place], 1):
            if (one.coherence or 0.0) >= floor and (one.gain or 0.0) >= goal:
                return number
        return None


def dense(subject: Subject) -> Seen:
    """The truth."""
    wanted = [
        (place, _rounded(DENSE_FROM * DENSE_STEP**i / facts.unit_strength))
        for place, facts in subject.facts.items()
        for i in range(DENSE_N)
    ]
    found = subject.evaluate(wanted)
    return {place: [found[place, c] for p, c in wanted if p == place] for place in subject.facts}


def grid(subject: Looked, coefficients: Sequence[float]) -> Seen:
    """(a)."""
    found = subject.evaluate([(place, c) for place in subject.facts for c in coefficients])
    return {place: [found[place, c] for c in coefficients] for place in subject.facts}


def adaptive(subject: Looked, floor: float, n_steps: int) -> Seen:
    """(b)."""
    now = {place: _rounded(ADAPTIVE_START * facts.norm) for place, facts in subject.facts.items()}
    velocity = dict.fromkeys(now, 1.0)
    seen: Seen = {place: [] for place in now}
    for _ in range(n_steps):
        found = subject.evaluate(now.items())
        for place, c in now.items():
            one = found[place, c]
            seen[place].append(one)
            factor = ADAPTIVE_UP if (one.coherence or 0.0) >= floor else ADAPTIVE_DOWN
            velocity[place] = ADAPTIVE_MOMENTUM * velocity[place] + (1 - ADAPTIVE_MOMENTUM) * factor
            now[place] = _rounded(c * velocity[place])
    return seen


def before(subject: Looked, floor: float) -> Seen:
    """(d)."""
    return searched(subject, floor, _module_before("ladders"), unknown=["layer", "group"])


def ours(subject: Looked, floor: float, probed: Mapping[Place, float] = {}, **how: Any) -> Seen:
    """(e). `probed`: relative strengths at which short texts break, to start from. `drop`: only the best layer of each
    label is looked for, and one is given up that is it with a smaller chance than this."""
    return searched(subject, floor, engine, probed, **how)


def searched(
    subject: Looked,
    floor: float,
    how: Any,
    probed: Mapping[Place, float] = {},
    unknown: Sequence[str] = (),
    **settings: float | None,
) -> Seen:
    """What a version of the search looks at. `unknown`: fields of a ladder that it does not have."""
    prior = RelativeStrengthPrior()
    ladders = {}
    for place, facts in subject.facts.items():
        given = prior if place not in probed else at_cliff(probed[place])
        expected = expect(given, facts, parse_label(place[0]))
        fields = {"layer": place[1], "group": place[0]}
        ladders[place] = how.Ladder(
            key=place,
            pool=subject.name,
            best=expected.best,
            cliff=expected.cliff,
            spread=expected.spread,
            baseline_coherence=subject.baseline_coherence,
            ceiling=100 - subject.baseline,
            **{name: value for name, value in fields.items() if name not in unknown},
        )
    while True:
        steps = how.next_steps(list(ladders.values()), how.Settings(floor, **settings))
        tries = {key: step.coefficient for key, step in steps.items() if not isinstance(step, how.Done)}
        if not tries:
            break
        for (place, _), one in subject.evaluate(tries.items()).items():
            ladder = ladders[place]
            seen = how.Observation(one.coefficient, one.coherence, one.gain)
            ladders[place] = replace(ladder, observations=(*ladder.observations, seen), spent=ladder.spent + 1)
    return {
        place: [Observation(o.coefficient, o.coherence, o.gain) for o in one.observations]
        for place, one in ladders.items()
    }


def at_cliff(strength: float) -> RelativeStrengthPrior:
    """What is expected where short texts break at a relative strength."""
    given = RelativeStrengthPrior()
    return replace(given, best=given.best / given.cliff * strength, cliff=strength)


@cache
def _module_before(name: str) -> Any:
    """A module of the search as it was at `BEFORE`."""
    path, package = f"massact/sweep/search/{name}.py", "massact_before"
    if name == "ladders":
        _module_before("curves")
    root = Path(__file__).parents[1]
    text = subprocess.run(["git", "show", f"{BEFORE}:{path}"], cwd=root, check=True, capture_output=True, text=True)
    module = sys.modules[f"{package}.{name}"] = ModuleType(f"{package}.{name}")
    exec(text.stdout.replace("massact.sweep.search.", f"{package}."), module.__dict__)
    return module


def tpe(subject: Looked, floor: float) -> Seen:
    """(c)."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seen: Seen = {}
    for place, facts in subject.facts.items():
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        seen[place] = []
        for _ in range(max(ADAPTIVE_STEPS)):
            trial = study.ask()
            c = trial.suggest_float("coefficient", 0.1 / facts.unit_strength, 2.0 / facts.unit_strength, log=True)
            (one,) = subject.evaluate([(place, c)]).values()
            seen[place].append(one)
            is_coherent = (one.coherence or 0.0) >= floor
            study.tell(trial, (one.gain or 0.0) if is_coherent else (one.coherence or 0.0) - 100)
    return seen


def recorded_subjects(part: str) -> list[Recorded]:
    """The ladders of record of each trait and length."""
    subjects: dict[str, dict[Place, RecordedLadder]] = {}
    for key, ladder in read_ladders().items():
        if part in ("all", ladder.part) and len(ladder.observations) >= DENSE:
            subjects.setdefault(f"{key.trait}, {key.tokens} tokens", {})[key.label, key.layer] = ladder
    return [Recorded(name, ladders) for name, ladders in subjects.items()]


def recorded(part: str, floor: float) -> dict[str, tuple[Seen, list["Way"]]]:
    """The ways on the ladders of record."""
    ways: dict[str, Callable[[Recorded], Seen]] = {
        "grid": lambda subject: {
            place: list(subject.evaluate([(place, c / facts.unit_strength) for c in RECORDED_GRID]).values())
            for place, facts in subject.facts.items()
        },
        **{f"adaptive {n}": partial(adaptive, floor=floor, n_steps=n) for n in ADAPTIVE_STEPS},
        **({"tpe": lambda subject: tpe(subject, floor)} if importlib.util.find_spec("optuna") else {}),
        "before": lambda subject: before(subject, floor),
        "search": lambda subject: ours(subject, floor),
        "probed": lambda subject: ours(subject, floor, {p: one.probed for p, one in subject.ladders.items()}),
    }
    results = {}
    for subject in recorded_subjects(part):
        truth = {place: list(ladder.observations) for place, ladder in subject.ladders.items()}
        results[subject.name] = (truth, [Way(way, look(subject)) for way, look in ways.items()])
    return results


def report(floor: float, results: dict[str, tuple[Seen, list[Way]]]) -> None:
    """The table, one row for each way and model and for all together."""
    print("| model | way | cases | within 5 % | to get there: median | mean | made in all: median | mean | wall time |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    hits: dict[str, list[int | None]] = {}
    made: dict[str, list[int]] = {}
    for model, (truth, ways) in results.items():
        bests = {place: _best(seen, floor) for place, seen in truth.items()}
        for way in ways:
            own = [way.hit(place, CLOSE * best, floor) for place, best in bests.items() if best >= MOVES]
            n_made = [len(seen) for seen in way.seen.values()]
            hits.setdefault(way.name, []).extend(own)
            made.setdefault(way.name, []).extend(n_made)
            print(_row(model, way.name, own, n_made, f"{way.seconds:.0f} s"))
    for name, own in hits.items():
        seconds = sum(way.seconds for _, ways in results.values() for way in ways if way.name == name)
        print(_row("all", name, own, made[name], f"{seconds:.0f} s"))
    print()
    _same_success(hits, made)


def _row(model: str, way: str, hits: Sequence[int | None], made: Sequence[int], seconds: str) -> str:
    got = [one for one in hits if one is not None]
    middle = f"{statistics.median(got):g} | {statistics.mean(got):.1f}" if got else "- | -"
    share = f"{len(got) / len(hits):.0%}"
    of_made = f"{statistics.median(made):g} | {statistics.mean(made):.1f}"
    return f"| {model} | {way} | {len(hits)} | {share} | {middle} | {of_made} | {seconds} |"


def _same_success(hits: Mapping[str, Sequence[int | None]], made: Mapping[str, Sequence[int]]) -> None:
    """How many evaluations of a ladder ours makes at most until it has found as many as each other way at its end."""
    mine = hits["search"]
    for name in sorted(hits.keys() - {"search"}):
        n_found, spent = sum(hit is not None for hit in hits[name]), statistics.mean(made[name])
        enough = (k for k in range(1, 9) if sum(hit is not None and hit <= k for hit in mine) >= n_found)
        if k := next(enough, None):
            ours = statistics.mean(min(k, n) for n in made["search"])
            print(f"{name}: {n_found} of {len(mine)} with {spent:.1f} evaluations a ladder; search: with {ours:.1f}")


def report_layers(part: str, floor: float) -> None:
    """The best over layers of each label: every layer to its end, and the better halves alone."""
    print("\n| ladders of a label | way | labels | within 5 % | evaluations of a label | tokens judged |")
    print("|---|---|---:|---:|---:|---:|")
    for subject in recorded_subjects(part):
        bests: dict[str, float] = {}
        for (label, _), ladder in subject.ladders.items():
            bests[label] = max(bests.get(label, 0.0), _best(ladder.observations, floor))
        labels = [label for label, best in bests.items() if best >= MOVES]
        for way, drop in (("every layer", None), *((f"--drop-layers {one:g}", one) for one in DROP)):
            seen = ours(subject, floor, drop=drop)
            found = {
                label: max(_best(some, floor) for place, some in seen.items() if place[0] == label) for label in labels
            }
            share = sum(found[label] >= CLOSE * bests[label] for label in labels) / len(labels)
            made = sum(map(len, seen.values())) / len(bests)
            n_tokens = made * N_QUESTIONS * int(subject.name.split()[1])
            print(f"| {subject.name} | {way} | {len(labels)} | {share:.0%} | {made:.1f} | {n_tokens:.0f} |")


def _best(seen: Iterable[Observation], floor: float) -> float:
    return max((one.gain or 0.0 for one in seen if (one.coherence or 0.0) >= floor), default=0.0)


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="experiments/toy.yaml")
    parser.add_argument("--labels", default=LABELS)
    parser.add_argument("--layers", default="1,2,3,4,5")
    parser.add_argument("--recorded", choices=["tune", "held_out", "all"])
    args = parser.parse_args()
    if args.recorded:
        report(68.0, recorded(args.recorded, 68.0))
        report_layers(args.recorded, 68.0)
        return
    labels, layers = args.labels.split(","), [int(layer) for layer in args.layers.split(",")]
    experiment = load_experiment(args.experiment)
    floor = experiment.coherence_floor
    results = {}
    with tempfile.TemporaryDirectory(prefix="massact-search-") as folder:
        os.chdir(folder)
        session = Session(experiment, f"sqlite:///{Path(folder) / 'mlflow.db'}")
        with session.stores.tracker.phase("prepare", params={}) as run:
            run_calibrate(session, run)
            run_extract(session, run)
        for config in experiment.models:
            subject = Subject(session, config, labels, layers)
            truth = dense(subject)
            ways = []
            looks: tuple[tuple[str, Callable[[], Seen]], ...] = (
                ("grid", partial(grid, subject, config.grid.coefficients.values)),
                *((f"adaptive {n}", partial(adaptive, subject, floor, n)) for n in ADAPTIVE_STEPS),
                ("before", partial(before, subject, floor)),
                ("search", partial(ours, subject, floor)),
            )
            for name, look in looks:
                subject.seconds = 0.0
                seen = look()
                ways.append(Way(name, seen, subject.seconds))
            results[config.name] = (truth, ways)
        session.stores.close()
        os.chdir("/")
    report(floor, results)


if __name__ == "__main__":
    main()
