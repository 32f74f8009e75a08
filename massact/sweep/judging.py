"""Judging in a thread of its own, so that one batch is scored while the next is generated."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Condition, Thread

from massact.domain import Response, Timing
from massact.errors import JudgeError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.judges.base import Exchange, Judge

Result = Evaluation | FailedCell
AHEAD = 2
"""Batches that wait for the judge at most: what they hold is lost when the process is killed."""
THREAD = "massact-judge"
"""Name of the thread."""


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
        self._changed = Condition()
        self._waiting: deque[Generated] = deque()
        self._judged: deque[list[Result]] = deque()
        self._error: BaseException | None = None
        self._n_open = 0
        self._is_closed = False
        Thread(target=self._work, name=THREAD, daemon=True).start()

    def put(self, batch: Generated) -> None:
        """Hand over a batch, as soon as fewer than `AHEAD` wait; after a failure of the judge nothing is taken."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < AHEAD or self._error is not None)
            if self._error is None:
                self._waiting.append(batch)
                self._n_open += 1
                self._changed.notify_all()

    def ready(self) -> Iterator[Result]:
        """What was judged since; does not wait.

        Raises:
            JudgeError: the judge as a whole cannot be used.
        """
        while (batch := self._take(wait=False)) is not None:
            yield from batch

    def rest(self) -> Iterator[Result]:
        """Everything that was put and not given yet; waits for it.

        Raises:
            JudgeError: the judge as a whole cannot be used.
        """
        while (batch := self._take(wait=True)) is not None:
            yield from batch

    def close(self) -> None:
        """Judge nothing more than the batch in hand."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _take(self, *, wait: bool) -> list[Result] | None:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._judged or self._error is not None or not self._n_open)
            if self._judged:
                self._n_open -= 1
                return self._judged.popleft()
            if self._error is not None:
                raise self._error
            return None

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            try:
                results = list(judged(self._judge, batch))
            except BaseException as error:  # raised again where the results are waited for
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._judged.append(results)
                self._changed.notify_all()

    def _next(self) -> Generated | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()


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
    given, n_cells = iter(verdicts), len(batch.cells)
    return [
        Evaluation(
            cell,
            tuple(
                Response(e.question, e.response, v.trait, v.coherence, v.reason)
                for e, v in zip(exchanges, given, strict=False)
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
