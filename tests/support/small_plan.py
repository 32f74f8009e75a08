"""A small experiment on an embedded model, and a folder to run the whole plan on it in, as processes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from massact.store.read import RunStore, open_store
from tests.support.processes import Process, massact, run_massact

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """\
name: small
traits:
  refusal: {dataset: "toy:refusal"}
models:
  toy:
    base: {variant: base, model: "toy:gemma-3-base"}
    instruct: {variant: instruct, model: "toy:gemma-3-instruct"}
    dtype: float32
    layers: "3"
    coefficients: [16, 24]
    coefficient_range: [4, 40]
calibration: {prompts: "toy:calibration", max_new_tokens: 8}
extraction:
  positions: ["response[:5]"]
  methods: [mean_diff, probe]
  uniform_dims: [1, 2, all]
  layer_dims: [1]
generation: {max_new_tokens: 24}
judge: likelihood
subset: 2
phases:
  phase1: {labels: [probe, mean_diff], positions: ["response[:5]"]}
  phase2:
    labels: [probe_cleaned, probe_preclean, mean_diff_cleaned, mean_diff_preclean]
    positions: ["response[:5]"]
  phase3: {labels: [mean_diff, mean_diff_top1, mean_diff_top2], positions: ["response[:5]"]}
"""
N_CELLS = 2 * 8
"""Eight labels at one layer with two coefficients (no gap is left to fill at these)."""


@dataclass(frozen=True)
class Place:
    """A folder with an experiment file and a store, and how commands run in it."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": self.uri, "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
        done = run_massact(*arguments, cwd=self.folder, env=self.environment, timeout=600)
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    def start(self, *arguments: str) -> Process:
        return massact(*arguments, cwd=self.folder, env=self.environment)

    def store(self) -> RunStore:
        return open_store(self.uri)


def small_place(folder: Path) -> Place:
    """The folder with the experiment in it."""
    (folder / "small.yaml").write_text(EXPERIMENT)
    return Place(folder)


@contextmanager
def model_server(place: Place, key: str) -> Iterator[tuple[str, str]]:
    """`massact serve-model` on a place's store: the lines that it says, and its address."""
    environment = {**place.environment, "MASSACT_MODEL_KEY": key}
    line = ("serve-model", "--experiment", "small.yaml", "--port", "0")
    server = Process("massact", *line, cwd=place.folder, env=environment)
    try:
        assert server.stdout is not None
        told = "".join(takewhile(lambda line: "and the id of any" not in line, iter(server.stdout.readline, "")))
        yield told, re.findall(r"API: +(\S+)", told)[0]
    finally:
        server.kill()
