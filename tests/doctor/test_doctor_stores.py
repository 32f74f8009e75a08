"""The doctor's contract over every run store: what SQLite shows holds on PostgreSQL and over REST."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from massact.store.databases import database_url
from massact.store.schema import Artifact, Tag
from massact.store.write.run_writer import COLUMNS
from tests.support.doctor_store import Made, answers, break_things, contents, look, lose, make_store, told
from tests.support.postgres_server import PostgresServer
from tests.support.store_fixtures import tracking_server

pytestmark = pytest.mark.slow


@pytest.fixture(params=["postgresql", "rest", "rest_postgresql"])
def place(request: pytest.FixtureRequest, uri: str, tmp_path: Path) -> Iterator[tuple[Made, str]]:
    """A healthy store, and the tracking URI of the database that holds it."""
    postgres: PostgresServer | None = None
    if "postgresql" in request.param:
        postgres = request.getfixturevalue("postgres")
        uri = postgres.migrated()
    if not request.param.startswith("rest"):
        yield make_store(uri), uri
        return
    with tracking_server(uri, tmp_path) as address:
        yield make_store(address), uri


def dump(database: str) -> dict[str, list[Any]]:
    """Everything that a database holds of runs."""
    engine = sa.create_engine(database_url(database))
    with engine.connect() as connection:
        found = {
            name: sorted(map(repr, connection.execute(sa.text(f"SELECT * FROM {name}"))))
            for name in (*COLUMNS, "experiments", "experiment_tags")
        }
    engine.dispose()
    return found


def test_everything_is_found_mended_once_and_no_answer_changes(place: tuple[Made, str], tmp_path: Path) -> None:
    made, database = place
    assert look(made.uri) == []
    mended = break_things(made)
    before, rows, files = answers(made.uri), dump(database), contents(tmp_path / "artifacts")
    expected = {("found" if state == "mended" else state, check) for state, check in mended}
    assert set(told(look(made.uri))) == expected
    assert dump(database) == rows
    assert contents(tmp_path / "artifacts") == files
    assert set(told(look(made.uri, fix=True))) == mended
    assert answers(made.uri) == before
    client, runs = made.client, made.runs
    assert client.get_run(runs["dead"]).info.status == "KILLED"
    assert client.get_run(runs["alive"]).info.status == "RUNNING"
    assert client.get_run(runs["probe L0"]).data.tags[Tag.SUPERSEDED] == runs["again"]
    assert {state for state, _ in told(look(made.uri, fix=True))} == {"remains"}


def test_a_damaged_file_is_told_from_one_that_is_missing(place: tuple[Made, str]) -> None:
    made, _ = place
    lose(made, "probe L0", Artifact.VECTOR)
    made.client.log_text(made.runs["probe L2"], "no tensors", Artifact.VECTOR)
    made.client.log_text(made.runs["baseline"], "no table", Artifact.RESPONSES)
    found = {one.finding.run_id: one.finding.what for one in look(made.uri)}
    assert "has no vector" in found[made.runs["probe L0"]]
    assert "damaged vector file" in found[made.runs["probe L2"]]
    assert "is damaged" in found[made.runs["baseline"]]
    assert told(look(made.uri, fix=True)).count(("mended", "vectors")) == 2
    assert told(look(made.uri, fix=True)) == [("remains", "responses")]
