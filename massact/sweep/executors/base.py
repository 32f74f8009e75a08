"""What an executor is: it runs the cells of a plan, here or on other machines, and keeps what came of them.

See docs/design/executors.md.
"""

from collections.abc import Callable, Sequence
from collections.abc import Generator as Iteration
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from massact.config import AdapterConfig, JudgeConfig, LoadConfig
from massact.domain import JudgeIdentity
from massact.evaluation import (
    Evaluation,
    FailedCell,
    Part,
    PlannedCell,
    Progress,
    StoppedCell,
    Take,
    first_cells,
)
from massact.judges import Judge
from massact.judges.caching import CachingJudge
from massact.store.write.finished_run import FinishedRun
from massact.store.write.tracker import OpenRun
from massact.sweep.executors.options import CommandContext, RayOptions

if TYPE_CHECKING:  # workers that load no model need no torch
    from massact.models.load import Description, SteerableModel
    from massact.store.spool import Spool

Result = Evaluation | FailedCell
Finished = Evaluation | FailedCell | StoppedCell
"""What is kept."""
MakeRun = Callable[[Finished], FinishedRun]
"""Makes a result's run; it may be called in another process, and there must give the same run when called again."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A model as it is loaded; relative paths are resolved."""

    reference: str
    revision: str | None
    adapter: AdapterConfig | None
    options: LoadConfig


@dataclass(frozen=True, slots=True)
class JudgeUse:
    """A judge as it is opened, for one trait."""

    config: JudgeConfig
    model: str
    """The model of its own, resolved; empty where it has none."""
    definition: str
    eval_prompt: str | None
    steered: ModelUse | None
    """The model whose responses are judged, for the judge `self`."""
    identity: JudgeIdentity
    """That it must have wherever it is opened."""
    cache: Path | None
    """File of the judge cache; `None`: nothing is remembered beyond the command."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the cells of a sweep share."""

    model: ModelUse
    judge: CachingJudge
    part: Part
    batch_rows: int | None = None
    """Responses generated side by side at most; `None`: as many as are of use and fit in memory."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loaded model says of itself."""

    description: "Description"
    attention: str
    """How it computes attention, such as `eager`."""
    unused_settings: str = ""
    """What its checkpoint asks of generation that is not obeyed, such as `top_p=0.8`."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What one worker did so far."""

    number: int
    """From 0, in the order in which they were started; none is given twice."""
    node: str
    """Name of its machine."""
    cells: int
    """Generated and not lost again."""
    tokens: int
    busy_seconds: float
    """In which it generated."""
    present_seconds: float
    """In which it was there while cells were evaluated."""
    is_lost: bool
    """Whether it ended before its work did."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What an executor is opened with."""

    context: CommandContext
    load: Callable[[ModelUse], "SteerableModel"]
    """Gives a model in this process, the same again while no other is asked for."""
    spool: Callable[[], "Spool"]
    """Of this process."""
    say: Callable[[str], None]
    """Takes a line for the person who waits."""
    ray: RayOptions | None = None
    """What the command line says of `ray`."""


class Executor(Protocol):
    """Runs cells. Built once for a command, and used for all of its sweeps.

    One that inherits from it and runs everything in this process has `loaded`, `evaluate` and `keep` to write.
    """

    def loaded(self, use: ModelUse) -> Loaded:
        """What a model says of itself once it is loaded where cells are evaluated.

        Raises:
            ModelError: it cannot be loaded.
        """
        ...

    def evaluate(
        self,
        work: Work,
        cells: Sequence[PlannedCell],
        *,
        progress: Progress,
        should_stop: Callable[[], bool],
        take: Take = first_cells,
    ) -> Iteration[Result, None, None]:
        """Evaluate cells and yield each once, when it is judged, in any order but the unsteered ones first.

        Args:
            take: asked before cells are begun. What others have taken is left out.

        A cell that cannot be evaluated is a `FailedCell`; it costs no other. Once `should_stop` says so, what
        was begun is finished and nothing else is yielded.

        Raises:
            JudgeError: the judge as a whole cannot be used; nothing after it would be scored.
        """
        ...

    def keep(self, result: Finished, make: MakeRun, *, home: OpenRun) -> None:
        """Put a result's run into a spool, for the experiment of `home`: the one where it was made, if that can send.

        Raises:
            SpoolError: the spool could not be written before.
        """
        ...

    def judge(self, use: JudgeUse) -> Judge | None:  # noqa: ARG002  # for those that have one
        """A judge whose work is done where cells are evaluated; `None`: judges work in the command's process."""
        return None

    def settle(self, timeout: float) -> int:  # noqa: ARG002  # likewise
        """Wait until the store has what was kept on other machines. Returns how many runs it does not have.

        What a machine that was lost had kept and not sent is in this machine's spool afterwards.
        """
        return 0

    def send_leftovers(self) -> int:
        """Send what earlier commands left in spools of other machines. Returns how many runs are left there."""
        return 0

    @property
    def reports(self) -> Sequence[WorkerReport]:
        """What each worker did; empty where this process is the only one."""
        return ()

    def close(self, timeout: float) -> int:  # noqa: ARG002  # likewise
        """Send what can be sent within some seconds, and end all workers. Returns how many runs wait elsewhere."""
        return 0

    def abandon(self) -> None:
        """End all workers at once; what was kept is on a disk."""
        return
