"""Reading the run store: SQL on a database, REST on a server. Writes nothing, loads neither torch nor mlflow."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partialmethod
from typing import Any, NamedTuple, cast

from massact._gc import collector_paused
from massact.addresses import is_database, scheme_of, shown_uri
from massact.errors import UnusableStoreError
from massact.plugins import load_plugin, plugin_names
from massact.store.read.base import FINISHED, Failure, RawPoints, RawRun, RunSource, ScoreStep, Stored, newest_per_key
from massact.store.retry import Patience
from massact.store.schema import EvaluationRow, PublishedRow, Scores, StageRow
from massact.store.schema.declared import Declared, declared_prefix, decode_declared
from massact.store.schema.names import COHERENCE_SCORE, ROW_TAGS, TRAIT_SCORE, Kind, Tag
from massact.store.schema.points import Points, decode_points, point_of
from massact.store.schema.rows import AgreementRow, CapabilityRow, decode_many_scores, decode_metric, metric_tag, row_of
from massact.words import counted

# The run store over any source of raw runs: decodes rows, keeps one run per key.

_STAGES = (Kind.CALIBRATION, Kind.EXTRACTION)


class RunStore:
    """Reads what `massact.store.write` wrote; see `open_store`. Every method raises `StoreError` where it cannot."""

    def __init__(self, source: RunSource) -> None:
        self._source = source
        self._unreadable: dict[str, None] = {}
        self._n_foreign: dict[str, int] = {}
        self._undeclared: dict[str, None] = {}

    @property
    def warnings(self) -> list[str]:
        """What was left out of the answers so far, and why."""
        warnings = [*self._source.notes, *self._undeclared]
        if count := len(self._unreadable):
            runs = counted(count, "run holds", "runs hold")
            first = next(iter(self._unreadable))
            warnings.insert(0, f"{runs} a row that cannot be read, left out (first: {first})")
        return warnings

    def answer(self, asked: Mapping[str, Any]) -> bytes | None:
        """A tracking server's own answer to a question; `None` where the store answers none."""
        ask: Callable[[Mapping[str, Any]], bytes | None] | None = getattr(self._source, "answer", None)
        return ask(asked) if ask else None

    def experiments(self) -> list[str]:
        """The names of the experiments that it holds runs of, sorted."""
        return sorted(self._source.experiments())

    def declared(self, experiment: str) -> Declared | None:
        """What the experiment's file declared when a phase of it last ran; `None` where the store does not say."""
        _check_named(experiment)
        dated: list[tuple[int, Declared]] = []
        for tags in self._source.experiment_tags(declared_prefix(experiment)):
            try:
                declared = decode_declared(experiment, tags)
            except ValueError as error:
                said = f"what the store keeps of the experiment file cannot be read ({error}): run a phase of it again"
                self._undeclared[said] = None
            else:
                dated += [declared] if declared else []
        return max(dated, key=lambda pair: pair[0])[1] if dated else None

    def points(self, experiment: str) -> Points:
        """The finished evaluations as questions see them, one per key, in no order, from their tags or rows."""
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
        rows = self._decoded(others, Kind.EVALUATION)
        more = (point_of(run.row, run.run_id, run.finished_at) for run in rows)
        return points.joined([point for point in more if point is not None]).newest()

    def _failures(self, failed: Sequence[RawRun], finished: set[str]) -> list[Failure]:
        open_runs = [run for run in failed if run.tags.get(Tag.KEY) not in finished]
        return [run for run in newest_per_key(self._decoded(open_runs, Kind.EVALUATION)) if run.row.key not in finished]

    def rows(self, run_ids: Iterable[str]) -> dict[str, EvaluationRow]:
        """The whole rows of finished runs; a run that holds no readable one is absent."""
        runs = self._source.finished_runs(list(dict.fromkeys(run_ids)), tags=ROW_TAGS)
        return {run.run_id: run.row for run in self._decoded(runs, None)}

    def evaluations(self, experiment: str, kind: Kind = Kind.EVALUATION) -> list[Stored[EvaluationRow]]:
        """The finished evaluations whole, one per key, the oldest first; likewise all that follow."""
        return self._rows(experiment, kind)

    baselines = partialmethod(evaluations, kind=Kind.BASELINE)
    confirmations = partialmethod(evaluations, kind=Kind.CONFIRMATION)  # and their baselines
    controls = partialmethod(evaluations, kind=Kind.CONTROL)  # what winners are held against
    side_effects = partialmethod(evaluations, kind=Kind.SIDE_EFFECT)  # scored for other traits, baselines too
    screenings = partialmethod(evaluations, kind=Kind.SCREENING)  # given up on a part of their questions

    def stages(self, kind: Kind, experiment: str) -> list[Stored[StageRow]]:
        """The calibrations or extractions; ValueError for another kind."""
        if kind not in _STAGES:
            raise ValueError(f"{kind!r} is not a stage; there are {', '.join(_STAGES)}")
        return self._rows(experiment, kind)

    def published(self, experiment: str) -> list[Stored[PublishedRow]]:
        """The published figures."""
        return self._rows(experiment, Kind.PUBLISHED)

    def agreements(self, experiment: str) -> list[Stored[AgreementRow]]:
        """Judges held against people."""
        return self._rows(experiment, Kind.AGREEMENT)

    def capabilities(self, experiment: str) -> list[Stored[CapabilityRow]]:
        """What interventions cost on tasks."""
        return self._rows(experiment, Kind.CAPABILITY)

    def count_foreign(self, experiment: str) -> int:
        """Finished runs of other tools beside this experiment's evaluations, as of the last reading of its points."""
        if experiment not in self._n_foreign:
            self.points(experiment)
        return self._n_foreign[experiment]

    def phases(self, experiment: str) -> list[RawRun]:
        """The runs of entry points in any status, by their start."""
        _check_named(experiment)
        tags = (Tag.PHASE, Tag.CONTENT)
        return sorted(self._source.runs(experiment, kind=Kind.PHASE, statuses=(), tags=tags), key=_start)

    def finished_keys(self, experiment: str) -> dict[str, str]:
        """Key to run id of every finished evaluation, baseline, calibration and extraction. The points are decoded, not
        the key's tag read: a key whose evaluation no query can read is not finished, or its place would stay empty for
        ever."""
        points = self.points(experiment)
        keys = dict(zip(points.keys, points.run_ids, strict=True))
        keys.update({run.row.key: run.run_id for run in self.baselines(experiment)})
        for kind in _STAGES:
            keys.update({run.row.key: run.run_id for run in self.stages(kind, experiment)})
        return keys

    def scores(self, run_ids: Iterable[str]) -> dict[str, Scores]:
        """Per-question scores of finished runs; a run that holds no readable row is absent. From the tag
        `massact.scores`, and where that is too long, or damaged, from the stepped metrics, which hold the same."""
        asked = list(dict.fromkeys(run_ids))
        with collector_paused():
            texts = self._source.finished_values(asked, Tag.SCORES)
            pairs = zip(texts, decode_many_scores(list(texts.values())), strict=True)
            scores = {run_id: decoded for run_id, decoded in pairs if decoded is not None}
        rows = self.rows([run_id for run_id in asked if run_id not in scores])
        steps = self._source.score_steps(list(rows)) if rows else {}
        return scores | {run_id: _stepped_scores(steps.get(run_id, []), row) for run_id, row in rows.items()}

    def with_metrics(self, scores: Mapping[str, Scores], names: Iterable[str]) -> dict[str, Scores]:
        """The same scores, by run, with metrics by question; a run that has none of a metric stays without."""
        found: dict[str, dict[str, tuple[float | None, ...]]] = {run_id: {} for run_id in scores}
        for name in names:
            for run_id, text in self._source.finished_values(list(scores), metric_tag(name)).items():
                with suppress(ValueError, TypeError):
                    found[run_id][name] = decode_metric(text)
        return {run_id: replace(score, metrics=found[run_id]) for run_id, score in scores.items()}

    def close(self) -> None:
        self._source.close()

    def _rows(self, experiment: str, kind: Kind) -> list[Stored[Any]]:
        _check_named(experiment)
        runs = self._source.runs(experiment, kind=kind, statuses=(FINISHED,), tags=ROW_TAGS)
        return newest_per_key(self._decoded(runs, kind))

    def _decoded(self, runs: Iterable[RawRun], kind: Kind | None) -> list[Stored[Any]]:
        decoded = []
        for run in sorted(runs, key=_start):
            if row := row_of(kind, run.tags):
                error = run.tags.get(Tag.ERROR, "")
                decoded.append(Stored(run.run_id, run.status, run.finished_at, row, error))
            else:
                self._unreadable[run.run_id] = None
        return decoded


def _check_named(experiment: str) -> None:
    if not experiment:
        raise UnusableStoreError("no experiment named: give the name that the experiment file declares")


def _start(run: RawRun) -> tuple[int, str]:
    return (run.started_at if run.started_at is not None else -1, run.run_id)


_MOST_QUESTIONS = 1_000_000  # no set of questions is larger, whatever a row or a step says; so many take 16 MB a run


def _stepped_scores(steps: Sequence[ScoreStep], row: EvaluationRow) -> Scores:
    steps = [step for step in steps if 0 <= step.question < _MOST_QUESTIONS]
    n_questions = row.n_questions
    if n_questions is None or n_questions > _MOST_QUESTIONS or (row.origin == "imported" and not steps):
        # a file may claim any number, or none: as many as have a score
        n_questions = max((step.question + 1 for step in steps), default=0)
    values: dict[str, list[float | None]] = {metric: [None] * n_questions for metric in (TRAIT_SCORE, COHERENCE_SCORE)}
    for step in steps:
        if step.question < n_questions and step.metric in values:
            values[step.metric][step.question] = step.score
    return Scores(tuple(values[TRAIT_SCORE]), tuple(values[COHERENCE_SCORE]))


_ALLOWED = "sqlite:///PATH, postgresql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST"


def open_source(tracking_uri: str) -> RunSource:
    """The source at a tracking URI, checked to be one; StoreError else. Nothing is created or changed."""
    # sqlalchemy and requests are imported only by the one that needs them
    if is_database(tracking_uri):
        from massact.store.read.sql import SqlSource

        return SqlSource(tracking_uri.strip())
    scheme = scheme_of(tracking_uri)
    if scheme in ("http", "https"):
        from massact.store.read.rest import RestSource

        return RestSource(tracking_uri.strip())
    if scheme in plugin_names("stores"):
        source: RunSource = load_plugin("stores", scheme)(tracking_uri.strip())
        return source
    raise UnusableStoreError(
        f"tracking URI {shown_uri(tracking_uri)!r} names no run store that can be read; write {_ALLOWED}"
    )


def open_store(tracking_uri: str, *, may_be_absent: bool = False) -> RunStore:
    """The run store at a tracking URI, checked to be one. Nothing is created or changed. `may_be_absent`: whether one
    that is not made yet is one that holds nothing."""
    if may_be_absent:
        from massact.store.databases import is_absent
        from massact.store.read.sql import NoRuns

        if is_absent(tracking_uri):
            return RunStore(NoRuns())
    return RunStore(open_source(tracking_uri))


class _PatientStore:
    """Passes every reading on to a store that it opens, and opens anew after a failure."""

    def __init__(self, tracking_uri: str, patience: Patience) -> None:
        self._uri, self._patience = tracking_uri, patience
        self._store: RunStore | None = None
        self._warnings: list[str] = []
        self._patience.ask(self._open)

    @property
    def warnings(self) -> list[str]:
        return [*self._warnings, *(self._store.warnings if self._store else [])]

    def close(self) -> None:
        if self._store is not None:
            self._warnings += self._store.warnings
            self._store.close()
        self._store = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            return self._patience.ask(lambda: self._read(name, args, kwargs))

        return read

    def _read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return getattr(self._open(), name)(*args, **kwargs)
        except Exception:
            self.close()
            raise

    def _open(self) -> RunStore:
        if self._store is None:
            self._store = open_store(self._uri, may_be_absent=not self._patience.is_under_way)
        return self._store


def open_patient_store(tracking_uri: str, patience: Patience) -> RunStore:
    """The run store at a tracking URI, read with patience; one that is not there yet holds nothing."""
    return cast(RunStore, _PatientStore(tracking_uri, patience))


# Finished runs one by one, in constant memory: for imports, which ask what is there, and for exports.

_CONTENT_KINDS = (Kind.EVALUATION, Kind.BASELINE, Kind.CALIBRATION, Kind.PUBLISHED)


def stored_contents(tracking_uri: str, experiment: str) -> Iterator[RawRun]:
    """Every finished result of an experiment that is not deleted, with what it is known again by: its key and, where it
    was imported, the digest of its line. A store that is not there yet has none."""
    from massact.store.databases import is_absent

    if not is_absent(tracking_uri):
        runs = stored_runs(tracking_uri, experiment, *_CONTENT_KINDS, tags=(Tag.KEY, Tag.CONTENT, Tag.KIND))
        yield from (run for run in runs if Tag.KEY in run.tags)


class StoredStage(NamedTuple):
    """A finished calibration or extraction."""

    run: RawRun
    row: StageRow


def stored_stages(tracking_uri: str, experiment: str, kind: Kind) -> list[StoredStage]:
    """The finished calibrations or extractions whose row can be read, superseded ones too, the newest last."""
    runs = stored_runs(tracking_uri, experiment, kind, tags=ROW_TAGS)
    stages = [StoredStage(run, row) for run in runs if (row := row_of(kind, run.tags))]
    return sorted(stages, key=lambda stage: (stage.run.finished_at or -1, stage.run.run_id))


def stored_runs(tracking_uri: str, experiment: str, *kinds: Kind, tags: Sequence[str]) -> Iterator[RawRun]:
    """The finished runs of some kinds that are not deleted, superseded ones too, in no order."""
    source = open_source(tracking_uri)
    try:
        for page in source.pages(experiment, kinds, tags=tags):
            yield from page
    finally:
        source.close()
