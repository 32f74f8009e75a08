"""Stored results as lines of a results file, with their responses beside it."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from massact.domain import Response
from massact.errors import StoreError
from massact.interop.files import ArtifactReader, write_whole
from massact.interop.layout import ImportedLine
from massact.interop.lines import parse_document, parse_result_line
from massact.interop.names import BASELINE_RESPONSES, RESPONSES, responses_name
from massact.interop.own_format import native_document
from massact.interop.responses import responses_json
from massact.store.read import open_store
from massact.store.schema import EvaluationRow, Kind, Scores, decode_evaluation, decode_scores

# Stored results on their way into files: sorted on disk, so that an export takes constant memory.


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


class LineWriter:
    """Makes the lines of one results file."""

    def __init__(self, results: Path, tracking_uri: str, artifacts: ArtifactReader | None) -> None:
        """`artifacts` is `None` where no responses are wanted."""
        self._folder = results.parent / RESPONSES
        self._tracking_uri = tracking_uri
        self._artifacts = artifacts
        self._taken: set[str] = set()
        self.n_baselines = self.n_evaluations = self.n_responses = 0
        self._newest_baseline: dict[tuple[str, int | None], tuple[str, float | None]] = {}
        self.n_other_baseline = 0
        """Imported evaluations whose baseline is not the newest of their file: it was deleted, or came later."""
        self.notes: list[str] = []

    def line(self, kept: Kept, imported: ImportedLine | None) -> bytes:
        """A run as a line; its responses are written.

        Raises:
            UsageError: a responses file cannot be written.
            StoreError: the store cannot be read.
        """
        if kept.kind is Kind.BASELINE:
            self.n_baselines += 1
        else:
            self.n_evaluations += 1
        responses = self._responses(kept)
        row = decode_evaluation(kept.row)
        if imported is not None:
            self._compare_baselines(row)
            self._write_imported(kept, imported, responses)
            return imported.text.encode() + b"\n"
        times = (kept.started_at, kept.finished_at)
        document = native_document(row, times, self._scores(kept), None)
        if responses:
            name = self._free_name(kept, row, _name(document))
            document = native_document(row, times, self._scores(kept), name)
            self._write(name, responses)
        return json.dumps(document, allow_nan=False).encode() + b"\n"

    def _compare_baselines(self, row: EvaluationRow) -> None:
        """Count the lines whose delta an import of this file would compute in another way."""
        if row.kind is Kind.BASELINE:
            self._newest_baseline[row.judge, row.n_questions] = (row.key, row.trait_mean)
            return
        without_number = self._newest_baseline.get((row.judge, None), (None, None))
        newest = self._newest_baseline.get((row.judge, row.n_questions), without_number)
        self.n_other_baseline += newest != (row.baseline_key, row.baseline_trait_mean)

    def _responses(self, kept: Kept) -> tuple[Response, ...]:
        if self._artifacts is None or not kept.has_responses:
            return ()
        try:
            return self._artifacts.read_responses(kept.run_id)
        except StoreError as error:
            self.notes.append(f"responses left out: {error}")
            return ()

    def _write_imported(self, kept: Kept, imported: ImportedLine, responses: Iterable[Response]) -> None:
        """Under the name by which an import finds them again; of baselines, the newest keeps it."""
        if not responses:
            return
        name = _name(parse_document(imported.text.encode(), allow_nan=True))
        if name is None or (name in self._taken and kept.kind is not Kind.BASELINE):
            self.notes.append(
                f"responses of run {kept.run_id} left out: their file's name is taken or cannot be"
            )
        else:
            self._write(name, responses)

    def _free_name(self, kept: Kept, row: EvaluationRow, name: str | None) -> str:
        name = name or f"{row.component or 'other'}/other/{kept.key[:16]}.json"
        if name in self._taken:
            name = f"{name.removesuffix('.json')}_{kept.key[:8]}_{kept.finished_at}.json"
        return name

    def _write(self, name: str, responses: Iterable[Response]) -> None:
        self.n_responses += name not in self._taken
        self._taken.add(name)
        write_whole(self._folder / name, [responses_json(responses)])

    def _scores(self, kept: Kept) -> Scores | None:
        if kept.scores is not None:
            with suppress(ValueError, TypeError, KeyError):  # damaged: the stepped metrics hold them too
                return decode_scores(kept.scores)
        # too many for a tag
        with closing(open_store(self._tracking_uri)) as store:
            scores = store.scores([kept.run_id]).get(kept.run_id)
        has_any = scores is not None and any(one is not None for one in (*scores.trait, *scores.coherence))
        return scores if has_any else None


def _name(document: dict[str, object]) -> str | None:
    """The responses file of a line, within `responses/`."""
    if document.get("type") == "baseline":
        return BASELINE_RESPONSES
    return responses_name(parse_result_line(document))
