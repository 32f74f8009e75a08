"""backup.sh and restore.sh where a service runs on one machine, on SQLite."""

import os
import shutil
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.composed import DOCKER


@pytest.mark.parametrize("name", ["backup", "restore"])
def test_a_sqlite_service_is_backed_up_and_restored_with_its_users(
    migrated_database: Path, tmp_path: Path, name: str
) -> None:

    place = tmp_path / "place"
    (place / "mlartifacts" / "0").mkdir(parents=True)
    (place / "mlartifacts" / "0" / "file").write_text("kept")
    (place / "mlartifacts").chmod(0o750)
    if os.geteuid() == 0:
        os.chown(place / "mlartifacts", 10001, 10001)
    shutil.copy(migrated_database, place / "mlflow.db")
    with sqlite3.connect(place / "mlflow.db") as open_one:
        open_one.execute("PRAGMA journal_mode = WAL")
        open_one.execute(
            "INSERT INTO experiments (name, lifecycle_stage, workspace) VALUES ('mine', 'active', 'default')"
        )
        open_one.commit()
        with sqlite3.connect(place / "mlflow-users.db") as users:
            users.execute("CREATE TABLE users (username TEXT)")
            users.execute("INSERT INTO users VALUES ('ada')")
        environment = {
            "PATH": "/usr/bin:/bin",
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{place}/mlflow.db",
            "MASSACT_ARTIFACTS": str(place / "mlartifacts"),
        }

        def keep(script: str, *words: Path) -> "subprocess.CompletedProcess[str]":
            command: list[str | Path] = ["bash", DOCKER / f"{script}.sh", *words]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        done = keep("backup", tmp_path / "backups")  # while it is open, and its last write not in the file yet
        assert done.returncode == 0, done.stderr
    backup = Path(done.stdout.strip())
    if name == "restore":
        shutil.rmtree(place)
        place.mkdir()
        # what a restore leaves that is cut off at its last step
        (place / "mlflow.db.restoring").write_text("half")
        (place / "mlflow-users.db").write_text("half")
        (place / "mlartifacts" / ".massact-restore").mkdir(parents=True)
        done = keep("restore", backup)
        assert done.returncode == 0, done.stderr
        with sqlite3.connect(place / "mlflow.db") as found:
            assert ("mine",) in found.execute("SELECT name FROM experiments").fetchall()
        with sqlite3.connect(place / "mlflow-users.db") as found:
            assert found.execute("SELECT username FROM users").fetchall() == [("ada",)]
        assert (place / "mlartifacts/0/file").read_text() == "kept"
        folder = (place / "mlartifacts").stat()
        assert stat.S_IMODE(folder.st_mode) == 0o750
        assert folder.st_uid == (10001 if os.geteuid() == 0 else os.geteuid())
        assert {path.name for path in place.iterdir()} == {"mlflow.db", "mlflow-users.db", "mlartifacts"}
    done = keep("restore", backup)
    assert done.returncode == 2
    assert "is there already" in done.stderr
