"""Sweeps of one experiment at once share its cells, and imports wait for each other: each says in the run store what it
has taken.

See docs/design/sweep.md. The store is the only thing that two commands have in common, so each keeps its cells in tags
of its phase's run, with a sign of life that changes, and takes none that another has.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from massact.json_text import parse_json
from massact.store.read import open_source
from massact.store.read.base import UNENDED, RawRun
from massact.store.retry import Patience, held_back, is_outage
from massact.store.schema import Kind, Tag
from massact.store.write.client import is_alive, read_process
from massact.store.write.tracker import OpenRun, Tracker
from massact.words import counted

BEAT_SECONDS = 10.0  # how often a sweep gives a sign of life
LEASE_SECONDS = 60.0  # a sweep whose sign of life did not change for so long is taken for dead
_monotonic = time.monotonic
POLL_SECONDS = 2.0  # how long a sweep waits for another at a time, at least
_DIGITS, _PER_TAG, _N_TAGS = 8, 960, 32
"""Of a key so many digits are kept (a wrong match makes a sweep wait, no more), so many keys a tag, in so many tags."""
_CHUNK_SECONDS = 5.0  # where what was taken lasted less, twice as much is taken next
_YIELDS, _YIELD_SECONDS = 4, 0.5  # how long it is waited whether another lets go of cells that both have just taken

KEY_TAGS = tuple(f"{Tag.SWEEP}.{i}" for i in range(_N_TAGS))
ENDED_TAG = f"{Tag.SWEEP}.ended"
"""Cells that came to nothing (failed, or were given up), which others need not try again at once."""
TAGS = (Tag.SWEEP.value, Tag.PROCESS.value, ENDED_TAG, *KEY_TAGS)


@dataclass(frozen=True, slots=True)
class _Other:
    """Another sweep, as it was last seen."""

    run_id: str
    keys: frozenset[str]
    ended: frozenset[str]
    sign: str
    changed_at: float  # when that was first seen, by this process's monotonic clock
    is_alive: bool
    shown: str


class Sharing:
    """What this sweep has taken under one phase's run, and what others have."""

    def __init__(
        self, tracker: Tracker, run: OpenRun, *, patience: Patience, say: Callable[[str], None], alone: str = ""
    ) -> None:
        """`run`: of the phase, which must be open. `alone`: what one command does at a time, as lines call it; empty:
        it takes cells, and shares them."""
        self._tracker, self._run, self.run_id = tracker, run, run.run_id
        self._patience, self._say, self._alone = patience, say, alone
        self._since = int(time.time() * 1000)
        self._held: dict[str, None] = {}  # shortened keys, in the order in which they were taken
        self._ended: dict[str, None] = {}
        self._written: dict[str, str] = {}
        self._others: dict[str, _Other] = {}
        self._ended_elsewhere: set[str] = set()
        self._unsure: set[str] = set()  # keys that others had and have no more: the store may have their results
        self._has_other_ended = False
        """Since the store was last read: what that one did after it was last seen is not known."""
        self._ended_before: set[str] | None = None
        """Phases that had ended when the store was last read; another that has since may never have been seen."""
        self._told: set[str] = set()
        self._ahead, self._took_at = 1, 0.0
        self._wrote_at = self._down_since = (0.0, 0.0)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._writing = threading.Lock()
        """One write at a time: an older list that arrives later would give up what was taken since."""
        self._thread = threading.Thread(target=self._beat, name="massact-sign-of-life", daemon=True)

    def renew(self) -> None:
        """The store is about to be read: it tells what others did that ended until now."""
        self._ended_before = None
        self._ask(self._look)
        self._unsure.clear()
        self._has_other_ended = False

    def take(self, keys: Iterable[str], n: int, *, is_known: bool = False) -> list[str]:
        """The first keys that no other sweep has, `n` at most; no other takes them from now on. Some more are taken
        with them where they would soon be asked for. None is taken after another sweep has ended, until the store was
        read again (`renew`), unless the caller has just read that it has none of these (`is_known`)."""
        keys = list(keys)
        if self._held and _age(self._wrote_at) > LEASE_SECONDS / 2 and self._ask(self._look):
            self._drop_theirs()  # for so long without a sign of life, it may have been taken for dead
        held = [key for key in keys if _short(key) in self._held][:n]
        if len(held) == min(n, len(keys)):
            return held
        while True:
            if any(other.is_alive for other in self._others.values()):
                self._ask(self._look)
            self._adapt()
            if (self._has_other_ended and not is_known) or not (free := self._free(keys, n * self._ahead)):
                return []
            with self._lock:
                new = [key for key in map(_short, free) if key not in self._held]
                self._held |= dict.fromkeys(new)
            if not (self._ask(self._keep) and self._ask(self._look)):
                return free[:n]
            if self._has_other_ended and not is_known:
                with self._lock:
                    for key in new:
                        self._held.pop(key, None)
                self._ask(self._keep)
                return []
            if kept := self._without_contested(free):
                return kept[:n]

    def look(self) -> bool:
        """Look who else is at work, before it is read what is finished. Returns whether somebody is."""
        return self._ask(self._look) and bool(self._alive())

    def release(self, key: str) -> None:
        """A cell came to nothing, and the store says so: others need not wait for it."""
        with self._lock:
            self._held.pop(_short(key), None)
            self._ended[_short(key)] = None

    def wait(self, keys: Iterable[str], seconds: float = POLL_SECONDS) -> bool:
        """Wait a moment for others that have these keys. Returns whether nobody has some of them any more."""
        wanted = set(map(_short, keys))
        for other in self._alive():
            n = len(other.keys & wanted)
            if n and f"wait {other.run_id}" not in self._told:
                self._told.add(f"wait {other.run_id}")
                self._say(f"waiting for {self._alone or counted(n, 'cell')} that {other.shown} has in hand")
        time.sleep(max(seconds, POLL_SECONDS))
        self._ask(self._look)
        self._unsure -= wanted
        return not wanted <= {key for other in self._alive() for key in other.keys}

    def ended_elsewhere(self, key: str) -> bool:
        """Whether another sweep had a cell and came to an end with it, so that what the store lacks failed there."""
        return _short(key) in self._ended_elsewhere

    def close(self) -> None:
        """Give no sign of life any more."""
        self._stop.set()

    def _alive(self) -> list[_Other]:
        return [other for other in self._others.values() if other.is_alive]

    @property
    def _needs_store(self) -> bool:
        """Whether the store is waited for: without it nobody knows what others do, or whether there are any."""
        return bool(self._alone or self._alive())

    def _free(self, keys: Iterable[str], n: int) -> list[str]:
        theirs = {key: other for other in self._alive() for key in other.keys}
        free = []
        for key in keys:
            if (other := theirs.get(_short(key))) is None:
                free += [] if _short(key) in self._unsure else [key]
            elif not self._alone and other.run_id not in self._told:
                self._told.add(other.run_id)
                self._say(f"{other.shown} is at work on the same cells: they are shared with it")
            if len(free) == n:
                break
        return free

    def _adapt(self) -> None:
        """Take as much at a time as lasts for some seconds, so that little is asked of the store."""
        now = _monotonic()
        if self._took_at:
            self._ahead = min(2 * self._ahead, 64) if now - self._took_at < _CHUNK_SECONDS else 1
        self._took_at = now

    def _without_contested(self, keys: Sequence[str]) -> list[str]:
        """What is left where another took some of the keys in the same moment: the lower run id keeps them. The other
        may have looked before this one wrote: they are kept only where it is seen to let go."""
        for attempt in range(_YIELDS):
            rivals = [other for other in self._alive() if other.keys & set(map(_short, keys))]
            if not rivals:
                return list(keys)
            if attempt == _YIELDS - 1 or min(other.run_id for other in rivals) < self._run.run_id:
                break
            time.sleep(_YIELD_SECONDS)
            self._ask(self._look)
        self._drop_theirs(set(map(_short, keys)))
        return [key for key in keys if _short(key) in self._held]

    def _drop_theirs(self, among: Collection[str] | None = None) -> None:
        """Let go of what others have too: of some shortened keys, or of all. What was kept before is not given up."""
        with self._lock:
            for other in self._alive():
                for key in other.keys if among is None else other.keys.intersection(among):
                    self._held.pop(key, None)
        self._ask(self._keep)

    def _ask(self, attempt: Callable[[], None]) -> bool:
        """Write what is held, or look what others have. False: the store is down, and no other was at work when it was
        up."""
        if not self._needs_store and self._down_since[0] and _age(self._down_since) < LEASE_SECONDS:
            return False
        try:
            if self._needs_store:
                self._patience.ask(attempt)
            else:
                with held_back():
                    attempt()
        except Exception as error:
            if self._needs_store or not is_outage(error):
                raise
            self._down_since = _now()
            return False
        return True

    def _keep(self) -> None:
        with self._writing:
            with self._lock:
                held, ended = list(self._held), list(self._ended)[-_PER_TAG:]
            chunks = [held[i : i + _PER_TAG] for i in range(0, len(held), _PER_TAG)][-_N_TAGS:]
            tags = {name: "".join(chunk) for name, chunk in zip(KEY_TAGS, chunks, strict=False)}
            tags |= {name: "" for name in self._written if name not in tags}
            tags |= {ENDED_TAG: "".join(ended)} if ended else {}
            sign = {"since": self._since, "sign": int(time.time() * 1000), "cells": len(held)}
            changed = {name: text for name, text in tags.items() if self._written.get(name) != text}
            self._tracker.set_tags(self._run, {**changed, Tag.SWEEP.value: json.dumps(sign)})
            self._written |= changed
            self._wrote_at = _now()
            if not self._thread.is_alive() and not self._stop.is_set():
                self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(Exception):  # a store that is down is told of by whoever needs it
                self._keep()

    def _phases(self) -> tuple[list[RawRun], set[str]]:
        """The phases that are open, with what they have taken, and the ids of those that have ended."""
        source, name = open_source(self._tracker.tracking_uri), self._tracker.experiment
        try:
            unended = source.runs(name, kind=Kind.PHASE, statuses=UNENDED, tags=TAGS)
            # without their tags, which of long sweeps are long
            every = source.runs(name, kind=Kind.PHASE, statuses=(), tags=())
            return unended, {run.run_id for run in every if run.status not in UNENDED}
        finally:
            source.close()

    def _look(self) -> None:
        now, before = _monotonic(), self._others
        unended, ended = self._phases()
        runs = [run for run in unended if run.run_id != self._run.run_id]
        if self._ended_before is None:
            self._ended_before = ended
        self._has_other_ended |= not ended <= self._ended_before
        self._others = {run.run_id: _seen(run, before.get(run.run_id), now) for run in runs}
        for run_id, last in before.items():
            other = self._others.get(run_id)
            if last.is_alive and (other is None or not other.is_alive):
                self._unsure |= last.keys
                self._has_other_ended = True
            if other is None:
                is_done = last.is_alive and self._tracker.status(run_id) == "FINISHED"
                self._ended_elsewhere |= last.keys if is_done else frozenset()
            elif last.is_alive and not other.is_alive:
                self._say(f"{other.shown} gives no sign of life any more: what it had in hand is free")
            self._ended_elsewhere |= other.ended - last.ended if other else frozenset()


def _seen(run: RawRun, before: _Other | None, now: float) -> _Other:
    """Another sweep, told from its tags, which anybody may have written."""
    text = run.tags.get(Tag.SWEEP, "")
    held, ended = _keys(run, KEY_TAGS), _keys(run, (ENDED_TAG,))
    sign, since = _times(text)
    process = read_process(run.tags.get(Tag.PROCESS))
    who = f"process {process.pid} on {process.host}" if process else f"run {run.run_id}"
    other = _Other(run.run_id, held, ended, text, now, bool(sign), f"another command ({who}, since {since})")
    if before is None:
        # clocks differ: one that is wrongly taken for dead is seen to live when its sign changes
        other = replace(other, is_alive=bool(sign) and time.time() - sign / 1000 <= LEASE_SECONDS)
    elif before.sign == text:
        is_fresh = now - before.changed_at <= LEASE_SECONDS
        other = replace(other, changed_at=before.changed_at, is_alive=before.is_alive and is_fresh)
    is_dead = process is not None and is_alive(process) is False
    return replace(other, is_alive=other.is_alive and not is_dead)


def _keys(run: RawRun, names: Iterable[str]) -> frozenset[str]:
    text = "".join(run.tags.get(name, "") for name in names)
    return frozenset(text[i : i + _DIGITS] for i in range(0, len(text), _DIGITS))


def _times(text: str) -> tuple[float, str]:
    """The time of the sign of life in ms, 0 where there is none, and since when the sweep is at work."""
    try:
        values = parse_json(text)
        since = datetime.fromtimestamp(float(values["since"]) / 1000, UTC)
        return float(values["sign"]), f"{since:%Y-%m-%d %H:%M} UTC"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return 0.0, "an unknown time"


def _now() -> tuple[float, float]:
    """By both clocks: one stands still while a machine sleeps, the other may be set."""
    return _monotonic(), time.time()


def _age(then: tuple[float, float]) -> float:
    return max(now - before for now, before in zip(_now(), then, strict=True))


def _short(key: str) -> str:
    return key[:_DIGITS]
