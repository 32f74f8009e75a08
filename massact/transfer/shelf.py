"""Stored results on their way into files: sorted on disk, so that an export takes constant memory."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from massact.schema import Kind


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished run, undecoded."""

    run_id: str
    kind: Kind
    key: str
    started_at: int
    finished_at: int
    row: str
    scores: str | None
    imported: str | None
    has_responses: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run's line goes."""

    file: int
    is_baseline: bool
    at: int
    """Milliseconds since 1970; -1 for a line without a time."""
    key: str


class Shelf:
    """Runs in, runs out: first each key's newest, then by file and in the file's order."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8000"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute(
            "CREATE TABLE runs (run_id TEXT PRIMARY KEY, kind TEXT, key TEXT, started_at INT, finished_at INT, "
            "row TEXT, scores TEXT, imported TEXT, has_responses INT) WITHOUT ROWID"
        )
        self._connection.execute("CREATE INDEX newest ON runs (kind, key, finished_at, run_id)")
        self._connection.execute(
            "CREATE TABLE places (file INT, is_evaluation INT, at INT, key TEXT, finished_at INT, run_id TEXT, "
            "PRIMARY KEY (file, is_evaluation, at, key, finished_at, run_id)) WITHOUT ROWID"
        )
        self._connection.execute("BEGIN")

    def add(self, kept: Kept) -> None:
        """Keep a run."""
        values = (
            kept.run_id, kept.kind.value, kept.key, kept.started_at, kept.finished_at, kept.row, kept.scores,
            kept.imported, kept.has_responses,
        )  # fmt: skip
        self._connection.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def runs(self, kind: Kind, *, superseded: bool) -> Iterator[Kept]:
        """The runs of a kind, each key's newest (by end, then run id) or all of them."""
        newest = (
            ""
            if superseded
            else "AND NOT EXISTS (SELECT 1 FROM runs b WHERE b.kind = a.kind AND b.key = a.key "
            "AND (b.finished_at, b.run_id) > (a.finished_at, a.run_id))"
        )
        # the only text that is put in is the one above
        query = f"SELECT * FROM runs a WHERE kind = ? {newest} ORDER BY finished_at, key, run_id"  # noqa: S608
        for found in self._connection.execute(query, (kind.value,)):
            yield _kept(found)

    def place(self, kept: Kept, place: Place) -> None:
        """Put a run into a file."""
        values = (
            place.file, not place.is_baseline, place.at, place.key, kept.finished_at, kept.run_id
        )  # fmt: skip
        self._connection.execute("INSERT OR IGNORE INTO places VALUES (?, ?, ?, ?, ?, ?)", values)

    def lines(self, file: int) -> Iterator[Kept]:
        """The runs of a file: baselines, then evaluations, each by time and key."""
        query = (
            "SELECT runs.* FROM places JOIN runs USING (run_id) WHERE file = ? "
            "ORDER BY is_evaluation, at, places.key, places.finished_at, run_id"
        )
        for found in self._connection.execute(query, (file,)):
            yield _kept(found)

    def close(self) -> None:
        """Delete it all."""
        self._connection.close()


def _kept(found: tuple[str, str, str, int, int, str, str | None, str | None, int]) -> Kept:
    run_id, kind, key, started_at, finished_at, row, scores, imported, has_responses = found
    return Kept(run_id, Kind(kind), key, started_at, finished_at, row, scores, imported, bool(has_responses))
