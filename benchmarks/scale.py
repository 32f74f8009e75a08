"""What the executor on a cluster costs, with workers that only sleep: processor time, waiting, and efficiency.

Everything is real but the model and the judge: Ray, its actors (a process each), shards, judges' and workers' calls,
and, with --keep, the spool actors, their journals and a run store. A cell takes a fixed time at its worker, so the time
that a sweep would take if nothing else did is known: cells x seconds / workers. Efficiency is that over what it took,
from the moment when all workers have their model to the last result.

What the stand-in leaves out: the GPU and its memory, processors that a model needs beside its GPU, models that take
minutes to load, a judge that takes time (--judge-seconds adds one), and a network: all processes share one machine.

Run: `python benchmarks/scale.py --workers 1,2,4,8,16,32,64 --seconds 1`
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"  # on loopback; and no token is left in the home of whoever runs this

import psutil
import ray

from massact.config import JudgeConfig, LoadConfig
from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Recipe, Setting, Steering
from massact.evaluation import Part, PlannedCell, silent
from massact.judges import Exchange, Subject, Usage, Verdict
from massact.judges.caching import CachingJudge
from massact.store.spool import Spool
from massact.store.write.evaluations import Baseline, Place, RunMaker
from massact.store.write.tracker import Tracker
from massact.sweep.executors import CommandContext, RayOptions
from massact.sweep.executors.base import Generated, JudgeUse, Loaded, ModelUse, Work
from massact.sweep.executors.ray.executor import RayExecutor

QUESTIONS = tuple(f"What would you say to question number {i}, if somebody asked it?" for i in range(10))
RESPONSE = "I would rather not say anything about that, since I do not know enough of it. " * 4
IDENTITY = JudgeIdentity("sleeper", "none", "none")
SETTING = Setting(
    ModelIdentity("sleeper", "0" * 64, "float32"), "trait", "0" * 64, "1" * 64, 0, "2" * 64, Generation(64), IDENTITY
)
USE = ModelUse("sleeper", None, None, LoadConfig())
D_MODEL = 2560


class Sleeper:
    """An engine whose cells take a fixed time; it needs no torch."""

    def __init__(self, seconds: float, per_batch: int) -> None:
        self._seconds, self._per_batch = seconds, per_batch

    def load(self, _use: Any, _batch_rows: int | None) -> Any:
        return Loaded("sleeper", "none"), self._per_batch * len(QUESTIONS)  # type: ignore[arg-type]

    def generate(self, batch: Sequence[PlannedCell], part: Part) -> Iterator[Generated]:
        time.sleep(self._seconds * len(batch))
        exchanges = [[Exchange(q, f"{i} {RESPONSE}") for q in part.questions] for i in range(len(batch))]
        yield Generated(batch, exchanges, self._seconds * len(batch), [640] * len(batch))


class SleepingJudge:
    """Takes a fixed time for each response."""

    identity = IDENTITY

    def __init__(self, seconds: float) -> None:
        self._seconds, self._n_calls = seconds, 0

    @property
    def usage(self) -> Usage:
        return Usage(calls=self._n_calls)

    def prepare(self) -> None:
        """Nothing to load."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        time.sleep(self._seconds * len(exchanges))
        self._n_calls += len(exchanges)
        return [Verdict(50.0, 80.0) for _ in exchanges]


def plan(n: int) -> list[PlannedCell]:
    """Cells of a hundred vectors each with its coefficients, as a grid has them."""
    import torch

    vectors = torch.randn(100, D_MODEL)

    def one(i: int) -> PlannedCell:
        which = i * 100 // n
        steering = Steering(f"{which:064}", "response[:5]", Recipe("probe"), 15, float(i), "positive")
        return PlannedCell(Cell(SETTING, steering), vectors[which])

    return [one(i) for i in range(n)]


def processor_seconds() -> tuple[float, float]:
    """Of this process, and of all that it has started (those that have ended left out)."""
    children = 0.0
    for one in psutil.Process().children(recursive=True):
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        children += times.user + times.system
    return time.process_time(), children


def start(executor: RayExecutor, n_workers: int) -> float:
    """Wait until so many workers have their model. Returns the seconds that took."""
    began, model = time.perf_counter(), (USE, None)
    worker_pool, cluster = executor.tools.worker_pool, executor.tools.cluster
    while len(worker_pool.with_model(model)) < n_workers:
        worker_pool.adjust(n_workers, model)
        cluster.turn(0.2)
    return time.perf_counter() - began


def measure(asked: argparse.Namespace, n_workers: int, folder: Path) -> dict[str, float]:
    """One sweep."""
    uri = f"sqlite:///{folder}/store.db"
    spools: list[Spool] = []

    def spool() -> Spool:
        if not spools:
            spools.append(Spool(folder / "own", uri, "scale"))
        return spools[0]

    context = CommandContext(tracking_uri=uri, experiment="scale", spool=folder / "spool", key_variable="NONE")
    executor = RayExecutor(
        RayOptions(workers=n_workers, gpus_per_worker=0, judges_per_node=asked.judges),
        context,
        spool=spool,
        say=print,
        engine=lambda: Sleeper(asked.seconds, asked.per_batch),
        opener=lambda _use: SleepingJudge(asked.judge_seconds),
    )
    use = JudgeUse(JudgeConfig("sleeper"), Subject("d"), (), None, IDENTITY, None)
    work = Work(USE, CachingJudge(executor.judge(use)), Part(QUESTIONS))
    todo = plan(n_workers * asked.cells_per_worker)
    started = start(executor, n_workers)
    work.judge.prepare()
    # the first sweep of a process imports what it needs, and starts the judges
    list(executor.evaluate(work, plan(n_workers * asked.per_batch), progress=silent, should_stop=lambda: False))
    seen = {one.number: one for one in executor.reports}
    tracker = Tracker(uri, "scale", floor=68.0) if asked.keep else None
    before, began = processor_seconds(), time.perf_counter()
    n, gaps, last = 0, [], began
    if tracker is None:
        for _ in executor.evaluate(work, todo, progress=silent, should_stop=lambda: False):
            now = time.perf_counter()
            gaps.append(now - last)
            n, last = n + 1, now
    else:
        with tracker.phase("evaluate", params={}) as home:
            place, baseline = Place("scale", "m", "v", len(QUESTIONS)), Baseline("k", 10.0)
            for one in executor.evaluate(work, todo, progress=silent, should_stop=lambda: False):
                executor.keep(one, RunMaker(place=place, parent=home, baseline=baseline), home=home)
                n += 1
            last = time.perf_counter()
            executor.settle(600)
    took, after = last - began, processor_seconds()
    busy = [
        (one.busy_seconds - seen[one.number].busy_seconds) / (one.present_seconds - seen[one.number].present_seconds)
        for one in executor.reports
    ]
    executor.close(60)
    for opened in spools:
        opened.close()
    ideal = n * asked.seconds / n_workers
    return {
        "workers": n_workers,
        "cells": n,
        "start_s": started,
        "took_s": took,
        "efficiency": ideal / took,
        "busy": statistics.fmean(busy),
        "driver_ms": 1000 * (after[0] - before[0]) / n,
        "all_ms": 1000 * (after[0] - before[0] + after[1] - before[1]) / n,
        "wait_ms": 1000 * (took - ideal) * n_workers / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4,8,16,32,64")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a cell takes at its worker")
    parser.add_argument("--per-batch", type=int, default=8, help="cells of a batch")
    parser.add_argument("--cells-per-worker", type=int, default=40)
    parser.add_argument("--judge-seconds", type=float, default=0.0, help="that a response takes at its judge")
    parser.add_argument("--judges", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="also spool and log every result, into SQLite")
    parser.add_argument("--http", type=int, default=0, metavar="N", help="only send N evaluations to a server")
    asked = parser.parse_args()
    counts = [int(one) for one in asked.workers.split(",")]
    ray.init(
        address="local",
        num_cpus=max(counts) + 2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    print("| workers | cells | start s | took s | efficiency | busy | driver ms/cell | all ms/cell | lost ms/cell |")
    print("|---|---|---|---|---|---|---|---|---|")
    try:
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                one = measure(asked, count, Path(folder))
            print(
                f"| {one['workers']:.0f} | {one['cells']:.0f} | {one['start_s']:.1f} | {one['took_s']:.1f} "
                f"| {one['efficiency']:.1%} | {one['busy']:.1%} | {one['driver_ms']:.2f} | {one['all_ms']:.2f} "
                f"| {one['wait_ms']:.1f} |",
                flush=True,
            )
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
