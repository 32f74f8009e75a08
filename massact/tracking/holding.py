"""Holding an interruption back while a run is made or ended, so that none is left open by it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
