"""Raw runs by SQL from MLflow's tracking database: SQLite or PostgreSQL, read only."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from massact.store.read.base import FAILED, FINISHED, UNENDED, RawPoints, RawRun, ScoreStep
from massact.store.read.database import check_schema, explained, open_database
from massact.store.schema import COHERENCE_SCORE, POINT_KEYS, TRAIT_SCORE, Kind, Tag, point_tag

# MLflow's tables as far as they are read, and the queries that several readings begin with.

METADATA = sa.MetaData()
EXPERIMENTS = sa.Table(
    "experiments",
    METADATA,
    sa.Column("experiment_id", sa.Integer),
    sa.Column("lifecycle_stage", sa.String),
)
RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_uuid", sa.String),
    sa.Column("status", sa.String),
    sa.Column("start_time", sa.BigInteger),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("lifecycle_stage", sa.String),
    sa.Column("artifact_uri", sa.String),
    sa.Column("experiment_id", sa.Integer),
)
TAGS = sa.Table(
    "tags",
    METADATA,
    sa.Column("run_uuid", sa.String),
    sa.Column("key", sa.String),
    sa.Column("value", sa.String),
)
METRICS = sa.Table(
    "metrics",
    METADATA,
    sa.Column("run_uuid", sa.String),
    sa.Column("key", sa.String),
    sa.Column("value", sa.Float),
    sa.Column("timestamp", sa.BigInteger),
    sa.Column("step", sa.BigInteger),
    sa.Column("is_nan", sa.Boolean),
)
EXPERIMENT_TAGS = sa.Table(
    "experiment_tags",
    METADATA,
    sa.Column("experiment_id", sa.Integer),
    sa.Column("key", sa.String),
    sa.Column("value", sa.String),
)

RUN_COLUMNS = (
    RUNS.c.run_uuid, RUNS.c.status, RUNS.c.start_time, RUNS.c.end_time, RUNS.c.artifact_uri
)  # fmt: skip


Readable = frozenset[int] | None
"""The MLflow experiments that may be read; `None`: all."""


def select_runs(tags: Sequence[str], readable: Readable) -> sa.Select[Any]:
    """Runs that are not deleted, with the values of tags in columns `tag_0`, `tag_1`, ..."""
    query = active(sa.select(*RUN_COLUMNS).select_from(RUNS), readable)
    for index, key in enumerate(tags):
        tag = TAGS.alias(f"wanted_{index}")
        query = query.outerjoin(tag, sa.and_(tag.c.run_uuid == RUNS.c.run_uuid, tag.c.key == str(key)))
        query = query.add_columns(tag.c.value.label(f"tag_{index}"))
    return query


def select_ended(readable: Readable) -> sa.Select[Any]:
    """Id, end, MLflow experiment and status of the runs that finished or failed."""
    query = active(sa.select(RUNS.c.run_uuid, RUNS.c.end_time, RUNS.c.experiment_id, RUNS.c.status), readable)
    return query.where(RUNS.c.status.in_((FINISHED, FAILED)))


def active(query: sa.Select[Any], readable: Readable) -> sa.Select[Any]:
    """Only runs that are not deleted, nor their experiment, of experiments that may be read."""
    return query.where(
        RUNS.c.lifecycle_stage == "active", RUNS.c.experiment_id.in_(active_experiments(readable))
    )


def active_experiments(readable: Readable) -> sa.Select[Any]:
    """The ids of MLflow experiments that are not deleted and may be read."""
    columns = EXPERIMENTS.c
    query = sa.select(columns.experiment_id).where(columns.lifecycle_stage == "active")
    if readable is None:
        return query
    # written into the statement: there may be more of them than it may have variables
    ids = sa.bindparam("readable", sorted(readable), sa.Integer, expanding=True, literal_execute=True)
    return query.where(columns.experiment_id.in_(ids))


def having_tag(query: sa.Select[Any], key: str, value: str) -> sa.Select[Any]:
    """Only runs with that value of a tag."""
    matching = sa.select(TAGS.c.run_uuid).where(TAGS.c.key == str(key), TAGS.c.value == value)
    return query.where(RUNS.c.run_uuid.in_(matching))


def having_tag_key(query: sa.Select[Any], key: str) -> sa.Select[Any]:
    """Only runs with a tag, whatever its value."""
    return query.where(RUNS.c.run_uuid.in_(sa.select(TAGS.c.run_uuid).where(TAGS.c.key == str(key))))


_MANY = 5000  # runs that are looked at one by one
_FEW = 500  # runs that are looked up, however many others there are
_ROWS_PER_LOOKUP = 12
_IDS_PER_QUERY = 500  # SQLite before 3.32 takes 999 variables
_ROWS_PER_FETCH = 1000


class SqlSource:
    """A `RunSource` over a tracking database.

    Args:
        readable: the MLflow experiments that exist for whoever asks; `None`: all. Of others nothing is told:
            no run, no tag, no count, no name.
        statement_seconds: how long PostgreSQL works on one statement at most; `None`: as long as it takes.

    Raises:
        StoreError: there is no such database, or it is not MLflow's.
    """

    def __init__(
        self, uri: str, *, readable: Readable = None, statement_seconds: float | None = None
    ) -> None:
        self._readable = readable
        self._engine, self._name = open_database(uri, statement_seconds=statement_seconds)
        with self._explained():
            unknown = check_schema(self._engine, self._name, METADATA.tables.values())
        self.notes: tuple[str, ...] = (unknown,) if unknown else ()

    def runs(
        self, experiment: str, *, kind: Kind, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        """The runs of a kind; empty `statuses` means any."""
        if kind != Kind.EVALUATION and len(others := self._without_point(statuses)) <= _MANY:
            mine = _of_kind(experiment, kind, self._tags_of(others, (Tag.KIND, Tag.EXPERIMENT)))
            return self._runs_by_id(mine, statuses, tags)
        query = self._select_kind(experiment, kind, tags)
        if statuses:
            query = query.where(RUNS.c.status.in_(statuses))
        return [_raw_run(found, tags) for found in self._fetch(query)]

    def stream(self, experiment: str, kind: Kind, *, tags: Sequence[str]) -> Iterator[RawRun]:
        """The finished runs of a kind, superseded ones too, in constant memory and no order."""
        query = self._select_kind(experiment, kind, tags)
        query = query.where(RUNS.c.status == FINISHED).execution_options(yield_per=_ROWS_PER_FETCH)
        with self._explained(), self._engine.connect() as connection:
            for found in connection.execute(query).mappings():
                yield _raw_run(dict(found), tags)

    def pages(
        self, experiment: str, kinds: Collection[str], *, tags: Sequence[str]
    ) -> Iterator[list[RawRun]]:
        """The finished runs of some kinds, superseded ones too, a page at a time, in constant memory."""
        keys = {str(key) for key in (*tags, Tag.KIND, Tag.EXPERIMENT)}
        query = active(sa.select(*RUN_COLUMNS), self._readable).where(RUNS.c.status == FINISHED)
        query, last = query.order_by(RUNS.c.run_uuid).limit(_ROWS_PER_FETCH), ""
        while runs := self._fetch_raw(query.where(RUNS.c.run_uuid > last)):
            last = runs[-1][0]
            known = self._tags_of([run[0] for run in runs], sorted(keys))
            found = []
            for run in runs:
                own = known.get(run[0], {})
                if own.get(Tag.EXPERIMENT) == experiment and own.get(Tag.KIND) in kinds:
                    found.append(_run(*run, tags={str(key): own[key] for key in tags if key in own}))
            yield found

    def unended(self, experiment: str, *, tags: Sequence[str]) -> list[RawRun]:
        """The runs of any kind that have no end: at work, or left by a process that died."""
        query = having_tag(select_runs(tags, self._readable), Tag.EXPERIMENT, experiment)
        query = having_tag_key(query, Tag.KIND).where(RUNS.c.status.in_(UNENDED))
        return [_raw_run(found, tags) for found in self._fetch(query)]

    def last_child_ends(self, run_ids: Collection[str]) -> dict[str, int]:
        """When the last of a run's children ended (ms since 1970); absent where none has."""
        parent = TAGS.c.value
        last_end = sa.func.max(RUNS.c.end_time)
        query: sa.Select[Any] = sa.select(parent, last_end).join_from(
            TAGS, RUNS, TAGS.c.run_uuid == RUNS.c.run_uuid
        )
        query = active(query, self._readable).where(
            TAGS.c.key == str(Tag.PARENT), RUNS.c.end_time.is_not(None)
        )
        found: dict[str, int] = {}
        for chunk in _chunks(list(run_ids)):
            found.update(dict(self._fetch_raw(query.where(parent.in_(chunk)).group_by(parent))))
        return found

    def experiment_tags(self, prefix: str) -> list[dict[str, str]]:
        """Of each MLflow experiment that has such, its tags whose keys begin with a prefix."""
        columns = EXPERIMENT_TAGS.c
        query = sa.select(columns.experiment_id, columns.key, columns.value).where(
            columns.key.startswith(prefix, autoescape=True),
            columns.experiment_id.in_(active_experiments(self._readable)),
        )
        found: dict[int, dict[str, str]] = {}
        for home, key, value in self._fetch_raw(query):
            found.setdefault(home, {})[key] = value or ""
        return list(found.values())

    def experiments(self) -> list[str]:
        """The names of the experiments that there are runs of, in no order."""
        query: sa.Select[Any] = sa.select(TAGS.c.value).join_from(
            TAGS, RUNS, TAGS.c.run_uuid == RUNS.c.run_uuid
        )
        named = active(query, self._readable).where(TAGS.c.key == str(Tag.EXPERIMENT)).distinct()
        return [name for (name,) in self._fetch_raw(named) if name]

    def points(self, experiment: str) -> RawPoints:
        """The evaluations of an experiment: of the finished ones no more than their points.

        Runs and tags are read apart and joined here: that takes half the time of the join in SQL.
        """
        ended = self._fetch_raw(select_ended(self._readable))
        rest = {run[0]: run for run in ended if run[3] == FINISHED}
        failed = [run[0] for run in ended if run[3] == FAILED]
        tagged, homes = [], set()
        for run_id, text in self._fetch_raw(self._select_tag(point_tag(experiment))):
            if run_id in rest:
                _, end, home, _ = rest.pop(run_id)
                tagged.append((run_id, end, text))
                homes.add(home)
        if len(rest) > _MANY:
            self._drop_pointed(rest)
        tags = self._tags_of(list(rest), (Tag.KIND, Tag.EXPERIMENT))
        others = _of_kind(experiment, Kind.EVALUATION, tags)
        homes.update(rest[run_id][2] for run_id in others)
        is_foreign = (run[2] in homes and Tag.KIND not in tags.get(run[0], ()) for run in rest.values())
        return RawPoints(
            tagged,
            self.finished_runs(others, tags=(Tag.ROW,)),
            self._failed(experiment, failed),
            sum(is_foreign),
        )

    def _failed(self, experiment: str, run_ids: Sequence[str]) -> list[RawRun]:
        mine = _of_kind(experiment, Kind.EVALUATION, self._tags_of(run_ids, (Tag.KIND, Tag.EXPERIMENT)))
        return self._runs_by_id(mine, (FAILED,), (Tag.ROW, Tag.ERROR, Tag.KEY))

    def _without_point(self, statuses: Sequence[str]) -> list[str]:
        """Runs that are no evaluations of a grid: few, where a look through every tag would come to all."""
        query = active(sa.select(RUNS.c.run_uuid), self._readable)
        if statuses:
            query = query.where(RUNS.c.status.in_(statuses))
        found = dict.fromkeys(run_id for (run_id,) in self._fetch_raw(query))
        self._drop_pointed(found)
        return list(found)

    def _select_kind(self, experiment: str, kind: Kind, tags: Sequence[str]) -> sa.Select[Any]:
        mine = having_tag(select_runs(tags, self._readable), Tag.EXPERIMENT, experiment)
        return having_tag(mine, Tag.KIND, kind.value)

    def _select_tag(self, key: str) -> sa.Select[Any]:
        """Run id and value of a tag that very many runs have."""
        query, has_key = sa.select(TAGS.c.run_uuid, TAGS.c.value), TAGS.c.key == str(key)
        if self._engine.dialect.name != "sqlite":
            return query.where(has_key)
        # in the order of the file: the index's own order, by random run ids, would come to each page anew
        rowid: sa.ColumnElement[int] = sa.literal_column("rowid", sa.Integer)
        return query.where(rowid.in_(sa.select(rowid).select_from(TAGS).where(has_key)))

    def _drop_pointed(self, runs: dict[str, Any]) -> None:
        """Leave out evaluations of any experiment, told by the tag's key alone: an index holds it."""
        first, beyond = POINT_KEYS
        query = sa.select(TAGS.c.run_uuid).where(TAGS.c.key >= first, TAGS.c.key < beyond)
        for (run_id,) in self._fetch_raw(query):
            runs.pop(run_id, None)

    def _tags_of(self, run_ids: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, str]]:
        """Tags of some runs; a run that has none of them is absent."""
        columns = TAGS.c
        query = sa.select(columns.run_uuid, columns.key, columns.value).where(columns.key.in_(keys))
        found: dict[str, dict[str, str]] = {}
        for chunk in _chunks(run_ids):
            for run_id, key, value in self._fetch_raw(query.where(columns.run_uuid.in_(chunk))):
                found.setdefault(run_id, {})[key] = value
        return found

    def _fetch_raw(self, query: sa.Select[Any]) -> Sequence[Any]:
        """Rows as the driver gives them: for a hundred thousand, half the time of SQLAlchemy's."""
        with self._explained(), self._engine.connect() as connection:
            cursor = connection.execute(query).cursor
            return [] if cursor is None else cursor.fetchall()

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        """Those of the runs that are finished."""
        return self._runs_by_id(run_ids, (FINISHED,), tags)

    def finished_values(self, run_ids: Sequence[str], tag: str) -> dict[str, str]:
        """One tag of those of the runs that are finished and have it.

        A look-up takes as long as a dozen rows of a whole reading, which many runs therefore get.
        """
        if len(run_ids) <= _FEW or len(run_ids) * _ROWS_PER_LOOKUP < self._count_tag(tag):
            found = self.finished_runs(run_ids, tags=(tag,))
            return {run.run_id: run.tags[tag] for run in found if tag in run.tags}
        is_finished = active(sa.select(RUNS.c.run_uuid), self._readable).where(RUNS.c.status == FINISHED)
        meant = set(run_ids).intersection(run_id for (run_id,) in self._fetch_raw(is_finished))
        values = self._fetch_raw(self._select_tag(tag))
        return {run_id: value for run_id, value in values if run_id in meant and value is not None}

    def _count_tag(self, key: str) -> int:
        ((count,),) = self._fetch_raw(sa.select(sa.func.count()).where(TAGS.c.key == str(key)))
        return int(count)

    def _runs_by_id(
        self, run_ids: Sequence[str], statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        query = select_runs(tags, self._readable)
        if statuses:
            query = query.where(RUNS.c.status.in_(statuses))
        return [
            _raw_run(found, tags)
            for chunk in _chunks(run_ids)
            for found in self._fetch(query.where(RUNS.c.run_uuid.in_(chunk)))
        ]

    def score_steps(self, run_ids: Sequence[str]) -> dict[str, list[ScoreStep]]:
        """The per-question metrics of runs, NaN and infinite ones left out; a step's newest value counts."""
        columns, kept = METRICS.c, active(sa.select(RUNS.c.run_uuid), self._readable)
        query = (
            sa.select(columns.run_uuid, columns.key, columns.step, columns.value)
            .where(columns.key.in_((TRAIT_SCORE, COHERENCE_SCORE)), columns.is_nan.is_(False))
            # `value` settles two values of one millisecond, so that every reader keeps the same
            .order_by(columns.timestamp, columns.value)
        )
        newest: dict[str, dict[tuple[str, int], ScoreStep]] = {}
        for chunk in _chunks(run_ids):
            own = kept.where(RUNS.c.run_uuid.in_(chunk))
            for found in self._fetch(query.where(columns.run_uuid.in_(own))):
                if (
                    math.isfinite(found["value"]) and abs(found["value"]) < 1e300
                ):  # MLflow's infinity: 1.8e308
                    step = ScoreStep(found["key"], found["step"], found["value"])
                    newest.setdefault(found["run_uuid"], {})[step.metric, step.question] = step
        return {run_id: list(steps.values()) for run_id, steps in newest.items()}

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    def _fetch(self, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
        with self._explained(), self._engine.connect() as connection:
            return [dict(found) for found in connection.execute(query).mappings()]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise explained(error, self._name) from error


def _of_kind(experiment: str, kind: Kind, tags: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Those runs whose tags say that they are of a kind and an experiment."""
    meant = (kind, experiment)
    return [run_id for run_id, own in tags.items() if (own.get(Tag.KIND), own.get(Tag.EXPERIMENT)) == meant]


def _raw_run(found: Mapping[str, Any], tags: Sequence[str]) -> RawRun:
    values = {str(key): found[f"tag_{index}"] for index, key in enumerate(tags)}
    present = {key: value for key, value in values.items() if value is not None}
    return _run(*(found[column.name] for column in RUN_COLUMNS), tags=present)


def _run(
    run_id: str, status: str, start: int | None, end: int | None, place: str | None, *, tags: dict[str, str]
) -> RawRun:
    return RawRun(run_id, status, start, end, tags, place or "")


def _chunks(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(run_ids), _IDS_PER_QUERY):
        yield run_ids[start : start + _IDS_PER_QUERY]
