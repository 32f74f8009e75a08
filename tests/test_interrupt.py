"""Ctrl-C on real processes: the first finishes the cells in hand, the second stops at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from massact.judges.canaries import english_canaries
from massact.store.read import RunStore, open_store
from tests.judge_server import JudgeServer, Reply, Request, score_70_and_90
from tests.prepared import PreparedStores

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = """\
name: small
traits:
  refusal: {{dataset: "toy:refusal"}}
models:
  toy:
    base: {{variant: base, model: "toy:gemma-3-base"}}
    instruct: {{variant: instruct, model: "toy:gemma-3-instruct"}}
    dtype: float32
    layers: "3"
    coefficients: {coefficients}
calibration: {{prompts: "toy:calibration", max_new_tokens: 8}}
extraction: {{positions: ["response[:5]"], methods: [mean_diff, probe], uniform_dims: [1], layer_dims: [1]}}
generation: {{max_new_tokens: 16}}
judge: {{name: "openai:judge", base_url: "{url}", cache: off}}
subset: 2
phases:
  phase1: {{labels: [probe, mean_diff], positions: ["response[:5]"]}}
  phase2: {{labels: [probe], positions: ["response[:5]"]}}
  phase3: {{labels: [probe], positions: ["response[:5]"]}}
"""
N_CELLS = 24
CANARIES = [f"<response-1>\n{one.exchange.response}\n</" for one in english_canaries(relevance=False)]


def _is_canary(request: Request) -> bool:
    return any(text in request.prompt for text in CANARIES)


class Place:
    """A folder that is calibrated and extracted, and a judge whose answers take a while."""

    def __init__(self, folder: Path, judge: JudgeServer, stores: PreparedStores, uri: str = "") -> None:
        self.folder, self.judge = folder, judge
        self.uri = uri or f"sqlite:///{folder}/mlflow.db"
        self.seconds = 0.0
        judge.answer = self._answer
        self.use_grid(0)
        if not uri:
            stores.copy((folder / "small.yaml").read_text(), folder)
            return
        for command in ("calibrate", "extract"):
            process = self.start(command)
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors

    def use_grid(self, n: int) -> None:
        """Take coefficients that no other test takes, so that nothing of the phase is finished."""
        coefficients = [4.0 + 2 * i + n / 10 for i in range(N_CELLS // 2)]
        text = EXPERIMENT.format(url=self.judge.url, coefficients=coefficients)
        (self.folder / "small.yaml").write_text(text)
        self.seconds = 0.0
        self.n_before = len(self.store().evaluations("small")) if n else 0
        self.n_asked = len(self.asked)

    @property
    def n_found(self) -> int:
        return len(self.store().evaluations("small")) - self.n_before

    @property
    def asked(self) -> list[Request]:
        """What the judge was asked about cells; canaries come before them."""
        return [one for one in list(self.judge.requests) if not _is_canary(one)]

    def _answer(self, request: Request) -> Reply:
        delay = 0.0 if _is_canary(request) else self.seconds
        return replace(score_70_and_90(request), delay_seconds=delay)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": self.uri,
            "OMP_NUM_THREADS": "1",
            "OPENAI_API_KEY": "none",
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "massact", *arguments, "--experiment", "small.yaml"],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def store(self) -> RunStore:
        return open_store(self.uri)

    def sweep(self, *executor: str) -> "subprocess.Popen[str]":
        """Phase 1, a cell a batch, once the judge has been asked."""
        n_before = len(self.asked)
        process = self.start("phase1", "--batch-rows", "2", "--max-rounds", "0", *executor)
        deadline = time.monotonic() + 150
        while len(self.asked) <= n_before + 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        return process

    def phase_status(self) -> str:
        """Of the last phase 1."""
        return [one.status for one in self.store().phases("small") if one.phase == "phase1"][-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Iterator[Place]:
    with JudgeServer() as judge:
        yield Place(tmp_path_factory.mktemp("interrupt"), judge, prepared_stores)


ON_RAY = ("--executor", "ray", "--workers", "2")


@pytest.mark.parametrize(
    ("grid", "number", "code", "executor"),
    [(2, signal.SIGINT, 130, ()), (3, signal.SIGTERM, 143, ()), (4, signal.SIGTERM, 143, ON_RAY)],
    ids=["int", "term", "ray"],
)
def test_the_first_finishes_the_cells_in_hand(
    place: Place, grid: int, number: signal.Signals, code: int, executor: tuple[str, ...]
) -> None:
    place.use_grid(grid)
    place.seconds = 0.3
    process = place.sweep(*executor)
    process.send_signal(number)
    _, errors = process.communicate(timeout=150)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "interrupted: finishing the cells in hand; once more stops at once" in errors
    found = place.n_found
    assert 0 < found < N_CELLS, errors
    assert f"interrupted: {found} of {N_CELLS} cells finished; run the same command again to go on" in errors
    assert place.phase_status() == "KILLED"
    assert not list((place.folder / ".massact/spool").iterdir()), "everything was sent"
    assert len(place.asked) - place.n_asked <= 4 * (found + 1), "what was paid for is in the store"

    place.seconds = 0.0
    again = place.start("phase1", "--max-rounds", "0")
    _, errors = again.communicate(timeout=60)
    assert f"{N_CELLS} cells: {found} finished already, {N_CELLS - found} evaluated" in errors
    assert place.n_found == N_CELLS


@pytest.mark.parametrize(("grid", "executor"), [(1, ()), (5, ON_RAY)], ids=["local", "ray"])
def test_the_second_stops_at_once_and_loses_nothing_that_was_finished(
    place: Place, grid: int, executor: tuple[str, ...]
) -> None:
    place.use_grid(grid)
    place.seconds = 0.3
    process = place.sweep(*executor)
    place.seconds = 30.0  # the judge hangs
    n_asked, deadline = len(place.asked), time.monotonic() + 60
    while len(place.asked) == n_asked and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None, "the first waits for the cells in hand"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=25)
    assert time.monotonic() - began < 10
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "run the same command again to go on" in errors
    assert place.phase_status() == "KILLED"

    place.seconds = 0.0
    again = place.start("phase1", "--max-rounds", "0")
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert place.n_found == N_CELLS


def test_a_step_without_cells_stops_at_the_first(place: Place) -> None:
    place.use_grid(1)
    file = place.folder / "small.yaml"
    text = file.read_text()
    assert "max_new_tokens: 8}" in text
    file.write_text(
        text.replace("max_new_tokens: 8}", "max_new_tokens: 1000}")
    )  # a calibration that takes long

    def calibrations() -> list[str]:
        return [one.status for one in place.store().phases("small") if one.phase == "calibrate"]

    n_before = len(calibrations())
    process = place.start("calibrate")
    deadline = time.monotonic() + 60
    while len(calibrations()) == n_before and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert calibrations()[n_before:] == ["KILLED"]
