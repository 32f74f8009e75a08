"""Artifacts read by where they lie, without a tracking client: asking for one sets up nothing in the store."""

from pathlib import Path

from massact.errors import StoreError
from massact.tracking.connection import first_line, set_up_client


def fetch_from(artifact_uri: str, path: str, *, tracking_uri: str) -> Path:
    """An artifact of the run whose artifacts lie at a URI: where it lies on this machine, or a downloaded copy.

    Raises:
        StoreError: there is no such artifact, or it cannot be had.
    """
    set_up_client()
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        repository = get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)
        found = Path(repository.download_artifacts(path))  # type: ignore[no-untyped-call]
    except (MlflowException, OSError) as error:
        raise StoreError(f"there is no artifact {path!r} at {artifact_uri}: {first_line(error)}") from error
    if not found.exists():
        raise StoreError(f"there is no artifact {path!r} at {artifact_uri}")
    return found
