"""What an executor is: it runs cells, here or elsewhere, and keeps what came of them (docs/design/executors.md)."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Iteration
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, Protocol, TypedDict, Unpack

from massact.config import AdapterConfig, JudgeConfig, LoadConfig
from massact.domain import JudgeIdentity, Response, Timing
from massact.errors import JudgeError
from massact.evaluation import Evaluation, FailedCell, Part, PlannedCell, Progress, Take
from massact.judges import Exchange, Judge, Subject
from massact.judges.caching import CachingJudge
from massact.metrics import NOT_MEASURED, Measured
from massact.store.write.finished_run import FinishedRun
from massact.store.write.tracker import OpenRun
from massact.sweep.executors import CommandContext

if TYPE_CHECKING:  # workers that load no model need no torch
    from massact.models.load import Description, SteerableModel
    from massact.store.spool import Spool

Result = Evaluation | FailedCell
Results = Iteration[Result, None, None]
MakeRun = Callable[[Result], FinishedRun]
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
    subject: Subject  # without what only the command's process has: functions
    models: tuple[tuple[str, str], ...]  # models of its own: how the file names each, and where it is
    steered: ModelUse | None  # the model whose responses are judged, for judges that read with it
    identity: JudgeIdentity  # that it must have wherever it is opened
    cache: Path | None  # file of the judge cache; `None`: nothing is remembered beyond the command


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
    unused_settings: str = ""  # what its checkpoint asks of generation that is not obeyed, such as `top_p=0.8`


@dataclass(slots=True)
class WorkerReport:
    """What one worker did so far."""

    number: int  # from 0, in the order in which they were started; none is given twice
    node: str
    cells: int = 0  # generated and not lost again
    tokens: int = 0
    busy_seconds: float = 0.0  # in which it generated
    present_seconds: float = 0.0  # in which it was there while cells were evaluated
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """What an executor is opened with."""

    context: CommandContext
    load: Callable[[ModelUse], "SteerableModel"]
    """Gives a model in this process, the same again while no other is asked for."""
    spool: Callable[[], "Spool"]
    say: Callable[[str], None]  # takes a line for the person who waits


class Watch(TypedDict):
    """How cells are watched over while they are evaluated."""

    progress: Progress
    should_stop: Callable[[], bool]  # once it says so, what was begun is finished and nothing else is yielded
    take: NotRequired[Take]  # asked before cells are begun: what others have taken is left out


class Executor(Protocol):
    """Runs cells. Built once for a command, and used for all of its sweeps. One that inherits from it and runs
    everything in this process has `loaded`, `evaluate` and `keep` to write."""

    def loaded(self, use: ModelUse) -> Loaded:
        """What a model says of itself once it is loaded where cells are evaluated."""

    def evaluate(self, work: Work, cells: Sequence[PlannedCell], **watch: Unpack[Watch]) -> Results:
        """Evaluate cells and yield each once, when it is judged, in any order but the unsteered ones first. A cell that
        cannot be evaluated is a `FailedCell`; it costs no other. Raises JudgeError: the judge as a whole cannot be
        used; nothing after it would be scored."""

    def keep(self, result: Result, make: MakeRun, *, home: OpenRun) -> None:
        """Put a result's run into a spool, for the experiment of `home`: where it was made, if it can be sent there."""

    def judge(self, use: JudgeUse) -> Judge | None:  # noqa: ARG002  # for those that have one
        """A judge whose work is done where cells are evaluated; `None`: judges work in the command's process."""
        return None

    def settle(self, timeout: float) -> int:  # noqa: ARG002  # likewise
        """Wait until the store has what was kept on other machines. Returns how many runs it does not have. What a
        machine that was lost had kept and not sent is in this machine's spool afterwards."""
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


# Judging in a thread of its own, so that one batch is scored while the next is generated.

AHEAD = 2  # batches that wait for the judge at most: what they hold is lost when the process is killed
THREAD = "massact-judge"  # what the thread's name begins with


@dataclass(frozen=True, slots=True)
class Generated:
    """The responses of some cells, not judged yet; or one cell that none could be generated for."""

    cells: Sequence[PlannedCell]
    exchanges: Sequence[Sequence[Exchange]]  # of each cell, in the order of the questions
    seconds: float  # that the cells took together
    n_tokens: Sequence[int]  # of each cell
    error: str | None = None
    metrics: Sequence[Sequence[Mapping[str, float | None]]] = ()  # of each cell and response; empty: none was measured
    measured: Measured = NOT_MEASURED


class JudgeThread:
    """Scores batches in the order in which they are put."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
        self._begun: deque[Future[list[Result]]] = deque()
        self._error: BaseException | None = None

    def put(self, batch: Generated) -> None:
        """Hand over a batch, as soon as fewer than `AHEAD` wait; after a failure of the judge nothing is taken."""
        in_hand_or_waiting = [future for future in self._begun if not future.done()]
        if len(in_hand_or_waiting) > AHEAD:
            wait(in_hand_or_waiting, return_when=FIRST_COMPLETED)
        if self._error is None:
            self._begun.append(self._pool.submit(self._score, batch))

    def results(self, *, wait: bool) -> Iterator[Result]:
        """What was judged since, or everything that was put and not given yet, which is waited for."""
        while self._begun and (wait or self._begun[0].done()):
            yield from self._begun.popleft().result()

    def close(self) -> None:
        """Judge nothing more than the batch in hand."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _score(self, batch: Generated) -> list[Result]:
        if self._error is None:
            try:
                return list(judged(self._judge, batch))
            except BaseException as error:  # raised again where the results are waited for
                self._error = error
        raise self._error


def judged(judge: Judge, batch: Generated) -> Iterator[Result]:
    """Score a batch; one that the judge trips over is tried again by halves, so that one cell fails alone."""
    if batch.error is not None:
        yield from (FailedCell(cell, batch.error) for cell in batch.cells)
        return
    try:
        yield from _score(judge, batch)
    except JudgeError:
        raise
    except (RuntimeError, ValueError) as error:
        if len(batch.cells) == 1:
            yield FailedCell(batch.cells[0], f"{type(error).__name__}: {error}")
            return
        middle = len(batch.cells) // 2
        for some in (slice(None, middle), slice(middle, None)):
            yield from judged(judge, part_of(batch, some))


def _score(judge: Judge, batch: Generated) -> list[Evaluation]:
    began = time.perf_counter()
    asked = [exchange for exchanges in batch.exchanges for exchange in exchanges]
    verdicts = judge.score(asked)
    seconds = time.perf_counter() - began
    if len(verdicts) != len(asked):
        raise ValueError(f"the judge gave {len(verdicts)} verdicts for {len(asked)} exchanges")
    verdict, n_cells = iter(verdicts), len(batch.cells)
    metrics = batch.metrics or [[{}] * len(exchanges) for exchanges in batch.exchanges]
    return [
        Evaluation(
            cell,
            tuple(
                Response(e.question, e.response, v.trait, v.coherence, v.reason, e.thinking, e.is_answered, of)
                for e, of, v in zip(exchanges, mine, verdict, strict=False)
            ),
            Timing(batch.seconds / n_cells, seconds / n_cells, n_tokens),
            measured=batch.measured,
        )
        for cell, exchanges, mine, n_tokens in zip(batch.cells, batch.exchanges, metrics, batch.n_tokens, strict=True)
    ]


def part_of(batch: Generated, some: slice) -> Generated:
    """Some cells of a batch, with their share of the time."""
    cells = batch.cells[some]
    seconds = batch.seconds * len(cells) / len(batch.cells)
    of = {name: getattr(batch, name)[some] for name in ("exchanges", "n_tokens", "metrics")}
    return replace(batch, cells=cells, seconds=seconds, **of)
