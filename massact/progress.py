"""How a step tells what it is doing. The command line shows bars; a library user gets silence."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""`progress(what, total)` opens a bar; the function it yields moves it on."""


@contextmanager
def silent(_what: str, _total: int) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda _n: None
