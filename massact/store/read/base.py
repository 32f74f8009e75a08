"""What a run store answers, whatever holds it: a tracking database or a tracking server.

A query sees finished runs only, each key once (the newest finished run), and never a run or an
MLflow experiment that was deleted. The experiment asked for is the experiment file's name, kept in
the tag `massact.experiment`: under `mlflow run` the runs of one file lie in other MLflow experiments.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from massact.store.schema import (
    Declared,
    EvaluationRow,
    Kind,
    Points,
    PublishedRow,
    RunText,
    Scores,
    StageRow,
)

RowT = TypeVar("RowT", EvaluationRow, StageRow, PublishedRow)

FINISHED, FAILED = "FINISHED", "FAILED"
"""MLflow's run statuses that queries ask for."""
UNENDED = ("RUNNING", "SCHEDULED")
"""Those of runs without an end."""


@dataclass(frozen=True, slots=True)
class Stored(Generic[RowT]):
    """A row and the run that holds it."""

    run_id: str
    status: str
    """MLflow's status of the run, such as `FINISHED` or `FAILED`."""
    finished_at: int | None
    """Milliseconds since 1970; `None` where the run has no end."""
    row: RowT


@dataclass(frozen=True, slots=True)
class Failure:
    """An evaluation that failed and was not finished since."""

    run_id: str
    finished_at: int | None
    """Milliseconds since 1970; `None` where the run has no end."""
    error: str
    """The error's text; empty where the run holds none."""
    row: EvaluationRow


@dataclass(frozen=True, slots=True)
class PhaseRun:
    """The run of an entry point, finished or not."""

    run_id: str
    phase: str
    status: str
    started_at: int | None
    """Milliseconds since 1970."""
    finished_at: int | None
    """Milliseconds since 1970; `None` while it runs, or where it was killed."""


class RunStore(Protocol):
    """Reads what `massact.store.write` wrote. Every method raises `StoreError` where it cannot."""

    @property
    def warnings(self) -> list[str]:
        """What was left out of the answers so far, and why."""

    def answer(self, asked: Mapping[str, Any]) -> bytes | None:
        """A tracking server's own answer to a question; `None` where the store answers none."""

    def experiments(self) -> list[str]:
        """The names of the experiments that it holds runs of, sorted."""

    def declared(self, experiment: str) -> Declared | None:
        """What the experiment's file declared when a phase of it last ran; `None` where the store does not say."""

    def points(self, experiment: str) -> Points:
        """The finished evaluations as questions see them, one per key, in no order."""

    def evaluations(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """The finished evaluations whole, one per key, the oldest first."""

    def rows(self, run_ids: Iterable[str]) -> dict[str, EvaluationRow]:
        """The whole rows of finished runs; a run that holds no readable one is absent."""

    def baselines(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """The finished baselines, one per key, the oldest first."""

    def confirmations(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """The finished confirmations, their baselines too, one per key, the oldest first."""

    def screenings(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """Cells that were given up on a part of their questions, one per key, the oldest first."""

    def points_and_failures(self, experiment: str) -> tuple[Points, list[Failure]]:
        """The points, and the newest failed run of each evaluation that has no finished run."""

    def failures(self, experiment: str) -> list[Failure]:
        """The newest failed run of each evaluation that has no finished run."""

    def published(self, experiment: str) -> list[Stored[PublishedRow]]:
        """The published figures, one per key, the oldest first."""

    def count_foreign(self, experiment: str) -> int:
        """Finished runs of other tools in the MLflow experiments that hold this one's evaluations.

        As of the last reading of its points.
        """

    def stages(self, kind: Kind, experiment: str) -> list[Stored[StageRow]]:
        """The finished calibrations or extractions, one per key, the oldest first."""

    def phases(self, experiment: str) -> list[PhaseRun]:
        """The runs of entry points in any status, by their start."""

    def finished_keys(self, experiment: str) -> dict[str, str]:
        """Key to run id of every finished evaluation, baseline, calibration and extraction."""

    def scores(self, run_ids: Iterable[str]) -> dict[str, Scores]:
        """Per-question scores of finished runs; a run that holds no readable row is absent."""

    def close(self) -> None:
        """Let go of connections."""


def newest_per_key(runs: Iterable[Stored[RowT]]) -> list[Stored[RowT]]:
    """Each key's newest run (by end, then run id), the oldest first."""
    newest: dict[str, Stored[RowT]] = {}
    for run in sorted(runs, key=_age):
        newest.pop(run.row.key, None)
        newest[run.row.key] = run
    return list(newest.values())


def _age(run: Stored[RowT]) -> tuple[int, str]:
    return (run.finished_at if run.finished_at is not None else -1, run.run_id)


@dataclass(frozen=True, slots=True)
class RawRun:
    """A run as a source gives it: tags undecoded."""

    run_id: str
    status: str
    started_at: int | None
    finished_at: int | None
    tags: dict[str, str]
    """Those of the tags asked for that the run has."""
    artifact_uri: str = ""
    """Where its artifacts lie."""


@dataclass(frozen=True, slots=True)
class ScoreStep:
    """One step of a per-question metric; the newest of a step's values."""

    metric: str
    question: int
    score: float


@dataclass(frozen=True, slots=True)
class RawPoints:
    """The evaluations of an experiment as a source gives them."""

    tagged: list[RunText]
    """With the text of the tag that `massact.store.schema.point_tag` names."""
    others: list[RawRun]
    """Evaluations without that tag, with their whole row."""
    failed: list[RawRun]
    """Evaluations that failed, with row, error and key."""
    n_foreign: int
    """Finished runs without a kind of ours in the MLflow experiments that hold these."""


class RunSource(Protocol):
    """Where raw runs come from. Runs and MLflow experiments that were deleted never do."""

    notes: tuple[str, ...]
    """What there is to say of it beside its runs."""

    def runs(
        self, experiment: str, *, kind: Kind, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        """The runs of a kind; empty `statuses` means any."""

    def stream(self, experiment: str, kind: Kind, *, tags: Sequence[str]) -> Iterator[RawRun]:
        """The finished runs of a kind, superseded ones too, in constant memory and no order."""

    def pages(
        self, experiment: str, kinds: Collection[str], *, tags: Sequence[str]
    ) -> Iterator[list[RawRun]]:
        """The finished runs of some kinds, superseded ones too, a page at a time, in constant memory.

        Between two pages nothing is held open, so that no writer waits for a reader that takes its time.
        """

    def unended(self, experiment: str, *, tags: Sequence[str]) -> list[RawRun]:
        """The runs of any kind that have no end: at work, or left by a process that died."""

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
        """The per-question metrics of runs, NaN left out."""

    def close(self) -> None:
        """Let go of connections."""


class NoRuns(RunSource):
    """What there is before a run store was made."""

    notes = ()

    def runs(self, *_: object, **__: object) -> list[RawRun]:
        """None."""
        return []

    unended = finished_runs = runs

    def stream(self, *_: object, **__: object) -> Iterator[RawRun]:
        """None."""
        return iter(())

    def pages(self, *_: object, **__: object) -> Iterator[list[RawRun]]:
        """None."""
        return iter(())

    def experiment_tags(self, *_: object) -> list[dict[str, str]]:
        """None."""
        return []

    def experiments(self) -> list[str]:
        """None."""
        return []

    def points(self, *_: object) -> RawPoints:
        """None."""
        return RawPoints([], [], [], 0)

    def last_child_ends(self, *_: object) -> dict[str, int]:
        """None."""
        return {}

    def finished_values(self, *_: object) -> dict[str, str]:
        """None."""
        return {}

    def score_steps(self, *_: object) -> dict[str, list[ScoreStep]]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""
