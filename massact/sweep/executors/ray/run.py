"""One sweep on the cluster: shards go to workers, what they generated to judges, and results come back."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from massact.errors import ExecutorError, MassactError
from massact.evaluation import Evaluation, FailedCell, PlannedCell, Take
from massact.sweep.executors.base import JudgeUse, Result, Work
from massact.sweep.executors.ray.cluster import Account, BrokenDeviceError, Cluster, Events, Judged, reason
from massact.sweep.executors.ray.judge_pool import ATTEMPTS, JudgeHandle, JudgePool, RemoteJudge
from massact.sweep.executors.ray.results import ResultKeeper, Vectors
from massact.sweep.executors.ray.shards import Shard, ShardQueue
from massact.sweep.executors.ray.worker_pool import WorkerHandle, WorkerPool


@dataclass(frozen=True, slots=True)
class Tools:
    """What an executor works with."""

    cluster: Cluster
    events: Events
    vectors: Vectors
    worker_pool: WorkerPool
    judge_pool: JudgePool
    result_keeper: ResultKeeper


@dataclass(eq=False, slots=True)
class Task:
    """A shard that a worker has in hand."""

    shard: Shard
    worker: WorkerHandle
    cells: list[PlannedCell]
    account: Any
    """Reference to what it cost, and to the pieces that were generated."""
    pieces: Any


@dataclass(eq=False, slots=True)
class Judging:
    """A part of a shard, from `first` up to `last`, that a judge has in hand."""

    task: Task
    first: int
    last: int
    times_lost: int = 0
    """How often a judge was lost over it."""

    @property
    def shard(self) -> Shard:
        """Its cells, to be generated again."""
        return replace(self.task.shard, cells=self.task.shard.cells[self.first : self.last])


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what came of judging."""

    judged: Callable[[Task, Judged], None]
    """A cell of a task has its result."""
    lost: Callable[[Shard, str], None]
    """What was generated of these cells is gone."""
    given_up: Callable[[int, str], None]
    """A cell, by its number in the plan, for which every judge was lost."""
    failed: Callable[[BaseException], None]
    """The judge as a whole cannot be used."""


class Scoring:
    """Hands parts of shards to judges."""

    def __init__(self, tools: Tools, use: JudgeUse, part: Any, listener: Listener) -> None:
        """
        Args:
            part: a reference to the questions.
        """
        self._tools, self._use, self._questions, self._listener = tools, use, part, listener
        self.n_open = 0
        """Parts of shards that judges have in hand."""
        self._is_gone = False

    def let_go(self) -> None:
        """Nobody listens any more; what judges have in hand is only accounted for."""
        self._is_gone = True

    def put(self, part: Judging) -> None:
        """Have a part of a shard judged, on the machine where it was generated if there is a judge."""
        task, about = part.task, part.task.worker.about
        handle = self._tools.judge_pool.near(about.node if about else None)
        handle.open.append(part)
        self.n_open += 1
        ref = handle.actor.judge.remote(
            self._use, self._questions, task.cells, task.pieces, part.first, part.last
        )
        self._tools.events.when(ref, lambda ref: self._judged(part, handle, ref))

    def _judged(self, part: Judging, handle: JudgeHandle, ref: Any) -> None:
        ray = self._tools.cluster.ray
        self.n_open -= 1
        try:
            results, told = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            handle.open.remove(part)
            self._not_judged(part, getattr(error, "cause", error))
        except ray.exceptions.ObjectLostError as error:
            handle.open.remove(part)
            self._listener.lost(part.shard, reason(error))
        except ray.exceptions.RayError as error:
            self._tools.judge_pool.lose(handle, error)
            self._again(part, reason(error), is_culprit=handle.culprit is part)
        else:
            handle.open.remove(part)
            self._tools.judge_pool.heard(self._use, told)
            for one in () if self._is_gone else results:
                self._listener.judged(part.task, one)

    def _not_judged(self, part: Judging, error: BaseException) -> None:
        if isinstance(error, self._tools.cluster.ray.exceptions.ObjectLostError):
            self._listener.lost(part.shard, reason(error))
        elif isinstance(error, MassactError):
            self._listener.failed(error)
        else:
            self._again(part, f"{type(error).__name__}: {error}", is_culprit=True)

    def _again(self, part: Judging, why: str, *, is_culprit: bool) -> None:
        """A judge was lost: what it worked on is judged elsewhere in halves, each cell a few times."""
        if self._is_gone:
            return
        if not is_culprit:
            self.put(part)
        elif part.last - part.first > 1:
            middle = (part.first + part.last) // 2
            self.put(Judging(part.task, part.first, middle))
            self.put(Judging(part.task, middle, part.last))
        elif part.times_lost + 1 < ATTEMPTS:
            self.put(replace(part, times_lost=part.times_lost + 1))
        else:
            cell = part.task.shard.cells[part.first]
            self._listener.given_up(cell, f"its judge was lost {ATTEMPTS} times: {why}")


AHEAD = 2
"""Shards that a worker has in hand at most: one that it works on, and one so that it need not wait for the next."""
LOSSES_IN_A_ROW = 12
"""Losses, beside two for each worker, without a shard finished between them, at which all is given up."""


class Run:
    """The state of a sweep, moved on by `go_on` and by what the cluster answers."""

    def __init__(self, tools: Tools, work: Work, cells: Sequence[PlannedCell], take: Take) -> None:
        remote = work.judge.inner
        if not isinstance(remote, RemoteJudge):
            raise TypeError("a judge of this process cannot judge on a cluster")
        self._tools, self._work, self._cells, self._take = tools, work, cells, take
        self._model = (work.model, work.batch_rows)
        self._part = tools.cluster.ray.put(work.part)
        self._unsteered = {i for i, one in enumerate(cells) if one.cell.steering is None}
        self._queue: ShardQueue | None = None
        self._tasks: list[Task] = []
        """With workers, oldest first."""
        listener = Listener(self._receive, self._lost_shard, self._give_up, self._fail)
        self._scoring = Scoring(tools, remote.use, self._part, listener)
        self._results: deque[Result] = deque()
        self._held: list[Result] = []
        self._failure: BaseException | None = None
        self._n_losses = 0
        self._is_stopping = False
        self._turned = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing is in hand and nothing is left to hand out."""
        if self._tasks or self._scoring.n_open or self._results:
            return False
        return self._is_stopping or (self._queue is not None and not self._queue.n_waiting)

    def results(self) -> Iterator[Result]:
        """What has come back since, the unsteered cells before any other."""
        while self._results:
            yield self._results.popleft()

    def check(self) -> None:
        """Raise what ended it before its time.

        Raises:
            JudgeError, ExecutorError: see `Executor.evaluate`.
        """
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begin nothing more; shards that wait behind another at their worker are taken back."""
        if self._is_stopping:
            return
        self._is_stopping = True
        for task in self._tasks:
            if task.worker.tasks and task.worker.tasks[0] is not task:
                self._tools.cluster.ray.cancel(task.account)

    def go_on(self) -> None:
        """Start workers, and hand out shards."""
        self._count_presence()
        self._tools.result_keeper.flush()
        if self._is_stopping:
            return
        try:
            self._tools.worker_pool.adjust(self._n_useful(), self._model)
        except MassactError as error:
            self._fail(error)
            return
        workers = self._tools.worker_pool.with_model(self._model)
        if self._queue is None and workers:
            self._queue = self._make_queue(workers)
        while workers and (task := self._assign(workers)) is not None:
            self._tasks.append(task)
        if self._queue is not None and not self._queue.n_waiting:
            self._tools.worker_pool.release_idle()

    def let_go(self) -> None:
        """Nobody waits for results any more: what is in hand is finished for nothing, and frees its worker."""
        self._count_presence()
        self._tools.result_keeper.flush()
        self._scoring.let_go()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if task in task.worker.tasks:
                task.worker.tasks.remove(task)
            self._tools.cluster.ray.cancel(task.account)

    def lost(self, worker: WorkerHandle, error: BaseException) -> None:
        """A worker has ended: what it worked on is tried in halves, what waited behind it goes to somebody else."""
        if not worker.tasks:
            return
        first, *others = worker.tasks
        worker.tasks.clear()
        for task in (first, *others):
            if task in self._tasks:
                self._tasks.remove(task)
        if self._queue is None:
            return
        for task in others:
            self._queue.put_back(task.shard)
        self._lost_shard(first.shard, f"lost with its worker: {reason(error)}")

    def _n_useful(self) -> int:
        """Workers that there is work for."""
        if self._queue is None:
            return 1 if not self._tools.worker_pool.workers else len(self._cells)
        busy = sum(1 for one in self._tools.worker_pool.workers if one.tasks)
        return busy + self._queue.n_waiting

    def _make_queue(self, workers: Sequence[WorkerHandle]) -> ShardQueue:
        n_questions = max(1, len(self._work.part.questions))
        per_batch = max(1, min(one.batch_rows for one in workers) // n_questions)
        leading = 0
        while leading in self._unsteered:
            leading += 1
        is_fixed = self._work.batch_rows is not None
        return ShardQueue(len(self._cells), per_batch, is_fixed=is_fixed, first=leading)

    def _assign(self, workers: Sequence[WorkerHandle]) -> Task | None:
        """Hand out one shard, to the worker with the least in hand; `None` where there is none to hand out."""
        queue, tools = self._queue, self._tools
        if queue is None or tools.result_keeper.is_full or self._scoring.n_open > AHEAD * len(workers) + 2:
            return None
        # towards the end a second shard would only wait behind the first, with others idle
        depth = AHEAD if queue.n_waiting > AHEAD * len(workers) * queue.per_batch else 1
        for worker in sorted(workers, key=lambda one: len(one.tasks)):
            if len(worker.tasks) >= depth:
                return None
            while (shard := queue.take(worker.number, len(workers))) is not None:
                if mine := self._not_taken(shard):
                    return self._hand(worker, mine)
        return None

    def _not_taken(self, shard: Shard) -> Shard | None:
        """A shard without the cells that another sweep has; what comes after it may be taken along."""
        wished = [self._cells[i] for i in shard.cells]
        taken = set(map(id, self._take([*wished, *self._cells[shard.cells[-1] + 1 :]], len(wished))))
        mine = tuple(i for i in shard.cells if id(self._cells[i]) in taken)
        return replace(shard, cells=mine) if mine else None

    def _hand(self, worker: WorkerHandle, shard: Shard) -> Task:
        whole = [self._cells[i] for i in shard.cells]
        cells = [replace(one, vector=None) for one in whole]
        vectors = [self._tools.vectors.ref(one) for one in whole]
        call = worker.actor.generate.options(num_returns=2)
        account, pieces = call.remote(self._part, cells, vectors)
        task = Task(shard, worker, cells, account, pieces)
        worker.tasks.append(task)
        self._tools.events.when(account, lambda ref: self._generated(task, ref))
        return task

    def _generated(self, task: Task, ref: Any) -> None:
        worker, ray = task.worker, self._tools.cluster.ray
        if task not in self._tasks:  # taken back, or of a run that is over
            return
        try:
            account: Account = ray.get(ref)
        except ray.exceptions.TaskCancelledError:
            self._done_with(task)
            return
        except ray.exceptions.RayTaskError as error:
            self._failed(task, getattr(error, "cause", error))
            return
        except ray.exceptions.RayError as error:
            self._tools.worker_pool.lose(worker, error)
            return
        self._done_with(task)
        self._n_losses = 0
        worker.cells += len(task.cells)
        worker.tokens += account.n_tokens
        worker.busy_seconds += account.seconds
        self._scoring.put(Judging(task, 0, len(task.cells)))

    def _done_with(self, task: Task) -> None:
        self._tasks.remove(task)
        task.worker.tasks.remove(task)
        task.worker.idle_since = time.monotonic()

    def _failed(self, task: Task, error: BaseException) -> None:
        """A worker raised something that it does not keep to one cell."""
        self._done_with(task)
        worker = task.worker
        if isinstance(error, BrokenDeviceError):
            for other in list(worker.tasks):
                self._done_with(other)
                if self._queue is not None:
                    self._queue.put_back(other.shard)
            self._tools.worker_pool.lose(worker, error)
            self._lost_shard(task.shard, str(error))
        else:
            self._lost_shard(task.shard, f"{type(error).__name__}: {error}", avoids=worker.number)

    def _lost_shard(self, shard: Shard, why: str, *, avoids: int | None = None) -> None:
        if self._queue is None:
            return
        self._n_losses += 1
        if self._n_losses > LOSSES_IN_A_ROW + 2 * len(self._tools.worker_pool.workers):
            self._fail(ExecutorError(f"{self._n_losses} shards in a row were lost, none was finished: {why}"))
            return
        if self._is_stopping:
            return
        for i in self._queue.lost(shard, avoids=avoids):
            self._give_up(i, why)

    def _give_up(self, number: int, why: str) -> None:
        self._deliver(number, FailedCell(self._cells[number], why))

    def _receive(self, task: Task, one: Judged) -> None:
        i = task.shard.cells[one.number]
        planned = self._cells[i]
        about = task.worker.about
        if about is not None:
            self._tools.result_keeper.made(planned, about.node)
        if one.timing is None:
            self._deliver(i, FailedCell(planned, one.error or "it could not be evaluated"))
        else:
            self._deliver(i, Evaluation(planned, one.responses, one.timing))

    def _deliver(self, number: int, result: Result) -> None:
        self._unsteered.discard(number)
        if self._unsteered and result.planned.cell.steering is not None:
            self._held.append(result)
            return
        self._results.append(result)
        if not self._unsteered:
            self._results.extend(self._held)
            self._held.clear()

    def _fail(self, error: BaseException) -> None:
        """End before its time: what is in hand is finished, and then the error is raised."""
        self._failure = self._failure or error
        self.stop()

    def _count_presence(self) -> None:
        now = time.monotonic()
        for worker in self._tools.worker_pool.with_model(self._model):
            worker.present_seconds += now - self._turned
        self._turned = now
