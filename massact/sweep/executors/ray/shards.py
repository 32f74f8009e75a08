"""How the cells of a plan are cut into shards, and what becomes of a shard whose worker is lost.

Nothing here knows how a worker is reached.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

ALONE_AT_MOST = 3
"""How often a cell may be lost while it is the only one of its shard, before it is given up."""
_TAIL = 2
"""A shard takes a share of what is left: so many shards for each worker."""
_SMALLEST = 4
"""No shard is smaller than a batch divided by this, unless nothing more is left."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Cells that one worker evaluates together, by their numbers in the plan."""

    cells: tuple[int, ...]
    times_lost: int = 0
    """How often it was lost since it consists of these cells."""
    avoids: int | None = None
    """Worker on which it failed last, where that one is still at work."""


class ShardQueue:
    """The shards of one plan.

    Cells that the plan has side by side stay together: they steer alike, share a layer and often a vector. Shards
    are as large as a batch while much is left. Towards the end they become smaller, down to a quarter, so that
    no worker has long to do when the others have ended. With `is_fixed` each shard is exactly the batch that one
    process would have generated: where the arithmetic is coarse, the same batches give the same tokens.
    """

    def __init__(self, n_cells: int, per_batch: int, *, is_fixed: bool, first: int = 0) -> None:
        """
        Args:
            per_batch: cells that a worker generates side by side at most.
            first: how many cells, from the first on, all others wait for; they are a shard of their own unless
                `is_fixed`.
        """
        self._next, self._n_cells, self.per_batch = 0, n_cells, max(1, per_batch)
        self._is_fixed, self._first = is_fixed, first
        self._again: deque[Shard] = deque()

    @property
    def n_waiting(self) -> int:
        """Cells that no worker has."""
        return self._n_cells - self._next + sum(len(shard.cells) for shard in self._again)

    def take(self, worker: int, n_workers: int) -> Shard | None:
        """The next shard for a worker, of so many that are at work; `None` where there is none for it."""
        for i, shard in enumerate(self._again):
            # what was lost comes last, so that a cell that takes its worker with it does not hold up the rest
            is_due = shard.cells[0] < self._first or self._next >= self._n_cells
            if is_due and (shard.avoids != worker or n_workers == 1):
                del self._again[i]
                return shard
        return self._cut(n_workers) if self._next < self._n_cells else None

    def put_back(self, shard: Shard) -> None:
        """A shard that was not begun: it is given to somebody else."""
        self._again.appendleft(shard)

    def lost(self, shard: Shard, *, avoids: int | None = None) -> Iterable[int]:
        """A shard was lost, in whatever way: it is tried elsewhere, in halves, so that what is at fault is found.

        Args:
            avoids: the worker, where it is still at work.

        Returns:
            The cells that are given up.
        """
        times_lost = shard.times_lost + 1
        if len(shard.cells) > 1:
            middle = len(shard.cells) // 2
            for cells in (shard.cells[:middle], shard.cells[middle:]):
                self._again.append(Shard(cells, avoids=avoids))
            return ()
        if times_lost < ALONE_AT_MOST:
            self._again.append(Shard(shard.cells, times_lost, avoids))
            return ()
        return shard.cells

    def clear(self) -> None:
        """Give out nothing more."""
        self._next = self._n_cells
        self._again.clear()

    def _cut(self, n_workers: int) -> Shard:
        left = self._n_cells - self._next
        size = self.per_batch
        if not self._is_fixed:
            if self._next < self._first:
                left = size = self._first - self._next
            share = -(-left // (_TAIL * max(1, n_workers)))
            size = min(size, max(share, -(-self.per_batch // _SMALLEST)))
        shard = Shard(tuple(range(self._next, self._next + min(size, left))))
        self._next += len(shard.cells)
        return shard
