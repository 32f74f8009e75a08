"""A judge that is asked about equal text once, whoever asks, and its cache of verdicts in a local SQLite file.

A verdict is found by a digest of who judges, of what is asked, and of question and response; no text is kept, and
no key. Processes and threads may share a file. It is a convenience and never an obstacle: a file that is damaged is
moved aside, and on a disk that is full or cannot be written to there is no cache, with one warning each."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from massact.domain import JudgeIdentity
from massact.judges import Exchange, Judge, Usage, Verdict
from massact.judges.reading import READING_VERSION
from massact.keys import digest

NO_ANSWER = "no answer: its thought had not ended when its tokens did"  # why a response that only thinks has no scores
THINKING_VERSION = 1  # raised with every change of how thoughts are shown to a judge
CACHE_FILE = "judge-cache.sqlite"  # its name, in the folder `.massact`
_VERSION, _APPLICATION = 1, 0x6D617363
_BUSY_SECONDS = 10.0
_AT_ONCE = 500
_ATTEMPTS = 3
_TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (
    digest BLOB PRIMARY KEY, trait REAL NOT NULL, coherence REAL NOT NULL, judged_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checks (
    digest TEXT PRIMARY KEY, failures TEXT NOT NULL, checked_at REAL NOT NULL
) WITHOUT ROWID;
"""


class JudgeCache:
    """Verdicts by digest. The file is opened at the first question, not before."""

    def __init__(self, path: Path, *, say: Callable[[str], None]) -> None:
        """`path`: the file; it and its folder are made where they are missing. `say`: takes a warning."""
        self._path, self._say = path, say
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._is_off = False
        self._has_said_busy = False

    def verdicts(self, digests: Sequence[bytes]) -> dict[bytes, Verdict]:
        def read(connection: sqlite3.Connection) -> dict[bytes, Verdict]:
            known: dict[bytes, Verdict] = {}
            for start in range(0, len(digests), _AT_ONCE):
                some = digests[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT digest, trait, coherence FROM verdicts WHERE digest IN ({marks})"  # noqa: S608
                known |= {digest: Verdict(t, c) for digest, t, c in connection.execute(query, some)}
            return known

        return dict(self._do(read, {}) if digests else {})

    def keep(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """Keep those that are scored; what is there already stays."""
        now = time.time()
        scored = {digest: verdict for digest, verdict in verdicts.items() if verdict.scored}
        rows = [(digest, verdict.trait, verdict.coherence, now) for digest, verdict in scored.items()]
        insert = "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?)"
        if rows:
            self._do(lambda connection: connection.executemany(insert, rows), None)

    def check(self, digest: str) -> str | None:
        """What a judge's check found: its failures, empty where it passed; `None` where it was not checked."""
        query = "SELECT failures FROM checks WHERE digest = ?"
        row = self._do(lambda connection: connection.execute(query, (digest,)).fetchone(), None)
        return row and str(row[0])

    def keep_check(self, digest: str, failures: str) -> None:
        row = (digest, failures, time.time())
        self._do(lambda connection: connection.execute("INSERT OR REPLACE INTO checks VALUES (?, ?, ?)", row), None)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _do(self, work: Callable[[sqlite3.Connection], Any], otherwise: Any) -> Any:
        """Work with the file, again on a new one where it was damaged; `otherwise` where that is not possible."""
        with self._lock:
            for _ in range(_ATTEMPTS):
                if self._is_off:
                    return otherwise
                try:
                    with self._opened() as connection:  # what is written is kept at its end
                        return work(connection)
                except (sqlite3.Error, OSError) as error:
                    self._handle(error)
                    if _is_busy(error):
                        return otherwise
            return otherwise

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner != os.getpid():
            self._connection = None  # a connection must not be used after a fork
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path):  # SQLite itself does not wait where several make the file
                self._connection = _open(self._path)
            self._owner = os.getpid()
        return self._connection

    def _handle(self, error: sqlite3.Error | OSError) -> None:
        if _is_busy(error):
            if not self._has_said_busy:
                self._has_said_busy = True
                self._say(f"warning: the judge cache {self._path} is busy; some answers are not kept in it")
            return
        self.close()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        lacks_table = code == sqlite3.SQLITE_ERROR and "no such" in str(error)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or lacks_table:
            try:
                aside = _move_aside(self._path)
            except OSError as second:
                error = second
            else:
                if aside is not None:
                    self._say(f"warning: the judge cache was damaged ({error}) and begun anew; the old file is {aside}")
                return
        self._is_off = True
        self._say(
            f"warning: no judge cache at {self._path} ({error}): equal responses of other commands are judged again"
        )


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        version, owner, n_tables = (
            connection.execute(query).fetchone()[0]
            for query in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
        )
        if n_tables and owner != _APPLICATION:
            raise sqlite3.OperationalError("it is a database of something else")  # noqa: TRY301  # closed below
        if version > _VERSION:
            raise sqlite3.OperationalError(f"a newer massact made it, version {version}")  # noqa: TRY301
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not n_tables:
            stamps = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION};"
            connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} {stamps} COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _locked(path: Path) -> FileLock:
    """While it is held no other process opens the file or moves it aside."""
    return FileLock(f"{path}.lock")


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _move_aside(path: Path) -> Path | None:
    """Rename a damaged file; `None` where another process has done so, and what lies there now is sound."""
    with _locked(path):
        if _is_sound(path):
            return None
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        return aside


def _is_sound(path: Path) -> bool:
    """Whether nothing is wrong with the file; one that is not there is sound."""
    if not path.exists():
        return True
    try:
        with contextlib.closing(_open(path)) as connection:
            connection.execute("SELECT digest FROM verdicts LIMIT 1").fetchone()
            connection.execute("SELECT digest FROM checks LIMIT 1").fetchone()
            return str(connection.execute("PRAGMA quick_check").fetchone()[0]) == "ok"
    except sqlite3.Error as error:
        return _is_busy(error)


class CachingJudge:
    """Gives what the inner judge gave for the same exchange, now or in another command; a missing score is asked for
    again. The inner judge gets answers alone, or with what was thought before them; a thought that did not end is not
    judged."""

    def __init__(
        self, judge: Judge, cache: JudgeCache | None = None, *, thinking: Literal["skip", "include"] = "skip"
    ) -> None:
        """Without a cache verdicts are kept in memory alone; `thinking` says whether thoughts are read too."""
        self.inner = judge  # the judge itself, which remembers nothing
        self._cache = cache
        self._reads_thinking = thinking == "include"
        self._known: dict[bytes, Verdict] = {}
        self._n_known = 0
        self._lock = threading.Lock()

    @property
    def identity(self) -> JudgeIdentity:
        inner = self.inner.identity
        if not self._reads_thinking:
            return inner
        return replace(inner, prompt_digest=digest({"prompt": inner.prompt_digest, "thinking": THINKING_VERSION}))

    @property
    def usage(self) -> Usage:
        """That of the inner judge, and how many exchanges it was not asked about."""
        used = self.inner.usage
        return replace(used, cached=used.cached + self._n_known)

    def prepare(self) -> None:
        self.inner.prepare()

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        answered = [exchange for exchange in exchanges if exchange.is_answered]
        verdicts = iter(self._score([self._handed(exchange) for exchange in answered]))
        return [next(verdicts) if exchange.is_answered else Verdict(None, None, NO_ANSWER) for exchange in exchanges]

    def _handed(self, exchange: Exchange) -> Exchange:
        """What the judge is given to read."""
        response = exchange.response
        if self._reads_thinking and exchange.thinking:
            response = f"<think>\n{exchange.thinking}\n</think>\n\n{response}"
        return Exchange(exchange.question, response)

    def _score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        head = identity_digest(self.identity)
        digests = [sha256(head + _digest_of(item.question, item.response)).digest() for item in exchanges]
        by_digest = dict(zip(digests, exchanges, strict=True))
        new = [digest for digest in by_digest if digest not in self._known]
        if self._cache is not None:
            self._known |= self._cache.verdicts(new)
            new = [digest for digest in new if digest not in self._known]
        now: dict[bytes, Verdict] = {}
        if new:
            now = dict(zip(new, self.inner.score([by_digest[digest] for digest in new]), strict=True))
            scored = {digest: verdict for digest, verdict in now.items() if verdict.scored}
            self._known |= scored
            if self._cache is not None:
                self._cache.keep(scored)
        with self._lock:
            self._n_known += len(exchanges) - len(new)
        return [now[digest] if digest in now else self._known[digest] for digest in digests]


def identity_digest(identity: JudgeIdentity) -> bytes:
    """SHA-256 of who judges, what is asked and how the answer is read."""
    return _digest_of(identity.id, identity.model, identity.prompt_digest, str(READING_VERSION))


def _digest_of(*texts: str) -> bytes:
    """Of texts; where each ends is part of it."""
    total = sha256()
    for text in texts:
        content = text.encode(errors="surrogatepass")
        total.update(b"%d:" % len(content))
        total.update(content)
    return total.digest()
