"""The executor on a cluster of Ray's: it hands out and accounts; workers generate and judges score elsewhere."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

from massact.evaluation import PlannedCell, first_cells
from massact.store.spool import Spool
from massact.store.write.tracker import OpenRun
from massact.sweep.executors import CommandContext, RayOptions, base
from massact.sweep.executors.ray.cluster import Cluster, require_ray
from massact.sweep.executors.ray.judges import JudgePool, RemoteJudge
from massact.sweep.executors.ray.results import ResultKeeper
from massact.sweep.executors.ray.run import Run, Tools
from massact.sweep.executors.ray.workers import WorkerHandle, WorkerPool, model_engine

TURN_SECONDS = 0.2  # how long it waits for news at a time; then it looks whether it should stop


class RayExecutor(base.Executor):
    """Runs cells on many machines; `massact.sweep.executors.base.Executor`. Nothing is started before it is needed."""

    def __init__(
        self,
        options: RayOptions,
        context: CommandContext,
        *,
        spool: Callable[[], Spool],
        say: Callable[[str], None],
        engine: Any = model_engine,
        opener: Any = None,
    ) -> None:
        """Args: spool: of this process, for what no other machine keeps. engine: makes what a worker generates with; it
        must be importable there. opener: opens a judge at a handle; `None`: as experiment files name them."""
        require_ray(options)
        self._options, self._context, self._spool, self._say = options, context, spool, say
        self._engine, self._opener = engine, opener
        self._tools: Tools | None = None
        self._run: Run | None = None
        self._batch_rows: int | None = None
        self._reports: tuple[base.WorkerReport, ...] = ()

    def judge(self, use: base.JudgeUse) -> RemoteJudge:
        """A judge whose work is done on the cluster."""
        return RemoteJudge(use, lambda: self.tools.judge_pool)

    @property
    def tools(self) -> Tools:
        """What it works with; the first use connects to the cluster."""
        if self._tools is None:
            cluster = Cluster(self._options, self._context, self._say)
            workers = WorkerPool(cluster, lost=self._lost, engine=self._engine)
            judges, keeper = JudgePool(cluster, self._opener), ResultKeeper(cluster, self._spool)
            self._tools = Tools(cluster, workers, judges, keeper)
        return self._tools

    def loaded(self, use: base.ModelUse) -> base.Loaded:
        """See `Executor`; one worker loads it, the others when there is work for them."""
        tools = self.tools
        while True:
            for worker in tools.worker_pool.workers:
                if worker.loaded is not None and worker.model is not None and worker.model[0] == use:
                    return worker.loaded
            tools.worker_pool.adjust(1, (use, self._batch_rows))
            tools.cluster.turn(TURN_SECONDS)

    def evaluate(self, work: base.Work, cells: Sequence[PlannedCell], **watch: Unpack[base.Watch]) -> base.Results:
        """See `Executor`; results come in whatever order workers finish in."""
        self._batch_rows = work.batch_rows
        if not cells:
            return
        run = self._run = Run(self.tools, work, cells, watch.get("take", first_cells))
        try:
            with watch["progress"]("evaluating cells", len(cells)) as advance:
                while not run.is_over:
                    if watch["should_stop"]():
                        run.stop()
                    run.go_on()
                    self.tools.cluster.turn(TURN_SECONDS)
                    for result in run.results():
                        yield result
                        advance(1)
                yield from run.results()
            run.check()
        finally:
            self._run = None
            run.let_go()

    def keep(self, result: base.Result, make: base.MakeRun, *, home: OpenRun) -> None:
        self.tools.result_keeper.keep(result, make, home)

    def settle(self, timeout: float) -> int:
        return 0 if self._tools is None else self._tools.result_keeper.settle(timeout)

    def send_leftovers(self) -> int:
        """See `Executor`; a cluster that is this machine alone has no others."""
        if self._options.address is None and self._tools is None and not os.environ.get("RAY_ADDRESS"):
            return 0
        return self.tools.result_keeper.send_leftovers()

    @property
    def reports(self) -> Sequence[base.WorkerReport]:
        if self._tools is not None:
            worker_pool = self._tools.worker_pool
            self._reports = (*worker_pool.reports, *(worker.report for worker in worker_pool.workers))
        return sorted(map(replace, self._reports), key=lambda report: report.number)  # as they are now

    def close(self, timeout: float) -> int:
        if self._tools is None:
            return 0
        try:
            return self._tools.result_keeper.close(timeout)
        finally:
            self._end()

    def abandon(self) -> None:
        if self._tools is not None:
            try:
                self._tools.result_keeper.abandon()
            finally:
                self._end()

    def _end(self) -> None:
        tools = self._tools
        if tools is not None:
            tools.worker_pool.stop()
            self._reports = tuple(tools.worker_pool.reports)
            self._tools = None
            tools.judge_pool.stop()
            tools.cluster.disconnect()

    def _lost(self, worker: WorkerHandle, error: BaseException) -> None:
        if self._run is not None:
            self._run.lost(worker, error)
