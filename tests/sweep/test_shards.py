"""How cells are cut into shards: side by side, small towards the end, and none lost or given out twice."""

import random

from hypothesis import given
from hypothesis import strategies as st

from massact.sweep.executors.ray.run import ALONE_AT_MOST, Shard, ShardQueue


def drain(queue: ShardQueue, n_workers: int) -> list[Shard]:
    shards = []
    while (shard := queue.take(0, n_workers)) is not None:
        shards.append(shard)
    return shards


@given(n=st.integers(0, 300), per=st.integers(1, 40), workers=st.integers(1, 70), first=st.integers(0, 3))
def test_every_cell_is_in_one_shard_with_its_neighbours(n: int, per: int, workers: int, first: int) -> None:
    queue = ShardQueue(n, per, is_fixed=False, first=min(first, n))
    shards = drain(queue, workers)
    assert [i for one in shards for i in one.cells] == list(range(n))
    assert all(len(one.cells) <= max(per, first) for one in shards)
    assert queue.n_waiting == 0


def test_what_all_others_wait_for_is_a_shard_of_its_own() -> None:
    assert ShardQueue(50, 10, is_fixed=False, first=1).take(0, 2) == Shard((0,))


def test_fixed_shards_are_the_batches_of_one_process() -> None:
    shards = drain(ShardQueue(11, 4, is_fixed=True, first=1), 16)
    assert [one.cells for one in shards] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]


def test_shards_become_smaller_towards_the_end_but_not_tiny() -> None:
    sizes = [len(one.cells) for one in drain(ShardQueue(4000, 40, is_fixed=False), 16)]
    assert sizes[0] == 40
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes[:-1]) == 10, "a quarter of a batch"


@given(st.data())
def test_whatever_is_lost_every_cell_ends_once_and_only_bad_ones_are_given_up(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    bad = data.draw(st.sets(st.integers(0, n - 1), max_size=3))
    chance = random.Random(data.draw(st.integers(0, 1000)))
    queue = ShardQueue(n, data.draw(st.integers(1, 16)), is_fixed=data.draw(st.booleans()), first=1)
    done: list[int] = []
    given_up: list[int] = []
    n_lost = 0
    while (shard := queue.take(0, 1)) is not None:
        if chance.random() < 0.1:
            queue.put_back(shard)
        elif bad & set(shard.cells):
            n_lost += 1
            given_up += queue.lost(shard)
        else:
            done += shard.cells
    assert sorted(done + given_up) == list(range(n))
    assert set(given_up) == bad
    assert n_lost <= len(bad) * (5 + ALONE_AT_MOST), "halving finds it in log2(16) + 1 steps"


def test_a_shard_that_failed_on_a_worker_is_tried_on_another() -> None:
    queue = ShardQueue(1, 4, is_fixed=False)
    shard = queue.take(7, 2)
    assert shard is not None
    assert list(queue.lost(shard, avoids=7)) == []
    assert queue.take(7, 2) is None
    assert queue.take(8, 2) == Shard((0,), 1, 7)


def test_where_it_is_the_only_worker_it_gets_it_all_the_same() -> None:
    queue = ShardQueue(1, 4, is_fixed=False)
    shard = queue.take(7, 1)
    assert shard is not None
    queue.lost(shard, avoids=7)
    assert queue.take(7, 1) == Shard((0,), 1, 7)


def test_what_was_lost_waits_until_the_rest_is_given_out() -> None:
    queue = ShardQueue(8, 2, is_fixed=True)
    lost = queue.take(0, 2)
    assert lost is not None
    queue.lost(lost)
    assert [one.cells for one in drain(queue, 2)] == [(2, 3), (4, 5), (6, 7), (0,), (1,)]


def test_but_not_where_all_others_wait_for_it() -> None:
    queue = ShardQueue(6, 2, is_fixed=True, first=1)
    lost = queue.take(0, 2)
    assert lost is not None
    queue.lost(lost)
    assert [one.cells for one in drain(queue, 2)] == [(0,), (2, 3), (4, 5), (1,)]


def test_nothing_is_given_out_any_more_once_it_is_cleared() -> None:
    queue = ShardQueue(8, 2, is_fixed=True)
    lost = queue.take(0, 1)
    assert lost is not None
    queue.lost(lost)
    queue.clear()
    assert queue.take(0, 1) is None
    assert queue.n_waiting == 0
