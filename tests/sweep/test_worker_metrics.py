"""Metrics of a worker on another machine: what it is sent and sends back is pickled, and they are the same as here."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import pytest

from massact.evaluation import Evaluation, Part
from massact.judges import Exchange, Usage, Verdict
from massact.metrics import DEFAULT_METRICS, Measured
from massact.models.generate import Generator
from massact.sweep.executors.base import judged
from massact.sweep.executors.local import ModelEngine, evaluate_cells
from tests.support.sweep_cells import IDENTITY, cells
from tests.support.tiny import tiny_model

QUESTIONS = ("t5 t6 t7", "t9 t11")


class Judge:
    """The same score for every response."""

    identity = IDENTITY
    usage = Usage()

    def prepare(self) -> None:
        """Nothing to do."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        return [Verdict(50.0, 90.0)] * len(exchanges)


def test_a_worker_gives_the_same_metrics() -> None:
    model = tiny_model("llama")
    part = Part(QUESTIONS, measured=Measured((*DEFAULT_METRICS, "distinct_1"), 4))
    here = [one for one in evaluate_cells(model, cells(3), part, Judge()) if isinstance(one, Evaluation)]
    engine = ModelEngine()
    engine._model, engine._generator = model, Generator(model, batch_rows=1)
    sent = [replace(one, vector=None if one.vector is None else one.vector.numpy()) for one in cells(3)]
    pieces = list(engine.generate(pickle.loads(pickle.dumps(sent)), pickle.loads(pickle.dumps(part))))
    there = [one for piece in pickle.loads(pickle.dumps(pieces)) for one in judged(Judge(), piece)]
    assert len(here) == len(there) == 3
    for one, other in zip(here, there, strict=True):
        assert isinstance(other, Evaluation)
        assert set(one.summary.metrics) == {*DEFAULT_METRICS, "distinct_1"}
        assert other.summary.metrics == pytest.approx(one.summary.metrics, rel=1e-4, abs=1e-5)
        assert other.measured == one.measured == part.measured
        for said, as_said in zip(one.responses, other.responses, strict=True):
            assert as_said.metrics == pytest.approx(said.metrics, rel=1e-4, abs=1e-5)
    assert any(one.summary.metrics["kl"] > 0 for one in here)
