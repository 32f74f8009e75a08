"""Patience with a tracking store: once work is under way, a store that is down is asked again for a while."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from massact.errors import MassactError, RunRefusedError, StoreError, UnusableStoreError
from massact.store.databases import of_database, passes_by_itself

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two attempts, doubled each time."""
_LATER = (408, 425, 429)
"""HTTP statuses below 500 that ask the caller to come back."""


class StoreLostError(StoreError):
    """The run store went away while work was under way, and did not come back in time."""

    exit_code = 1


class Patience:
    """Tries again what failed because the store was down. Before `begin` everything is tried once."""

    def __init__(self, seconds: float, *, say: Callable[[str], None] = lambda _line: None) -> None:
        """
        Args:
            seconds: how long one outage may last.
            say: told in one line when the store does not answer, and when it does again.
        """
        self.seconds = seconds
        self._say = say
        self._is_under_way = False

    @property
    def is_under_way(self) -> bool:
        """Whether there is work that a failure would cost."""
        return self._is_under_way

    def begin(self) -> None:
        """From now on there is work that a failure would cost."""
        self._is_under_way = True

    def end(self) -> None:
        """From now on nothing is worth waiting for: what is left to do is to stop."""
        self._is_under_way = False

    def ask(
        self,
        attempt: Callable[[], T],
        *,
        is_outage: Callable[[Exception], bool],
        before_again: Callable[[], T | None] = lambda: None,
    ) -> T:
        """The result of an attempt, made again while the store is down.

        Args:
            attempt: what is asked of the store.
            is_outage: whether an error may pass; any other is raised at once.
            before_again: asked before each further attempt; what it gives is the result.

        Raises:
            StoreLostError: the store was down for too long.
            Exception: an error of the attempt that is no outage, or any while no work is under way.
        """
        began, pause, is_down = time.monotonic(), FIRST_PAUSE, False
        while True:
            try:
                result = before_again() if is_down else None
                result = attempt() if result is None else result
            except Exception as error:
                if not (self._is_under_way and is_outage(error)):
                    raise
                left = began + self.seconds - time.monotonic()
                if left <= 0:
                    raise StoreLostError(
                        f"the tracking store did not come back within {self.seconds:g} s ({_line(error)}). What was "
                        "evaluated is safe: run the same command again when the store is up, or massact sync"
                    ) from error
                if not is_down:
                    self._say(
                        f"waiting up to {self.seconds:g} s for the tracking store to come back: {_line(error)}"
                    )
                is_down = True
                time.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if is_down:
                    self._say("the tracking store is back")
                return result


def is_outage(error: Exception) -> bool:
    """Whether an error of MLflow's client tells of a store that is down, and nothing of what it was asked."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MassactError):
        cause = error.__cause__
        is_refusal = isinstance(error, UnusableStoreError) or not isinstance(error, StoreError)
        return not is_refusal and isinstance(cause, Exception) and is_outage(cause)
    if (of_store := of_database(error)) is not None:
        return passes_by_itself(of_store)  # MLflow calls each of them an outage
    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        return status >= 500 or status in _LATER
    answer = getattr(error, "response", None)
    if answer is not None and hasattr(answer, "status_code"):
        return int(answer.status_code) >= 500 or answer.status_code in _LATER
    # a file that is not there or may not be read is an OSError too, and no outage
    is_network = type(error).__module__.partition(".")[0] in ("requests", "urllib3")
    return is_network or isinstance(error, ConnectionError | TimeoutError)


def is_unreadable(error: Exception) -> bool:
    """Whether a reading failed for a reason that may pass by itself."""
    return isinstance(error, StoreError) and not isinstance(error, UnusableStoreError | RunRefusedError)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# Holding an interruption back while a store is spoken to, so that nothing is left half done by it.
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """A Ctrl-C or SIGTERM that comes within the block takes effect at its end; a second one at once.

    Outside the main thread, which alone gets signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: handler for number in _NUMBERS if (handler := signal.getsignal(number)) is not None}

    def release() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hold(number: int, _frame: FrameType | None) -> None:
        if not held:
            held.append(number)
            return
        held.clear()
        release()
        signal.raise_signal(number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, hold)
    try:
        yield
    finally:
        release()
        if held:
            signal.raise_signal(held[0])


def uninterrupted(attempt: Callable[[], T]) -> Callable[[], T]:
    """The same, during which a first Ctrl-C or SIGTERM waits."""

    def held() -> T:
        with held_back():
            return attempt()

    return held
