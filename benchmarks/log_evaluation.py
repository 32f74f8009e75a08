"""What it costs to log one evaluation with its vector and responses, on SQLite.

Run from the project's root: python benchmarks/log_evaluation.py
Prints milliseconds per evaluation, by the clock and of the processor: medians and 95th percentiles of 100, after 10
to warm up, by turns with the same content as a careful user logs it, by MLflow's client in one `log_batch` and one
`log_artifacts`, and through MLflow's fluent calls, one each, as scripts usually do it.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
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
from massact.store.schema import EvaluationRow
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


def metrics_of(row: EvaluationRow, one: Evaluation) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of everything that is measured."""
    yield from ((key, number, 0) for key, number in evaluation_metrics(row).items())
    for step, response in enumerate(one.responses):
        yield from (("trait_score", response.trait or 0.0, step), ("coherence_score", response.coherence or 0.0, step))


def table_of(one: Evaluation) -> dict[str, list[str]]:
    return {"question": [r.question for r in one.responses], "response": [r.response for r in one.responses]}


def by_client(_tracker: Tracker, parent: OpenRun, index: int) -> None:
    """As few calls as MLflow's public client allows."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    one, client, now = evaluation(index), MlflowClient(), int(time.time() * 1000)
    row = evaluation_row(PLACE, one, Baseline("b", 1.0))
    run_id = client.create_run(parent.experiment_id, run_name=str(index)).info.run_id
    metrics = [Metric(key, value, now, step) for key, value, step in metrics_of(row, one)]
    params = [Param(key, value) for key, value in evaluation_params(row).items()]
    client.log_batch(run_id, metrics, params)
    with tempfile.TemporaryDirectory() as folder:
        assert one.planned.vector is not None
        save_file({"vector": one.planned.vector}, f"{folder}/vector.safetensors")
        table = table_of(one)
        rows = {"columns": list(table), "data": list(zip(*table.values(), strict=True))}
        Path(folder, "responses.json").write_text(json.dumps(rows))
        client.log_artifacts(run_id, folder)
    client.set_terminated(run_id)


def fluent(_tracker: Tracker, _parent: OpenRun, index: int) -> None:
    import mlflow

    one = evaluation(index)
    row = evaluation_row(PLACE, one, Baseline("b", 1.0))
    with mlflow.start_run(run_name=str(index)), tempfile.TemporaryDirectory() as folder:
        for key, value in evaluation_params(row).items():
            mlflow.log_param(key, value)
        for key, number, step in metrics_of(row, one):
            mlflow.log_metric(key, number, step=step)
        assert one.planned.vector is not None
        save_file({"vector": one.planned.vector}, f"{folder}/vector.safetensors")
        mlflow.log_artifact(f"{folder}/vector.safetensors")
        mlflow.log_table(table_of(one), "responses.json")


WAYS = {
    "massact: create, one batch, artifacts, finish": (ours, 1),
    "MLflow's client: one `log_batch`, one `log_artifacts`": (by_client, 1),
    "fluent, one call each": (fluent, 5),
}
"""And of how many turns each takes one."""


def measure(tracker: Tracker, parent: OpenRun) -> None:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for index in range(N_WARM + N):
        for name, (log, every) in WAYS.items():
            if index % every == 0:
                began, used = time.perf_counter(), time.process_time()
                log(tracker, parent, index)
                if index >= N_WARM:
                    taken[name].append((1000 * (time.perf_counter() - began), 1000 * (time.process_time() - used)))
    print("| | median | 95th percentile | processor, median | times ours |\n|---|---:|---:|---:|---:|")
    of_ours = None
    for name, values in taken.items():
        wall, used_ms = (list(column) for column in zip(*values, strict=True))
        cpu = statistics.median(used_ms)
        of_ours = of_ours or cpu
        p95 = statistics.quantiles(wall, n=20)[-1]
        print(f"| {name} | {statistics.median(wall):.0f} ms | {p95:.0f} ms | {cpu:.1f} ms | {cpu / of_ours:.2f} |")


def main() -> None:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        tracker = Tracker(uri, "benchmark", floor=68.0)
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=tracker.experiment_id)
        with tracker.phase("benchmark", params={}) as parent:
            measure(tracker, parent)
        print(json.dumps({"stored_bytes": sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())}))


if __name__ == "__main__":
    main()
