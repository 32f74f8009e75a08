"""The judges of a command on a cluster: their processes beside the workers, and the driver's pool of them."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from massact.domain import JudgeIdentity
from massact.errors import ExecutorError, MassactError
from massact.evaluation import FailedCell, Part, PlannedCell
from massact.judges.base import Exchange, Judge, Usage, Verdict
from massact.judges.caching import CachingJudge
from massact.sweep.executors.base import JudgeUse
from massact.sweep.executors.options import RayOptions
from massact.sweep.executors.ray.cluster import About, Cluster, Judged, Piece, Told, about, reason
from massact.sweep.executors.ray.worker_env import CommandContext, Environment
from massact.sweep.judging import Generated, Result, judged

if TYPE_CHECKING:
    from massact.sweep.executors.base import JudgeUse


class JudgeActor:
    """Judges what workers generated."""

    def __init__(
        self,
        environment: Environment,
        driver_host: str,
        *,
        has_gpu: bool,
        opener: "Callable[[JudgeUse], Judge] | None" = None,
    ) -> None:
        """
        Args:
            driver_host: the machine of the command: other machines keep judge caches of their own.
            opener: opens a judge; `None`: as experiment files name them.
        """
        environment.set()
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._driver_host, self._opener = driver_host, opener or open_judge_use
        self._lines: list[str] = []
        self._told = Usage()
        self._open: dict[JudgeUse, CachingJudge] = {}

    def about(self) -> About:
        """Who this is."""
        return about()

    def prepare(self, use: "JudgeUse") -> Told:
        """Load what scoring needs."""
        self._judge(use).prepare()
        return self._tell()

    def score(self, use: "JudgeUse", exchanges: Sequence[Exchange]) -> tuple[list[Verdict], Told]:
        """Score exchanges anew, whatever is remembered of them."""
        return self._judge(use).inner.score(exchanges), self._tell()

    def judge(  # each travels by itself
        self,
        use: "JudgeUse",
        part: Part,
        cells: Sequence[PlannedCell],
        pieces: Sequence[Piece],
        first: int,
        last: int,
    ) -> tuple[list[Judged], Told]:
        """Score the cells of a shard from `first` up to, not including, `last`."""
        judge, results = self._judge(use), []
        for piece in pieces:
            start, stop = max(first, piece.first), min(last, piece.first + piece.n_cells)
            if start < stop:
                batch = _generated(piece, part, cells, start, stop)
                given = enumerate(judged(judge, batch), start)
                results += [_told(number, result) for number, result in given]
        return results, self._tell()

    def _judge(self, use: "JudgeUse") -> CachingJudge:
        if use not in self._open:
            judge = self._opener(use)
            if judge.identity != use.identity:
                raise ExecutorError(
                    f"the judge {use.config.name} is another one on {socket.gethostname()}: it has "
                    f"{judge.identity.model}, the command {use.identity.model}; put the same files there"
                )
            self._open[use] = CachingJudge(judge, self._cache(use))
        return self._open[use]

    def _cache(self, use: "JudgeUse") -> Any:
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
        return Told(new, lines)


def open_judge_use(use: "JudgeUse") -> Judge:
    """A judge, opened in this process."""
    from massact.judges import Subject, open_judge
    from massact.judges.source import ModelSource
    from massact.models.load import describe, read_description
    from massact.sweep.generating import load_use

    steered = use.steered
    source = None
    if steered is not None:
        kept: list[Any] = []

        def load() -> Any:
            if not kept:
                kept.append(load_use(steered))
            return kept[0]

        def say_what() -> Any:
            found = read_description(
                steered.reference,
                revision=steered.revision,
                adapter=steered.adapter,
                options=steered.options,
            )
            return found or describe(load())

        source = ModelSource(say_what, load)
    subject = Subject(use.definition, use.eval_prompt, steered=source, resolve=lambda _reference: use.model)
    return open_judge(use.config, subject)


def _generated(piece: Piece, part: Part, cells: Sequence[PlannedCell], start: int, stop: int) -> Generated:
    """The cells of a piece from `start` up to `stop`, by their numbers in the shard."""
    some = slice(start - piece.first, stop - piece.first)
    exchanges = [
        [Exchange(question, response) for question, response in zip(part.questions, responses, strict=True)]
        for responses in piece.responses[some]
    ]
    seconds = piece.seconds * (stop - start) / piece.n_cells
    return Generated(cells[start:stop], exchanges, seconds, piece.n_tokens[some], piece.error)


def _told(number: int, result: Result) -> Judged:
    if isinstance(result, FailedCell):
        return Judged(number, error=result.error)
    return Judged(number, result.responses, result.timing)


ATTEMPTS = 3
"""How often a judge is asked for something that it was lost with."""


@dataclass(eq=False, slots=True)
class JudgeHandle:
    """A judge's process, as the driver knows it."""

    actor: Any
    node: str | None
    """Id of the machine that it was meant for; `None`: any."""
    open: list[object] = field(default_factory=list)
    """What it has in hand, the one that it works on first."""
    culprit: object = None
    """What it worked on when it ended."""


class JudgePool:
    """Starts judge processes where they are needed, and hands out the one with the least to do."""

    def __init__(
        self,
        cluster: Cluster,
        options: RayOptions,
        context: CommandContext,
        *,
        say: Callable[[str], None],
        opener: Any = None,
    ) -> None:
        """
        Args:
            opener: opens a judge at a handle; `None`: as experiment files name them.
        """
        self._cluster, self._options, self._context = cluster, options, context
        self._say, self._opener = say, opener
        self._judges: list[JudgeHandle] = []
        self.usage: dict[JudgeUse, Usage] = {}
        """What each judge was asked, all of its processes together."""

    def open_on(self, node: str) -> None:
        """See that a machine has its judge processes."""
        while sum(one.node == node for one in self._judges) < self._options.judges_per_node:
            self._open(node)

    def near(self, node: str | None) -> JudgeHandle:
        """The judge process with the least in hand, of the machine where it has any."""
        if node is not None and node in self._cluster.nodes():
            self.open_on(node)
        there = [one for one in self._judges if one.node == node] or self._judges
        if not there:
            return self._open(None)
        return min(there, key=lambda one: len(one.open))

    def lose(self, handle: JudgeHandle, error: BaseException) -> None:
        """A judge process has ended; another is started when it is needed."""
        if handle in self._judges:
            self._judges.remove(handle)
            handle.culprit = handle.open[0] if handle.open else None
            self._cluster.ray.kill(handle.actor)
            self._cluster.forget_nodes()
            self._say(f"a judge's process is lost ({reason(error)})")

    def heard(self, use: JudgeUse, told: Told) -> None:
        """Take in what a judge process reports."""
        self.usage[use] = self.usage.get(use, Usage()) + told.usage
        for line in told.lines:
            self._say(line)

    def ask(self, use: JudgeUse, question: Callable[[Any], Any]) -> Any:
        """What some judge process answers, waited for; a question that one was lost over is asked again elsewhere.

        Raises:
            MassactError: what the judge itself raises.
            ExecutorError: judge_pool are lost over it.
        """
        exceptions = self._cluster.ray.exceptions
        last: BaseException | None = None
        for _ in range(ATTEMPTS):
            handle = self.near(None)
            try:
                return self._cluster.ray.get(question(handle.actor))
            except exceptions.RayTaskError as error:
                cause = getattr(error, "cause", error)
                raise (cause if isinstance(cause, MassactError) else error) from None
            except exceptions.RayError as error:
                last = error
                self.lose(handle, error)
        raise ExecutorError(
            f"the judge {use.config.name} was lost {ATTEMPTS} times ({reason(last) if last else ''})"
        )

    def stop(self) -> None:
        """Close all."""
        while self._judges:
            self._cluster.ray.kill(self._judges.pop().actor)

    def _open(self, node: str | None) -> JudgeHandle:
        gpus = self._options.gpus_per_judge
        settings: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            # a machine without room for a judge with a GPU is served by another's
            settings["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=bool(gpus))
        make = self._cluster.ray.remote(JudgeActor).options(**settings)
        actor = make.remote(
            self._context.environment(), self._cluster.host, has_gpu=gpus > 0, opener=self._opener
        )
        handle = JudgeHandle(actor, node)
        self._judges.append(handle)
        return handle


class RemoteJudge:
    """A judge whose work is done on the cluster; `massact.judges.base.Judge`."""

    def __init__(self, use: JudgeUse, judge_pool: Callable[[], JudgePool]) -> None:
        self.use = use
        self._judges = judge_pool
        self._has_started = False

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges."""
        return self.use.identity

    @property
    def usage(self) -> Usage:
        """What it was asked, in all processes."""
        return self._judges().usage.get(self.use, Usage()) if self._has_started else Usage()

    def prepare(self) -> None:
        """Load what scoring needs, in one process."""
        self._has_started = True
        judge_pool = self._judges()
        judge_pool.heard(self.use, judge_pool.ask(self.use, lambda actor: actor.prepare.remote(self.use)))

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order."""
        self._has_started = True
        judge_pool = self._judges()
        verdicts, told = judge_pool.ask(self.use, lambda actor: actor.score.remote(self.use, list(exchanges)))
        judge_pool.heard(self.use, told)
        return list(verdicts)
