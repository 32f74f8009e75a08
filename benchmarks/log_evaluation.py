"""What it costs to log one evaluation with its vector and responses, on SQLite.

Run from the project's root: python benchmarks/log_evaluation.py
Prints milliseconds per evaluation: the median and the 95th percentile of 100, after 10 to warm up, and
beside it the same content through MLflow's fluent calls, one each, as scripts usually do it.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from massact.domain import (
    Cell,
    Generation,
    Geometry,
    JudgeIdentity,
    ModelIdentity,
    Recipe,
    Response,
    Setting,
    Steering,
    Timing,
)
from massact.evaluation import Evaluation, PlannedCell
from massact.store.schema.rows import evaluation_metrics, evaluation_params
from massact.store.write.evaluations import Baseline, Place, RunMaker, evaluation_row
from massact.store.write.run_writer import open_writer
from massact.store.write.tracker import OpenRun, Tracker
from massact.vectors.methods import vector_digest

N_WARM, N, N_QUESTIONS, D_MODEL = 10, 100, 12, 2560
PLACE = Place("benchmark", "model", "instruct", N_QUESTIONS)


def evaluation(index: int) -> Evaluation:
    """An evaluation of a model of gemma-3-4b's width."""
    vector = torch.nn.functional.normalize(torch.randn(D_MODEL), dim=0)
    setting = Setting(
        ModelIdentity("model", "r", "float32"),
        "refusal",
        "t",
        "q",
        0,
        "c",
        Generation(64),
        JudgeIdentity("j", "m", "p"),
    )
    steering = Steering(vector_digest(vector), "response[:5]", Recipe("probe"), 15, 800.0 + index, "positive")
    responses = tuple(Response(f"question {i}", "word " * 50, 50.0 + i, 90.0 - i) for i in range(N_QUESTIONS))
    return Evaluation(
        PlannedCell(Cell(setting, steering), vector, Geometry(0.5, 0.5, 0.5)), responses, Timing(1, 1, 600)
    )


def ours(tracker: Tracker, parent: OpenRun, index: int) -> None:
    run = RunMaker(place=PLACE, parent=parent, baseline=Baseline("b", 1.0))(evaluation(index))
    writer = open_writer(tracker.tracking_uri, parent.experiment_id)
    writer.write([run])
    writer.close()


def fluent(_tracker: Tracker, _parent: OpenRun, index: int) -> None:
    import mlflow

    one = evaluation(index)
    row = evaluation_row(PLACE, one, Baseline("b", 1.0))
    with mlflow.start_run(run_name=str(index)), tempfile.TemporaryDirectory() as folder:
        for key, value in evaluation_params(row).items():
            mlflow.log_param(key, value)
        for key, number in evaluation_metrics(row).items():
            mlflow.log_metric(key, number)
        for step, response in enumerate(one.responses):
            mlflow.log_metric("trait_score", response.trait or 0.0, step=step)
            mlflow.log_metric("coherence_score", response.coherence or 0.0, step=step)
        assert one.planned.vector is not None
        save_file({"vector": one.planned.vector}, f"{folder}/vector.safetensors")
        mlflow.log_artifact(f"{folder}/vector.safetensors")
        mlflow.log_table(
            {"question": [r.question for r in one.responses], "response": [r.response for r in one.responses]},
            "responses.json",
        )


def milliseconds(
    log: Callable[[Tracker, OpenRun, int], None], tracker: Tracker, parent: OpenRun, n: int
) -> list[float]:
    taken = []
    for index in range(N_WARM + n):
        began = time.perf_counter()
        log(tracker, parent, index)
        taken.append((time.perf_counter() - began) * 1000)
    return taken[N_WARM:]


def main() -> None:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        tracker = Tracker(uri, "benchmark", floor=68.0)
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=tracker.experiment_id)
        with tracker.phase("benchmark", params={}) as parent:
            for name, log, n in (("massact", ours, N), ("fluent, one call each", fluent, 20)):
                taken = milliseconds(log, tracker, parent, n)
                p95 = statistics.quantiles(taken, n=20)[-1]
                print(f"{name}: median {statistics.median(taken):.0f} ms, 95th percentile {p95:.0f} ms ({n} runs)")
        print(json.dumps({"stored_bytes": sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())}))


if __name__ == "__main__":
    main()
