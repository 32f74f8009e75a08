"""Holding an interruption back while a store is spoken to, so that nothing is left half done by it.

A run that was just made would stay open, and a statement that was broken off would keep SQLite locked
against the words that end the run.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
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
