"""Judging in a thread of its own, so that one batch is scored while the next is generated."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from massact.domain import Response, Timing
from massact.errors import JudgeError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.judges import Exchange, Judge

Result = Evaluation | FailedCell
AHEAD = 2
"""Batches that wait for the judge at most: what they hold is lost when the process is killed."""
THREAD = "massact-judge"
"""What the thread's name begins with."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The responses of some cells, not judged yet; or one cell that none could be generated for."""

    cells: Sequence[PlannedCell]
    exchanges: Sequence[Sequence[Exchange]]
    """Of each cell, in the order of the questions."""
    seconds: float
    """That the cells took together."""
    n_tokens: Sequence[int]
    """Of each cell."""
    error: str | None = None
    """Why nothing could be generated."""


class JudgeThread:
    """Scores batches in the order in which they are put."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=THREAD)
        self._begun: deque[Future[list[Result]]] = deque()
        self._error: BaseException | None = None

    def put(self, batch: Generated) -> None:
        """Hand over a batch, as soon as fewer than `AHEAD` wait; after a failure of the judge nothing is taken."""
        in_hand_or_waiting = [one for one in self._begun if not one.done()]
        if len(in_hand_or_waiting) > AHEAD:
            wait(in_hand_or_waiting, return_when=FIRST_COMPLETED)
        if self._error is None:
            self._begun.append(self._pool.submit(self._score, batch))

    def ready(self) -> Iterator[Result]:
        """What was judged since; does not wait.

        Raises:
            JudgeError: the judge as a whole cannot be used.
        """
        while self._begun and self._begun[0].done():
            yield from self._begun.popleft().result()

    def rest(self) -> Iterator[Result]:
        """Everything that was put and not given yet; waits for it.

        Raises:
            JudgeError: the judge as a whole cannot be used.
        """
        while self._begun:
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
        yield from (FailedCell(one, batch.error) for one in batch.cells)
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
            yield from judged(judge, _part(batch, some))


def _score(judge: Judge, batch: Generated) -> list[Evaluation]:
    began = time.perf_counter()
    asked = [one for exchanges in batch.exchanges for one in exchanges]
    verdicts = judge.score(asked)
    seconds = time.perf_counter() - began
    if len(verdicts) != len(asked):
        raise ValueError(f"the judge gave {len(verdicts)} verdicts for {len(asked)} exchanges")
    verdict, n_cells = iter(verdicts), len(batch.cells)
    return [
        Evaluation(
            cell,
            tuple(
                Response(e.question, e.response, v.trait, v.coherence, v.reason)
                for e, v in zip(exchanges, verdict, strict=False)
            ),
            Timing(batch.seconds / n_cells, seconds / n_cells, n_tokens),
        )
        for cell, exchanges, n_tokens in zip(batch.cells, batch.exchanges, batch.n_tokens, strict=True)
    ]


def _part(batch: Generated, some: slice) -> Generated:
    cells = batch.cells[some]
    return Generated(
        cells, batch.exchanges[some], batch.seconds * len(cells) / len(batch.cells), batch.n_tokens[some]
    )
