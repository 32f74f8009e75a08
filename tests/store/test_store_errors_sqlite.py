"""A SQLite run store that is missing, foreign, locked or damaged, or that one may only read."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from massact.errors import StoreError
from massact.store import databases as database
from massact.store.read import open_store
from massact.store.read.sql import SqlSource
from massact.store.write.database import undo_cut_off_write
from tests.support.store_errors import refusal
from tests.support.store_fixtures import EXPERIMENT, Filler, evaluation_row, row_tags

NOBODY = 65534


@pytest.fixture(scope="module")
def stocked(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one evaluation."""
    path = tmp_path_factory.mktemp("stocked") / "store.db"
    shutil.copy(migrated_database, path)
    filler = Filler(f"sqlite:///{path}")
    filler.run("k1", "0", tags=row_tags(evaluation_row(key="k1")))
    return path


@pytest.fixture
def store(stocked: Path) -> Iterator[Path]:
    """Its copy in a folder that everybody may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="massact-store-"))
    folder.chmod(0o755)
    shutil.copy(stocked, folder / "store.db")
    (folder / "store.db").chmod(0o644)
    keys(folder / "store.db")  # loads what must be loaded while files may be read
    yield folder / "store.db"
    folder.chmod(0o755)
    shutil.rmtree(folder)


def keys(path: Path) -> list[str]:
    found = open_store(f"sqlite:///{path}")
    try:
        return [one.row.key for one in found.evaluations(EXPERIMENT)]
    finally:
        found.close()


def refusal_of(path: Path) -> str:
    """The line without the command, whose own files another user might not be allowed to read."""
    with pytest.raises(StoreError) as refused:
        keys(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@contextmanager
def without_rights(*read_only: Path) -> Iterator[None]:
    """May not write to these; root, who may do everything, is somebody else for a while."""
    for path in read_only:
        path.chmod(0o555 if path.is_dir() else 0o444)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@contextmanager
def writer(path: Path, *, wal: bool = True) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    if wal:
        connection.execute("PRAGMA journal_mode = WAL")
    try:
        yield connection
    finally:
        connection.close()


def test_a_missing_file_is_named_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "no such" / "runs.db"
    assert refusal(f"SQLite:///{path}") == (f"no run store at {path} yet: run `massact main` or pass --tracking-uri")
    assert not path.parent.exists()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    assert refusal(f"sqlite:///{tmp_path}") == f"{tmp_path} is a folder, not a database: write sqlite:///FILE"


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert "File name too long" in refusal(f"sqlite:///{tmp_path}/{'a' * 300}")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to have a header" * 20)
    assert refusal(f"sqlite:///{path}").startswith(f"{path} is not a database: pass the tracking URI")


@pytest.mark.parametrize("tables", [("cats",), ("runs", "experiments")])
def test_a_database_that_is_not_mlflows(tmp_path: Path, tables: tuple[str, ...]) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        for name in tables:
            connection.execute(f"CREATE TABLE {name} (id INTEGER)")
        connection.execute(f"INSERT INTO {tables[0]} VALUES (1)")
    missing = "tags" if "runs" in tables else "experiments"
    assert refusal(f"sqlite:///{path}").startswith(
        f"{path} is a database, but not MLflow's (it has no table '{missing}'): pass the tracking URI"
    )


def test_a_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massact.store.databases.LOCK_TIMEOUT_SECONDS", 0.1)
    path = tmp_path / "a b#c.db"
    with writer(path, wal=False) as connection:
        connection.execute("CREATE TABLE runs (id INTEGER)")
        connection.execute("BEGIN EXCLUSIVE")
        assert refusal(f"sqlite:///{path}").endswith("stayed locked by a writer for 0.1 s: try again when it is done")


def test_a_damaged_database(store: Path) -> None:
    with store.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    assert refusal(f"sqlite:///{store}") == (
        f"the run store {store} is damaged (database disk image is malformed): bring back a copy"
    )


def test_a_write_that_was_cut_off(store: Path) -> None:
    code = (
        "import os, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('CREATE TABLE filler (text)')\n"
        "connection.executemany('INSERT INTO filler VALUES (?)', [('x' * 900,)] * 3000)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(store)], check=False)
    assert refusal(f"sqlite:///{store}") == (
        f"{store} holds a write that was cut off, and reading may not undo it: "
        f"run `massact main` again, or open it once with `sqlite3 {store} .tables`"
    )
    undo_cut_off_write(f"sqlite:///{store}")  # as every command that writes does
    assert keys(store) == ["k1"]


@pytest.mark.parametrize("wal", [False, True])
def test_a_store_that_one_may_only_read(store: Path, wal: bool) -> None:
    with writer(store, wal=wal) as connection:
        connection.execute("SELECT * FROM tags").fetchall()
    with without_rights(store, store.parent):
        assert keys(store) == ["k1"]
    assert os.listdir(store.parent) == [store.name]


def test_what_a_writer_has_just_written_is_read_in_a_folder_that_one_may_only_read(store: Path) -> None:
    with writer(store) as connection:
        connection.execute("UPDATE tags SET value = replace(value, 'k1', 'k2')")
        with without_rights(store, store.parent):
            assert keys(store) == ["k2"]


def test_writes_that_wait_beside_a_store_need_the_right_to_write(store: Path) -> None:
    pending = store.with_name("copy.db")
    with writer(store) as connection:
        connection.execute("UPDATE tags SET value = replace(value, 'k1', 'k2')")
        shutil.copy(store, pending)
        shutil.copy(f"{store}-wal", f"{pending}-wal")
    with without_rights(store.parent):
        assert refusal_of(pending) == (
            f"{pending} has writes that lie beside it in {pending}-wal, and reading those needs the right to "
            "write in its folder: ask for it, or copy both files to a folder of yours"
        )
    store.parent.chmod(0o755)
    assert keys(pending) == ["k2"]


def test_a_store_that_changes_while_it_is_read_without_locks(store: Path) -> None:
    with writer(store) as connection:
        connection.execute("SELECT * FROM tags").fetchall()
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT sum(i) FROM n"
    with store.open("ab") as held, without_rights(store.parent):
        source = SqlSource(f"sqlite:///{store}")
        with source._engine.connect() as connected:
            connected.execute(sa.text(slow))
            held.write(b"more")
            held.flush()
            with pytest.raises(sa.exc.OperationalError) as refused:
                connected.execute(sa.text(slow)).all()
    assert database.reading_error(refused.value, str(store)) == f"{store} was written to while it was read: try again"


def test_a_file_that_one_may_not_read(store: Path) -> None:
    store.chmod(0)
    with without_rights():
        assert refusal_of(store) == (
            f"cannot open the run store {store} (unable to open database file): ask for the right to read it"
        )


def test_a_folder_that_one_may_not_enter(store: Path) -> None:
    store.parent.chmod(0)
    with without_rights():
        assert refusal_of(store) == f"cannot open the run store {store}: Permission denied"
