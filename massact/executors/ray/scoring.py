"""Judging what workers generated: at which desk, and what becomes of it where a desk is lost."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from massact.errors import MassactError
from massact.executors.base import JudgeUse
from massact.executors.ray.cluster import reason
from massact.executors.ray.desks import ATTEMPTS, Desk
from massact.executors.ray.messages import Judged
from massact.executors.ray.tasks import Judging, Task, Tools
from massact.executors.shards import Shard


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
    """Hands parts of shards to desks."""

    def __init__(self, tools: Tools, use: JudgeUse, part: Any, listener: Listener) -> None:
        """
        Args:
            part: a reference to the questions.
        """
        self._tools, self._use, self._questions, self._listener = tools, use, part, listener
        self.n_open = 0
        """Parts of shards that desks have in hand."""
        self._is_gone = False

    def let_go(self) -> None:
        """Nobody listens any more; what desks have in hand is only accounted for."""
        self._is_gone = True

    def put(self, part: Judging) -> None:
        """Have a part of a shard judged, on the machine where it was generated if there is a desk."""
        task, about = part.task, part.task.member.about
        desk = self._tools.desks.near(about.node if about else None)
        desk.open.append(part)
        self.n_open += 1
        ref = desk.actor.judge.remote(
            self._use, self._questions, task.cells, task.pieces, part.first, part.last
        )
        self._tools.events.when(ref, lambda ref: self._judged(part, desk, ref))

    def _judged(self, part: Judging, desk: Desk, ref: Any) -> None:
        ray = self._tools.cluster.ray
        self.n_open -= 1
        try:
            results, told = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            desk.open.remove(part)
            self._not_judged(part, getattr(error, "cause", error))
        except ray.exceptions.ObjectLostError as error:
            desk.open.remove(part)
            self._listener.lost(part.shard, reason(error))
        except ray.exceptions.RayError as error:
            self._tools.desks.lose(desk, error)
            self._again(part, reason(error), is_culprit=desk.culprit is part)
        else:
            desk.open.remove(part)
            self._tools.desks.heard(self._use, told)
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
