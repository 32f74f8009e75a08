"""The judges of a command, beside its workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from massact.domain import JudgeIdentity
from massact.errors import ExecutorError, MassactError
from massact.executors.base import JudgeUse
from massact.executors.options import RayOptions
from massact.executors.ray.cluster import Cluster, reason
from massact.executors.ray.desk import JudgeDesk
from massact.executors.ray.messages import Told
from massact.executors.ray.site import Site
from massact.judges.base import Exchange, Verdict
from massact.judges.usage import Usage

ATTEMPTS = 3
"""How often a judge is asked for something that it was lost with."""


@dataclass(eq=False, slots=True)
class Desk:
    """A judge's process, as the driver knows it."""

    actor: Any
    node: str | None
    """Id of the machine that it was meant for; `None`: any."""
    open: list[object] = field(default_factory=list)
    """What it has in hand, the one that it works on first."""
    culprit: object = None
    """What it worked on when it ended."""


class Desks:
    """Opens desks where they are needed."""

    def __init__(
        self,
        cluster: Cluster,
        options: RayOptions,
        site: Site,
        *,
        say: Callable[[str], None],
        opener: Any = None,
    ) -> None:
        """
        Args:
            opener: opens a judge at a desk; `None`: as experiment files name them.
        """
        self._cluster, self._options, self._site = cluster, options, site
        self._say, self._opener = say, opener
        self._desks: list[Desk] = []
        self.usage: dict[JudgeUse, Usage] = {}
        """What each judge was asked, all of its desks together."""

    def open_on(self, node: str) -> None:
        """See that a machine has its desks."""
        while sum(one.node == node for one in self._desks) < self._options.judges_per_node:
            self._open(node)

    def near(self, node: str | None) -> Desk:
        """The desk with the least in hand, of the machine where it has any."""
        if node is not None and node in self._cluster.nodes():
            self.open_on(node)
        there = [one for one in self._desks if one.node == node] or self._desks
        if not there:
            return self._open(None)
        return min(there, key=lambda one: len(one.open))

    def lose(self, desk: Desk, error: BaseException) -> None:
        """A desk has ended; another is opened when it is needed."""
        if desk in self._desks:
            self._desks.remove(desk)
            desk.culprit = desk.open[0] if desk.open else None
            self._cluster.ray.kill(desk.actor)
            self._cluster.forget_nodes()
            self._say(f"a judge's process is lost ({reason(error)})")

    def heard(self, use: JudgeUse, told: Told) -> None:
        """Take in what a desk has to tell."""
        self.usage[use] = self.usage.get(use, Usage()) + told.usage
        for line in told.lines:
            self._say(line)

    def ask(self, use: JudgeUse, question: Callable[[Any], Any]) -> Any:
        """What some desk answers, waited for; one that is lost over it is asked again elsewhere.

        Raises:
            MassactError: what the judge itself raises.
            ExecutorError: desks are lost over it.
        """
        exceptions = self._cluster.ray.exceptions
        last: BaseException | None = None
        for _ in range(ATTEMPTS):
            desk = self.near(None)
            try:
                return self._cluster.ray.get(question(desk.actor))
            except exceptions.RayTaskError as error:
                cause = getattr(error, "cause", error)
                raise (cause if isinstance(cause, MassactError) else error) from None
            except exceptions.RayError as error:
                last = error
                self.lose(desk, error)
        raise ExecutorError(
            f"the judge {use.config.name} was lost {ATTEMPTS} times ({reason(last) if last else ''})"
        )

    def dismiss(self) -> None:
        """Close all."""
        while self._desks:
            self._cluster.ray.kill(self._desks.pop().actor)

    def _open(self, node: str | None) -> Desk:
        gpus = self._options.gpus_per_judge
        settings: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            # a machine without room for a judge with a GPU is served by another's
            settings["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=bool(gpus))
        make = self._cluster.ray.remote(JudgeDesk).options(**settings)
        actor = make.remote(
            self._site.environment(), self._cluster.host, has_gpu=gpus > 0, opener=self._opener
        )
        desk = Desk(actor, node)
        self._desks.append(desk)
        return desk


class RemoteJudge:
    """A judge whose work is done at desks; `massact.judges.base.Judge`."""

    def __init__(self, use: JudgeUse, desks: Callable[[], Desks]) -> None:
        self.use = use
        self._desks = desks
        self._has_started = False

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges."""
        return self.use.identity

    @property
    def usage(self) -> Usage:
        """What it was asked, at all desks."""
        return self._desks().usage.get(self.use, Usage()) if self._has_started else Usage()

    def prepare(self) -> None:
        """Load what scoring needs, at one desk."""
        self._has_started = True
        desks = self._desks()
        desks.heard(self.use, desks.ask(self.use, lambda actor: actor.prepare.remote(self.use)))

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order."""
        self._has_started = True
        desks = self._desks()
        verdicts, told = desks.ask(self.use, lambda actor: actor.score.remote(self.use, list(exchanges)))
        desks.heard(self.use, told)
        return list(verdicts)
