"""What two sweeps tell each other through the store, with one process in both places."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from massact.store import claims as sharing
from massact.store.claims import Sharing
from massact.store.retry import Patience
from massact.store.schema import Kind, Tag
from massact.store.write.client import Process, process_tag
from massact.store.write.tracker import OpenRun, Tracker

KEYS = [f"{number:064x}"[::-1] for number in range(1, 13)]
Start = Callable[[], Sharing]


class Store:
    """A store, and sweeps that are at work on it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.tracker = Tracker(f"sqlite:///{folder}/mlflow.db", name, floor=68)
        self.said: list[str] = []
        self._n = 0

    def start(self) -> Sharing:
        self._n += 1
        run = self.tracker._open_phase(f"phase{self._n}", Kind.PHASE, None)
        return Sharing(self.tracker, run, patience=Patience(0), say=self.said.append)

    def end(self, one: Sharing, status: str = "FINISHED") -> None:
        one.close()
        self.tracker._client.set_terminated(one.run_id, status=status)

    def tag(self, one: Sharing, key: str, value: str) -> None:
        self.tracker._client.set_tag(one.run_id, key, value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharing")


@pytest.fixture
def store(folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(sharing, "_YIELD_SECONDS", 0.0)
    monkeypatch.setattr(sharing, "_CHUNK_SECONDS", 0.0)
    return Store(folder, request.node.name[:60])


@pytest.mark.slow
def test_no_two_take_the_same(store: Store) -> None:
    one, other = store.start(), store.start()
    assert one.take(KEYS, 5) == KEYS[:5]
    assert other.take(KEYS, 5) == KEYS[5:10]
    assert one.take(KEYS[5:], 5) == KEYS[10:]
    assert other.take([*KEYS[:5], *KEYS[10:]], 5) == []
    assert one.take(KEYS[:3], 5) == KEYS[:3], "what one has it may go on with"
    told = [line for line in store.said if "shared with it" in line]
    assert len(told) == 2, "each of them says so once"


def test_what_both_take_in_one_moment_only_one_keeps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = store.start(), store.start()
    taken: list[str] = []
    write = one._keep

    def write_after_the_other() -> None:
        if not taken:
            taken.extend(other.take(KEYS, 4))
        write()

    monkeypatch.setattr(one, "_keep", write_after_the_other)
    assert taken == KEYS[:4] if taken else True
    mine = one.take(KEYS, 4)
    assert taken == KEYS[:4]
    assert not set(mine) & set(taken)
    assert mine


def test_what_was_kept_before_is_not_given_up_where_others_are_contested(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = store.start(), store.start()
    assert one.take(KEYS[:1], 1) == KEYS[:1]
    write = one._keep

    def write_after_the_other() -> None:
        """The other says that it has the first key too, before it sees that one kept it."""
        if not other._held:
            other._held |= dict.fromkeys(map(sharing._short, KEYS[:2]))
            other._ask(other._keep)
        write()

    monkeypatch.setattr(one, "_keep", write_after_the_other)
    assert KEYS[1] not in one.take(KEYS[1:3], 2)
    assert one.take(KEYS[:1], 1) == KEYS[:1]


def test_a_sign_of_life_under_way_does_not_take_back_what_is_taken_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = store.start(), store.start()
    assert one.take(KEYS[:1], 1) == KEYS[:1]
    one._held[sharing._short(KEYS[1])] = None
    write, is_late, go_on = store.tracker.set_tags, threading.Event(), threading.Event()

    def write_late(*args: Any) -> None:
        if threading.current_thread().name == "late":
            is_late.set()
            assert go_on.wait(20)
        write(*args)

    monkeypatch.setattr(store.tracker, "set_tags", write_late)
    late = threading.Thread(target=one._keep, name="late")
    taking = threading.Thread(target=one.take, args=(KEYS[2:5], 3))
    late.start()
    assert is_late.wait(20)
    taking.start()
    taking.join(0.5)
    go_on.set()
    late.join()
    taking.join()
    assert other.take(KEYS[:8], 8) == KEYS[5:8]


def test_what_another_finished_is_read_before_it_is_taken(store: Store) -> None:
    one, other = store.start(), store.start()
    one.take(KEYS, 6)
    assert other.look()
    store.end(one)
    assert other.take(KEYS, 12) == [], "the store may have results of the first by now, of any of them"
    other.wait(KEYS[:6])
    assert all(map(other.ended_elsewhere, KEYS[:6]))
    assert other.take(KEYS[:6], 6) == [], "the store was not read yet"
    other.renew()
    assert other.take(KEYS[:6], 6) == KEYS[:6]


def test_what_another_took_and_finished_unseen_is_not_taken_before_the_store_is_read(store: Store) -> None:
    """It was seen with the baseline alone; then it did all the rest and ended."""
    one, other = store.start(), store.start()
    one.take(["baseline"], 1)
    assert other.take(["baseline"], 1, is_known=True) == []
    one.take(KEYS, len(KEYS))
    store.end(one)
    other.wait(["baseline"])
    assert other.take(["baseline"], 1, is_known=True) == ["baseline"], "the store has none, as was just read"
    assert other.take(KEYS, 6) == []
    other.renew()
    assert other.take(KEYS, 6) == KEYS[:6]


def test_one_that_came_and_went_unseen_is_noticed(store: Store) -> None:
    one = store.start()
    one.renew()  # and now it reads what is finished
    other = store.start()
    other.take(KEYS, len(KEYS))
    store.end(other)
    assert one.take(KEYS, 6) == []
    one.renew()
    assert one.take(KEYS, 6) == KEYS[:6]


def test_what_failed_elsewhere_is_known(store: Store) -> None:
    one, other = store.start(), store.start()
    one.take(KEYS, 3)
    other.look()
    one.release(KEYS[1])
    one._keep()
    assert other.wait(KEYS[:3])
    assert [other.ended_elsewhere(key) for key in KEYS[:3]] == [False, True, False]


def test_an_interrupted_sweep_leaves_its_cells_to_others(store: Store) -> None:
    one, other = store.start(), store.start()
    one.take(KEYS, 6)
    other.look()
    store.end(one, "KILLED")
    assert other.wait(KEYS[:6])
    assert not any(map(other.ended_elsewhere, KEYS))
    other.renew()
    assert other.take(KEYS, 12) == KEYS


def test_a_process_that_is_gone_is_not_waited_for(store: Store) -> None:
    one, other = store.start(), store.start()
    one.take(KEYS, 6)
    other.look()
    gone = Process(**{**json.loads(process_tag()), "pid": 2**22 + 7, "started": 1})
    store.tag(one, Tag.PROCESS, json.dumps({name: getattr(gone, name) for name in gone.__slots__}))
    assert other.wait(KEYS[:6])
    other.renew()
    assert other.take(KEYS, 12) == KEYS
    assert any("gives no sign of life any more" in line for line in store.said)


def test_one_on_another_machine_lives_as_long_as_its_sign_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = store.start(), store.start()
    one.take(KEYS, 6)
    elsewhere = {**json.loads(process_tag()), "host": "elsewhere"}
    store.tag(one, Tag.PROCESS, json.dumps(elsewhere))
    clock = [1000.0]
    monkeypatch.setattr(sharing, "_monotonic", lambda: clock[0])
    assert other.look()
    for sign in range(3):
        clock[0] += sharing.LEASE_SECONDS - 1
        store.tag(one, Tag.SWEEP, json.dumps({"since": 0, "sign": sign + 1}))  # by a clock that is years behind
        assert other.look()
    clock[0] += sharing.LEASE_SECONDS - 1
    assert other.look()
    clock[0] += 2
    assert not other.look()
    assert other.wait(KEYS)
    other.renew()
    assert other.take(KEYS, 12) == KEYS
    store.tag(one, Tag.SWEEP, json.dumps({"since": 0, "sign": 99}))
    assert other.look(), "it was alive all the same"


def test_one_that_was_taken_for_dead_asks_before_it_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = store.start(), store.start()
    one.take(KEYS, 6)
    one._wrote_at = (one._wrote_at[0] - 2 * sharing.LEASE_SECONDS, one._wrote_at[1])  # it was suspended
    other.take(KEYS, 2)
    other._held = dict.fromkeys(key[: sharing._DIGITS] for key in KEYS[:4])
    other._keep()
    assert one.take(KEYS[:6], 6) == KEYS[4:6]


@pytest.mark.parametrize(
    "text", ["[" * 5000, "{}", "5", '{"since": "x", "sign": 1}', '{"since": 1e300, "sign": 1}', ""]
)
def test_tags_that_others_wrote_stop_nobody(store: Store, text: str) -> None:
    one, other = store.start(), store.start()
    for key in (Tag.SWEEP, Tag.PROCESS, sharing.ENDED_TAG, *sharing.KEY_TAGS[:2]):
        store.tag(one, key, text)
    assert other.take(KEYS, 3) == KEYS[:3]


def test_while_the_store_is_down_a_sweep_that_is_alone_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = store.start()

    def down(_run: OpenRun, _tags: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(store.tracker, "set_tags", down)
    assert one.take(KEYS, 3) == KEYS[:3]
    assert one.take(KEYS[3:], 3) == KEYS[3:6]
