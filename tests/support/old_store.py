"""A store that massact wrote before runs held their cells, kept as it was, with the answers given over it then."""

import gzip
import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "data" / "store_before_cells"
_FOLDER = "/STORE"
"""What stands in the kept files for the folder that the store lay in."""
EXPERIMENT = "small"


def write_old_store(folder: Path) -> str:
    """The store, its experiment file `small.yaml`, and vectors and responses, in a folder. Returns the tracking URI."""
    text = gzip.decompress((DATA / "store.sql.gz").read_bytes()).decode()
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.executescript(text.replace(_FOLDER, str(folder)))
    with zipfile.ZipFile(DATA / "artifacts.zip") as artifacts:
        artifacts.extractall(folder)
    (folder / "small.yaml").write_text((DATA / "small.yaml").read_text())
    return f"sqlite:///{folder}/mlflow.db"


def old_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """By name the arguments, the exit code and the JSON of each question that was asked of it."""
    text = gzip.decompress((DATA / "answers.json.gz").read_bytes()).decode()
    answers: dict[str, dict[str, Any]] = json.loads(text.replace(_FOLDER, str(folder)))
    return answers
