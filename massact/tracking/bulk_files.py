"""Artifacts of whole runs: plain files where they lie on this machine, else by MLflow's repositories."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from massact.addresses import local_folder, shown_uri
from massact.errors import RunRefusedError, StoreError
from massact.tracking.connection import without_password

Files = Mapping[str, bytes]
"""Content by path within the run."""

_NEVER = (400, 409, 413, 422)
"""HTTP statuses of a request that would be refused again, whenever it is made."""


def write_files(files_by_place: Iterable[tuple[str, Files]], tracking_uri: str) -> None:
    """Write the artifacts of runs, each to its artifact URI; on this machine they survive a power cut.

    Raises:
        StoreError: they cannot be written; some may have been.
    """
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
        for path in written:
            _sync(path)


def _write_local(folder: Path, files: Files) -> list[Path]:
    paths = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(tracking_uri: str) -> Iterator[None]:
    """MLflow's errors and the system's as ours, in one line without a password.

    Raises:
        RunRefusedError: it would be refused again, whenever it is tried.
        StoreError: any other failure.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = f"tracking store {shown_uri(tracking_uri)}: {without_password(error, tracking_uri)}"
        status = error.get_http_status_code() if isinstance(error, MlflowException) else None  # type: ignore[no-untyped-call]
        is_final = status in _NEVER
        raise (RunRefusedError if is_final else StoreError)(reason) from error
