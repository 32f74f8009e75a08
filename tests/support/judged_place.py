"""A folder with an experiment whose judge is a server that answers when a test likes."""

import math
import os
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from massact.judges.canaries import english_canaries
from massact.store.read import RunStore, open_store
from tests.support.judge_server import JudgeServer, Reply, Request, score_70_and_90
from tests.support.prepared import PreparedStores
from tests.support.processes import Process, massact
from tests.support.small_plan import EXPERIMENT
from tests.support.store_fixtures import Server

ROOT = Path(__file__).resolve().parents[2]

N_CELLS = 16

CANARIES = [f"<response-1>\n{one.exchange.response}\n</" for one in english_canaries(relevance=False)]


def is_canary(request: Request) -> bool:
    return any(text in request.prompt for text in CANARIES)


class Place:
    """A folder that is calibrated and extracted, and a judge whose answers take a while."""

    def __init__(self, folder: Path, judge: JudgeServer, stores: PreparedStores, server: Server | None = None) -> None:
        self.folder, self.judge = folder, judge
        self.uri = f"sqlite:///{folder}/mlflow.db" if server is None else server.address
        self.seconds = 0.0
        self._n_free, self._changed = math.inf, threading.Condition()
        judge.answer = self._answer
        self.use_grid(0)
        stores.copy((folder / "small.yaml").read_text(), folder, served=server is not None)
        if server is not None:
            server.start()

    def use_grid(self, n: int) -> None:
        """Take coefficients that no other test takes, so that nothing of the phase is finished."""
        self.coefficients = [4.0 + 2 * i + n / 10 for i in range(N_CELLS // 2)]
        text = (
            EXPERIMENT.replace("coefficients: [16, 24]", f"coefficients: {self.coefficients}")
            .replace("judge: likelihood", f'judge: {{name: "openai:judge", base_url: "{self.judge.url}", cache: off}}')
            .replace("max_new_tokens: 24", "max_new_tokens: 16")
        )
        (self.folder / "small.yaml").write_text(text)
        self.seconds = 0.0
        self.let()
        self.n_before = len(self.store().evaluations("small")) if n else 0
        self.n_asked = len(self.asked)

    @property
    def n_found(self) -> int:
        return len(self.store().evaluations("small")) - self.n_before

    @property
    def keys(self) -> set[str]:
        """Of what is stored of the grid that is used."""
        rows = (one.row for one in self.store().evaluations("small"))
        return {row.key for row in rows if row.coefficient in self.coefficients}

    def count(self, query: str) -> int:
        """Ask the database itself for a number, as often as one likes."""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            return int(database.execute(query).fetchone()[0])

    @property
    def asked(self) -> list[Request]:
        """What the judge was asked about cells; canaries come before them."""
        return [one for one in list(self.judge.requests) if not is_canary(one)]

    def _answer(self, request: Request) -> Reply:
        if is_canary(request):
            return score_70_and_90(request)
        with self._changed:
            self._changed.wait_for(lambda: self._n_free > 0, 120)
            self._n_free -= 1
        return replace(score_70_and_90(request), delay_seconds=self.seconds)

    def let(self, n: float = math.inf) -> None:
        """Have the judge answer so much more about cells, and then wait."""
        with self._changed:
            self._n_free = n
            self._changed.notify_all()

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
