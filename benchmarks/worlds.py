"""How often answers hold what they say, in made-up experiments whose truth is known.

Run from the project's root: python benchmarks/worlds.py [--only PATTERN] [--questions 5,10,24] [--draws 400]

Each world draws experiments: labels, layers, coefficients, the scores of each question, and a baseline. `best` and
`compare` answer them; their intervals are held against the means that the scores were drawn from (in closed form or by
summing over the scale), and against naive ones: Student's, of the picked cell or pair alone. docs/statistics.md has the
tables. The Monte-Carlo error of a share of .95 is .011 at 400 draws.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from massact.query import Answers, Evaluations
from massact.query.questions.best import ask_best
from massact.query.questions.compare import ask_compare
from massact.query.rows import Point
from massact.query.stats.paired import QuestionScores
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind, Scores

Numbers = NDArray[np.float64]
FLOOR = 68.0
BASELINE_COHERENCE = 92.0
LABELS = tuple(
    f"{method}{cleaning}"
    for cleaning in ("", "_cleaned", "_preclean", "_top1", "_preclean_top1", "_top2", "_top3")
    for method in ("mean_diff", "probe")
)


@dataclass(frozen=True, kw_only=True)
class World:
    """What true means look like, and how a judge's scores scatter around them. Points of a score, 0 to 100."""

    name: str
    n_labels: int = 6
    n_layers: int = 4
    n_coefficients: int = 7
    baseline: float = 20.0
    height: float = 30.0
    """Of the best delta of a label."""
    labels_differ: float = 0.0
    """Standard deviation of that height over labels."""
    is_flat: bool = False
    """All cells of a label have its height; else deltas rise with the coefficient and the layer."""
    spike: float = 0.0
    """Points by which one cell of each label is above the others."""
    noise: float = 20.0
    """Standard deviation of a score around its cell's mean; half of it for the baseline."""
    noise_at_cliff: float = 1.0
    """Times that at the largest coefficient."""
    noisy_labels: float = 1.0
    """Times that for all labels but the first."""
    questions: float = 10.0
    """Standard deviation of what a question does to all cells and to the baseline."""
    neighbours: float = 0.0
    """Correlation of the noise of neighbouring coefficients."""
    scale: float = 1.0
    """Scores are its multiples; 100: a judge that says no or yes."""
    rare: float = 0.0
    """Share of the questions that alone have an effect, on all cells alike; the others none."""
    cells: tuple[int, ...] = ()
    """How many cells of each label were evaluated; `()`: all."""
    cliff: float = 0.0
    """Coherence that is lost from the least to the largest coefficient; 0: all of it is coherent."""
    coherence_noise: float = 0.0
    """Standard deviation of a coherence score."""

    def draw(self, rng: np.random.Generator, n_questions: int) -> "Experiment":
        shape = (self.n_labels, self.n_layers, self.n_coefficients)
        means, noise = self._means(rng), self._noise()
        own = rng.standard_normal((*shape, n_questions))
        for at in range(1, self.n_coefficients):
            own[:, :, at] = self.neighbours * own[:, :, at - 1] + np.sqrt(1 - self.neighbours**2) * own[:, :, at]
        shared = rng.standard_normal(n_questions)
        if self.rare:
            is_rare = rng.random(n_questions) < self.rare
            trait = np.where(is_rare, means[..., None] / self.rare, 0.0) * np.ones((*shape, n_questions))
            base, true, true_base = np.full(n_questions, 0.0), means, 0.0
        else:
            trait, true = self._scores(means, noise, shared, own)
            base_noise = np.array([[self.noise / 2]])
            drawn, of_base = self._scores(
                np.array([[self.baseline]]), base_noise, shared, rng.standard_normal((1, 1, n_questions))
            )
            base, true_base = drawn[0, 0], float(of_base[0, 0])
        coherence = BASELINE_COHERENCE - self.cliff * np.linspace(0, 1, self.n_coefficients) ** 2
        scatter = self.coherence_noise * rng.standard_normal((*shape, n_questions))
        coherences = np.clip(np.round(coherence[:, None] + scatter), 0, 100)
        known = dict.fromkeys(product(*map(range, shape)))
        if self.cells:
            known = {
                (label, *index): None
                for label, n in enumerate(self.cells)
                for index in list(product(*map(range, shape[1:])))[-n:]
            }
        return Experiment(trait, base, coherences, true - true_base, coherence, list(known))

    def _means(self, rng: np.random.Generator) -> Numbers:
        of_label = self.height + self.labels_differ * rng.standard_normal(self.n_labels)
        steps = np.arange(1, self.n_coefficients + 1) / self.n_coefficients
        rise = np.ones_like(steps) if self.is_flat else np.clip(1.3 * steps, 0, 1)
        layers = np.ones(self.n_layers) if self.is_flat else np.linspace(0.5, 1, self.n_layers)
        deltas = of_label[:, None, None] * layers[:, None] * rise
        deltas[:, -1, -1] += self.spike
        return deltas if self.rare else self.baseline + deltas

    def _noise(self) -> Numbers:
        noise = np.full((self.n_labels, self.n_layers, self.n_coefficients), float(self.noise))
        noise[:, :, -1] *= self.noise_at_cliff
        noise[1:] *= self.noisy_labels
        return noise

    def _scores(self, means: Numbers, noise: Numbers, shared: Numbers, own: Numbers) -> tuple[Numbers, Numbers]:
        """Scores of each question, and their true means."""
        if self.scale == 100.0:
            of_question = self.questions / 40
            shares = np.clip(means / 100, 0.001, 0.999)
            latent = ndtri(shares)[..., None] * np.sqrt(1 + of_question**2) + of_question * shared + own
            return 100.0 * (latent > 0), 100 * shares
        drawn = means[..., None] + self.questions * shared + noise[..., None] * own
        scores = np.clip(np.round(drawn / self.scale) * self.scale, 0, 100)
        ends = np.arange(0, 100, self.scale) + self.scale / 2
        spread = np.sqrt(noise**2 + self.questions**2)[..., None]
        return scores, self.scale * (1 - ndtr((ends - means[..., None]) / spread)).sum(-1)


@dataclass(frozen=True)
class Experiment:
    """What was drawn: scores `[n_labels, n_layers, n_coefficients, n_questions]` and the truth."""

    trait: Numbers
    baseline: Numbers
    coherence: Numbers
    true: Numbers
    """Deltas, `[n_labels, n_layers, n_coefficients]`."""
    true_coherence: Numbers
    """`[n_coefficients]`"""
    cells: list[tuple[int, ...]]

    def answers(self) -> Answers:
        n = len(self.baseline)
        rows, scores = [], {}
        base = float(self.baseline.mean())
        baseline = _row("baseline", Kind.BASELINE, trait_mean=base, coherence_mean=BASELINE_COHERENCE, n_scored=n)
        for label, layer, at in self.cells:
            trait, coherence = self.trait[label, layer, at], self.coherence[label, layer, at]
            name = f"{label}-{layer}-{at}"
            row = _row(
                name, Kind.EVALUATION, trait_mean=float(trait.mean()), coherence_mean=float(coherence.mean()),
                n_scored=n, position="response[:5]", label=LABELS[label], layer=layer,
                coefficient=10.0 * (at + 1), baseline_key="baseline", baseline_trait_mean=base,
                delta=float(trait.mean()) - base, vector_digest=f"{label}-{layer}",
            )  # fmt: skip
            rows.append(Stored(name, "FINISHED", 1, row))
            scores[name] = Scores(tuple(trait.tolist()), tuple(coherence.tolist()))
        unsteered = Scores(tuple(self.baseline.tolist()), (BASELINE_COHERENCE,) * n)
        return Answers(
            evaluations=Evaluations.of(rows),
            scores=QuestionScores(scores, {"baseline": unsteered}),
            baselines={"baseline": Stored("base", "FINISHED", 0, baseline)},
        )

    def at(self, point: Point, label: str) -> tuple[int, int, int]:
        assert point.layer is not None
        assert point.coefficient is not None
        return LABELS.index(label), point.layer, round(point.coefficient / 10) - 1

    def differences(self, *cells: tuple[int, ...]) -> Numbers:
        """Each question's delta of a cell, or of the first minus the second."""
        deltas = [self.trait[cell] - self.baseline for cell in cells]
        return np.asarray(deltas[0] if len(deltas) == 1 else deltas[0] - deltas[1])


def _row(key: str, kind: Kind, **fields: object) -> EvaluationRow:
    return EvaluationRow(
        kind=kind, experiment="world", key=key, setting="s", model="m", model_variant="", model_id="m", trait="t",
        judge="j", direction="positive", **fields,  # type: ignore[arg-type]
    )  # fmt: skip


@dataclass
class Held:
    """Of one figure, over all draws: whether its interval held, its width, how far it was off."""

    intervals: list[tuple[float, float, float]] = field(default_factory=list)
    """Low, high and truth."""
    naive: list[tuple[float, float, float]] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def cells(self) -> list[str]:
        return [*_shares(self.intervals), *_shares(self.naive)]

    def error(self, name: str) -> str:
        """Bias, and root of the mean squared error."""
        values = np.array(self.errors[name] or [np.nan])
        return f"{values.mean():+.1f} / {np.sqrt((values**2).mean()):.1f}"


def _shares(intervals: Sequence[tuple[float, float, float]]) -> list[str]:
    if not intervals:
        return ["–", "–"]
    low, high, true = np.array(intervals).T
    slack = 1e-9
    held = (low - slack <= true) & (true <= high + slack)
    return [f"{held.mean():.3f}", f"{(high - low).mean():.0f}"]


def student(values: Numbers) -> tuple[float, float]:
    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half


WORLDS = (
    World(name="labels alike"),
    World(name="labels differ", labels_differ=10),
    World(name="all cells equal", is_flat=True),
    World(name="all cells equal, 14 labels", is_flat=True, n_labels=14, n_layers=6, n_coefficients=8),
    World(name="one cell stands out", is_flat=True, height=10, spike=30),
    World(name="scores 0/100", is_flat=True, scale=100),
    World(name="scores 0/100, rising", scale=100, questions=40),
    World(name="multiples of 5", scale=5, noise=25),
    World(name="noise x3 at the cliff", noise=10, noise_at_cliff=3),
    World(name="noise x5 at the cliff", noise=8, noise_at_cliff=5),
    World(
        name="noise x5 at the cliff, 14 labels",
        noise=8,
        noise_at_cliff=5,
        is_flat=True,
        n_labels=14,
        n_layers=6,
        n_coefficients=8,
    ),
    World(name="question effects of 35", questions=35, is_flat=True),
    World(name="neighbours correlate", neighbours=0.8),
    World(name="neighbours correlate, all equal", neighbours=0.8, is_flat=True),
    World(name="ceiling", baseline=50, height=60, is_flat=True),
    World(name="steady best among noisy labels", noise=10, noisy_labels=4.5, is_flat=True),
    World(name="48 cells against 3", is_flat=True, n_labels=2, n_layers=6, n_coefficients=8, cells=(48, 3)),
    World(
        name="48 against 3, neighbours correlate",
        is_flat=True,
        n_labels=2,
        n_layers=6,
        n_coefficients=8,
        cells=(48, 3),
        neighbours=0.8,
    ),
    World(name="48 against 3, rising", n_labels=2, n_layers=6, n_coefficients=8, cells=(48, 3), labels_differ=10),
    World(name="rare effects", rare=0.1, height=5, is_flat=True, n_labels=2, n_layers=1, n_coefficients=1),
    World(name="gradual cliff, noisy coherence", cliff=60, coherence_noise=15, n_labels=4),
    World(name="gradual cliff, steadier coherence", cliff=60, coherence_noise=8, n_labels=4),
    World(name="steep cliff, exact coherence", cliff=160, n_labels=4),
)


@dataclass
class Measured:
    """What the answers of a world's draws came to."""

    label: Held = field(default_factory=Held)
    winner: Held = field(default_factory=Held)
    difference: Held = field(default_factory=Held)
    matched: Held = field(default_factory=Held)
    best_kept: list[bool] = field(default_factory=list)
    """Whether the label that is truly best is the winner or tied."""
    stands_alone: list[bool] = field(default_factory=list)
    is_wrong_alone: list[bool] = field(default_factory=list)
    """Whether the winner stands alone and is not the best."""
    significant: dict[bool, list[bool]] = field(default_factory=lambda: defaultdict(list))
    """Whether two labels differ, by whether their bests truly do."""


def measure(world: World, n_questions: int, draws: int, seed: int = 0) -> Measured:
    rng = np.random.default_rng([seed, n_questions, *world.name.encode()])
    measured = Measured()
    for _ in range(draws):
        experiment = world.draw(rng, n_questions)
        answers = experiment.answers()
        _bests(measured, experiment, answers)
        _differences(measured, experiment, answers)
    return measured


def _bests(measured: Measured, experiment: Experiment, answers: Answers) -> None:
    rows: list[Any] = [row for row in ask_best.of(answers, FLOOR).rows if row.status == "ok"]
    true_best = {label: experiment.true[label].max() for label in {cell[0] for cell in experiment.cells}}
    for row in rows:
        cell = (LABELS.index(row.label), row.layer, round(row.coefficient / 10) - 1)
        true, naive = float(experiment.true[cell]), student(experiment.differences(cell))
        for held in (measured.label, *([measured.winner] if row.standing == "winner" else [])):
            if row.delta_low is None:
                continue
            held.intervals.append((row.delta_low, row.delta_high, true))
            held.naive.append((*naive, true))
            for name in ("delta", "delta_unbiased", "delta_expected"):
                held.errors[name].append(getattr(row, name) - true)
    kept = {LABELS.index(row.label) for row in rows if row.standing in ("winner", "tied")}
    if len(rows) > 1 and kept:
        best = max(true_best.values())
        is_best = {label for label, delta in true_best.items() if delta > best - 1e-9}
        if len(is_best) == 1 or len(is_best) == len(true_best):
            measured.best_kept.append(min(is_best) in kept)
        measured.stands_alone.append(len(kept) == 1)
        measured.is_wrong_alone.append(len(kept) == 1 and not kept & is_best)


def _differences(measured: Measured, experiment: Experiment, answers: Answers) -> None:
    labels = sorted({cell[0] for cell in experiment.cells})
    pairs = [(LABELS[a], LABELS[b]) for a, b in zip(labels[::2], labels[1::2], strict=False)]
    rows: tuple[Any, ...] = ask_compare.of(answers, FLOOR, pairs=pairs).rows
    for row in rows:
        if row.best_a is None or row.best_b is None or row.difference_low is None:
            continue
        a, b = experiment.at(row.best_a, row.label_a), experiment.at(row.best_b, row.label_b)
        true = float(experiment.true[a] - experiment.true[b])
        held = measured.difference
        held.intervals.append((row.difference_low, row.difference_high, true))
        held.naive.append((*student(experiment.differences(a, b)), true))
        held.errors["difference"].append(row.difference - true)
        held.errors["difference_expected"].append(row.difference_expected - true)
        measured.significant[abs(true) > 1e-9].append(row.p_value <= 0.05)
        if row.matched_difference is not None:
            true = _at_like_coherence(experiment, a, b)
            sign = 1 if row.best_a.coherence_mean > row.best_b.coherence_mean else -1
            measured.matched.intervals.append((row.matched_low, row.matched_high, true))
            measured.matched.errors["matched"].append(sign * (row.matched_difference - true))


def _at_like_coherence(experiment: Experiment, a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """The true difference where both are as coherent as the truly more coherent one."""
    at = min(a[2], b[2])  # all labels have one coherence curve, which falls
    return float(experiment.true[a[:2]][at] - experiment.true[b[:2]][at])


def tables(measured: Sequence[tuple[World, int, Measured]]) -> Iterator[str]:
    heads: dict[str, tuple[str, Callable[[Measured], list[str]]]] = {
        "The interval of each label's best": (
            "ours | width | naive | width | `delta` off | `delta_unbiased` off | `delta_expected` off",
            lambda one: [*one.label.cells(), *_errors(one.label)],
        ),
        "The interval of the winner among labels": (
            "ours | width | naive | width | `delta` off | `delta_unbiased` off | `delta_expected` off",
            lambda one: [*one.winner.cells(), *_errors(one.winner)],
        ),
        "Ties": (
            "the best is kept | stands alone | alone and wrong",
            lambda one: [_share(one.best_kept), _share(one.stands_alone), _share(one.is_wrong_alone)],
        ),
        "Differences of two labels": (
            "ours | width | naive | width | `difference` off | `difference_expected` off | false positives | found",
            lambda one: [
                *one.difference.cells(),
                one.difference.error("difference"),
                one.difference.error("difference_expected"),
                _share(one.significant[False]),
                _share(one.significant[True]),
            ],
        ),
        "At like coherence": (
            "ours | width | given | better for the more coherent by",
            lambda one: [
                *_shares(one.matched.intervals),
                str(len(one.matched.intervals)),
                one.matched.error("matched") if one.matched.intervals else "–",
            ],
        ),
    }
    for title, (head, row) in heads.items():
        yield f"\n{title}\n\n| world | questions | {head} |\n|---|---:|{'---:|' * (head.count('|') + 1)}"
        for world, n_questions, one in measured:
            cells = row(one)
            if any(cell not in ("–", "0") for cell in cells):
                yield f"| {world.name} | {n_questions} | {' | '.join(cells)} |"


def _errors(held: Held) -> list[str]:
    return [held.error(name) for name in ("delta", "delta_unbiased", "delta_expected")]


def _share(values: Sequence[bool]) -> str:
    return f"{np.mean(values):.3f}" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="worlds whose name holds this regular expression")
    parser.add_argument("--questions", default="5,10,24", help="questions of an experiment (5,10,24)")
    parser.add_argument("--draws", type=int, default=400, help="experiments of each world (400)")
    arguments = parser.parse_args()
    chosen = [world for world in WORLDS if re.search(arguments.only, world.name)]
    counts = [int(text) for text in arguments.questions.split(",")]
    measured = [(world, n, measure(world, n, arguments.draws)) for world in chosen for n in counts]
    for line in tables(measured):
        print(line, flush=True)


if __name__ == "__main__":
    main()
