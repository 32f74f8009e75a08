"""What the run store holds already, as digests in a temporary database on disk: memory stays constant."""

import hashlib
import sqlite3
from collections.abc import Iterable

from massact.schema import Kind
from massact.store.contents import StoredContent


class Seen:
    """A set of content identities."""

    def __init__(self, stored: Iterable[StoredContent] = ()) -> None:
        # an empty name is a file of its own that SQLite deletes on closing; no journal, no waiting for the disk
        self._connection = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8000"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._connection.execute("BEGIN")
        self.has_measured = False
        """Whether the store holds evaluations that massact measured."""
        for one in stored:
            self.has_measured |= one.kind is Kind.EVALUATION and one.content is None
            if one.content is not None:
                self.add(one.content)
            self.add(measured_identity(one.key, one.finished_at))

    def add(self, identity: str) -> bool:
        """Add an identity. Returns whether it was new."""
        done = self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (_digest(identity),))
        return done.rowcount == 1

    def __contains__(self, identity: str) -> bool:
        asked = self._connection.execute("SELECT 1 FROM seen WHERE digest = ?", (_digest(identity),))
        return asked.fetchone() is not None

    def discard(self, identity: str) -> None:
        """Take an identity out again: what it stands for could not be imported."""
        self._connection.execute("DELETE FROM seen WHERE digest = ?", (_digest(identity),))

    def close(self) -> None:
        """Delete the database."""
        self._connection.close()


def _digest(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()


def measured_identity(key: str, finished_at: int | None) -> str:
    """Identity of a run that massact measured: one cell finishes once in a millisecond."""
    return f"{key} {finished_at}"
