"""The database under a service: made once however many start at once, and tuned only when asked."""

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from massact.errors import StoreError
from massact.query import Answers
from massact.service.preparing import INDEX, tuned
from massact.service.serving import prepare
from massact.service.settings import Task
from massact.store.read import open_store
from massact.store.schema import encode_point, point_tag
from massact.store.schema.names import POINT_KEYS, POINT_TAG
from tests.support.postgres_server import PostgresServer
from tests.support.store_fixtures import EXPERIMENT, Filler, evaluation_row, point_tags

QUERY = "SELECT run_uuid, value FROM tags WHERE key = %s"


def _set_up_twice_at_once(uri: str) -> list[list[str]]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: prepare(Task(uri), os.environ).notes, range(2)))


@pytest.fixture(scope="module")
def made(postgres: PostgresServer) -> tuple[str, list[list[str]]]:
    """A new database in PostgreSQL that two services set up at the same moment, and what they said."""
    uri = postgres.fresh()
    return uri, _set_up_twice_at_once(uri)


@pytest.fixture
def database(made: tuple[str, Any], postgres: PostgresServer) -> str:
    """A copy of it, with some evaluations."""
    from mlflow import MlflowClient

    uri = postgres.fresh(template=sa.make_url(made[0]).database or "")
    filler = Filler(uri)
    experiment_id = MlflowClient(tracking_uri=uri).create_experiment("all")
    for coefficient in range(12):
        row = evaluation_row(coefficient=float(coefficient + 1))
        filler.run(f"run {coefficient}", experiment_id, tags=point_tags(row))
    return uri


def _keys(uri: str) -> list[str]:
    return sorted(point.key for point in Answers.from_store(open_store(uri), EXPERIMENT).evaluations)


@pytest.mark.slow
def test_of_two_services_at_once_one_makes_the_tables(made: tuple[str, list[list[str]]], tmp_path: Path) -> None:
    new = f"sqlite:///{tmp_path}/mlflow.db"
    for uri, notes in (made, (new, _set_up_twice_at_once(new))):
        assert sum(note.endswith(", new") for said in notes for note in said) == 1, notes
        assert open_store(uri).warnings == []
        engine = sa.create_engine(uri.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            found = connection.execute(sa.text("SELECT name, artifact_location FROM experiments")).fetchall()
        engine.dispose()
        assert found == [("Default", "mlflow-artifacts:/0")]


@pytest.mark.slow
def test_tuning_postgresql_makes_one_index_that_the_questions_use(database: str) -> None:
    before = _keys(database)
    assert len(before) == 12
    assert any(line.endswith("made") for line in tuned(database))
    assert any("was there already" in line for line in tuned(database))
    assert _keys(database) == before
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_bitmapscan = off")
        plan = "\n".join(
            line for (line,) in connection.execute(f"EXPLAIN {QUERY.replace('%s', repr(point_tag(EXPERIMENT)))}")
        )
        assert f"Index Only Scan using {INDEX}" in plan
        # an index whose building was broken off is made anew
        connection.execute(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{INDEX}'::regclass")
        assert any(line.endswith("made") for line in tuned(database))
        (valid,) = connection.execute(
            f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{INDEX}'::regclass"
        ).fetchone() or (None,)
        assert valid is True


@pytest.mark.slow
def test_two_tunings_at_once_and_an_upgrade_of_mlflow_leave_the_index(database: str) -> None:
    from mlflow.store.db.utils import _upgrade_db

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(tuned, [database] * 2))
    assert sum(line.endswith("made") for lines in said for line in lines) == 1
    engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    _upgrade_db(engine)
    assert INDEX in {one["name"] for one in sa.inspect(engine).get_indexes("tags")}
    engine.dispose()


def test_every_points_key_lies_between_the_bounds_in_orders_that_ignore_or_move_punctuation() -> None:
    first, beyond = POINT_KEYS
    orders: list[Callable[[str], object]] = [
        str,
        lambda text: text.replace(".", ""),  # punctuation ignored
        lambda text: text.replace(".", "\x02").replace("/", "\x01"),  # as in iso14651, glibc's: / before .
    ]
    for order in orders:
        for digit in "0123456789abcdef":
            key = f"{POINT_TAG}.{digit * 12}"
            assert order(first) <= order(key) < order(beyond)  # type: ignore[operator]
    assert all(point_tag(name).startswith(first) for name in ("a", EXPERIMENT))


def test_no_point_is_larger_than_a_row_of_the_index_may_be() -> None:
    assert encode_point(evaluation_row(model="m" * 1000)) is not None
    assert encode_point(evaluation_row(model="m" * 2000)) is None


def test_tuning_sqlite_gives_statistics_and_a_journal_that_lets_readers_read(
    migrated_database: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(migrated_database, path)
    filler = Filler(f"sqlite:///{path}")
    experiment_id = filler.client.create_experiment("all")
    filler.run("one", experiment_id, tags=point_tags(evaluation_row()))
    for _ in range(2):
        assert len(tuned(f"sqlite:///{path}")) == 2
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'tags'").fetchone() != (0,)


def test_tuning_what_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(StoreError, match="cannot read the run store"):
        tuned("postgresql://nobody@127.0.0.1:1/none")


def test_the_page_says_what_tuning_does_and_how_it_is_undone(root: Path, tmp_path: Path) -> None:
    from massact.service.preparing import _CREATE

    page = (root / "docs/service.md").read_text(encoding="utf-8")
    assert f"`{_CREATE.replace(' IF NOT EXISTS', '')}; VACUUM (ANALYZE) tags;`" in page
    assert f"`DROP INDEX CONCURRENTLY {INDEX};`" in page
    done, undone = re.findall(r"`sqlite3 mlflow.db '(.*)'`", page)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.executescript("CREATE TABLE t (x); CREATE INDEX i ON t (x); INSERT INTO t VALUES (1);" + done)
        assert database.execute("SELECT count(*) FROM sqlite_stat1").fetchone() == (1,)
        database.executescript(undone)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert database.execute("SELECT name FROM sqlite_master WHERE name LIKE 'sqlite_stat%'").fetchall() == []
