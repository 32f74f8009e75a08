"""How the cells of a plan are cut into shards, and what becomes of a shard whose worker or judge is lost."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from massact.errors import ExecutorError, MassactError
from massact.evaluation import FailedCell, PlannedCell, Take
from massact.sweep.executors.base import Result, Work
from massact.sweep.executors.ray.cluster import CancelledError, Cluster, FailedError, GoneError, LostError, reason
from massact.sweep.executors.ray.judges import ATTEMPTS, JudgeHandle, JudgePool, RemoteJudge
from massact.sweep.executors.ray.results import ResultKeeper
from massact.sweep.executors.ray.workers import BrokenDeviceError, WorkerHandle, WorkerPool

ALONE_AT_MOST = 3  # how often a cell may be lost while it is the only one of its shard, before it is given up
_TAIL = 2  # a shard takes a share of what is left: so many shards for each worker
_SMALLEST = 4  # no shard is smaller than a batch divided by this, unless nothing more is left


@dataclass(frozen=True, slots=True)
class Shard:
    """Cells that one worker evaluates together, by their numbers in the plan."""

    cells: tuple[int, ...]
    times_lost: int = 0  # how often it was lost since it consists of these cells
    avoids: int | None = None  # worker on which it failed last, where that one is still at work


class ShardQueue:
    """The shards of one plan.
    Cells that the plan has side by side stay together: they steer alike, share a layer and often a vector. Shards are
    as large as a batch while much is left. Towards the end they become smaller, down to a quarter, so that no worker
    has long to do when the others have ended. With `is_fixed` each shard is exactly the batch that one process would
    have generated: where the arithmetic is coarse, the same batches give the same tokens."""

    def __init__(self, n_cells: int, per_batch: int, *, is_fixed: bool, first: int = 0) -> None:
        """`per_batch`: cells that a worker generates side by side at most. `first`: how many cells, from the first on,
        all others wait for; they are a shard of their own unless `is_fixed`."""
        self._next, self._n_cells, self.per_batch = 0, n_cells, max(1, per_batch)
        self._is_fixed, self._first = is_fixed, first
        self._again: deque[Shard] = deque()

    @property
    def n_waiting(self) -> int:
        """Cells that no worker has."""
        return self._n_cells - self._next + sum(len(shard.cells) for shard in self._again)

    def take(self, worker: int, n_workers: int) -> Shard | None:
        """The next shard for a worker, of so many that are at work; `None` where there is none for it."""
        for i, shard in enumerate(self._again):
            # what was lost comes last, so that a cell that takes its worker with it does not hold up the rest
            is_due = shard.cells[0] < self._first or self._next >= self._n_cells
            if is_due and (shard.avoids != worker or n_workers == 1):
                del self._again[i]
                return shard
        return self._cut(n_workers) if self._next < self._n_cells else None

    def put_back(self, shard: Shard) -> None:
        """A shard that was not begun: it is given to somebody else."""
        self._again.appendleft(shard)

    def lost(self, shard: Shard, *, avoids: int | None = None) -> Iterable[int]:
        """A shard was lost, in whatever way: it is tried elsewhere, in halves, so that what is at fault is found.
        `avoids`: the worker, where it is still at work. Returns the cells that are given up."""
        times_lost = shard.times_lost + 1
        if len(shard.cells) > 1:
            middle = len(shard.cells) // 2
            for cells in (shard.cells[:middle], shard.cells[middle:]):
                self._again.append(Shard(cells, avoids=avoids))
            return ()
        if times_lost < ALONE_AT_MOST:
            self._again.append(Shard(shard.cells, times_lost, avoids))
            return ()
        return shard.cells

    def clear(self) -> None:
        """Give out nothing more."""
        self._next = self._n_cells
        self._again.clear()

    def _cut(self, n_workers: int) -> Shard:
        left = self._n_cells - self._next
        size = self.per_batch
        if not self._is_fixed:
            if self._next < self._first:
                left = size = self._first - self._next
            share = -(-left // (_TAIL * max(1, n_workers)))
            size = min(size, max(share, -(-self.per_batch // _SMALLEST)))
        shard = Shard(tuple(range(self._next, self._next + min(size, left))))
        self._next += len(shard.cells)
        return shard


# One sweep on the cluster: shards go to workers, what they generated to judges, and results come back.

AHEAD = 2
"""Shards that a worker has in hand at most: one that it works on, and one so that it need not wait for the next."""
LOSSES_IN_A_ROW = 12
"""Losses, beside two for each worker, without a shard finished between them, at which all is given up."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What an executor works with."""

    cluster: Cluster
    worker_pool: WorkerPool
    judge_pool: JudgePool
    result_keeper: ResultKeeper


@dataclass(eq=False, slots=True)
class Task:
    """A shard that a worker has in hand."""

    shard: Shard
    worker: WorkerHandle
    cells: list[PlannedCell]
    account: Any  # reference to what it cost, and to the pieces that were generated
    pieces: Any


@dataclass(eq=False, slots=True)
class Judging:
    """A part of a shard, from `first` up to `last`, that a judge has in hand."""

    task: Task
    first: int
    last: int
    times_lost: int = 0  # how often a judge was lost over it
    is_suspect: bool = False  # whether a judge was lost over it, or over more that it was part of

    @property
    def shard(self) -> Shard:
        """Its cells, to be generated again."""
        return replace(self.task.shard, cells=self.task.shard.cells[self.first : self.last])


class Run:
    """The state of a sweep, moved on by `go_on` and by what the cluster answers."""

    def __init__(self, tools: Tools, work: Work, cells: Sequence[PlannedCell], take: Take) -> None:
        remote = work.judge.inner
        if not isinstance(remote, RemoteJudge):
            raise TypeError("a judge of this process cannot judge on a cluster")
        self._tools, self._work, self._cells, self._take = tools, work, cells, take
        self._model, self._judge = (work.model, work.batch_rows), remote.use
        self._part = tools.cluster.ray.put(work.part)
        self._unsteered = {i for i, planned in enumerate(cells) if planned.cell.is_baseline}
        self._queue: ShardQueue | None = None
        self._tasks: list[Task] = []  # with workers, oldest first
        self._n_judging = 0  # parts of shards that judges have in hand, or that wait for one
        self._to_judge: deque[Judging] = deque()  # those that wait
        self._results: deque[Result] = deque()
        self._held: list[Result] = []
        self._failure: BaseException | None = None
        self._n_losses = 0
        self._is_stopping = self._is_left = False
        self._turned = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing is in hand and nothing is left to hand out."""
        if self._tasks or self._n_judging or self._results:
            return False
        return self._is_stopping or (self._queue is not None and not self._queue.n_waiting)

    def results(self) -> Iterator[Result]:
        """What has come back since, the unsteered cells before any other."""
        while self._results:
            yield self._results.popleft()

    def check(self) -> None:
        """Raise what ended it before its time. Raises JudgeError, ExecutorError: see `Executor.evaluate`."""
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
        self._judge_on()
        if self._is_stopping:
            return
        pool = self._tools.worker_pool
        try:
            pool.adjust(self._n_useful(), self._model)
        except MassactError as error:
            self._fail(error)
            return
        workers = pool.with_model(self._model)
        if self._queue is None and workers:
            self._queue = self._make_queue(workers)
        while workers and (task := self._assign(workers)) is not None:
            self._tasks.append(task)
        if self._queue is not None and not self._queue.n_waiting:
            pool.release_idle()

    def let_go(self) -> None:
        """Nobody waits for results any more: what is in hand is finished for nothing, and frees its worker."""
        self._count_presence()
        self._tools.result_keeper.flush()
        self._is_left = True
        self._to_judge.clear()
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
        self._tasks = [task for task in self._tasks if task is not first and task not in others]
        if self._queue is None:
            return
        for task in others:
            self._queue.put_back(task.shard)
        self._lost_shard(first.shard, f"lost with its worker: {reason(error)}")

    def _n_useful(self) -> int:
        """Workers that there is work for."""
        workers = self._tools.worker_pool.workers
        if self._queue is None:
            return len(self._cells) if workers else 1
        return sum(1 for worker in workers if worker.tasks) + self._queue.n_waiting

    def _make_queue(self, workers: Sequence[WorkerHandle]) -> ShardQueue:
        n_questions = max(1, len(self._work.part.questions))
        per_batch = max(1, min(worker.batch_rows for worker in workers) // n_questions)
        leading = 0
        while leading in self._unsteered:
            leading += 1
        is_fixed = self._work.batch_rows is not None
        return ShardQueue(len(self._cells), per_batch, is_fixed=is_fixed, first=leading)

    def _assign(self, workers: Sequence[WorkerHandle]) -> Task | None:
        """Hand out one shard, to the worker with the least in hand; `None` where there is none to hand out."""
        queue, tools = self._queue, self._tools
        if queue is None or tools.result_keeper.is_full or self._n_judging > AHEAD * len(workers) + 2:
            return None
        # towards the end a second shard would only wait behind the first, with others idle
        depth = AHEAD if queue.n_waiting > AHEAD * len(workers) * queue.per_batch else 1
        for worker in sorted(workers, key=lambda worker: len(worker.tasks)):
            if len(worker.tasks) >= depth:
                return None
            while (shard := queue.take(worker.report.number, len(workers))) is not None:
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
        cells = [replace(planned, vector=None) for planned in whole]
        vectors = [self._tools.cluster.vector_ref(planned) for planned in whole]
        account, pieces = worker.actor.generate.options(num_returns=2).remote(self._part, cells, vectors)
        task = Task(shard, worker, cells, account, pieces)
        worker.tasks.append(task)
        self._tools.cluster.when(account, lambda ref: self._generated(task, ref))
        return task

    def _generated(self, task: Task, ref: Any) -> None:
        if task not in self._tasks:  # taken back, or of a run that is over
            return
        worker = task.worker
        try:
            seconds, n_tokens = self._tools.cluster.get(ref)
        except CancelledError:
            self._done_with(task)
        except FailedError as error:
            if isinstance(cause := error.cause, BrokenDeviceError):
                self._tools.worker_pool.lose(worker, cause)
            else:  # something that it does not keep to one cell
                self._done_with(task)
                self._lost_shard(task.shard, f"{type(cause).__name__}: {cause}", avoids=worker.report.number)
        except LostError as error:
            self._tools.worker_pool.lose(worker, error)
        else:
            self._done_with(task)
            self._n_losses = 0
            worker.report.cells += len(task.cells)
            worker.report.tokens += n_tokens
            worker.report.busy_seconds += seconds
            self._score(Judging(task, 0, len(task.cells)))

    def _done_with(self, task: Task) -> None:
        self._tasks.remove(task)
        task.worker.tasks.remove(task)
        task.worker.idle_since = time.monotonic()

    def _lost_shard(self, shard: Shard, why: str, *, avoids: int | None = None) -> None:
        if self._queue is None or self._is_left:
            return
        self._n_losses += 1
        if self._n_losses > LOSSES_IN_A_ROW + 2 * len(self._tools.worker_pool.workers):
            self._fail(ExecutorError(f"{self._n_losses} shards in a row were lost, none was finished: {why}"))
            return
        if self._is_stopping:
            return
        for i in self._queue.lost(shard, avoids=avoids):
            self._deliver(i, FailedCell(self._cells[i], why))

    def _score(self, part: Judging) -> None:
        """Have a part of a shard judged, on the machine where it was generated if there is a judge."""
        self._n_judging += 1
        self._to_judge.append(part)
        self._judge_on()

    def _judge_on(self) -> None:
        """Hand out what waits for a judge. A suspect is alone with its judge: an answer that was given may be lost with
        the process that ends over the part behind it, and the wrong one would be blamed."""
        while self._to_judge:
            part = self._to_judge[0]
            about = part.task.worker.about
            handle = self._tools.judge_pool.near(about.node if about else None)
            if handle.open and (part.is_suspect or any(in_hand.is_suspect for in_hand in handle.open)):
                return
            handle.open.append(self._to_judge.popleft())
            ref = handle.actor.judge.remote(self._judge, part.task.pieces, part.first, part.last)
            self._tools.cluster.when(ref, partial(self._scored, part, handle))

    def _scored(self, part: Judging, handle: JudgeHandle, ref: Any) -> None:
        self._n_judging -= 1
        try:
            results = self._tools.judge_pool.answer(self._judge, ref)
        except GoneError as error:
            handle.open.remove(part)
            self._lost_shard(part.shard, str(error))
        except LostError as error:
            self._tools.judge_pool.lose(handle, error)
            self._score_again(part, str(error), is_culprit=handle.culprit is part)
        except FailedError as error:
            handle.open.remove(part)
            if isinstance(error.cause, MassactError):
                self._fail(error.cause)
            else:
                self._score_again(part, str(error), is_culprit=True)
        else:
            handle.open.remove(part)
            for n, result in enumerate(() if self._is_left else results, part.first):
                i, about = part.task.shard.cells[n], part.task.worker.about
                if about is not None:
                    self._tools.result_keeper.made(self._cells[i], about.node)
                self._deliver(i, replace(result, planned=self._cells[i]))  # it came without its vector
        self._judge_on()

    def _score_again(self, part: Judging, why: str, *, is_culprit: bool) -> None:
        """A judge was lost: what it worked on is judged elsewhere in halves, each cell a few times."""
        if self._is_left:
            return
        if not is_culprit:
            self._score(part)
        elif part.last - part.first > 1:
            middle = (part.first + part.last) // 2
            self._score(Judging(part.task, part.first, middle, is_suspect=True))
            self._score(Judging(part.task, middle, part.last, is_suspect=True))
        elif part.times_lost + 1 < ATTEMPTS:
            self._score(replace(part, times_lost=part.times_lost + 1, is_suspect=True))
        else:
            i = part.task.shard.cells[part.first]
            self._deliver(i, FailedCell(self._cells[i], f"its judge was lost {ATTEMPTS} times: {why}"))

    def _deliver(self, number: int, result: Result) -> None:
        self._unsteered.discard(number)
        if self._unsteered and not result.planned.cell.is_baseline:
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
            worker.report.present_seconds += now - self._turned
        self._turned = now
