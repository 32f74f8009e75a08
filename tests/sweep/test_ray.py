"""What a sweep on a cluster survives: lost workers, judges and spool actors, and cells that take theirs with them."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from massact.cli.session import chosen_executor
from massact.config import JudgeConfig
from massact.domain import Timing
from massact.errors import ExecutorError, ModelError, UsageError
from massact.evaluation import Evaluation, FailedCell, PlannedCell, silent
from massact.judges import Subject, Usage
from massact.judges.caching import CachingJudge
from massact.plugins import OWN_CODE
from massact.store.read import open_store
from massact.store.spool import Spool
from massact.store.write.evaluations import Baseline, Place, RunMaker
from massact.store.write.tracker import Tracker
from massact.sweep.executors import CommandContext, Environment, RayOptions
from massact.sweep.executors.base import JudgeUse, ModelUse, Work
from massact.sweep.executors.ray import cluster as cluster_module
from massact.sweep.executors.ray.cluster import LostError, reaches_anywhere, require_ray
from massact.sweep.executors.ray.judges import JudgePool, RemoteJudge
from massact.sweep.executors.ray.run import AHEAD, Judging, Run, Shard, Task, Tools
from tests.support import ray_cluster
from tests.support.ray_stand_ins import (
    CRASHES,
    HANGS_UP,
    IDENTITY,
    LOSES_JUDGE,
    PART,
    QUESTIONS,
    RAISES,
    TOO_LARGE,
    SlowEngine,
    cells,
    coefficient,
)

Result = Evaluation | FailedCell
TIMING = Timing(0.0, 0.0, 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster.cluster(4) as ray:
        yield ray


@pytest.fixture
def executor(cluster: Any) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**settings: Any) -> Any:
        made.append(ray_cluster.executor(_no_spool, **settings))
        return made[-1]

    yield make
    for one in made:
        one.abandon()


def _no_spool() -> Spool:
    raise AssertionError("nothing is kept in this test")


def run(
    executor: Any,
    todo: Sequence[PlannedCell],
    *,
    use: ModelUse = ray_cluster.USE,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Result]:
    asked = ray_cluster.work(executor, use=use)
    return list(executor.evaluate(asked, todo, progress=silent, should_stop=should_stop))


def by_coefficient(results: Sequence[Result]) -> dict[float | None, Result]:
    found = {coefficient(one.planned): one for one in results}
    assert len(found) == len(results), "each comes once"
    return found


def pids(executor: Any) -> list[int]:
    return [one.about.pid for one in executor.tools.worker_pool.workers if one.about]


@contextmanager
def killing(executor: Any, pause: Callable[[], float], times: int) -> Iterator[list[int]]:
    """Kills a worker that is at work, now and then, while the block runs."""
    killed: list[int] = []
    is_over = threading.Event()

    def kill() -> None:
        while len(killed) < times and not is_over.wait(pause()):
            at_work = [one.about.pid for one in list(executor.tools.worker_pool.workers) if one.loaded and one.tasks]
            at_work = [pid for pid in at_work if pid not in killed]  # the driver has not seen yet that it is gone
            if at_work:
                killed.append(random.choice(at_work))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        is_over.set()
        thread.join()


@pytest.mark.slow
def test_workers_that_are_killed_at_random_cost_no_cell(executor: Callable[..., Any]) -> None:
    ray, said = executor(engine=SlowEngine, workers=3), list[str]()
    ray._say = said.append
    chance = random.Random(5)
    with killing(ray, lambda: chance.uniform(0.1, 1.5), times=5) as killed:
        results = run(ray, cells([None, *map(float, range(60))]))
    found = by_coefficient(results)
    assert set(found) == {None, *map(float, range(60))}
    assert all(isinstance(one, Evaluation) for one in results)
    assert results[0].planned.cell.steering is None
    assert len(killed) >= 3
    assert sum(one.is_lost for one in ray.reports) == len(killed)
    assert sum(one.cells for one in ray.reports) >= 61


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "why"), [(CRASHES, "lost with its worker"), (TOO_LARGE, "does not fit")])
def test_a_cell_that_always_fails_ends_alone(executor: Callable[..., Any], bad: float, why: str) -> None:
    results = run(executor(workers=2), cells([*map(float, range(6)), bad, *map(float, range(6, 12))]))
    found = by_coefficient(results)
    failed = found.pop(bad)
    assert isinstance(failed, FailedCell)
    assert why in failed.error
    assert set(found) == set(map(float, range(12)))
    assert all(isinstance(one, Evaluation) for one in found.values())


@pytest.mark.slow
def test_a_broken_gpu_is_left_to_a_new_process(executor: Callable[..., Any]) -> None:
    ray = executor(workers=2)
    found = by_coefficient(run(ray, cells([1.0, HANGS_UP, 2.0, 3.0, RAISES])))
    assert {key for key, one in found.items() if isinstance(one, FailedCell)} == {HANGS_UP, RAISES}
    assert any(one.is_lost for one in ray.reports)
    broken = found[HANGS_UP]
    assert isinstance(broken, FailedCell)
    assert "CUDA error" in broken.error


@pytest.mark.slow
def test_a_response_that_ends_every_judge_costs_its_cell_alone(executor: Callable[..., Any]) -> None:
    found = by_coefficient(run(executor(workers=1), cells([1.0, 2.0, LOSES_JUDGE, 3.0, 4.0])))
    failed = found.pop(LOSES_JUDGE)
    assert isinstance(failed, FailedCell)
    assert "its judge was lost" in failed.error
    assert [one for one in found.values() if not isinstance(one, Evaluation)] == []


class _Judges:
    """The cluster's side of judging, worst case: a process that ends takes all that it has in hand with it."""

    def __init__(self) -> None:
        self.ray, self.host, self.options, self.say = self, "here", RayOptions(workers=1), lambda _line: None
        self.waiting: list[tuple[int, Sequence[float], Callable[[Any], None]]] = []
        self.n_started = 0

    def start(self, _kind: Any, *_arguments: Any, **_named: Any) -> Any:
        self.n_started += 1
        number = self.n_started
        judge = lambda _use, pieces, first, last: (number, pieces[first:last])  # noqa: E731
        return SimpleNamespace(judge=SimpleNamespace(remote=judge))

    def when(self, ref: tuple[int, Sequence[float]], action: Callable[[Any], None]) -> None:
        self.waiting.append((*ref, action))

    def get(self, coefficients: Sequence[float]) -> Any:
        if self.is_lost:
            raise LostError("it has ended")
        results = [Evaluation(planned, (), TIMING) for planned in cells(coefficients)]
        return results, (Usage(), ())

    def put(self, _part: Any) -> None: ...

    def kill(self, _actor: Any) -> None: ...

    def forget_nodes(self) -> None: ...

    def nodes(self) -> dict[str, Any]:
        return {}

    def turn(self) -> None:
        """What the oldest process has in hand is answered, or lost with it."""
        number = self.waiting[0][0]
        mine = [one for one in self.waiting if one[0] == number]
        self.waiting = [one for one in self.waiting if one[0] != number]
        self.is_lost = any(LOSES_JUDGE in coefficients for _, coefficients, _ in mine)
        for _, coefficients, action in mine:
            action(coefficients)


def test_an_answer_lost_with_the_judge_of_another_cell_is_asked_for_again() -> None:
    judges, plan = _Judges(), [1.0, 2.0, LOSES_JUDGE, 3.0, 4.0]
    pool = JudgePool(judges)
    keeper = SimpleNamespace(made=lambda _planned, _node: None)
    tools = Tools(judges, SimpleNamespace(workers=[]), pool, keeper)
    use = JudgeUse(JudgeConfig("scripted"), Subject("d"), (), None, IDENTITY, None)
    work = Work(ray_cluster.USE, CachingJudge(RemoteJudge(use, lambda: pool)), PART, None)
    sweep = Run(tools, work, cells(plan), lambda wished, _n: wished)
    worker = SimpleNamespace(about=None, tasks=[])
    for numbers in ((0, 1, 2), (3, 4)):
        task = Task(Shard(numbers), worker, [], None, [plan[i] for i in numbers])
        sweep._score(Judging(task, 0, len(numbers)))
    while judges.waiting:
        judges.turn()
    found = by_coefficient(list(sweep.results()))
    assert set(found) == set(plan)
    assert [key for key, one in found.items() if isinstance(one, FailedCell)] == [LOSES_JUDGE]


@pytest.mark.slow
def test_a_model_that_no_worker_can_load_is_a_mistake_that_is_told(executor: Callable[..., Any]) -> None:
    missing = ModelUse("missing", None, None, ray_cluster.USE.options)
    with pytest.raises(ModelError, match="no such model"):
        run(executor(workers=2), cells([1.0, 2.0]), use=missing)


@pytest.mark.slow
def test_where_everything_is_lost_it_ends_with_the_reason(executor: Callable[..., Any]) -> None:
    with pytest.raises(ExecutorError, match=r"in a row were lost.*does not fit"):
        run(executor(workers=1), cells([TOO_LARGE] * 40))


@pytest.mark.slow
def test_an_interruption_drains_what_is_in_hand(executor: Callable[..., Any]) -> None:
    ray = executor(engine=SlowEngine, workers=2)
    seen: list[Result] = []
    asked = ray_cluster.work(ray)
    todo = cells(list(map(float, range(200))))
    for one in ray.evaluate(asked, todo, progress=silent, should_stop=lambda: bool(seen)):
        seen.append(one)  # noqa: PERF402  it is looked at from within
    with_workers, with_judges = AHEAD * 2, AHEAD * 2 + 3
    assert 0 < len(seen) <= 4 * (with_workers + with_judges), "shards of four; what nobody has in hand is left"
    assert not any(one.tasks for one in ray.tools.worker_pool.workers)


@pytest.mark.slow
def test_more_room_means_more_workers_and_less_means_fewer(
    executor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = executor(engine=SlowEngine, options=RayOptions(gpus_per_worker=0))
    room = [1]
    monkeypatch.setattr(type(ray.tools.worker_pool), "_room", lambda _pool, _node: room[0])
    asked, counts, seen = ray_cluster.work(ray), list[int](), set[float | None]()
    is_small_again = threading.Event()
    todo = cells(list(map(float, range(2000))))
    for n, one in enumerate(ray.evaluate(asked, todo, progress=silent, should_stop=is_small_again.is_set), start=1):
        counts.append(len(ray.tools.worker_pool.workers))
        seen.add(coefficient(one.planned))
        if n == 8:
            room[0] = 3
        if room[0] == 3 and len(pids(ray)) == 3:
            room[0] = 1
            for pid in pids(ray)[:2]:
                os.kill(pid, signal.SIGKILL)
        if max(counts) == 3 and counts[-1] == 1:
            is_small_again.set()
    assert counts[0] == 1
    assert max(counts) == 3
    assert counts[-1] == 1, "those that are lost are not replaced where there is no room"
    assert len(seen) == len(counts), "each comes once"


@pytest.mark.slow
def test_a_vector_is_put_once_and_travels_in_no_shard(
    executor: Callable[..., Any], cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    from ray import cloudpickle

    put, handed = list[Any](), list[bytes]()
    real_put, real_hand = cluster.put, Run._hand

    def put_and_keep(value: Any) -> Any:
        put.append(value)
        return real_put(value)

    monkeypatch.setattr(cluster, "put", put_and_keep)

    def hand(self: Run, worker: Any, shard: Any) -> Any:
        task = real_hand(self, worker, shard)
        handed.append(cloudpickle.dumps(task.cells))
        return task

    monkeypatch.setattr(Run, "_hand", hand)
    vector = torch.randn(50_000)
    todo = [
        PlannedCell(one.cell.__class__(one.cell.setting, _same_digest(one.cell.steering)), vector, one.geometry, 0)
        for one in cells(list(map(float, range(24))))
    ]
    assert len(run(executor(workers=2), todo)) == 24
    arrays = [one for one in put if getattr(one, "nbytes", 0) == vector.nbytes]
    assert len(arrays) == 1
    assert max(map(len, handed)) < 20_000 < len(pickle.dumps(vector))


def _same_digest(steering: Any) -> Any:
    from dataclasses import replace

    return replace(steering, vector_digest="one")


def keep_all(
    executor: Any, uri: str, todo: Sequence[PlannedCell], meanwhile: Callable[[int], None] = lambda _n: None
) -> None:
    """Evaluate and keep, as a phase does."""
    tracker = Tracker(uri, "e", floor=68.0)
    place = Place("e", "toy", "instruct", len(QUESTIONS))
    with tracker.phase("evaluate", params={}) as home:
        asked = ray_cluster.work(executor)
        results = executor.evaluate(asked, todo, progress=silent, should_stop=lambda: False)
        for n, one in enumerate(results):
            executor.keep(one, RunMaker(place=place, parent=home, baseline=Baseline("k", 1.0)), home=home)
            meanwhile(n)


def stored(uri: str) -> list[float]:
    store = open_store(uri)
    try:
        return sorted(one.row.coefficient or 0.0 for one in store.evaluations("e"))
    finally:
        store.close()


@pytest.mark.slow
def test_results_are_spooled_where_they_were_made_and_a_lost_spool_actor_loses_none(
    cluster: Any, uri: str, tmp_path: Path
) -> None:
    own = Spool(tmp_path / "own", uri, "e")
    said: list[str] = []
    ray = ray_cluster.executor(
        lambda: own, uri=uri, folder=tmp_path / "node", say=said.append, engine=SlowEngine, workers=2
    )
    journals: list[int] = []

    def meanwhile(n: int) -> None:
        if n == 12:
            ray.tools.result_keeper.flush()
            deadline = time.monotonic() + 120
            while not list((tmp_path / "node").glob("*.journal")) and time.monotonic() < deadline:
                ray.settle(5)
            journals.append(len(list((tmp_path / "node").glob("*.journal"))))
            (spool_actor,) = ray.tools.result_keeper._spool_actors.values()
            os.kill(cluster.get(spool_actor.about.remote()).pid, signal.SIGKILL)

    try:
        keep_all(ray, uri, cells(list(map(float, range(1, 31)))), meanwhile)
        ray.settle(10)
        assert own.flush(20) == 0
    finally:
        ray.close(5)
        own.close()
    assert journals == [1], "in the folder of the machine that made them"
    assert any("spool is lost" in line for line in said)
    assert stored(uri) == list(map(float, range(1, 31)))


@pytest.mark.slow
def test_records_that_two_spools_send_arrive_once(uri: str, tmp_path: Path) -> None:
    tracker = Tracker(uri, "e", floor=68.0)
    place = Place("e", "toy", "instruct", len(QUESTIONS))
    result = Evaluation(cells([3.0])[0], (), _timing())
    a, b = Spool(tmp_path / "a", uri, "e"), Spool(tmp_path / "b", uri, "e")
    with tracker.phase("evaluate", params={}) as home:
        make = RunMaker(place=place, parent=home, baseline=Baseline("k", 1.0))
        for spool, may_be_there in ((a, False), (b, True), (a, True)):
            spool.put(make(result), experiment_id=home.experiment_id, record_id="c" * 32, may_be_there=may_be_there)
            assert spool.flush(20) == 0
    assert (a.close(), b.close()) == (0, 0)
    assert stored(uri) == [3.0]


def _timing() -> Timing:
    return Timing(1.0, 1.0, 4)


@pytest.mark.slow
def test_no_secret_is_in_a_log_of_rays(
    executor: Callable[..., Any], cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2-of-the-store")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2-of-the-judge")
    ray = executor(workers=1, uri="postgresql://me:hunter2-of-the-database@nowhere/db")
    assert len(run(ray, cells([1.0, CRASHES]))) == 2
    logs = Path(cluster._private.worker._global_node.get_session_dir_path()) / "logs"
    texts = [path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file()]
    assert texts
    assert not [text for text in texts if "hunter2" in text]


def test_a_secret_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    context = CommandContext(
        tracking_uri="http://me:hunter2@host", experiment="e", spool=Path("/s"), key_variable="MY_KEY"
    )
    monkeypatch.setenv(OWN_CODE, "{}")
    given = context.environment()
    assert given.values[OWN_CODE] == "{}", "workers elsewhere have the experiment's own operators"
    assert given.values["MY_KEY"] == given.values["AWS_SECRET_ACCESS_KEY"] == "hunter2"
    assert "hunter2" not in repr(context) + repr(given) + str(Environment({"A": "hunter2"}))


def test_without_ray_the_option_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else real(name, *rest))
    with pytest.raises(UsageError, match=r"pip install 'massact\[ray\]'"):
        chosen_executor({"executor": "ray"})
    assert chosen_executor({"executor": "local"}) == {"executor": "local"}


def test_options_of_rays_without_it_are_refused() -> None:
    for given in ({"workers": 3}, {"ray_address": "auto"}, {"gpus_per_judge": 0.5}):
        name = next(iter(given)).replace("_", "-")
        with pytest.raises(UsageError, match=f"--{name} says how Ray runs cells: add --executor ray"):
            chosen_executor({"executor": "local", **given})


def test_an_address_where_nothing_answers_is_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"no cluster of Ray's at 127\.0\.0\.1:1: .*ray start --head"):
        cluster_module._check_reachable("127.0.0.1:1")
    cluster_module._check_reachable("auto")
    cluster_module._check_reachable("local")


def test_rays_client_is_refused() -> None:
    with pytest.raises(UsageError, match="ray job submit"):
        require_ray(RayOptions(address="ray://head:10001"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "artifacts", "wanted"),
    [
        ("sqlite:////lab/mlflow.db", "s3://bucket/1", False),
        ("http://server:5000", "mlflow-artifacts:/1/run/artifacts", True),
        ("http://server:5000", "/srv/mlruns/1/run/artifacts", False),
        ("postgresql://db/mlflow", "s3://bucket/1", True),
        ("postgresql://db/mlflow", "file:///srv/mlruns", False),
        ("mlruns", "mlruns/1", False),
    ],
)
def test_only_stores_that_others_reach_are_written_from_other_machines(uri: str, artifacts: str, wanted: bool) -> None:
    assert reaches_anywhere(uri, artifacts) is wanted
