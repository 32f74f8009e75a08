"""The executor on a cluster of Ray's: it hands out and accounts; workers generate and judges score elsewhere."""

import os
from collections.abc import Callable, Sequence
from collections.abc import Generator as Iteration
from typing import Any

from massact.executors.base import Finished, Loaded, MakeRun, ModelUse, Result, Work, WorkerReport
from massact.executors.options import RayOptions
from massact.executors.ray.cluster import Cluster, Events, require_ray
from massact.executors.ray.crew import Crew, Member
from massact.executors.ray.desks import Desks, RemoteJudge
from massact.executors.ray.keeping import Keeping, Vectors
from massact.executors.ray.run import Run
from massact.executors.ray.site import Site
from massact.executors.ray.tasks import Tools
from massact.executors.ray.worker import model_engine
from massact.pipeline.evaluate import PlannedCell, Take, first_cells
from massact.pipeline.progress import Progress
from massact.tracking.spool import Spool
from massact.tracking.tracker import OpenRun

TURN_SECONDS = 0.2
"""How long it waits for news at a time; then it looks whether it should stop."""


class RayExecutor:
    """Runs cells on many machines; `massact.executors.base.Executor`. Nothing is started before it is needed."""

    def __init__(
        self,
        options: RayOptions,
        site: Site,
        *,
        spool: Callable[[], Spool],
        say: Callable[[str], None],
        engine: Any = model_engine,
        opener: Any = None,
    ) -> None:
        """
        Args:
            spool: of this process, for what no other machine keeps.
            engine: makes what a worker generates with; it must be importable there.
            opener: opens a judge at a desk; `None`: as experiment files name them.

        Raises:
            UsageError: Ray is not installed, or the address cannot be used.
        """
        require_ray(options)
        self._options, self._site, self._spool, self._say = options, site, spool, say
        self._engine, self._opener = engine, opener
        self._tools: Tools | None = None
        self._run: Run | None = None
        self._batch_rows: int | None = None
        self._reports: tuple[WorkerReport, ...] = ()

    def judge(self, use: Any) -> RemoteJudge:
        """A judge whose work is done on the cluster."""
        return RemoteJudge(use, lambda: self.tools.desks)

    @property
    def tools(self) -> Tools:
        """What it works with; the first use connects to the cluster.

        Raises:
            UsageError: there is none.
        """
        if self._tools is None:
            cluster = Cluster(self._options)
            events, vectors = Events(cluster.ray), Vectors(cluster)
            crew = Crew(
                cluster,
                events,
                self._options,
                self._site,
                lost=self._lost,
                say=self._say,
                engine=self._engine,
            )
            desks = Desks(cluster, self._options, self._site, say=self._say, opener=self._opener)
            keeping = Keeping(cluster, events, self._site, vectors, spool=self._spool, say=self._say)
            self._tools = Tools(cluster, events, vectors, crew, desks, keeping)
        return self._tools

    def loaded(self, use: ModelUse) -> Loaded:
        """See `Executor`; one worker loads it, the others when there is work for them."""
        tools = self.tools
        while True:
            member = next(
                (one for one in tools.crew.members if one.loaded and one.model and one.model[0] == use), None
            )
            if member is not None and member.loaded is not None:
                return member.loaded
            tools.crew.adjust(1, (use, self._batch_rows))
            tools.events.turn(TURN_SECONDS)

    def evaluate(
        self,
        work: Work,
        cells: Sequence[PlannedCell],
        *,
        progress: Progress,
        should_stop: Callable[[], bool],
        take: Take = first_cells,
    ) -> Iteration[Result, None, None]:
        """See `Executor`; results come in whatever order workers finish in."""
        self._batch_rows = work.batch_rows
        if not cells:
            return
        run = self._run = Run(self.tools, work, cells, take)
        try:
            with progress("evaluating cells", len(cells)) as advance:
                while not run.is_over:
                    if should_stop():
                        run.stop()
                    run.go_on()
                    self.tools.events.turn(TURN_SECONDS)
                    for result in run.results():
                        yield result
                        advance(1)
                yield from run.results()
            run.check()
        finally:
            self._run = None
            run.let_go()

    def keep(self, result: Finished, make: MakeRun, *, home: OpenRun) -> None:
        """See `Executor`."""
        self.tools.keeping.keep(result, make, home)

    def settle(self, timeout: float) -> int:
        """See `Executor`."""
        return 0 if self._tools is None else self._tools.keeping.settle(timeout)

    def send_leftovers(self) -> int:
        """See `Executor`; a cluster that is this machine alone has no others."""
        if self._options.address is None and self._tools is None and not os.environ.get("RAY_ADDRESS"):
            return 0
        return self.tools.keeping.send_leftovers()

    @property
    def reports(self) -> Sequence[WorkerReport]:
        """See `Executor`."""
        if self._tools is not None:
            crew = self._tools.crew
            self._reports = (*crew.reports, *(one.report for one in crew.members))
        return sorted(self._reports, key=lambda one: one.number)

    def close(self, timeout: float) -> int:
        """See `Executor`."""
        if self._tools is None:
            return 0
        try:
            return self._tools.keeping.close(timeout)
        finally:
            self._end()

    def abandon(self) -> None:
        """See `Executor`."""
        if self._tools is not None:
            try:
                self._tools.keeping.abandon()
            finally:
                self._end()

    def _end(self) -> None:
        tools = self._tools
        if tools is not None:
            tools.crew.dismiss()
            self._reports = tuple(tools.crew.reports)
            self._tools = None
            tools.desks.dismiss()
            tools.cluster.disconnect()

    def _lost(self, member: Member, error: BaseException) -> None:
        if self._run is not None:
            self._run.lost(member, error)
