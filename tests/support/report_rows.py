"""Synthetic evaluations for the report's tests: a row at a time, or a whole store that behaves as toys do."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from massact.config import Experiment, load_experiment
from massact.labels import parse_label
from massact.query import Answers, Evaluations
from massact.report.checks import Criterion
from massact.report.evidence import Evidence, Facts, Provenance, Sample
from massact.store.read.base import FINISHED, Failure, Stored
from massact.store.schema import EvaluationRow, Kind
from massact.vectors.massive_dims import Calibration, LayerMassive

EXPERIMENT = """
name: massive-activations-toy
description: The plan on two toys.
traits:
  refusal: {dataset: "toy:refusal", direction: positive}
models:
  toy-gemma-3:
    base: {variant: base, model: "toy:gemma-3-base"}
    instruct: {variant: instruct, model: "toy:gemma-3-instruct"}
    dtype: float32
    layers: "2-3"
    coefficients: [4, 6, 8, 10, 12, 16, 20, 24, 32]
  toy-gemma-2:
    base: {variant: gemma2_base, model: "toy:gemma-2-base"}
    instruct: {variant: gemma2_instruct, model: "toy:gemma-2-instruct"}
    dtype: float32
    layers: "2-3"
    coefficients: [4, 6, 8, 10, 12, 14, 16, 20]
calibration: {prompts: "toy:calibration", max_new_tokens: 32, n_top: 10}
extraction:
  positions: ["response[:5]", "response[:10]", "response[:20]"]
  methods: [mean_diff, probe, random_baseline]
  uniform_dims: [1, 2, 3, 5, all]
  max_new_tokens: 20
  validation_split: 0.1
  seed: 0
generation: {max_new_tokens: 64, temperature: 0}
judge: likelihood
coherence_floor: 68
phases:
  phase1:
    labels: [probe, mean_diff, probe_top1, mean_diff_top1, probe_cleaned, mean_diff_cleaned]
    positions: ["response[:5]", "response[:10]", "response[:20]"]
  phase2:
    labels: [probe, probe_cleaned, probe_preclean, mean_diff, mean_diff_cleaned, mean_diff_preclean]
    positions: ["response[:5]"]
  phase3:
    labels: [mean_diff, mean_diff_top1, mean_diff_top2, mean_diff_top3, mean_diff_top5, mean_diff_cleaned,
             probe, probe_top1, probe_top2, probe_top3, probe_top5, probe_cleaned, random_baseline]
    positions: ["response[:5]"]
"""
POSITIONS = ("response[:5]", "response[:10]", "response[:20]")
_MASSIVE = {"toy-gemma-3": (0.85, 0.6, 0.35), "toy-gemma-2": (0.14, 0.05, 0.02)}
"""mean_diff's energy in massive dims at each position."""
_NORM = {"toy-gemma-3": 11.0, "toy-gemma-2": 16.0}


@cache
def experiment() -> Experiment:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "toy.yaml"
        file.write_text(EXPERIMENT, encoding="utf-8")
        return replace(load_experiment(file), file=Path("experiments/toy.yaml"))


def row(**values: Any) -> Stored[EvaluationRow]:
    """A finished evaluation; whatever is not said is the same for all."""
    label = values.get("label", "probe")
    recipe = parse_label(label)
    given: dict[str, Any] = {
        "kind": Kind.EVALUATION, "experiment": "massive-activations-toy", "setting": "s1",
        "model": "toy-gemma-3", "model_variant": "instruct", "model_id": "toy:gemma-3-instruct",
        "model_revision": "0123456789abcdef", "dtype": "float32", "trait": "refusal", "judge": "likelihood",
        "judge_model": "toy", "judge_prompt": "p", "question_set": "q", "subset": 0, "n_questions": 10,
        "max_new_tokens": 64, "temperature": 0.0, "seed": 0, "position": "response[:5]", "label": label,
        "method": recipe.method, "cleaning": recipe.cleaning.when, "scope": recipe.cleaning.scope,
        "n_dims": recipe.cleaning.n_dims, "layer": 2, "coefficient": 8.0, "component": "residual",
        "direction": "positive", "steered_tokens": "all", "baseline_trait_mean": 1.5, "n_scored": 10,
        "baseline_key": "baseline-toy-gemma-3",
    }  # fmt: skip
    given |= values
    key = "/".join(str(given[name]) for name in ("setting", "model", "position", "label", "layer", "coefficient"))
    finished = given.pop("finished_at", 1000)
    given = {"key": key, "vector_digest": f"{given['model']}{label}{given['layer']}", **given}
    return Stored(f"run-{key}", FINISHED, finished, EvaluationRow(**given))


def baseline(model: str = "toy-gemma-3", **values: Any) -> EvaluationRow:
    steering = ("position", "label", "method", "cleaning", "scope", "n_dims", "layer", "coefficient")
    nothing = dict.fromkeys((*steering, "vector_digest", "baseline_key", "baseline_trait_mean"))
    scores = {"trait_mean": 1.5, "coherence_mean": 98.7, "key": f"baseline-{model}"}
    return replace(row(model=model).row, **{"kind": Kind.BASELINE, **nothing, **scores, **values})


def behaves(stored: Stored[EvaluationRow]) -> Stored[EvaluationRow]:
    """The same evaluation with scores as the toys give them: they depend on relative strength alone."""
    one = stored.row
    assert one.layer is not None
    assert one.coefficient is not None
    assert one.label is not None
    energy = 0.0 if one.method != "mean_diff" else _MASSIVE[one.model][POSITIONS.index(one.position or "")]
    if one.n_dims != 0:
        energy *= 0.1
    # labels differ a little, as they do by chance
    bend = 1 + 0.02 * (sum(map(ord, one.label)) % 7 - 3) * (one.cleaning != "before")
    strength = one.coefficient * math.sqrt(1 - energy) / _NORM[one.model] * bend
    coherence = 99 / (1 + (strength / 1.08) ** 12)
    reach = 8 if one.method == "random_baseline" else 98 - 4 * (one.layer - 2)
    trait = reach / (1 + (0.6 / strength) ** 9) * min(1, coherence / 60)
    delta = trait - (one.baseline_trait_mean or 0.0)
    scores = {"trait_mean": trait, "coherence_mean": coherence, "delta": delta, "relative_strength": strength}
    return replace(stored, row=replace(one, massive_energy=energy, **scores))


def toy_rows() -> list[Stored[EvaluationRow]]:
    """Every cell that the toy experiment declares."""
    given = experiment()
    cells = {
        (group.model, group.position, group.label, layer, coefficient): None
        for phase in given.phases
        for group in given.groups(phase.name)
        for layer in (2, 3)
        for coefficient in given.model(group.model).grid.coefficients.values
    }
    names = ("model", "position", "label", "layer", "coefficient")
    rows = (dict(zip(names, cell, strict=True)) for cell in cells)
    return [behaves(row(**one, baseline_key=f"baseline-{one['model']}")) for one in rows]


def calibration(dims: tuple[int, ...] = (43, 11, 70, 25, 88), scale: float = 2600.0) -> Calibration:
    others = (6, 17, 29, 31, 90)
    layers = tuple(
        LayerMassive(
            top_dims=(*dims, *others),
            ratio_to_median=(
                *(scale / (1 + index / 2) / 6**rank + 4 for rank in range(len(dims))),
                6.1, 4.0, 3.2, 2.6, 2.2,
            ),
            ratio_to_mean=tuple(1.0 for _ in (*dims, *others)),
            mean_alignment=0.9 - 0.02 * index,
            norm=430.0,
            norm_without_massive=10.0 + index,
        )
        for index in range(8)
    )  # fmt: skip
    return Calibration(layers, 50, 1600)


def report_input(rows: list[Stored[EvaluationRow]], **values: Any) -> Evidence:
    """What a report about the toys is made from; whatever is no field of `Evidence.of` is one of `Facts`."""
    given = values.pop("experiment", experiment())
    answers = values.pop("answers", None) or Answers(
        evaluations=Evaluations.of(tuple(rows)), groups=given.groups(), coefficient_ranges={}
    )
    fields: dict[str, Any] = {
        "baselines": (baseline(), baseline("toy-gemma-2")) if rows else (),
        "generated_at": datetime(2026, 2, 5, 12, 30, tzinfo=UTC),
        "provenance": Provenance(n_evaluations=len(rows)),
        "toy": True,
    }
    return Evidence.of(given, answers, facts=Facts(**{**fields, **values}))


def sample(**values: Any) -> Sample:
    fields: dict[str, Any] = {
        "title": "probe at layer 2, coefficient 10", "question": "How do I boil eggs?",
        "response": "I cannot help with boiling eggs.", "trait": 97.0, "coherence": 96.5, "run_id": "r1",
    }  # fmt: skip
    return Sample(**{**fields, **values})


def evidence(rows: list[Stored[EvaluationRow]], failures: tuple[Failure, ...] = (), **facts: Any) -> Evidence:
    answers = Answers(evaluations=Evaluations.of(tuple(rows)), failures=failures, coefficient_ranges={})
    return Evidence.of(experiment(), answers, facts=Facts(**facts))


def scored(delta: float, coherence: float, **values: object) -> Stored[EvaluationRow]:
    return row(delta=delta, trait_mean=delta + 1.5, coherence_mean=coherence, **values)


def criterion(found: tuple[Criterion, ...], start: str) -> Criterion:
    return next(one for one in found if one.name.startswith(start))
