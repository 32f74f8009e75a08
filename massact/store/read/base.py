"""What a run store answers, and the source of raw runs that a tracking database or a tracking server is for it."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from massact.json_text import parse_object
from massact.store.schema import EvaluationRow, Kind, Tag
from massact.store.schema.points import RunText
from massact.store.schema.rows import RowT

FINISHED, FAILED = "FINISHED", "FAILED"  # MLflow's run statuses that queries ask for
UNENDED = ("RUNNING", "SCHEDULED")  # those of runs without an end


@dataclass(frozen=True, slots=True)
class Stored(Generic[RowT]):
    """A row and the run that holds it."""

    run_id: str
    status: str
    finished_at: int | None  # milliseconds since 1970; `None` where the run has no end
    row: RowT
    error: str = ""  # of one that failed: its text; empty where the run holds none


Failure = Stored[EvaluationRow]  # an evaluation that failed and was not finished since


def newest_per_key(runs: Iterable[Stored[RowT]]) -> list[Stored[RowT]]:
    """Each key's newest run (by end, then run id), the oldest first."""
    newest: dict[str, Stored[RowT]] = {}
    for run in sorted(runs, key=lambda run: (-1 if run.finished_at is None else run.finished_at, run.run_id)):
        newest.pop(run.row.key, None)
        newest[run.row.key] = run
    return list(newest.values())


@dataclass(frozen=True, slots=True)
class RawRun:
    """A run as a source gives it: tags undecoded."""

    run_id: str
    status: str
    started_at: int | None
    finished_at: int | None
    tags: dict[str, str]  # those of the tags asked for that the run has
    artifact_uri: str = ""

    @property
    def times(self) -> tuple[int, int]:
        """When it started and when it ended, in milliseconds since 1970."""
        ended = self.finished_at or 0
        return (ended if self.started_at is None else self.started_at, ended)

    @property
    def phase(self) -> str:
        """Of the run of an entry point, which one."""
        return self.tags.get(Tag.PHASE, "")


@dataclass(frozen=True, slots=True)
class ScoreStep:
    """One step of a per-question metric; the newest of a step's values."""

    metric: str
    question: int
    score: float


@dataclass(frozen=True, slots=True)
class RawPoints:
    """The evaluations of an experiment as a source gives them."""

    tagged: list[RunText]  # with the text of the tag that `massact.store.schema.point_tag` names
    others: list[RawRun]  # evaluations without that tag, with their whole row
    failed: list[RawRun]  # evaluations that failed, with row, error and key
    n_foreign: int  # finished runs without a kind of ours in the MLflow experiments that hold these


class RunSource(Protocol):
    """Where raw runs come from, never deleted ones. Every method raises `StoreError` where the store cannot be read."""

    notes: tuple[str, ...]  # what there is to say of it beside its runs

    def runs(self, experiment: str, *, kind: Kind | None, statuses: Sequence[str], tags: Sequence[str]) -> list[RawRun]:
        """The runs of a kind, `None` for any of ours; empty `statuses` means any."""

    def pages(self, experiment: str, kinds: Collection[str], *, tags: Sequence[str]) -> Iterator[list[RawRun]]:
        """The finished runs of some kinds, superseded ones too, a page at a time, in constant memory and no order.
        Between two pages nothing is held open, so that no writer waits for a reader that takes its time."""

    def last_child_ends(self, run_ids: Collection[str]) -> dict[str, int]:
        """When the last of a run's children ended (ms since 1970); absent where none has."""

    def experiment_tags(self, prefix: str) -> list[dict[str, str]]:
        """Of each MLflow experiment that has such, its tags whose keys begin with a prefix."""

    def experiments(self) -> list[str]:
        """The names of the experiments that there are runs of, in no order."""

    def points(self, experiment: str) -> RawPoints:
        """The evaluations of an experiment: of the finished ones no more than their points."""

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        """Those of the runs that are finished."""

    def finished_values(self, run_ids: Sequence[str], tag: str) -> dict[str, str]:
        """One tag of those of the runs that are finished and have it; of many runs faster than `finished_runs`."""

    def score_steps(self, run_ids: Sequence[str]) -> dict[str, list[ScoreStep]]:
        """The per-question metrics of runs, NaN and infinite ones left out; a step's newest value counts."""

    def close(self) -> None:
        """Let go of connections."""


# Raw runs as a tracking server with the query API serves them to our own reader, as JSON. Of a point's text the last
# line, which all coefficients of a layer share, is sent once: it is the most of it.

WIRE_TYPE = "application/vnd.massact.raw; version=3"
"""The media type of all answers; another version is another reader's."""
MAX_RUN_IDS = 250_000  # runs that are asked about in one request


def packed(**values: Any) -> bytes:
    """What a source gives as JSON: runs and steps as lists of their fields."""
    fields = lambda value: [getattr(value, name) for name in value.__slots__]  # noqa: E731
    return json.dumps(values, separators=(",", ":"), default=fields).encode()


def pack_points(points: RawPoints) -> bytes:
    """The evaluations of an experiment."""
    ends: dict[str, int] = {}
    tagged = []
    for run_id, finished_at, text in points.tagged:
        start = text.rfind("\n") + 1
        tagged.append((run_id, finished_at, text[:start], ends.setdefault(text[start:], len(ends))))
    others, failed = points.others, points.failed
    return packed(ends=list(ends), tagged=tagged, others=others, failed=failed, n_foreign=points.n_foreign)


def unpack_points(data: bytes) -> RawPoints:
    """What `pack_points` wrote. Raises ValueError, KeyError, IndexError, TypeError: it is something else."""
    values = parse_object(data)
    ends = values["ends"]
    tagged = [(run_id, finished_at, text + ends[end]) for run_id, finished_at, text, end in values["tagged"]]
    return RawPoints(tagged, as_runs(values["others"]), as_runs(values["failed"]), values["n_foreign"])


def as_runs(values: Iterable[Any]) -> list[RawRun]:
    """Runs from lists of their fields."""
    return [RawRun(*fields) for fields in values]
