"""Ctrl-C on real processes: the first finishes the cells in hand, the second stops at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from massact.judges.canaries import english_canaries
from massact.store.read import RunStore, open_store
from tests.judge_server import JudgeServer, Reply, Request, score_70_and_90
from tests.prepared import PreparedStores
from tests.processes import Process, massact
from tests.small_plan import EXPERIMENT
from tests.store_fixtures import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
N_CELLS = 16
CANARIES = [f"<response-1>\n{one.exchange.response}\n</" for one in english_canaries(relevance=False)]


def _is_canary(request: Request) -> bool:
    return any(text in request.prompt for text in CANARIES)


class Place:
    """A folder that is calibrated and extracted, and a judge whose answers take a while."""

    def __init__(
        self, folder: Path, judge: JudgeServer, stores: PreparedStores, server: Server | None = None
    ) -> None:
        self.folder, self.judge = folder, judge
        self.uri = f"sqlite:///{folder}/mlflow.db" if server is None else server.address
        self.seconds = 0.0
        self.gate = threading.Event()
        judge.answer = self._answer
        self.use_grid(0)
        stores.copy((folder / "small.yaml").read_text(), folder, served=server is not None)
        if server is not None:
            server.start()

    def use_grid(self, n: int) -> None:
        """Take coefficients that no other test takes, so that nothing of the phase is finished."""
        coefficients = [4.0 + 2 * i + n / 10 for i in range(N_CELLS // 2)]
        text = (
            EXPERIMENT.replace("coefficients: [16, 24]", f"coefficients: {coefficients}")
            .replace(
                "judge: likelihood",
                f'judge: {{name: "openai:judge", base_url: "{self.judge.url}", cache: off}}',
            )
            .replace("max_new_tokens: 24", "max_new_tokens: 16")
        )
        (self.folder / "small.yaml").write_text(text)
        self.seconds = 0.0
        self.gate.set()
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
        delay = 0.0
        if not _is_canary(request):
            delay = self.seconds
            self.gate.wait(120)
        return replace(score_70_and_90(request), delay_seconds=delay)

    def start(self, *arguments: str) -> Process:
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": self.uri,
            "OMP_NUM_THREADS": "1",
            "OPENAI_API_KEY": "none",
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
        }
        return massact(*arguments, "--experiment", "small.yaml", cwd=self.folder, env=environment)

    def store(self) -> RunStore:
        return open_store(self.uri)

    def sweep(self, *executor: str) -> Process:
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
    place.gate.clear()  # the judge hangs
    n_asked, deadline = len(place.asked), time.monotonic() + 60
    while len(place.asked) == n_asked and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.read_until("once more stops at once")
    assert process.poll() is None, "the first waits for the cells in hand"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    errors = said + process.communicate(timeout=25)[1]
    assert time.monotonic() - began < 10
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "run the same command again to go on" in errors
    assert place.phase_status() == "KILLED"

    place.seconds = 0.0
    place.gate.set()
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
