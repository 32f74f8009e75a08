"""MLflow's tables as far as they are read, and the queries that several readings begin with."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from massact.store.base import FAILED, FINISHED

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
