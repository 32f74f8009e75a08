"""One sweep on the cluster: shards go to workers, what they generated to judges, and results come back."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from massact.errors import ExecutorError, MassactError
from massact.executors.base import Result, Work
from massact.executors.ray.cluster import reason
from massact.executors.ray.crew import Member
from massact.executors.ray.desks import RemoteJudge
from massact.executors.ray.messages import Account, BrokenDeviceError, Judged
from massact.executors.ray.scoring import Listener, Scoring
from massact.executors.ray.tasks import Judging, Task, Tools
from massact.executors.shards import Shard, ShardQueue
from massact.pipeline.evaluate import Evaluation, FailedCell, PlannedCell, Take

AHEAD = 2
"""Shards that a worker has in hand at most: one that it works on, and one so that it need not wait for the next."""
LOSSES_IN_A_ROW = 12
"""Losses, beside two for each worker, without a shard finished between them, at which all is given up."""


class Run:
    """The state of a sweep, moved on by `go_on` and by what the cluster answers."""

    def __init__(self, tools: Tools, work: Work, cells: Sequence[PlannedCell], take: Take) -> None:
        remote = work.judge.within
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
            if task.member.tasks and task.member.tasks[0] is not task:
                self._tools.cluster.ray.cancel(task.account)

    def go_on(self) -> None:
        """Start workers, and hand out shards."""
        self._count_presence()
        self._tools.keeping.flush()
        if self._is_stopping:
            return
        try:
            self._tools.crew.adjust(self._n_useful(), self._model)
        except MassactError as error:
            self._fail(error)
            return
        members = self._tools.crew.with_model(self._model)
        if self._queue is None and members:
            self._queue = self._make_queue(members)
        while members and (task := self._assign(members)) is not None:
            self._tasks.append(task)
        if self._queue is not None and not self._queue.n_waiting:
            self._tools.crew.let_idle_go()

    def let_go(self) -> None:
        """Nobody waits for results any more: what is in hand is finished for nothing, and frees its worker."""
        self._count_presence()
        self._tools.keeping.flush()
        self._scoring.let_go()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if task in task.member.tasks:
                task.member.tasks.remove(task)
            self._tools.cluster.ray.cancel(task.account)

    def lost(self, member: Member, error: BaseException) -> None:
        """A worker has ended: what it worked on is tried in halves, what waited behind it goes to somebody else."""
        if not member.tasks:
            return
        first, *others = member.tasks
        member.tasks.clear()
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
            return 1 if not self._tools.crew.members else len(self._cells)
        busy = sum(1 for one in self._tools.crew.members if one.tasks)
        return busy + self._queue.n_waiting

    def _make_queue(self, members: Sequence[Member]) -> ShardQueue:
        n_questions = max(1, len(self._work.part.questions))
        per_batch = max(1, min(one.batch_rows for one in members) // n_questions)
        leading = 0
        while leading in self._unsteered:
            leading += 1
        is_fixed = self._work.batch_rows is not None
        return ShardQueue(len(self._cells), per_batch, is_fixed=is_fixed, first=leading)

    def _assign(self, members: Sequence[Member]) -> Task | None:
        """Hand out one shard, to the worker with the least in hand; `None` where there is none to hand out."""
        queue, tools = self._queue, self._tools
        if queue is None or tools.keeping.is_full or self._scoring.n_open > AHEAD * len(members) + 2:
            return None
        # towards the end a second shard would only wait behind the first, with others idle
        depth = AHEAD if queue.n_waiting > AHEAD * len(members) * queue.per_batch else 1
        for member in sorted(members, key=lambda one: len(one.tasks)):
            if len(member.tasks) >= depth:
                return None
            while (shard := queue.take(member.number, len(members))) is not None:
                if mine := self._not_taken(shard):
                    return self._hand(member, mine)
        return None

    def _not_taken(self, shard: Shard) -> Shard | None:
        """A shard without the cells that another sweep has; what comes after it may be taken along."""
        wished = [self._cells[i] for i in shard.cells]
        taken = set(map(id, self._take([*wished, *self._cells[shard.cells[-1] + 1 :]], len(wished))))
        mine = tuple(i for i in shard.cells if id(self._cells[i]) in taken)
        return replace(shard, cells=mine) if mine else None

    def _hand(self, member: Member, shard: Shard) -> Task:
        whole = [self._cells[i] for i in shard.cells]
        cells = [replace(one, vector=None) for one in whole]
        vectors = [self._tools.vectors.ref(one) for one in whole]
        call = member.actor.generate.options(num_returns=2)
        account, pieces = call.remote(self._part, cells, vectors)
        task = Task(shard, member, cells, account, pieces)
        member.tasks.append(task)
        self._tools.events.when(account, lambda ref: self._generated(task, ref))
        return task

    def _generated(self, task: Task, ref: Any) -> None:
        member, ray = task.member, self._tools.cluster.ray
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
            self._tools.crew.lose(member, error)
            return
        self._done_with(task)
        self._n_losses = 0
        member.cells += len(task.cells)
        member.tokens += account.n_tokens
        member.busy_seconds += account.seconds
        self._scoring.put(Judging(task, 0, len(task.cells)))

    def _done_with(self, task: Task) -> None:
        self._tasks.remove(task)
        task.member.tasks.remove(task)
        task.member.idle_since = time.monotonic()

    def _failed(self, task: Task, error: BaseException) -> None:
        """A worker raised something that it does not keep to one cell."""
        self._done_with(task)
        member = task.member
        if isinstance(error, BrokenDeviceError):
            for other in list(member.tasks):
                self._done_with(other)
                if self._queue is not None:
                    self._queue.put_back(other.shard)
            self._tools.crew.lose(member, error)
            self._lost_shard(task.shard, str(error))
        else:
            self._lost_shard(task.shard, f"{type(error).__name__}: {error}", avoids=member.number)

    def _lost_shard(self, shard: Shard, why: str, *, avoids: int | None = None) -> None:
        if self._queue is None:
            return
        self._n_losses += 1
        if self._n_losses > LOSSES_IN_A_ROW + 2 * len(self._tools.crew.members):
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
        about = task.member.about
        if about is not None:
            self._tools.keeping.made(planned, about.node)
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
        for member in self._tools.crew.with_model(self._model):
            member.present_seconds += now - self._turned
        self._turned = now
