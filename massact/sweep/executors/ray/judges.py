"""The judges of a command on a cluster: their processes beside the workers, and the driver's pool of them."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from massact.errors import ExecutorError
from massact.judges import Exchange, Judge, Usage, Verdict
from massact.judges.caching import CachingJudge
from massact.sweep.executors import Environment
from massact.sweep.executors.base import Generated, JudgeUse, Result, judged, part_of
from massact.sweep.executors.ray.cluster import Actor, Cluster, FailedError, LostError

ATTEMPTS = 3  # how often a judge is asked for something that it was lost with


Told = tuple[Usage, tuple[str, ...]]
"""What a judge has to tell beside its verdicts: its usage since it told the last time, and lines."""


class JudgeActor(Actor):
    """Judges what workers generated."""

    def __init__(
        self, environment: Environment, driver_host: str, opener: Callable[[JudgeUse], Judge] | None = None
    ) -> None:
        """Other machines than `driver_host` keep judge caches of their own; `opener` opens a judge."""
        super().__init__(environment)
        self._driver_host, self._opener = driver_host, opener or open_judge_use
        self._lines: list[str] = []
        self._told = Usage()
        self._open: dict[JudgeUse, CachingJudge] = {}

    def prepare(self, use: JudgeUse) -> tuple[None, Told]:
        """Load what scoring needs."""
        judge = self._judge(use)
        judge.prepare()
        self._lines += filter(None, [getattr(judge.inner, "note", "")])
        return None, self._tell()

    def score(self, use: JudgeUse, exchanges: Sequence[Exchange]) -> tuple[list[Verdict], Told]:
        """Score exchanges anew, whatever is remembered of them."""
        return self._judge(use).inner.score(exchanges), self._tell()

    def judge(self, use: JudgeUse, pieces: Sequence[Generated], first: int, last: int) -> tuple[list[Result], Told]:
        """The results of a shard's cells from `first` up to, not including, `last`; they are without vectors."""
        judge, results = self._judge(use), list[Result]()
        begin = 0
        for piece in pieces:
            some = slice(max(first - begin, 0), max(last - begin, 0))
            if piece.cells[some]:
                results += judged(judge, part_of(piece, some))
            begin += len(piece.cells)
        return results, self._tell()

    def _judge(self, use: JudgeUse) -> CachingJudge:
        if use not in self._open:
            judge = self._opener(use)
            if judge.identity != use.identity:
                raise ExecutorError(
                    f"the judge {use.config.name} is another one on {socket.gethostname()}: it has "
                    f"{judge.identity.model}, the command {use.identity.model}; put the same files there"
                )
            self._open[use] = CachingJudge(judge, self._cache(use), thinking=use.config.thinking)
        return self._open[use]

    def _cache(self, use: JudgeUse) -> Any:
        if use.cache is None:
            return None
        from massact.judges.caching import JudgeCache

        host, path = socket.gethostname(), use.cache
        if host != self._driver_host:  # SQLite is not safe where two machines share a file
            path = path.with_name(f"{path.stem}-{host}{path.suffix}")
        return JudgeCache(path, say=self._lines.append)

    def _tell(self) -> Told:
        total = sum((judge.usage for judge in self._open.values()), Usage())
        lines, new = tuple(self._lines), total - self._told
        self._lines.clear()
        self._told = total
        return new, lines


def open_judge_use(use: JudgeUse) -> Judge:
    """A judge, opened in this process."""
    from massact.judges import open_judge
    from massact.judges.local import hub_source

    model, models, source = use.steered, dict(use.models), None
    if model is not None:
        source = hub_source(model.reference, revision=model.revision, adapter=model.adapter, options=model.options)
    return open_judge(use.config, replace(use.subject, steered=source, resolve=lambda named: models.get(named, named)))


@dataclass(eq=False, slots=True)
class JudgeHandle:
    """A judge's process, as the driver knows it."""

    actor: Any
    node: str | None  # id of the machine that it was meant for; `None`: any
    open: list[Any] = field(default_factory=list)  # what it has in hand (`run.Judging`), the one that it works on first
    culprit: Any = None  # what it worked on when it ended


class JudgePool:
    """Starts judge processes where they are needed, and hands out the one with the least to do."""

    def __init__(self, cluster: Cluster, opener: Callable[[JudgeUse], Judge] | None = None) -> None:
        self._cluster, self._options, self._opener = cluster, cluster.options, opener
        self._judges: list[JudgeHandle] = []
        self.usage: dict[JudgeUse, Usage] = {}  # what each judge was asked, all of its processes together

    def near(self, node: str | None) -> JudgeHandle:
        """The judge process with the least in hand, of the machine where it has any."""
        if node is not None and node in self._cluster.nodes():
            while sum(judge.node == node for judge in self._judges) < self._options.judges_per_node:
                self._start(node)
        there = [judge for judge in self._judges if judge.node == node] or self._judges
        return min(there, key=lambda judge: len(judge.open)) if there else self._start(None)

    def lose(self, handle: JudgeHandle, error: LostError) -> None:
        """A judge process has ended; another is started when it is needed."""
        if handle in self._judges:
            self._judges.remove(handle)
            handle.culprit = handle.open[0] if handle.open else None
            self._cluster.ray.kill(handle.actor)
            self._cluster.forget_nodes()
            self._cluster.say(f"a judge's process is lost ({error})")

    def answer(self, use: JudgeUse, ref: Any) -> Any:
        """What a judge process answers; what it tells beside that is taken in. Raises what `Cluster.get` does."""
        answer, (usage, lines) = self._cluster.get(ref)
        self.usage[use] = self.usage.get(use, Usage()) + usage
        for line in lines:
            self._cluster.say(line)
        return answer

    def ask(self, use: JudgeUse, question: Callable[[Any], Any]) -> Any:
        """What some judge process answers, waited for; what one was lost over is asked again elsewhere, a few times."""
        last: LostError | None = None
        for _ in range(ATTEMPTS):
            handle = self.near(None)
            try:
                return self.answer(use, question(handle.actor))
            except FailedError as error:
                raise error.cause from None
            except LostError as error:
                last = error
                self.lose(handle, error)
        raise ExecutorError(f"the judge {use.config.name} was lost {ATTEMPTS} times ({last})")

    def stop(self) -> None:
        """End all."""
        while self._judges:
            self._cluster.ray.kill(self._judges.pop().actor)

    def _start(self, node: str | None) -> JudgeHandle:
        cluster, gpus = self._cluster, self._options.gpus_per_judge
        # a machine without room for a judge with a GPU is served by another's
        actor = cluster.start(JudgeActor, cluster.host, self._opener, num_gpus=gpus, node=node, soft=bool(gpus))
        handle = JudgeHandle(actor, node)
        self._judges.append(handle)
        return handle


class RemoteJudge:
    """A judge whose work is done on the cluster; `massact.judges.Judge`."""

    def __init__(self, use: JudgeUse, judge_pool: Callable[[], JudgePool]) -> None:
        self.use, self.identity = use, use.identity
        self._pool = judge_pool
        self._has_started = False

    @property
    def usage(self) -> Usage:
        """What it was asked, in all processes."""
        return self._pool().usage.get(self.use, Usage()) if self._has_started else Usage()

    def prepare(self) -> None:
        """Load what scoring needs, in one process."""
        self._ask(lambda actor: actor.prepare.remote(self.use))

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order."""
        return list(self._ask(lambda actor: actor.score.remote(self.use, list(exchanges))))

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        self._has_started = True
        return self._pool().ask(self.use, question)
