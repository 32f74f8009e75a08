"""One torch thread for as long as a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_thread() -> Iterator[None]:
    """Run the block on one torch thread, then go back to as many as before.

    The order of sums, and so the last bits of a result, depends on the number of threads; and models
    this small gain nothing from a second one, which under other load makes them several times slower.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
