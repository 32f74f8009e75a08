"""Invented runs with the shape of real ones, for `make_store.py`: the same seed makes the same figures.

Coherence falls over a cliff in relative strength, delta rises and then falls; some groups are coherent nowhere.
"""

import hashlib
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Any

from massact.labels import parse_label
from massact.store.schema import EvaluationRow, Kind, Scores, Tag
from massact.store.schema.rows import evaluation_params, run_name
from massact.store.write.client import parent_tags, row_tags, run_tags
from massact.store.write.run_writer import FinishedRun, evaluation_run, label_tags

N_QUESTIONS, N_LAYERS = 10, 10
FAILED, SUPERSEDED, UNSCORED = 0.005, 0.005, 0.002
"""Shares of the evaluations' runs."""
NOWHERE_COHERENT = 0.06
"""Share of groups."""

TRAITS = ("refusal", "sycophancy", "evil", "hallucination", "optimism")
POSITIONS = ("response[:5]", "response[:10]", "response[:20]")
PHASES = {
    "phase1": ("probe", "mean_diff", "probe_top1", "mean_diff_top1", "probe_cleaned", "mean_diff_cleaned"),
    "phase2": ("probe_preclean", "mean_diff_preclean", "probe_preclean_la2"),
    "phase3": ("mean_diff_top2", "probe_top2", "random_baseline"),
}


@dataclass(frozen=True)
class Model:
    """A model under one judge: what makes a setting."""

    name: str
    model_id: str
    n_layers: int
    coefficients: tuple[float, float]
    """The least and the greatest; the text breaks somewhere between."""
    judge: str = "likelihood"


GEMMA = Model("gemma-3-4b", "google/gemma-3-4b-it", 34, (800, 2500))
MODELS = (
    GEMMA,
    Model("gemma-2-2b", "google/gemma-2-2b-it", 26, (40, 130)),
    Model("llama-3.2-3b", "meta-llama/Llama-3.2-3B-Instruct", 28, (4, 16)),
    Model("qwen-2.5-7b", "Qwen/Qwen2.5-7B-Instruct", 28, (20, 90)),
    replace(GEMMA, judge="openai:gpt-4.1-mini"),
)


@dataclass(frozen=True)
class Curve:
    """How delta and coherence go with the relative strength within one group."""

    top: float
    """Coherence without steering, 0 to 100."""
    cliff: float
    """Relative strength at which half of it is gone."""
    width: float
    peak: float
    """The greatest delta."""
    peak_at: float

    @classmethod
    def drawn(cls, rng: random.Random, label: str) -> "Curve":
        is_random = label == "random_baseline"
        cliff = rng.gauss(0.75, 0.12)
        top = rng.uniform(45, 62) if rng.random() < NOWHERE_COHERENT else rng.uniform(86, 97)
        peak = rng.gauss(1, 1) if is_random else rng.uniform(12, 70)
        return cls(top, cliff, rng.uniform(0.03, 0.09), peak, cliff * rng.uniform(0.85, 1.15))

    def coherence(self, strength: float) -> float:
        return self.top / (1 + math.exp((strength - self.cliff) / self.width))

    def delta(self, strength: float) -> float:
        x = strength / self.peak_at
        return self.peak * (x * math.exp(1 - x)) ** 3


def share(n: int) -> Iterator[int]:
    """How many runs each group gets, in the order of `Maker.evaluation_runs` over all phases: `n` in all."""
    n_groups = len(MODELS) * len(TRAITS) * len(POSITIONS) * sum(map(len, PHASES.values()))
    return (n // n_groups + (index < n % n_groups) for index in range(n_groups))


@dataclass
class Maker:
    """Makes the runs, in the order in which they would have been run."""

    experiment: str
    rng: random.Random
    now: int
    """Milliseconds since 1970; moves on with every run."""
    made: Counter[str] = field(default_factory=Counter)
    baselines: dict[tuple[str, str], EvaluationRow] = field(default_factory=dict)

    def baseline_runs(self, phase_id: str) -> Iterator[FinishedRun]:
        for model, trait in product(MODELS, TRAITS):
            row = self._row(Kind.BASELINE, model, trait, "baseline")
            scores = self._scores(self.rng.uniform(5, 25), self.rng.uniform(92, 97))
            row = replace(row, **_result(scores, None))
            self.baselines[row.setting, trait] = row
            self.made["baselines"] += 1
            yield self._run(row, scores, phase_id)

    def evaluation_runs(self, phase_id: str, labels: Sequence[str], budget: Iterator[int]) -> Iterator[FinishedRun]:
        for model, trait, position, label in product(MODELS, TRAITS, POSITIONS, labels):
            recipe = parse_label(label)
            row = replace(
                self._row(Kind.EVALUATION, model, trait, position, label),
                position=position,
                label=label,
                method=recipe.method,
                cleaning=recipe.cleaning.when,
                scope=recipe.cleaning.scope,
                n_dims=recipe.cleaning.n_dims,
                n_dims_cleaned=10 if recipe.cleaning.n_dims == "all" else recipe.cleaning.n_dims,
                component="residual",
                direction="positive",
                steered_tokens="all",
            )
            yield from self._group(row, model, next(budget), phase_id)

    def _group(self, group: EvaluationRow, model: Model, n: int, phase_id: str) -> Iterator[FinishedRun]:
        curve = Curve.drawn(self.rng, group.label or "")
        runs = (
            run
            for layer, coefficient in _grid(model, n)
            for run in self._cell(self._at(group, model, layer, coefficient), curve, phase_id)
        )
        for kind, run in islice(runs, n):
            self.made[kind] += 1
            yield run

    def _at(self, group: EvaluationRow, model: Model, layer: int, coefficient: float) -> EvaluationRow:
        strength = coefficient / model.coefficients[1] * (1.25 - 0.5 * layer / model.n_layers)
        return replace(
            group,
            key=_digest(group.key, layer, coefficient),
            layer=layer,
            coefficient=coefficient,
            vector_digest=_digest(model.name, group.trait, group.position, group.label, layer),
            relative_strength=round(strength, 6),
        )

    def _cell(self, row: EvaluationRow, curve: Curve, phase_id: str) -> Iterator[tuple[str, FinishedRun]]:
        chance = self.rng.random()
        if chance < FAILED:
            yield "failed", self._failed(row, phase_id)
            if chance < FAILED / 2:  # half of them went well when they were tried again
                return
        elif chance < FAILED + SUPERSEDED:
            yield "superseded", self._evaluated(row, self._drawn(row, curve), phase_id)
        elif chance < FAILED + SUPERSEDED + UNSCORED:
            unscored = Scores((None,) * N_QUESTIONS, (None,) * N_QUESTIONS)
            yield "unscored", self._evaluated(row, unscored, phase_id)
            return
        yield "finished", self._evaluated(row, self._drawn(row, curve), phase_id)

    def _drawn(self, row: EvaluationRow, curve: Curve) -> Scores:
        before = self.baselines[row.setting, row.trait].trait_mean or 0.0
        strength = row.relative_strength or 0.0
        return self._scores(before + curve.delta(strength), curve.coherence(strength))

    def _evaluated(self, row: EvaluationRow, scores: Scores, phase_id: str) -> FinishedRun:
        baseline = self.baselines[row.setting, row.trait]
        row = replace(
            row,
            **_result(scores, baseline.trait_mean),
            baseline_key=baseline.key,
            baseline_trait_mean=baseline.trait_mean,
            massive_energy=round(self.rng.uniform(0, 0.9), 6),
            cosine_to_uncleaned=round(self.rng.uniform(0.2, 1), 6),
        )
        return self._run(row, scores, phase_id)

    def _run(self, row: EvaluationRow, scores: Scores, phase_id: str) -> FinishedRun:
        started = self.now
        self.now += self.rng.randint(3000, 9000)
        return evaluation_run(row, scores, started_at=started, finished_at=self.now, tags=parent_tags(phase_id))

    def _failed(self, row: EvaluationRow, phase_id: str) -> FinishedRun:
        started = self.now
        self.now += 1000
        row = replace(row, relative_strength=None, n_unscored=N_QUESTIONS)
        name = run_name(row)
        tags = run_tags(row.kind, row.experiment, name) | row_tags(row) | label_tags(row)
        error = {Tag.ERROR.value: "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"}
        return FinishedRun(
            name=name,
            tags=tags | parent_tags(phase_id) | error,
            params=evaluation_params(row),
            started_at=started,
            finished_at=self.now,
            status="FAILED",
        )

    def _scores(self, trait: float, coherence: float) -> Scores:
        drawn = [[_clipped(self.rng.gauss(mean, 6)) for _ in range(N_QUESTIONS)] for mean in (trait, coherence)]
        if self.rng.random() < 0.05:  # the judge's answer to a question could not be read
            drawn[0][0] = drawn[1][0] = None
        return Scores(tuple(drawn[0]), tuple(drawn[1]))

    def _row(self, kind: Kind, model: Model, trait: str, *place: str) -> EvaluationRow:
        setting = _digest(model.model_id, model.judge, trait)
        return EvaluationRow(
            kind=kind,
            experiment=self.experiment,
            key=_digest(setting, *place),
            setting=setting,
            model=model.name,
            model_variant="instruct",
            model_id=model.model_id,
            model_revision=_digest(model.model_id)[:40],
            dtype="bfloat16",
            trait=trait,
            judge=model.judge,
            judge_model=model.judge.removeprefix("openai:"),
            judge_prompt=_digest(model.judge, trait),
            question_set=_digest(trait),
            subset=N_QUESTIONS,
            n_questions=N_QUESTIONS,
            max_new_tokens=64,
            temperature=0.0,
            seed=0,
            tokens_per_second=round(self.rng.uniform(200, 900), 1),
            generation_seconds=round(self.rng.uniform(1, 4), 4),
            judge_seconds=round(self.rng.uniform(0.2, 2), 4),
        )


def _grid(model: Model, n: int) -> Iterator[tuple[int, float]]:
    """Layers from 30 to 60 % of the depth, and as many coefficients as make up `n` evaluations."""
    first, last = round(0.3 * model.n_layers), round(0.6 * model.n_layers)
    layers = sorted({round(first + (last - first) * i / (N_LAYERS - 1)) for i in range(N_LAYERS)})
    n_coefficients = max(1, math.ceil(n / len(layers)))
    low, high = model.coefficients
    step = (high / low) ** (1 / max(1, n_coefficients - 1))
    return product(layers, [float(f"{low * step**i:.4g}") for i in range(n_coefficients)])


def _result(scores: Scores, before: float | None) -> dict[str, Any]:
    trait, coherence = ([v for v in values if v is not None] for values in (scores.trait, scores.coherence))
    mean = round(statistics.fmean(trait), 6) if trait else None
    return {
        "trait_mean": mean,
        "coherence_mean": round(statistics.fmean(coherence), 6) if coherence else None,
        "delta": None if mean is None or before is None else round(mean - before, 6),
        "trait_std": _deviation(trait),
        "coherence_std": _deviation(coherence),
        "n_scored": len(trait),
        "n_unscored": N_QUESTIONS - len(trait),
    }


def _deviation(values: Sequence[float]) -> float | None:
    # statistics.stdev is exact and takes longer than all the rest of a row
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return round(math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)), 6)


def _clipped(score: float) -> float | None:
    return round(min(100.0, max(0.0, score)), 4)


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
