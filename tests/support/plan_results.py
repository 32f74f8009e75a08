"""Results in the shape of the plan's, for its own scripts and for our questions: two models, three windows."""

import random
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from massact.config import load_experiment
from massact.interop.names import Target
from massact.store.schema import EvaluationRow, Kind
from massact.store.write.run_writer import FinishedRun, evaluation_run, open_writer
from massact.store.write.tracker import Tracker
from tests.support.store_fixtures import evaluation_row
from tests.support.transfer_files import baseline, evaluation, header, import_to_store, vector, write_lines

EXPERIMENT, TRAIT = "massive-activations", "chirp/refusal"
FLOOR = 68.0
WINDOWS = (5, 10, 20)
VARIANTS = {"gemma-3-4b": "instruct", "gemma-2-2b": "gemma2_instruct"}
MODEL_IDS = {"gemma-3-4b": "google/gemma-3-4b-it", "gemma-2-2b": "google/gemma-2-2b-it"}
BASELINES = {"gemma-3-4b": 30.2, "gemma-2-2b": 24.7}
COEFFICIENTS = {"gemma-3-4b": (800, 1100, 1250, 2000.5), "gemma-2-2b": (40, 70, 100, 120)}
LAYERS = {"gemma-3-4b": (12, 15, 19), "gemma-2-2b": (11, 12)}
N_DIMS = {
    "probe": 0, "mean_diff": 0, "probe_top1": 1, "mean_diff_top1": 1, "mean_diff_top2": 2, "mean_diff_top3": 3,
    "mean_diff_top5": 5, "probe_cleaned": 13, "mean_diff_cleaned": 13, "probe_preclean": 13,
    "mean_diff_preclean": 13,
}  # fmt: skip
"""Labels, and how many dims are zeroed."""
BELOW = {
    ("gemma-3-4b", 5): {"probe_cleaned", "mean_diff_top5", "probe_preclean"},
    ("gemma-3-4b", 20): {"probe"},
    ("gemma-2-2b", 10): {"mean_diff", "probe_top1", "mean_diff_top1"},
}
"""Groups that are coherent nowhere."""
MISSING = {
    ("gemma-3-4b", 5): {"mean_diff_top3"},
    ("gemma-3-4b", 10): {"mean_diff_cleaned"},
    ("gemma-2-2b", 5): {"probe_top1", "mean_diff_preclean"},
    ("gemma-2-2b", 20): set(N_DIMS),
}
"""Groups that were not run; of the last window there is no file at all."""
NEGATIVE = {("gemma-3-4b", 5): {"mean_diff_top2"}, ("gemma-3-4b", 10): {"probe"}}
"""Groups whose every trait mean lies below the baseline's."""


@dataclass(frozen=True, slots=True)
class Result:
    """One evaluation of the grid."""

    model: str
    window: int
    label: str
    layer: int
    coefficient: float
    delta: float
    coherence: float

    @property
    def trait_mean(self) -> float:
        return round(BASELINES[self.model] + self.delta, 6)


def experiment_file(root: Path, folder: Path) -> Path:
    """The plan's experiment file, with the trait named as in the plan's paths."""
    text = (root / "experiments" / "massive-activations.yaml").read_text()
    named = text.replace("  refusal: {", f"  {TRAIT}: {{")
    assert named != text
    path = folder / "plan.yaml"
    path.write_text(named)
    return path


def grid() -> list[Result]:
    """All evaluations, the most coherent first: the order in which the gap script is right."""
    found = [
        result
        for model in VARIANTS
        for window in WINDOWS
        for label in N_DIMS
        if label not in MISSING.get((model, window), ())
        for result in _group(model, window, label)
    ]
    return sorted(found, key=lambda one: -one.coherence)


def _group(model: str, window: int, label: str) -> Iterator[Result]:
    """Coherence falls with the coefficient; no two deltas and no two coherences of a group are equal."""
    place = (model, window)
    rng = random.Random(f"{model} {window} {label}")
    points = [(layer, one) for layer in LAYERS[model] for one in COEFFICIENTS[model]]
    tenths = range(-200, -10) if label in NEGATIVE.get(place, ()) else range(-150, 600)
    deltas = [tenth / 10 for tenth in rng.sample(tenths, len(points))]
    for (layer, coefficient), delta in zip(points, deltas, strict=True):
        step = COEFFICIENTS[model].index(coefficient)
        # the second layer's third coefficient lies at the floor exactly
        coherence = (94.0, 81.0, FLOOR, 44.0)[step] + 2.25 * (1 - LAYERS[model].index(layer))
        if label in BELOW.get(place, ()):
            coherence -= 30.5
        yield Result(model, window, label, layer, float(coefficient), delta, coherence)


def fill_measured(uri: str) -> None:
    """As massact measures them, with what must not count beside them: superseded, failed and deleted runs."""
    tracker = Tracker(uri, EXPERIMENT, floor=FLOOR)
    results = grid()
    runs = [_run(_baseline_row(model), at=500) for model in VARIANTS]
    runs += [_run(_row(one), at=1000 + index) for index, one in enumerate(results)]
    runs += [_run(_row(replace(one, delta=69.0)), at=600) for one in results[::7]]
    runs += [replace(_run(_row(replace(one, delta=68.0)), at=90_000), status="FAILED") for one in results[::9]]
    with closing(open_writer(uri, tracker.experiment_id)) as writer:
        writer.write(runs)
        deleted = writer.write([_run(_row(replace(one, delta=67.0)), at=95_000) for one in results[:3]])
    from mlflow import MlflowClient

    for run_id in deleted:
        MlflowClient(tracking_uri=uri).delete_run(run_id)


def _run(row: EvaluationRow, at: int) -> FinishedRun:
    return evaluation_run(row, None, name="run", started_at=at - 1, finished_at=at)


def _row(one: Result) -> EvaluationRow:
    place = f"{one.model} {one.window} {one.label} {one.layer} {one.coefficient}"
    return evaluation_row(
        one.label,
        one.layer,
        one.coefficient,
        key=place,
        position=f"response[:{one.window}]",
        vector_digest=place,
        n_dims_cleaned=N_DIMS[one.label],
        trait_mean=one.trait_mean,
        coherence_mean=one.coherence,
        delta=one.delta,
        baseline_trait_mean=BASELINES[one.model],
        baseline_key=f"baseline {one.model}",
        **_names(one.model),
    )


def _names(model: str) -> dict[str, Any]:
    return {
        "experiment": EXPERIMENT,
        "setting": f"setting of {model}",
        "model": model,
        "model_variant": VARIANTS[model],
        "model_id": MODEL_IDS[model],
        "trait": TRAIT,
    }


def _baseline_row(model: str) -> EvaluationRow:
    steering = dict.fromkeys((
        "position", "label", "method", "cleaning", "scope", "n_dims", "layer", "coefficient", "component",
        "direction", "steered_tokens", "vector_digest", "baseline_trait_mean", "delta", "coherence_mean",
    ))  # fmt: skip
    return replace(
        evaluation_row(**_names(model)),
        kind=Kind.BASELINE,
        key=f"baseline {model}",
        trait_mean=BASELINES[model],
        **steering,  # type: ignore[arg-type]  # all may be missing
    )


def fill_imported(uri: str, folder: Path, file: Path) -> None:
    """As trait-interp left them, with lines that later ones of the same cell replace."""
    files: dict[tuple[str, int], list[Result]] = {}
    for one in grid():
        files.setdefault((one.model, one.window), []).append(one)
    for (model, window), results in files.items():
        lines = [_line(one, 1000 + index) for index, one in enumerate(results)]
        old = [_line(replace(one, delta=69.0), index) for index, one in enumerate(results[::7])]
        first = [header(steering_model=MODEL_IDS[model]), baseline(BASELINES[model])]
        place = f"steering/{TRAIT}/{VARIANTS[model]}/response__{window}/steering/results.jsonl"
        write_lines(folder / place, [*first, *old, *lines])
    config = load_experiment(file)
    report = import_to_store(uri, folder, Target(config.name, config))
    assert report.totals.refused == 0


def _line(one: Result, second: int) -> Mapping[str, object]:
    at = datetime(2026, 1, 11) + timedelta(seconds=second)
    steered = vector(one.label, one.layer, one.coefficient, f"response[:{one.window}]")
    return evaluation(one.trait_mean, one.coherence, at=at.isoformat(), vectors=[steered])
