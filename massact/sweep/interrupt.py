"""Ctrl-C and SIGTERM: the first lets a sweep finish the cells in hand, the second stops it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The work was interrupted; the text says what was done and how to go on."""


class Interruption:
    """Counts the interruptions of a command, and says what each of them ends."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._is_finishing = False
        self.count = 0
        self.signal = int(signal.SIGINT)
        """The last signal that came."""

    @property
    def is_requested(self) -> bool:
        """Whether no new cells are to be begun."""
        return self.count > 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take the signals for as long as the block runs. Outside the main thread it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # one that is ignored, as in a job that a shell put into the background, stays ignored
        before = {n: signal.getsignal(n) for n in _NUMBERS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            # once it was interrupted the command ends with a code of its own, which one more must not change
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.count else handler)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """While the block runs a first interruption is only noted: the block looks at `is_requested` itself."""
        self._is_finishing = True
        try:
            yield
        finally:
            self._is_finishing = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.signal = number
        if self.count > 1 or not self._is_finishing:
            raise Interrupted("interrupted: what was finished is kept; run the same command again to go on")
        try:
            self._say("interrupted: finishing the cells in hand; once more stops at once")
        except RuntimeError:
            return  # it came while a line was being written, and the stream takes no second one within it
