"""The contract that every executor keeps, here and on a cluster."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from massact.config import JudgeConfig
from massact.domain import Prompting
from massact.errors import JudgeError
from massact.evaluation import Evaluation, FailedCell, PlannedCell, silent
from massact.judges import Subject
from massact.judges.caching import CachingJudge
from massact.keys import cell_key
from massact.store.read import open_store
from massact.store.schema import Kind
from massact.store.spool import Spool
from massact.store.write.evaluations import Baseline, Place, RunMaker
from massact.store.write.tracker import OpenRun, Tracker
from massact.sweep.executors.base import Executor, Generated, JudgeUse, Work
from massact.sweep.executors.local import CellGenerator, LocalExecutor, evaluate_cells
from tests.support import ray_cluster
from tests.support.ray_stand_ins import (
    IDENTITY,
    NO_CREDIT,
    PART,
    QUESTIONS,
    RAISES,
    Judge,
    TinyEngine,
    cells,
    coefficient,
)
from tests.support.tiny import tiny_model, unit

pytestmark = pytest.mark.slow
Make = Callable[..., tuple[Executor, Work]]


@pytest.fixture(scope="module")
def store_uri(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("executors")
    shutil.copy(migrated_database, folder / "store.db")
    return f"sqlite:///{folder}/store.db"


@pytest.fixture(scope="module")
def spool(store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spool]:
    spool = Spool(tmp_path_factory.mktemp("own"), store_uri, "e")
    yield spool
    spool.close()


@pytest.fixture(scope="module")
def on_ray(store_uri: str, spool: Spool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An executor whose workers have the tiny model; one for all tests, since starting them takes the time."""
    with ray_cluster.cluster():
        folder = tmp_path_factory.mktemp("node")
        executor = ray_cluster.executor(lambda: spool, uri=store_uri, folder=folder, engine=TinyEngine)
        yield executor
        assert executor.close(30) == 0
        assert not list(folder.iterdir()), "its spool is empty"


@pytest.fixture(params=["local", "ray"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, spool: Spool) -> Make:
    """An executor with the tiny model, and the work that it is asked to do."""

    def local(trait: str = "d") -> tuple[Executor, Work]:
        real = CellGenerator._generate

        def generate(generator: CellGenerator, batch: Sequence[PlannedCell]) -> Iterator[Generated]:
            if any(coefficient(one) == RAISES for one in batch):
                raise RuntimeError("out of memory")
            return real(generator, batch)

        monkeypatch.setattr(CellGenerator, "_generate", generate)
        use = JudgeUse(JudgeConfig("scripted"), Subject(trait), (), None, IDENTITY, None)
        executor = LocalExecutor(lambda _use: tiny_model("llama"), lambda: spool)
        return executor, Work(ray_cluster.USE, CachingJudge(Judge(use)), PART, 8)

    def ray(trait: str = "d") -> tuple[Executor, Work]:
        executor = request.getfixturevalue("on_ray")
        return executor, ray_cluster.work(executor, batch_rows=8, trait=trait)

    return local if request.param == "local" else ray


def run(
    executor: Executor, work: Work, todo: Sequence[PlannedCell], should_stop: Callable[[], bool] = lambda: False
) -> list[Evaluation | FailedCell]:
    return list(executor.evaluate(work, todo, progress=silent, should_stop=should_stop))


def plan(*coefficients: float | None) -> list[PlannedCell]:
    return cells(coefficients, vectors=unit)


def test_each_cell_comes_once_and_says_what_one_process_would(make: Make) -> None:
    executor, work = make()
    todo = plan(*map(float, range(11)))
    (baseline,) = cells([None])
    asked = replace(baseline.cell, prompting=Prompting("prompt", "positive", "d"))
    todo[:0] = [baseline, replace(baseline, cell=asked, before=(("system", "say nothing of it"),))]
    results = {cell_key(one.planned.cell): one for one in run(executor, work, todo)}
    wanted = list(evaluate_cells(tiny_model("llama"), todo, QUESTIONS, Judge(), batch_rows=8))
    texts = [[said.response for said in one.responses] for one in wanted[:2] if isinstance(one, Evaluation)]
    assert texts[0] != texts[1]
    for one in wanted:
        got = results.pop(cell_key(one.planned.cell))
        assert isinstance(one, Evaluation)
        assert isinstance(got, Evaluation)
        assert got.planned is not None
        assert got.responses == one.responses
        assert got.timing.n_tokens == one.timing.n_tokens
    assert not results


def test_what_another_sweep_has_taken_is_left_out(make: Make) -> None:
    executor, work = make()
    todo = plan(*map(float, range(11)))
    theirs = set(map(id, todo[2:7]))
    taken: list[PlannedCell] = []

    def take(left: Sequence[PlannedCell], n: int) -> Sequence[PlannedCell]:
        mine = [one for one in left if id(one) not in theirs][:n]
        taken.extend(mine)
        return mine

    results = executor.evaluate(work, todo, progress=silent, should_stop=lambda: False, take=take)
    assert sorted(coefficient(one.planned) for one in results) == [0.0, 1.0, 7.0, 8.0, 9.0, 10.0]  # type: ignore[type-var]
    assert not theirs & set(map(id, taken))


def test_the_unsteered_cell_comes_first_although_another_is_planned_before_it(make: Make) -> None:
    executor, work = make()
    results = run(executor, work, [*cells([None]), *plan(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)])
    assert results[0].planned.cell.steering is None
    assert len(results) == 7


def test_a_cell_that_cannot_be_generated_fails_alone(make: Make) -> None:
    executor, work = make()
    results = run(executor, work, plan(1.0, 2.0, RAISES, 4.0, 5.0, 6.0))
    failed = [one for one in results if isinstance(one, FailedCell)]
    assert [coefficient(one.planned) for one in failed] == [RAISES]
    assert "out of memory" in failed[0].error
    assert len(results) == 6


def test_a_judge_that_cannot_be_used_ends_the_sweep(make: Make) -> None:
    executor, work = make(NO_CREDIT)
    with pytest.raises(JudgeError, match="no credit left"):
        run(executor, work, plan(1.0, 2.0, 3.0))


def test_once_it_should_stop_what_was_begun_is_finished_and_nothing_else(make: Make) -> None:
    executor, work = make()
    todo = plan(*map(float, range(60)))
    seen: list[object] = []
    for one in executor.evaluate(work, todo, progress=silent, should_stop=lambda: bool(seen)):
        seen.append(one)  # noqa: PERF402  it is looked at from within
    assert 0 < len(seen) < 60
    assert len(seen) % 4 == 0, "in whole batches"


def test_nothing_to_do_is_nothing_to_start(make: Make) -> None:
    executor, work = make()
    assert run(executor, work, []) == []


def test_a_sweep_that_is_left_early_leaves_the_next_one_unharmed(make: Make) -> None:
    executor, work = make()
    results = executor.evaluate(work, plan(*map(float, range(30))), progress=silent, should_stop=lambda: False)
    next(results)
    results.close()
    assert len(run(executor, work, plan(*map(float, range(100, 108))))) == 8


def test_what_is_kept_is_in_the_store_once(make: Make, store_uri: str, spool: Spool) -> None:
    executor, work = make()
    shift = 100.0 if isinstance(executor, LocalExecutor) else 200.0
    tracker = Tracker(store_uri, "e", floor=68.0)
    place = Place("e", "toy", "instruct", len(QUESTIONS))
    home: OpenRun
    with tracker.phase("evaluate", params={}) as home:
        baseline = Baseline("key", 10.0)
        for one in run(executor, work, plan(shift, shift + 1, RAISES, shift + 2, shift + 3)):
            executor.keep(one, RunMaker(place=place, parent=home, baseline=baseline), home=home)
    assert executor.settle(30) == 0
    assert spool.flush(30) == 0
    store = open_store(store_uri)
    try:
        evaluations, failures = store.evaluations("e"), store.failures("e")
    finally:
        store.close()
    mine = [one for one in evaluations if shift <= (one.row.coefficient or 0) < shift + 100]
    assert sorted(one.row.coefficient or 0 for one in mine) == [shift, shift + 1, shift + 2, shift + 3]
    assert {one.row.coefficient for one in failures} == {RAISES}
    assert all(one.row.kind is Kind.EVALUATION for one in mine)
    assert all(one.row.delta is not None for one in mine)
