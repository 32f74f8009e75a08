"""A tracking database is made whole or not at all, and one that another MLflow wrote is never migrated unasked.

These tests hold for whatever MLflow is installed: what an older or a newer one leaves is written into its version.
"""

import os
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from massact.config import load_experiment
from massact.errors import UnusableStoreError
from massact.service.preparing import set_up
from massact.store.databases import TESTED_SCHEMAS, is_absent
from massact.store.read import open_store
from massact.store.write.client import connect
from massact.store.write.database import _LOCK_NUMBER, _head
from massact.store.write.run_writer import open_writer
from massact.store.write.tracker import Tracker
from tests.support.postgres_server import PostgresServer
from tests.support.processes import Process, run_massact
from tests.support.store_errors import TOY, gaps
from tests.support.store_fixtures import EXPERIMENT, Filler, evaluation_row, row_tags
from tests.support.templates import TEMPLATE

NEWER, OLDER, BEFORE = "0123456789ab", "75868b020152", "17e22815139b"
FIRST_COMMAND = (
    "import sys\n"
    "from massact.store.write.tracker import Tracker\n"
    "print('begun', flush=True)\n"
    "Tracker(sys.argv[1], 'study', floor=68.0, say=print)\n"
)


def path_of(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))


def set_version(uri: str, *versions: str) -> None:
    with closing(sqlite3.connect(path_of(uri))) as database, database:
        database.execute("DELETE FROM alembic_version")
        database.executemany("INSERT INTO alembic_version VALUES (?)", [(one,) for one in versions])


def add_run(uri: str, experiment: str = EXPERIMENT) -> None:
    Filler(uri).run("k1", "0", tags=row_tags(evaluation_row(key="k1", experiment=experiment)))


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def is_whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as database:
        (found,) = database.execute("PRAGMA integrity_check").fetchone()
        versions = database.execute("SELECT version_num FROM alembic_version").fetchall()
    return found == "ok" and versions == [(_head(),)]


def test_what_is_installed_is_read(uri: str) -> None:
    add_run(uri)
    store = open_store(uri)
    assert [one.row.key for one in store.evaluations(EXPERIMENT)] == ["k1"]
    assert store.warnings == [] if _head() in TESTED_SCHEMAS else "was not tested with" in store.warnings[0]


@pytest.mark.parametrize(
    ("versions", "shown"),
    [([NEWER], f"'{NEWER}'"), ([OLDER], f"'{OLDER}'"), ([], "none"), (["a", "b"], "'a', 'b'")],
    ids=["newer", "older", "none", "two"],
)
def test_a_version_that_is_not_known_is_read_with_one_line(uri: str, versions: list[str], shown: str) -> None:
    add_run(uri, load_experiment(str(TOY)).name)
    set_version(uri, *versions)
    result = gaps(uri)
    assert result.exit_code == 1, result.stderr
    (line,) = [one for one in result.stderr.splitlines() if "schema version" in one]
    assert line.startswith(f"note: {path_of(uri)} has schema version {shown}, which this massact was not tested")


@pytest.mark.parametrize(
    ("change", "misfit"),
    [
        ("ALTER TABLE tags RENAME COLUMN value TO text", "the table 'tags' has no column 'value'"),
        ("ALTER TABLE metrics DROP COLUMN step", "the table 'metrics' has no column 'step'"),
        (
            "ALTER TABLE metrics RENAME TO old; CREATE TABLE metrics "
            "(run_uuid VARCHAR(32), key VARCHAR, value TEXT, timestamp BIGINT, step BIGINT, is_nan BOOLEAN)",
            "metrics.value is TEXT, not FLOAT",
        ),
    ],
)
@pytest.mark.parametrize("version", [None, NEWER])
def test_a_shape_that_does_not_fit_is_one_error(uri: str, change: str, misfit: str, version: str | None) -> None:
    add_run(uri)
    with closing(sqlite3.connect(path_of(uri))) as database:
        database.executescript("DROP TABLE IF EXISTS latest_metrics; " * ("step" in change))
        try:
            database.executescript(change)
        except sqlite3.OperationalError:  # a column of a key cannot be dropped
            database.executescript(
                "ALTER TABLE metrics RENAME TO old; CREATE TABLE metrics "
                "(run_uuid VARCHAR(32), key VARCHAR, value FLOAT, timestamp BIGINT, is_nan BOOLEAN)"
            )
    if version:
        set_version(uri, version)
    result = gaps(uri)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {path_of(uri)} keeps runs otherwise than massact reads them: {misfit}")


@pytest.mark.parametrize(
    ("version", "said"), [(OLDER, "massact serve --upgrade"), (NEWER, "was migrated by a newer MLflow")]
)
def test_runs_of_another_mlflow_are_neither_migrated_nor_waited_for(uri: str, version: str, said: str) -> None:
    add_run(uri)
    set_version(uri, version)
    before = content(path_of(uri))
    began = time.monotonic()
    with pytest.raises(UnusableStoreError, match=said):
        Tracker(uri, "study", floor=68.0)
    with pytest.raises(UnusableStoreError, match=said):
        open_writer(uri, "0")
    with pytest.raises(UnusableStoreError, match=said):
        set_up(uri)
    assert time.monotonic() - began < 60
    assert content(path_of(uri)) == before
    assert {one.name for one in path_of(uri).parent.iterdir()} <= {"store.db", "mlruns"}


@pytest.mark.slow
@pytest.mark.parametrize("version", [OLDER, NEWER])
def test_a_phase_on_a_store_of_another_mlflow_ends_at_once(uri: str, version: str) -> None:
    add_run(uri)
    set_version(uri, version)
    done = run_massact("main", "--experiment", TOY, "--tracking-uri", uri, cwd=path_of(uri).parent)
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("error: ")]
    assert "older MLflow" in line if version == OLDER else "newer MLflow" in line
    assert "waiting" not in done.stderr


def test_a_database_of_something_else_gets_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(UnusableStoreError, match="not MLflow's"):
        connect(f"sqlite:///{path}")
    assert path.read_bytes() == before


def make_half(path: Path, *, version: str | None) -> None:
    """What MLflow leaves when it is killed between its first tables and its migrations."""
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        if version:
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{version}')")
        connection.exec_driver_sql("CREATE TABLE datasets (dataset_uuid VARCHAR(36))")
    engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("version", [None, "df50e92ffc5e"])
def test_a_half_made_store_is_made_anew_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    path, said = tmp_path / "store.db", list[str]()
    make_half(path, version=version)
    half = content(path)
    assert is_absent(f"sqlite:///{path}")
    result = gaps(f"sqlite:///{path}")
    assert result.exit_code == 2
    assert "the command that was making it was cut off" in result.stderr
    Tracker(f"sqlite:///{path}", "study", floor=68.0, say=said.append)
    assert is_whole(path)
    (line,) = said
    (kept,) = (one for one in tmp_path.iterdir() if "half-made" in one.name)
    assert str(kept) in line
    assert content(kept) == half


def test_a_half_made_store_with_anything_in_it_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "store.db"
    make_half(path, version=None)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO runs (run_uuid, status) VALUES ('a', 'FINISHED')")
    before = content(path)
    with pytest.raises(UnusableStoreError, match="massact serve --upgrade"):
        connect(f"sqlite:///{path}")
    assert content(path) == before
    assert [one.name for one in tmp_path.iterdir()] == ["store.db"]


def test_what_lies_beside_a_store_that_is_gone_is_not_played_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated_database: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "massact.store.write.database._make_tables", lambda uri, _root: shutil.copy(migrated_database, path_of(uri))
    )
    for name in ("store.db-journal", "store.db.new", "store.db.new-journal", "store.db.setup-lock"):
        (tmp_path / name).write_bytes(b"of another time" * 100)
    Tracker(f"sqlite:///{tmp_path}/store.db", "study", floor=68.0)
    assert is_whole(tmp_path / "store.db")
    assert [one.name for one in tmp_path.iterdir()] == ["store.db"]


def begin(uri: str, folder: Path) -> Process:
    environment = {name: value for name, value in os.environ.items() if name != TEMPLATE}
    process = Process("-c", FIRST_COMMAND, uri, cwd=folder, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "shares"), [(signal.SIGKILL, (0.0, 0.5, 2.0)), (signal.SIGINT, (1.0,))])
def test_a_signal_while_the_first_command_makes_its_store_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, shares: tuple[float, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mlflow.db"
    for share in shares:
        process = begin(f"sqlite:///{path}", tmp_path)
        while not path.with_name("mlflow.db.new").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(share)
        process.send_signal(number)
        process.communicate(timeout=60)
        if path.exists():  # it was faster
            break
        assert number == signal.SIGKILL or list(tmp_path.iterdir()) == []
    Tracker(f"sqlite:///{path}", "study", floor=68.0)
    assert is_whole(path)
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.slow
def test_two_first_commands_at_once_share_one_store(tmp_path: Path, postgres: PostgresServer) -> None:
    for uri in (f"sqlite:///{tmp_path}/mlflow.db", postgres.fresh()):
        both = [begin(uri, tmp_path) for _ in range(2)]
        for process in both:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        names = {one.name for one in connect(uri).search_experiments()}
        assert names == {"Default", "study"}
    assert [one.name for one in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.slow
def test_postgresql_that_was_cut_off_after_its_first_tables_is_completed(postgres: PostgresServer) -> None:
    from mlflow.store.tracking.dbmodels.initial_models import Base

    uri = postgres.fresh()
    engine = sa.create_engine(uri.replace("postgresql:", "postgresql+psycopg:"))
    Base.metadata.create_all(engine)
    assert is_absent(uri)
    Tracker(uri, "study", floor=68.0)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [_head()]
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{OLDER}'"))
        connection.execute(sa.text("INSERT INTO runs (run_uuid, status) VALUES ('a', 'FINISHED')"))
        connection.commit()
    engine.dispose()
    with pytest.raises(UnusableStoreError, match="massact serve --upgrade"):
        Tracker(uri, "study", floor=68.0)


@pytest.mark.slow
def test_tables_that_another_process_is_making_are_not_looked_at_meanwhile(postgres: PostgresServer) -> None:
    """Each would wait for the other's locks."""
    from mlflow.store.tracking.dbmodels.initial_models import Base

    uri = postgres.fresh()
    engine = sa.create_engine(uri.replace("postgresql:", "postgresql+psycopg:"))
    Base.metadata.create_all(engine)
    waiting = sa.text("SELECT locktype FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor() as pool, engine.connect() as other, engine.connect() as watching:
        other.execute(sa.text(f"SELECT pg_advisory_lock({_LOCK_NUMBER})"))
        other.execute(sa.text("LOCK TABLE experiments IN ACCESS EXCLUSIVE MODE"))
        first = pool.submit(Tracker, uri, "study", floor=68.0)
        while not (waits := watching.execute(waiting).scalars().all()):
            time.sleep(0.05)
        other.invalidate()  # its process ends
        first.result(timeout=60)
    engine.dispose()
    assert waits == ["advisory"]


@pytest.fixture
def older_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real one, of the migrations before this MLflow's last, with a run in it."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "store.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, BEFORE)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "VALUES (7, 'old', '/old/7', 'active', 'default')"
        )
        connection.exec_driver_sql(
            "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, artifact_uri, start_time, "
            "user_id, source_type) VALUES ('a', 'old run', 'FINISHED', 'active', 7, '/old/7/a', 1, 'ada', 'LOCAL')"
        )
    engine.dispose()
    return path


@pytest.mark.slow
def test_a_store_of_an_older_mlflow_is_migrated_when_that_is_asked_for(older_store: Path) -> None:
    uri = f"sqlite:///{older_store}"
    before = content(older_store)
    with pytest.raises(UnusableStoreError) as refused:
        connect(uri)
    assert f"massact serve --upgrade --backend-store-uri {uri}" in str(refused.value)
    assert content(older_store) == before
    assert open_store(uri).warnings  # and it is read as it is

    upgrade = ("serve", "--upgrade", "--backend-store-uri", uri)
    done = run_massact(*upgrade, cwd=older_store.parent)
    assert done.returncode == 0, done.stderr
    (kept,) = (one for one in older_store.parent.iterdir() if "before-upgrade" in one.name)
    assert f"as it was: {kept}" in done.stdout
    assert content(kept) == before
    assert is_whole(older_store)
    assert connect(uri).get_run("a").info.run_name == "old run"
    again = run_massact(*upgrade, cwd=older_store.parent)
    assert again.returncode == 0, again.stderr
    assert len(list(older_store.parent.iterdir())) == 2 + (older_store.parent / "mlruns").exists()


@pytest.mark.slow
def test_a_migration_that_fails_leaves_the_store_as_it_was(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(uri)
    set_version(uri, OLDER)  # whose tables are there already, so that the migrations after it fail
    before = content(path_of(uri))
    with pytest.raises(UnusableStoreError, match="which is as it was"):
        set_up(uri, upgrade=True)
    assert content(path_of(uri)) == before
    set_version(uri, NEWER)
    with pytest.raises(UnusableStoreError, match="newer MLflow"):
        set_up(uri, upgrade=True)
