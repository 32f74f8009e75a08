"""Artifacts read by where they lie, without a tracking client: asking for one sets up nothing in the store."""

import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

from massact.addresses import first_line, local_folder, moved_folder
from massact.errors import StoreError
from massact.store.write.client import set_up_client

_MOVED = (
    "where a run store was moved, its artifacts are looked for beside its database: put them there, or back to where "
    "they were written"
)


def fetch_from(artifact_uri: str, path: str, *, tracking_uri: str) -> Path:
    """An artifact of the run whose artifacts lie at a URI: where it lies on this machine, or a downloaded copy.

    Of a store that was moved it is looked for beside the database. A copy stays until the process ends.

    Raises:
        StoreError: there is no such artifact, or it cannot be had.
    """
    set_up_client()
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    moved = moved_folder(artifact_uri, tracking_uri)
    try:
        repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
        if isinstance(repository, LocalArtifactRepository):
            place = (moved or Path(repository.artifact_dir)) / path
        else:
            place = Path(repository.download_artifacts(path, str(_folder(artifact_uri))))  # type: ignore[no-untyped-call]
    except (MlflowException, OSError) as error:
        raise StoreError(f"there is no artifact {path!r} at {artifact_uri}: {first_line(error)}") from error
    if not place.exists():
        folder = local_folder(artifact_uri)
        is_gone = folder is not None and moved is None and not folder.parent.parent.is_dir()
        why = f", nor does {folder.parent.parent}; {_MOVED}" if folder is not None and is_gone else ""
        raise StoreError(f"there is no artifact {path!r} at {artifact_uri}: {place} does not exist{why}")
    return place


def _folder(artifact_uri: str) -> Path:
    """Where copies of a run's artifacts go: MLflow's own choice would be a new folder each time, for good."""
    folder = Path(_copies().name) / sha256(artifact_uri.encode()).hexdigest()[:32]
    folder.mkdir(exist_ok=True)
    return folder


@cache
def _copies() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="massact-")
