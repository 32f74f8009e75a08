"""A PostgreSQL run store that refuses, is locked, does not answer or goes away."""

import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from massact.errors import StoreError
from massact.store import databases as database
from massact.store.read import open_store
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.store_errors import gaps, refusal


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that tests may stop."""
    with postgres_server() as running:
        running.execute("CREATE ROLE ada LOGIN PASSWORD 'right' IN ROLE with_password")
        running.execute("CREATE ROLE bob LOGIN")
        yield running


@pytest.fixture
def store(server: PostgresServer) -> str:
    """An empty store, as far as massact looks: MLflow's own migrations take seconds."""
    uri = server.fresh()
    engine = sa.create_engine(uri.replace("postgresql:", "postgresql+psycopg:"))
    database.METADATA.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text(f"INSERT INTO alembic_version VALUES ('{next(iter(database.TESTED_SCHEMAS))}')"))
    engine.dispose()
    return uri


def shown(uri: str) -> str:
    return sa.make_url(uri).render_as_string()


def name_of(uri: str) -> str:
    found = sa.make_url(uri).database
    assert found is not None
    return found


@pytest.mark.slow
def test_a_wrong_password(server: PostgresServer) -> None:
    uri = server.uri("postgres", "ada:secret")
    message = refusal(uri)
    assert message.startswith(f"the run store {shown(uri)} refuses the login: ")
    assert 'password authentication failed for user "ada"' in message
    assert message.endswith("Check the user and password in the tracking URI")
    assert "no password supplied" in refusal(server.uri("postgres", "ada"))
    assert 'password authentication failed for user "ada"' in refusal(
        server.uri("postgres", "ada") + "&password=secret"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("database", "user", "said"),
    [("nothing", "bob", 'database "nothing" does not exist'), ("postgres", "eve", 'role "eve" does not exist')],
)
def test_what_the_server_does_not_have(server: PostgresServer, database: str, user: str, said: str) -> None:
    uri = server.uri(database, user)
    message = refusal(uri)
    assert message.startswith(f"cannot read the run store {shown(uri)}: ")
    assert message.endswith(f"{said}. Check the tracking URI and that the database is up")


@pytest.mark.slow
def test_a_database_that_is_not_mlflows(server: PostgresServer) -> None:
    uri = server.fresh()
    assert refusal(uri) == f"no run store at {shown(uri)} yet, only an empty database: run `massact main`"
    server.execute("CREATE TABLE runs (name text)", name_of(uri))
    assert refusal(uri).startswith(f"{shown(uri)} is a database, but not MLflow's (it has no table ")


@pytest.mark.slow
def test_an_older_schema(server: PostgresServer, store: str) -> None:
    server.execute("UPDATE alembic_version SET version_num = '451aebb31d03'", name_of(store))
    result = gaps(store)
    assert result.exit_code == 1, result.stderr
    assert f"note: {shown(store)} has schema version '451aebb31d03', which this massact was not tested" in result.stderr


@pytest.mark.slow
def test_tables_that_one_may_not_read(server: PostgresServer, store: str) -> None:
    uri = server.uri(name_of(store), "bob")
    assert refusal(uri) == (
        f"cannot read the run store {shown(uri)}: permission denied for table alembic_version. "
        "Ask for the right to SELECT from MLflow's tables"
    )


@pytest.mark.slow
def test_a_locked_table(server: PostgresServer, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massact.store.databases.LOCK_TIMEOUT_SECONDS", 0.2)
    with psycopg.connect(store) as migration:
        migration.execute("LOCK TABLE tags IN ACCESS EXCLUSIVE MODE")
        assert refusal(store) == (f"{shown(store)} stayed locked by a writer for 0.2 s: try again when it is done")


@pytest.mark.slow
def test_a_connection_that_is_ended_in_the_middle(server: PostgresServer, store: str) -> None:
    def end_the_reader() -> None:
        with psycopg.connect(server.uri("postgres"), autocommit=True) as administrator:
            blocked = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not administrator.execute(blocked).fetchall():
                time.sleep(0.02)

    with psycopg.connect(store) as migration:
        migration.execute("LOCK TABLE tags IN ACCESS EXCLUSIVE MODE")
        ending = threading.Thread(target=end_the_reader)
        ending.start()
        message = refusal(store)
        ending.join()
    assert "terminating connection due to administrator command" in message
    assert message.endswith("Check the tracking URI and that the database is up")


@pytest.mark.slow
def test_a_server_that_goes_away_between_two_questions(server: PostgresServer, store: str) -> None:
    reader = open_store(store)
    assert reader.evaluations("toy") == []
    server.stop()
    try:
        with pytest.raises(StoreError, match=r"^cannot read the run store .*: connection [^\n]* failed: [^\n]*$"):
            reader.evaluations("toy")
        assert "Check the tracking URI and that the database is up" in refusal(store)
    finally:
        server.start()
    assert reader.evaluations("toy") == []
    reader.close()


@pytest.mark.slow
def test_reading_cannot_write(store: str) -> None:
    engine, _ = database.open_database(store)
    with engine.connect() as connection, pytest.raises(sa.exc.InternalError, match="read-only transaction"):
        connection.execute(sa.text("DELETE FROM tags"))


def test_a_server_that_refuses() -> None:
    message = refusal("postgresql://user:secret@127.0.0.1:1/mlflow")
    assert message.startswith("cannot read the run store postgresql://user:***@127.0.0.1:1/mlflow: ")
    assert "Connection refused" in message


def test_a_name_that_no_host_has() -> None:
    assert "cannot read the run store postgresql://nowhere.invalid/mlflow: " in refusal(
        "postgresql://nowhere.invalid/mlflow"
    )


@pytest.mark.slow
@pytest.mark.parametrize("in_address", [False, True])
def test_a_host_that_never_answers(monkeypatch: pytest.MonkeyPatch, in_address: bool) -> None:
    if not in_address:
        monkeypatch.setattr("massact.store.databases.CONNECT_TIMEOUT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        message = refusal(
            f"postgresql+psycopg2://user:secret@127.0.0.1:{port}/mlflow" + ("?connect_timeout=2" if in_address else "")
        )
        assert time.monotonic() - began < 5
    assert f"127.0.0.1:{port}/mlflow" in message
    assert "timeout" in message
