"""Raw runs by SQL from MLflow's tracking database: SQLite or PostgreSQL, read only."""

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from massact.errors import StoreError
from massact.schema import COHERENCE_SCORE, TRAIT_SCORE, Kind, Tag
from massact.store.base import FINISHED, RawRun, ScoreStep

LOCK_TIMEOUT_SECONDS = 20.0
"""How long a read waits for a writer's lock; MLflow's own writers wait as long."""
CONNECT_TIMEOUT_SECONDS = 10
_IDS_PER_QUERY = 500  # SQLite before 3.32 takes 999 variables

_metadata = sa.MetaData()
_experiments = sa.Table(
    "experiments",
    _metadata,
    sa.Column("experiment_id", sa.Integer),
    sa.Column("lifecycle_stage", sa.String),
)
_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("run_uuid", sa.String),
    sa.Column("status", sa.String),
    sa.Column("start_time", sa.BigInteger),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("lifecycle_stage", sa.String),
    sa.Column("experiment_id", sa.Integer),
)
_tags = sa.Table(
    "tags",
    _metadata,
    sa.Column("run_uuid", sa.String),
    sa.Column("key", sa.String),
    sa.Column("value", sa.String),
)
_metrics = sa.Table(
    "metrics",
    _metadata,
    sa.Column("run_uuid", sa.String),
    sa.Column("key", sa.String),
    sa.Column("value", sa.Float),
    sa.Column("timestamp", sa.BigInteger),
    sa.Column("step", sa.BigInteger),
    sa.Column("is_nan", sa.Boolean),
)


class SqlSource:
    """A `RunSource` over a tracking database.

    Raises:
        StoreError: there is no such database, or it is not MLflow's.
    """

    def __init__(self, uri: str) -> None:
        self._engine, self._name = _open(uri)
        self._check_schema()

    def runs(
        self, experiment: str, *, kind: Kind, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        """The runs of a kind; empty `statuses` means any."""
        query = _having_tag(_having_tag(_select_runs(tags), Tag.EXPERIMENT, experiment), Tag.KIND, kind.value)
        if statuses:
            query = query.where(_runs.c.status.in_(statuses))
        return [_raw_run(found, tags) for found in self._fetch(query)]

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        """Those of the runs that are finished."""
        query = _select_runs(tags).where(_runs.c.status == FINISHED)
        return [
            _raw_run(found, tags)
            for chunk in _chunks(run_ids)
            for found in self._fetch(query.where(_runs.c.run_uuid.in_(chunk)))
        ]

    def score_steps(self, run_ids: Sequence[str]) -> dict[str, list[ScoreStep]]:
        """The per-question metrics of runs, NaN and infinite ones left out; a step's newest value counts."""
        columns = _metrics.c
        query = (
            sa.select(columns.run_uuid, columns.key, columns.step, columns.value)
            .where(columns.key.in_((TRAIT_SCORE, COHERENCE_SCORE)), columns.is_nan.is_(False))
            # `value` settles two values of one millisecond, so that every reader keeps the same
            .order_by(columns.timestamp, columns.value)
        )
        newest: dict[str, dict[tuple[str, int], ScoreStep]] = {}
        for chunk in _chunks(run_ids):
            for found in self._fetch(query.where(columns.run_uuid.in_(chunk))):
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

    def _check_schema(self) -> None:
        with self._explained():
            inspector = sa.inspect(self._engine)
            present = set(inspector.get_table_names())
            missing = [name for name in _metadata.tables if name not in present]
        if missing:
            raise StoreError(
                f"{self._name} is a database, but not MLflow's (it has no table {missing[0]!r}): "
                "pass the tracking URI that `massact main` wrote to"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(_explain(error, self._name)) from error


def _open(uri: str) -> tuple[sa.Engine, str]:
    try:
        url = sa.make_url(uri.replace("postgres://", "postgresql://", 1))
    except sa.exc.ArgumentError as error:
        raise StoreError("the tracking URI of the database cannot be parsed; write sqlite:///PATH") from error
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    name = url.render_as_string(hide_password=True)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        engine = sa.create_engine(
            url,
            poolclass=NullPool,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS},
            execution_options={"postgresql_readonly": True},
        )
    except ImportError as error:
        raise StoreError(f"reading {name} needs psycopg: pip install 'massact[postgres]'") from error
    return engine, name


def _open_sqlite(url: sa.URL) -> tuple[sa.Engine, str]:
    if not url.database or url.database == ":memory:":
        raise StoreError("a run store in memory cannot be read by another process; write sqlite:///PATH")
    path = Path(url.database).absolute()
    if not path.is_file():
        raise StoreError(f"no run store at {path} yet: run `massact main` or pass --tracking-uri")

    def connect() -> sqlite3.Connection:
        # read only: a file that is missing must not be created by a question
        return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_SECONDS)

    return sa.create_engine("sqlite://", creator=connect, poolclass=NullPool), str(path)


def _select_runs(tags: Sequence[str]) -> sa.Select[Any]:
    """Runs that are not deleted, with the values of tags in columns `tag_0`, `tag_1`, ..."""
    query = sa.select(_runs.c.run_uuid, _runs.c.status, _runs.c.start_time, _runs.c.end_time).select_from(
        _runs
    )
    query = query.join(_experiments, _experiments.c.experiment_id == _runs.c.experiment_id)
    query = query.where(_runs.c.lifecycle_stage == "active", _experiments.c.lifecycle_stage == "active")
    for index, key in enumerate(tags):
        tag = _tags.alias(f"wanted_{index}")
        query = query.outerjoin(tag, sa.and_(tag.c.run_uuid == _runs.c.run_uuid, tag.c.key == str(key)))
        query = query.add_columns(tag.c.value.label(f"tag_{index}"))
    return query


def _having_tag(query: sa.Select[Any], key: str, value: str) -> sa.Select[Any]:
    matching = sa.select(_tags.c.run_uuid).where(_tags.c.key == str(key), _tags.c.value == value)
    return query.where(_runs.c.run_uuid.in_(matching))


def _raw_run(found: Mapping[str, Any], tags: Sequence[str]) -> RawRun:
    values = {str(key): found[f"tag_{index}"] for index, key in enumerate(tags)}
    present = {key: value for key, value in values.items() if value is not None}
    return RawRun(found["run_uuid"], found["status"], found["start_time"], found["end_time"], present)


def _chunks(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(run_ids), _IDS_PER_QUERY):
        yield run_ids[start : start + _IDS_PER_QUERY]


def _explain(error: sa.exc.SQLAlchemyError, name: str) -> str:
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    if "not a database" in reason:
        return f"{name} is not a database: pass the tracking URI that `massact main` wrote to"
    if "locked" in reason:
        return f"{name} stayed locked by a writer for {LOCK_TIMEOUT_SECONDS:g} s: try again when it is done"
    return f"cannot read the run store {name}: {reason}. Check the tracking URI and that the database is up"
