"""The run store over any source of raw runs: decodes rows, keeps one run per key."""

from collections.abc import Callable, Iterable, Sequence

from massact._gc import collector_paused
from massact.errors import UnusableStoreError
from massact.store.read.base import (
    FINISHED,
    Failure,
    PhaseRun,
    RawPoints,
    RawRun,
    RowT,
    RunSource,
    ScoreStep,
    Stored,
    newest_per_key,
)
from massact.store.schema import (
    COHERENCE_SCORE,
    ROW_TAGS,
    TRAIT_SCORE,
    Declared,
    EvaluationRow,
    Kind,
    Points,
    PublishedRow,
    Scores,
    StageRow,
    Tag,
    declared_prefix,
    decode_declared,
    decode_evaluation,
    decode_many_scores,
    decode_points,
    decode_published,
    decode_stage,
    point_of,
)

_STAGES = (Kind.CALIBRATION, Kind.EXTRACTION)


class StoreReader:
    """A `RunStore` over a `RunSource`; build it with `massact.store.read.open_store`."""

    def __init__(self, source: RunSource) -> None:
        self._source = source
        self._unreadable: dict[str, None] = {}
        self._n_foreign: dict[str, int] = {}
        self._undeclared: dict[str, None] = {}

    @property
    def warnings(self) -> list[str]:
        """What was left out of the answers so far, and why."""
        others = [*self._source.notes, *self._undeclared]
        count = len(self._unreadable)
        if not count:
            return others
        runs = "1 run holds" if count == 1 else f"{count} runs hold"
        said = f"{runs} a row that cannot be read, left out (first: {next(iter(self._unreadable))})"
        return [said, *others]

    def experiments(self) -> list[str]:
        """The names of the experiments that it holds runs of, sorted."""
        return sorted(self._source.experiments())

    def declared(self, experiment: str) -> Declared | None:
        """What the experiment's file declared when a phase of it last ran; `None` where the store does not say."""
        _check_named(experiment)
        found: list[tuple[int, Declared]] = []
        for tags in self._source.experiment_tags(declared_prefix(experiment)):
            try:
                one = decode_declared(experiment, tags)
            except ValueError as error:
                said = f"what the store keeps of the experiment file cannot be read ({error}): run a phase of it again"
                self._undeclared[said] = None
            else:
                found += [one] if one else []
        return max(found, key=lambda one: one[0])[1] if found else None

    def points(self, experiment: str) -> Points:
        """The finished evaluations as questions see them, one per key, in no order.

        From the tag made for it; of a run without a readable one, from its whole row.
        """
        with collector_paused():
            return self._points(experiment, self._raw_points(experiment))

    def points_and_failures(self, experiment: str) -> tuple[Points, list[Failure]]:
        """The points, and the newest failed run of each evaluation that has no finished run."""
        with collector_paused():
            raw = self._raw_points(experiment)
            points = self._points(experiment, raw)
            return points, self._failures(raw.failed, set(points.keys) if raw.failed else set())

    def failures(self, experiment: str) -> list[Failure]:
        """The newest failed run of each evaluation that has no finished run."""
        return self.points_and_failures(experiment)[1]

    def _raw_points(self, experiment: str) -> RawPoints:
        _check_named(experiment)
        raw = self._source.points(experiment)
        self._n_foreign[experiment] = raw.n_foreign
        return raw

    def _points(self, experiment: str, raw: RawPoints) -> Points:
        points, unreadable = decode_points(experiment, raw.tagged)
        others = raw.others + self._source.finished_runs(unreadable, tags=(Tag.ROW,))
        rows = self._decoded(others, Kind.EVALUATION, decode_evaluation)
        found = (point_of(one.row, one.run_id, one.finished_at) for one in rows)
        return points.joined([point for point in found if point is not None]).newest()

    def _failures(self, failed: Sequence[RawRun], finished: set[str]) -> list[Failure]:
        errors = {run.run_id: run.tags.get(Tag.ERROR, "") for run in failed}
        open_runs = [run for run in failed if run.tags.get(Tag.KEY) not in finished]
        newest = newest_per_key(self._decoded(open_runs, Kind.EVALUATION, decode_evaluation))
        return [
            Failure(run.run_id, run.finished_at, errors[run.run_id], run.row)
            for run in newest
            if run.row.key not in finished
        ]

    def rows(self, run_ids: Iterable[str]) -> dict[str, EvaluationRow]:
        """The whole rows of finished runs; a run that holds no readable one is absent."""
        found = self._source.finished_runs(list(dict.fromkeys(run_ids)), tags=ROW_TAGS)
        return {one.run_id: one.row for one in self._decoded(found, None, decode_evaluation)}

    def evaluations(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """The finished evaluations whole, one per key, the oldest first."""
        return newest_per_key(self._rows(experiment, Kind.EVALUATION, decode_evaluation))

    def baselines(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """The finished baselines, one per key, the oldest first."""
        return newest_per_key(self._rows(experiment, Kind.BASELINE, decode_evaluation))

    def confirmations(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """The finished confirmations, their baselines too, one per key, the oldest first."""
        return newest_per_key(self._rows(experiment, Kind.CONFIRMATION, decode_evaluation))

    def screenings(self, experiment: str) -> list[Stored[EvaluationRow]]:
        """Cells that were given up on a part of their questions, one per key, the oldest first."""
        return newest_per_key(self._rows(experiment, Kind.SCREENING, decode_evaluation))

    def stages(self, kind: Kind, experiment: str) -> list[Stored[StageRow]]:
        """The finished calibrations or extractions, one per key, the oldest first.

        Raises:
            ValueError: `kind` is not a stage.
            StoreError: the store cannot be read.
        """
        if kind not in _STAGES:
            raise ValueError(f"{kind!r} is not a stage; there are {', '.join(_STAGES)}")
        return newest_per_key(self._rows(experiment, kind, decode_stage))

    def published(self, experiment: str) -> list[Stored[PublishedRow]]:
        """The published figures, one per key, the oldest first."""
        return newest_per_key(self._rows(experiment, Kind.PUBLISHED, decode_published))

    def count_foreign(self, experiment: str) -> int:
        """Finished runs of other tools in the MLflow experiments that hold this one's evaluations.

        As of the last reading of its points.
        """
        if experiment not in self._n_foreign:
            self.points(experiment)
        return self._n_foreign[experiment]

    def phases(self, experiment: str) -> list[PhaseRun]:
        """The runs of entry points in any status, by their start."""
        raw = self._runs(experiment, Kind.PHASE, (), (Tag.PHASE,))
        return [
            PhaseRun(run.run_id, run.tags.get(Tag.PHASE, ""), run.status, run.started_at, run.finished_at)
            for run in sorted(raw, key=_start)
        ]

    def finished_keys(self, experiment: str) -> dict[str, str]:
        """Key to run id of every finished evaluation, baseline, calibration and extraction.

        The points are decoded, not the key's tag read: a key whose evaluation no query can read is
        not finished, or its place would stay empty for ever.
        """
        points = self.points(experiment)
        keys = dict(zip(points.keys, points.run_ids, strict=True))
        keys.update({run.row.key: run.run_id for run in self.baselines(experiment)})
        for kind in _STAGES:
            keys.update({run.row.key: run.run_id for run in self.stages(kind, experiment)})
        return keys

    def scores(self, run_ids: Iterable[str]) -> dict[str, Scores]:
        """Per-question scores of finished runs; a run that holds no readable row is absent.

        From the tag `massact.scores`, and where that is absent (too long for a tag) or cannot be read
        from the stepped metrics, which hold the same.
        """
        asked = list(dict.fromkeys(run_ids))
        with collector_paused():
            texts = self._source.finished_values(asked, Tag.SCORES)
            decoded = zip(texts, decode_many_scores(list(texts.values())), strict=True)
            found = {run_id: scores for run_id, scores in decoded if scores is not None}
        others = self._source.finished_runs([one for one in asked if one not in found], tags=(Tag.ROW,))
        rows = self._decoded(others, None, decode_evaluation)
        steps = self._source.score_steps([one.run_id for one in rows]) if rows else {}
        for one in rows:
            found[one.run_id] = _stepped_scores(steps.get(one.run_id, []), one.row)
        return found

    def close(self) -> None:
        """Let go of connections."""
        self._source.close()

    def _rows(
        self, experiment: str, kind: Kind, decode: Callable[[str, str | None], RowT]
    ) -> list[Stored[RowT]]:
        return self._decoded(self._runs(experiment, kind, (FINISHED,), ROW_TAGS), kind, decode)

    def _runs(
        self, experiment: str, kind: Kind, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        _check_named(experiment)
        return self._source.runs(experiment, kind=kind, statuses=statuses, tags=tags)

    def _decoded(
        self, runs: Iterable[RawRun], kind: Kind | None, decode: Callable[[str, str | None], RowT]
    ) -> list[Stored[RowT]]:
        decoded = []
        for run in sorted(runs, key=_start):
            try:
                row = decode(run.tags.get(Tag.ROW, ""), run.tags.get(Tag.CELL))
            except (ValueError, TypeError):
                self._unreadable[run.run_id] = None
                continue
            if kind is not None and row.kind != kind:
                self._unreadable[run.run_id] = None
                continue
            decoded.append(Stored(run.run_id, run.status, run.finished_at, row))
        return decoded


def _check_named(experiment: str) -> None:
    if not experiment:
        raise UnusableStoreError("no experiment named: give the name that the experiment file declares")


def _start(run: RawRun) -> tuple[int, str]:
    return (run.started_at if run.started_at is not None else -1, run.run_id)


_MOST_QUESTIONS = 1_000_000
"""No set of questions is larger, whatever a row or a step says; so many take 16 MB a run."""


def _stepped_scores(steps: Sequence[ScoreStep], row: EvaluationRow) -> Scores:
    steps = [step for step in steps if 0 <= step.question < _MOST_QUESTIONS]
    n_questions = row.n_questions
    if n_questions is None or n_questions > _MOST_QUESTIONS or (row.origin == "imported" and not steps):
        # a file may claim any number, or none: as many as have a score
        n_questions = max((step.question + 1 for step in steps), default=0)
    values: dict[str, list[float | None]] = {
        metric: [None] * n_questions for metric in (TRAIT_SCORE, COHERENCE_SCORE)
    }
    for step in steps:
        if step.question < n_questions and step.metric in values:
            values[step.metric][step.question] = step.score
    return Scores(tuple(values[TRAIT_SCORE]), tuple(values[COHERENCE_SCORE]))
