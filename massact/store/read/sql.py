"""Raw runs by SQL from MLflow's tracking database: SQLite or PostgreSQL, read only."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from massact.store.databases import (
    EXPERIMENT_TAGS,
    EXPERIMENTS,
    METADATA,
    METRICS,
    RUNS,
    TAGS,
    check_schema,
    database_errors,
    open_database,
    reading_error,
)
from massact.store.read.base import FAILED, FINISHED, RawPoints, RawRun, RunSource, ScoreStep
from massact.store.schema import Kind, Tag, point_tag
from massact.store.schema.names import COHERENCE_SCORE, POINT_KEYS, TRAIT_SCORE

_MANY = 5000  # runs that are looked at one by one
_FEW = 500  # runs that are looked up, however many others there are
_ROWS_PER_LOOKUP = 12
_IDS_PER_QUERY = 500  # SQLite before 3.32 takes 999 variables
_ROWS_PER_FETCH = 1000
_RUN_COLUMNS = (RUNS.c.run_uuid, RUNS.c.status, RUNS.c.start_time, RUNS.c.end_time, RUNS.c.artifact_uri)
_OF_OURS = (Tag.KIND, Tag.EXPERIMENT)


class SqlSource(RunSource):
    """A `RunSource` over a tracking database. `readable`: the MLflow experiments that exist for whoever asks; `None`:
    all. Of others nothing is told. `statement_seconds`: how long PostgreSQL works on one statement at most; `None`: as
    long as it takes."""

    def __init__(
        self, uri: str, *, readable: frozenset[int] | None = None, statement_seconds: float | None = None
    ) -> None:
        self._readable = readable
        self._engine, self._name = open_database(uri, statement_seconds=statement_seconds)
        self._errors = partial(database_errors, partial(reading_error, name=self._name))
        with self._errors():
            self.notes = check_schema(self._engine, self._name)

    def runs(self, experiment: str, *, kind: Kind | None, statuses: Sequence[str], tags: Sequence[str]) -> list[RawRun]:
        if kind not in (None, Kind.EVALUATION):
            # those that are no evaluations of a grid are few, where a look through every tag would come to all
            ended = self._active(sa.select(RUNS.c.run_uuid))
            ended = ended.where(RUNS.c.status.in_(statuses)) if statuses else ended
            others = dict.fromkeys(run_id for (run_id,) in self._fetch(ended))
            self._drop_pointed(others)
            if len(others) <= _MANY:
                return self._runs_by_id(self._of_kind(experiment, kind, list(others)), statuses, tags)
        query = self._having_tag(self._select_runs(statuses, tags), Tag.EXPERIMENT, experiment)
        return [_raw_run(row, tags) for row in self._fetch(self._having_tag(query, Tag.KIND, kind))]

    def pages(self, experiment: str, kinds: Collection[str], *, tags: Sequence[str]) -> Iterator[list[RawRun]]:
        keys = sorted({str(key) for key in (*tags, *_OF_OURS)})
        query = self._active(sa.select(*_RUN_COLUMNS)).where(RUNS.c.status == FINISHED)
        query, last = query.order_by(RUNS.c.run_uuid).limit(_ROWS_PER_FETCH), ""
        while rows := self._fetch(query.where(RUNS.c.run_uuid > last)):
            last = rows[-1][0]
            known = self._tags_of([row[0] for row in rows], keys)
            page = []
            for row in rows:
                values = known.get(row[0], {})
                if values.get(Tag.EXPERIMENT) == experiment and values.get(Tag.KIND) in kinds:
                    page.append(_raw_run((*row, *map(values.get, map(str, tags))), tags))
            yield page

    def last_child_ends(self, run_ids: Collection[str]) -> dict[str, int]:
        parent = TAGS.c.value
        query: sa.Select[Any] = sa.select(parent, sa.func.max(RUNS.c.end_time)).join_from(
            TAGS, RUNS, TAGS.c.run_uuid == RUNS.c.run_uuid
        )
        query = self._active(query).where(TAGS.c.key == str(Tag.PARENT), RUNS.c.end_time.is_not(None))
        ends: dict[str, int] = {}
        for chunk in _chunks(list(run_ids)):
            ends.update(dict(self._fetch(query.where(parent.in_(chunk)).group_by(parent))))
        return ends

    def experiment_tags(self, prefix: str) -> list[dict[str, str]]:
        columns = EXPERIMENT_TAGS.c
        query = sa.select(columns.experiment_id, columns.key, columns.value).where(
            columns.key.startswith(prefix, autoescape=True), columns.experiment_id.in_(self._active_experiments())
        )
        by_home: dict[int, dict[str, str]] = {}
        for home, key, value in self._fetch(query):
            by_home.setdefault(home, {})[key] = value or ""
        return list(by_home.values())

    def experiments(self) -> list[str]:
        query: sa.Select[Any] = sa.select(TAGS.c.value).join_from(TAGS, RUNS, TAGS.c.run_uuid == RUNS.c.run_uuid)
        named = self._active(query).where(TAGS.c.key == str(Tag.EXPERIMENT)).distinct()
        return [name for (name,) in self._fetch(named) if name]

    def points(self, experiment: str) -> RawPoints:
        """Runs and tags are read apart and joined here: that takes half the time of the join in SQL."""
        columns = (RUNS.c.run_uuid, RUNS.c.end_time, RUNS.c.experiment_id, RUNS.c.status)
        ended = self._fetch(self._active(sa.select(*columns)).where(RUNS.c.status.in_((FINISHED, FAILED))))
        rest = {run[0]: run for run in ended if run[3] == FINISHED}
        failed = [run[0] for run in ended if run[3] == FAILED]
        tagged, homes = [], set()
        for run_id, text in self._fetch(self._select_tag(point_tag(experiment))):
            if run_id in rest:
                _, end, home, _ = rest.pop(run_id)
                tagged.append((run_id, end, text))
                homes.add(home)
        if len(rest) > _MANY:
            self._drop_pointed(rest)
        tags = self._tags_of(list(rest), _OF_OURS)
        others = self._of_kind(experiment, Kind.EVALUATION, tags)
        homes.update(rest[run_id][2] for run_id in others)
        is_foreign = (run[2] in homes and Tag.KIND not in tags.get(run[0], ()) for run in rest.values())
        failed = self._of_kind(experiment, Kind.EVALUATION, failed)
        failures = self._runs_by_id(failed, (FAILED,), (Tag.ROW, Tag.ERROR, Tag.KEY))
        return RawPoints(tagged, self.finished_runs(others, tags=(Tag.ROW,)), failures, sum(is_foreign))

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        return self._runs_by_id(run_ids, (FINISHED,), tags)

    def finished_values(self, run_ids: Sequence[str], tag: str) -> dict[str, str]:
        """A look-up takes as long as a dozen rows of a whole reading, which many runs therefore get."""
        count = sa.select(sa.func.count()).where(TAGS.c.key == str(tag))
        if len(run_ids) <= _FEW or len(run_ids) * _ROWS_PER_LOOKUP < self._fetch(count)[0][0]:
            runs = self.finished_runs(run_ids, tags=(tag,))
            return {run.run_id: run.tags[tag] for run in runs if tag in run.tags}
        is_finished = self._active(sa.select(RUNS.c.run_uuid)).where(RUNS.c.status == FINISHED)
        meant = set(run_ids).intersection(run_id for (run_id,) in self._fetch(is_finished))
        values = self._fetch(self._select_tag(tag))
        return {run_id: value for run_id, value in values if run_id in meant and value is not None}

    def score_steps(self, run_ids: Sequence[str]) -> dict[str, list[ScoreStep]]:
        columns, kept = METRICS.c, self._active(sa.select(RUNS.c.run_uuid))
        query = (
            sa.select(columns.run_uuid, columns.key, columns.step, columns.value)
            .where(columns.key.in_((TRAIT_SCORE, COHERENCE_SCORE)), columns.is_nan.is_(False))
            # `value` settles two values of one millisecond, so that every reader keeps the same
            .order_by(columns.timestamp, columns.value)
        )
        newest: dict[str, dict[tuple[str, int], ScoreStep]] = {}
        for chunk in _chunks(run_ids):
            active = kept.where(RUNS.c.run_uuid.in_(chunk))
            for run_id, metric, step, value in self._fetch(query.where(columns.run_uuid.in_(active))):
                if math.isfinite(value) and abs(value) < 1e300:  # MLflow's infinity: 1.8e308
                    newest.setdefault(run_id, {})[metric, step] = ScoreStep(metric, step, value)
        return {run_id: list(steps.values()) for run_id, steps in newest.items()}

    def close(self) -> None:
        self._engine.dispose()

    def _drop_pointed(self, runs: dict[str, Any]) -> None:
        """Leave out evaluations of any experiment, told by the tag's key alone: an index holds it."""
        first, beyond = POINT_KEYS
        query = sa.select(TAGS.c.run_uuid).where(TAGS.c.key >= first, TAGS.c.key < beyond)
        for (run_id,) in self._fetch(query):
            runs.pop(run_id, None)

    def _select_tag(self, key: str) -> sa.Select[Any]:
        """Run id and value of a tag that very many runs have."""
        query, has_key = sa.select(TAGS.c.run_uuid, TAGS.c.value), TAGS.c.key == str(key)
        if self._engine.dialect.name != "sqlite":
            return query.where(has_key)
        # in the order of the file: the index's own order, by random run ids, would come to each page anew
        rowid: sa.ColumnElement[int] = sa.literal_column("rowid", sa.Integer)
        return query.where(rowid.in_(sa.select(rowid).select_from(TAGS).where(has_key)))

    def _tags_of(self, run_ids: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, str]]:
        """Tags of some runs; a run that has none of them is absent."""
        columns = TAGS.c
        query = sa.select(columns.run_uuid, columns.key, columns.value).where(columns.key.in_(keys))
        tags: dict[str, dict[str, str]] = {}
        for chunk in _chunks(run_ids):
            for run_id, key, value in self._fetch(query.where(columns.run_uuid.in_(chunk))):
                tags.setdefault(run_id, {})[key] = value
        return tags

    def _of_kind(
        self, experiment: str, kind: Kind | None, runs: Sequence[str] | Mapping[str, Mapping[str, str]]
    ) -> list[str]:
        """Those of some runs, given with their tags or without, that are of a kind and an experiment."""
        tags = runs if isinstance(runs, Mapping) else self._tags_of(runs, _OF_OURS)
        meant = (kind, experiment)
        return [
            run_id for run_id, values in tags.items() if (values.get(Tag.KIND), values.get(Tag.EXPERIMENT)) == meant
        ]

    def _runs_by_id(self, run_ids: Sequence[str], statuses: Sequence[str], tags: Sequence[str]) -> list[RawRun]:
        query = self._select_runs(statuses, tags)
        chunks = (self._fetch(query.where(RUNS.c.run_uuid.in_(chunk))) for chunk in _chunks(run_ids))
        return [_raw_run(row, tags) for rows in chunks for row in rows]

    def _select_runs(self, statuses: Sequence[str], tags: Sequence[str]) -> sa.Select[Any]:
        """Runs, not deleted ones, with the values of tags behind their columns; of any status unless some are named."""
        query = self._active(sa.select(*_RUN_COLUMNS).select_from(RUNS))
        if statuses:
            query = query.where(RUNS.c.status.in_(statuses))
        for index, key in enumerate(tags):
            tag = TAGS.alias(f"wanted_{index}")
            query = query.outerjoin(tag, sa.and_(tag.c.run_uuid == RUNS.c.run_uuid, tag.c.key == str(key)))
            query = query.add_columns(tag.c.value.label(f"tag_{index}"))
        return query

    def _having_tag(self, query: sa.Select[Any], key: str, value: str | None) -> sa.Select[Any]:
        """Only runs with that value of a tag; `None`: with any."""
        tagged = sa.select(TAGS.c.run_uuid).where(TAGS.c.key == str(key))
        if value is not None:
            tagged = tagged.where(TAGS.c.value == str(value))
        return query.where(RUNS.c.run_uuid.in_(tagged))

    def _active(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Only runs that are not deleted, nor their experiment, of experiments that may be read."""
        return query.where(RUNS.c.lifecycle_stage == "active", RUNS.c.experiment_id.in_(self._active_experiments()))

    def _active_experiments(self) -> sa.Select[Any]:
        """The ids of MLflow experiments that are not deleted and may be read."""
        columns = EXPERIMENTS.c
        query = sa.select(columns.experiment_id).where(columns.lifecycle_stage == "active")
        if self._readable is None:
            return query
        # written into the statement: there may be more of them than it may have variables
        ids = sa.bindparam("readable", sorted(self._readable), sa.Integer, expanding=True, literal_execute=True)
        return query.where(columns.experiment_id.in_(ids))

    def _fetch(self, query: sa.Select[Any]) -> Sequence[Any]:
        """Rows as the driver gives them: for a hundred thousand, half the time of SQLAlchemy's."""
        with self._errors(), self._engine.connect() as connection:
            cursor = connection.execute(query).cursor
            return [] if cursor is None else cursor.fetchall()


class NoRuns(SqlSource):
    """What there is before a run store was made: a database in memory that holds nothing."""

    def __init__(self) -> None:
        self._readable, self.notes, self._name = None, (), "a run store that is not made yet"
        self._errors = partial(database_errors, partial(reading_error, name=self._name))
        self._engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
        METADATA.create_all(self._engine)


def _raw_run(row: Sequence[Any], tags: Sequence[str]) -> RawRun:
    run_id, status, started_at, finished_at, place, *values = row
    present = {str(key): value for key, value in zip(tags, values, strict=True) if value is not None}
    return RawRun(run_id, status, started_at, finished_at, present, place or "")


def _chunks(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(run_ids), _IDS_PER_QUERY):
        yield run_ids[start : start + _IDS_PER_QUERY]
