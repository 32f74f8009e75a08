"""Files of runs, written and read by where they lie, and small repairs; reading sets up nothing in the store."""

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from massact.addresses import first_line, local_folder, moved_folder
from massact.errors import StoreError
from massact.store.databases import LOCK_TIMEOUT_SECONDS
from massact.store.schema import Tag
from massact.store.write.client import connect, explained, set_up_client

Files = Mapping[str, bytes]  # content by path within the run


def write_files(files_by_place: Iterable[tuple[str, Files]], tracking_uri: str, *, lasting: bool = True) -> None:
    """Write the artifacts of runs, each to its artifact URI; on this machine `lasting` ones survive a power cut."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    written: list[Path] = []
    with explained(tracking_uri):
        for place, files in files_by_place:
            folder = local_folder(place)
            if folder is not None:
                written += _write_local(folder, files)
            elif files:
                with tempfile.TemporaryDirectory(prefix="massact-") as temporary:
                    _write_local(Path(temporary), files)
                    repository = get_artifact_repository(place, tracking_uri=tracking_uri)
                    repository.log_artifacts(temporary)  # type: ignore[no-untyped-call]
        # after all are written: the first sync then carries most of the others with it
        for path in written if lasting else ():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _write_local(folder: Path, files: Files) -> list[Path]:
    paths = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


_MOVED = (
    "where a run store was moved, its artifacts are looked for beside its database: put them there, or back to where "
    "they were written"
)


def fetch_from(artifact_uri: str, path: str, *, tracking_uri: str) -> Path:
    """An artifact of the run whose artifacts lie at a URI: where it lies on this machine, or a downloaded copy. Of a
    store that was moved it is looked for beside the database. A copy stays until the process ends."""
    folder = local_folder(artifact_uri)
    moved = moved_folder(artifact_uri, tracking_uri)
    place = _downloaded(artifact_uri, path, tracking_uri) if folder is None else (moved or folder) / path
    if not place.exists():
        is_gone = folder is not None and moved is None and not folder.parent.parent.is_dir()
        why = f", nor does {folder.parent.parent}; {_MOVED}" if folder is not None and is_gone else ""
        raise StoreError(f"there is no artifact {path!r} at {artifact_uri}: {place} does not exist{why}")
    return place


def _downloaded(artifact_uri: str, path: str, tracking_uri: str) -> Path:
    set_up_client()
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    # MLflow's own choice would be a new folder each time, for good
    folder = Path(_copies().name) / sha256(artifact_uri.encode()).hexdigest()[:32]
    try:
        folder.mkdir(exist_ok=True)
        repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
        return Path(repository.download_artifacts(path, str(folder)))  # type: ignore[no-untyped-call]
    except (MlflowException, OSError) as error:
        raise StoreError(f"there is no artifact {path!r} at {artifact_uri}: {first_line(error)}") from error


@cache
def _copies() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="massact-")


# Small repairs of runs that are there: an end, a tag, a file. Nothing is ever deleted.

_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
_MOVE = "UPDATE {0} SET {1} = ? || substr({1}, ?) WHERE {1} = ? OR substr({1}, 1, ?) = ?"
_UNENDED = ("RUNNING", "SCHEDULED")


class Mender:
    """Repairs runs of one tracking store, to which it connects with the first repair. Every method raises `StoreError`
    where the store cannot be reached, or refuses."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri

    def end(self, run_id: str, *, ended_at: int, error: str) -> bool:
        """Mark a run as killed at a time (ms since 1970), unless it has an end by now. Returns whether it had none."""
        client = self._client
        with explained(self._tracking_uri):
            if client.get_run(run_id).info.status not in _UNENDED:
                return False
            client.set_tag(run_id, Tag.ERROR.value, error)
            client.set_terminated(run_id, status="KILLED", end_time=ended_at)
        return True

    def tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag."""
        client = self._client
        with explained(self._tracking_uri):
            client.set_tag(run_id, key, value)

    def put(self, artifact_uri: str, name: str, content: bytes) -> None:
        """Write an artifact of a run, in place of one of that name."""
        set_up_client()
        write_files([(artifact_uri, {name: content})], self._tracking_uri)

    def move(self, old: str, new: str) -> int:
        """Say of the artifacts of a SQLite store under a URI that they lie elsewhere. Returns of how many runs."""
        path = self._tracking_uri.partition(":///")[2].partition("?")[0]
        values = (new, len(old) + 1, old, len(old) + 1, f"{old}/")
        try:
            with closing(sqlite3.connect(path, timeout=LOCK_TIMEOUT_SECONDS)) as database, database:
                return [database.execute(_MOVE.format(*place), values).rowcount for place in _PLACES][-1]
        except sqlite3.Error as error:
            raise StoreError(f"no place was changed in {path}: {error}") from error

    @cached_property
    def _client(self) -> Any:
        return connect(self._tracking_uri)
