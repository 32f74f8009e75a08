"""What is asked of a run store again, for how long, and what is never waited for: one rule for writing and reading."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from massact.addresses import first_line
from massact.errors import MassactError, RunRefusedError, StoreError, UnusableStoreError

# Holding an interruption back while a store is spoken to, so that nothing is left half done by it.

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """A Ctrl-C or SIGTERM that comes within the block takes effect at its end; a second one at once. Outside the main
    thread, which alone gets signals, it does nothing."""
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


T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between two attempts, doubled each time
_LATER = (408, 425, 429)  # HTTP statuses below 500 that ask the caller to come back
_NEVER = (400, 409, 413, 422)  # HTTP statuses of a request that would be refused again, whenever it is made

_SAFE = "What was evaluated is safe: run the same command again when the store is up, or massact sync"


class StoreLostError(StoreError):
    """The run store went away while work was under way, and did not come back in time."""

    exit_code = 1


def pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def is_outage(error: Exception) -> bool:
    """Whether an error tells of a store that is down, and nothing of what it was asked."""
    if isinstance(error, MassactError):
        if not isinstance(error, StoreError) or isinstance(error, UnusableStoreError | RunRefusedError):
            return False
        return not isinstance(error.__cause__, Exception) or is_outage(error.__cause__)
    from massact.store.databases import of_database, passes_by_itself

    if (of_store := of_database(error)) is not None:
        return passes_by_itself(of_store)  # MLflow calls each of them an outage
    if (status := _mlflow_status(error)) is not None:
        return status_passes(status)
    answer = getattr(error, "response", None)
    if answer is not None and hasattr(answer, "status_code"):
        return status_passes(answer.status_code)
    # a file that is not there or may not be read is an OSError too, and no outage
    is_network = type(error).__module__.partition(".")[0] in ("requests", "urllib3")
    return is_network or isinstance(error, ConnectionError | TimeoutError)


def status_passes(status: int) -> bool:
    """Whether an HTTP status asks the caller to come back."""
    return int(status) >= 500 or status in _LATER


def is_final(error: Exception) -> bool:
    """Whether an error of MLflow's client would come again, whenever the same is asked."""
    return _mlflow_status(error) in _NEVER


def _mlflow_status(error: Exception) -> int | None:
    """Of an error of MLflow's, which is not imported for it."""
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status is not None else None


class Patience:
    """Tries again what failed because the store was down; while no work is under way everything is tried once."""

    def __init__(self, seconds: float, *, say: Callable[[str], None] = lambda _line: None) -> None:
        """One outage may last `seconds`; `say` is told when the store does not answer, and when it does again."""
        self.seconds = seconds
        self._say = say
        self._waiting = f"waiting up to {seconds:g} s for the tracking store to come back"
        self.is_under_way = False  # whether there is work that a failure would cost; then outages are waited for

    def ask(
        self,
        attempt: Callable[[], T],
        *,
        is_passing: Callable[[Exception], bool] = is_outage,
        before_again: Callable[[], T | None] = lambda: None,
    ) -> T:
        """The result of an attempt, made again while the store is down.
        `attempt`: what is asked of the store. A first Ctrl-C or SIGTERM during it waits for its end. `is_passing`:
        whether an error may pass; any other is raised at once. `before_again`: asked before each further attempt; what
        it gives is the result.
        Raises StoreLostError: the store was down for too long; Exception: an error of the attempt that is no outage, or
        any while no work is under way."""
        end, waits, is_down = time.monotonic() + self.seconds, pauses(), False
        while True:
            try:
                with held_back():
                    result = before_again() if is_down else None
                    result = attempt() if result is None else result
            except Exception as error:
                if not (self.is_under_way and is_passing(error)):
                    raise
                left = end - time.monotonic()
                if left <= 0:
                    raise StoreLostError(
                        f"the tracking store did not come back within {self.seconds:g} s ({first_line(error)}). {_SAFE}"
                    ) from error
                if not is_down:
                    self._say(f"{self._waiting}: {first_line(error)}")
                is_down = True
                time.sleep(min(next(waits), left))
            else:
                if is_down:
                    self._say("the tracking store is back")
                return result
