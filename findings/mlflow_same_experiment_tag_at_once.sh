#!/usr/bin/env bash
# MLflow 3.17.2: of two processes that set the same new experiment tag at once, one fails
#
# Expected: setting a tag of an experiment, "updated if it exists", may be done by any number of processes: the sweeps of one
#     study begin together, and each describes their common experiment by the same tags with the same values.
# Seen: the SQL store looks whether the tag is there and inserts it, in one transaction each; both find nothing, and the later
#     one ends in an MlflowException with "UNIQUE constraint failed: experiment_tags". It is not tried again, though a
#     second try would succeed.
# Versions: mlflow 3.17.2, SQLAlchemy 2.1.9, SQLite.
# Date: 2026-11-30
#
# Two processes set 300 tags each, every one in the same moment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mlflow==3.17.2
cd "$folder"
cat > tags.py <<'PYTHON'
import logging
from multiprocessing import get_context

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

URI, ROUNDS = "sqlite:///mlflow.db", 300


def describe(barrier, experiment, failures):
    logging.disable(logging.CRITICAL)
    client = MlflowClient(URI)
    client.get_experiment(experiment)
    for number in range(ROUNDS):
        barrier.wait()
        try:
            client.set_experiment_tag(experiment, f"described-{number}", "the same")
        except MlflowException as error:
            failures.put(" ".join(str(error).split("[SQL")[0].split())[:110])


if __name__ == "__main__":
    logging.disable(logging.INFO)
    client = MlflowClient(URI)
    experiment = client.create_experiment("study")
    context = get_context("spawn")
    barrier, failures = context.Barrier(2), context.Queue()
    processes = [context.Process(target=describe, args=(barrier, experiment, failures)) for _ in range(2)]
    for process in processes:
        process.start()
    seen = []
    while any(process.is_alive() for process in processes) or not failures.empty():
        try:
            seen.append(failures.get(timeout=0.2))
        except Exception:
            pass
    tags = client.get_experiment(experiment).tags
    print(f"{len(seen)} of {2 * ROUNDS} calls failed, all tags are there: {len(tags) >= ROUNDS}")
    print("the first of them:", seen[0] if seen else None)
    client.set_experiment_tag(experiment, "described-0", "the same")
    print("once more, alone: no error")
    assert seen and all("UNIQUE constraint failed: experiment_tags" in text for text in seen), "this has changed"
PYTHON
"$folder/venv/bin/python" tags.py
