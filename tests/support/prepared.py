"""A store with a calibration and an extraction: made once for all tests, and processes, that start from there."""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from filelock import FileLock

from massact.cli.app import cli
from tests.support.processes import run_massact

_NOT_ASKED = ("judge", "subset", "generation", "questions", "coherence_floor", "description")
_NOT_ASKED_OF_A_MODEL = ("layers", "coefficients", "coefficient_range")
"""What neither a calibration nor an extraction depends on: experiments that differ in these share one."""


class PreparedStores:
    """Makes each store once, in a folder that the processes of one test session share."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def copy(self, text: str, folder: Path, *, file: str = "small.yaml", served: bool = False) -> None:
        """Put an experiment file and its store, `mlflow.db` and `mlruns`, into a folder of the test's own.

        With `served` the artifacts are those of a tracking server whose artifacts' destination is `mlruns`.
        """
        (folder / file).write_text(text)
        template = self._template(text)
        made, copy = sqlite3.connect(template / "mlflow.db"), sqlite3.connect(folder / "mlflow.db")
        with contextlib.closing(made), contextlib.closing(copy):
            made.backup(copy)
            if served:
                artifacts_moved(copy, f"{template}/mlruns", "mlflow-artifacts:")
            else:
                artifacts_moved(copy, str(template), str(folder))
        shutil.copytree(template / "mlruns", folder / "mlruns")

    def finished(self, text: str, folder: Path) -> str:
        """Put a folder in which `massact main` has run into one of the test's own. Returns what it printed."""
        template = self._shared / f"finished-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        with FileLock(f"{template}.lock"):
            if not template.exists():
                making = template.with_suffix(".making")
                making.mkdir(parents=True)
                _run_main(text, making)
                making.rename(template)
        shutil.copytree(template, folder, dirs_exist_ok=True)
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
            artifacts_moved(database, str(template.with_suffix(".making")), str(folder))
        return (folder / "printed.txt").read_text()

    def _template(self, text: str) -> Path:
        folder = self._shared / _what_decides(text)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                making = folder.with_suffix(".making")
                making.mkdir(parents=True)
                _calibrate_and_extract(text, making)
                with contextlib.closing(sqlite3.connect(making / "mlflow.db")) as database:
                    artifacts_moved(database, str(making), str(folder))
                making.rename(folder)
        return folder


def _calibrate_and_extract(text: str, folder: Path) -> None:
    (folder / "small.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for command in ("calibrate", "extract"):
            options = ["--experiment", "small.yaml", "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
            result = CliRunner().invoke(cli, [command, *options])
            assert result.exit_code == 0, result.output


def _run_main(text: str, folder: Path) -> None:
    (folder / "small.yaml").write_text(text)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done = run_massact("main", "--experiment", "small.yaml", cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)


def artifacts_moved(database: sqlite3.Connection, before: str, after: str) -> None:
    """MLflow keeps whole paths: have a store say where its artifacts lie now."""
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (before, after))
    database.commit()


def _what_decides(text: str) -> str:
    declared = yaml.safe_load(text)
    models = {
        name: {key: value for key, value in model.items() if key not in _NOT_ASKED_OF_A_MODEL}
        for name, model in declared["models"].items()
    }
    kept = {key: value for key, value in declared.items() if key not in _NOT_ASKED}
    return hashlib.sha256(json.dumps({**kept, "models": models}, sort_keys=True).encode()).hexdigest()[:12]
