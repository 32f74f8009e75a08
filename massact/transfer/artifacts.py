"""Artifacts of stored runs, as bytes or as responses."""

import tempfile
from pathlib import Path
from typing import Any

from massact.addresses import moved_folder
from massact.domain import Response
from massact.errors import DataError, StoreError
from massact.schema import Artifact
from massact.tracking.connection import connect


class ArtifactReader:
    """Reads artifacts from one tracking store."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._client: Any = None

    def read(self, run_id: str, name: str) -> bytes:
        """An artifact's content.

        Raises:
            StoreError: the run holds no such artifact, or it cannot be had.
        """
        with tempfile.TemporaryDirectory(prefix="massact-") as folder:
            return self._download(run_id, name, folder).read_bytes()

    def read_responses(self, run_id: str) -> tuple[Response, ...]:
        """The responses that a run holds.

        Raises:
            StoreError: it holds none, or they cannot be had.
        """
        from massact.tracking.tensors import read_responses  # loads torch

        with tempfile.TemporaryDirectory(prefix="massact-") as folder:
            try:
                return read_responses(self._download(run_id, Artifact.RESPONSES, folder))
            except DataError as error:
                raise StoreError(str(error)) from error

    def read_layers(self, run_id: str, label: str) -> tuple[list[float], list[bytes]]:
        """A label's vectors of an extraction's run by layer: their norms, and each as a file of torch.

        Raises:
            StoreError: the run holds none, or they cannot be had.
        """
        from massact.tracking.tensors import read_tensor, torch_file  # loads torch

        with tempfile.TemporaryDirectory(prefix="massact-") as folder:
            try:
                path = self._download(run_id, f"{Artifact.VECTORS}/{label}.safetensors", folder)
                vectors = read_tensor(path, "vectors")
            except DataError as error:
                raise StoreError(str(error)) from error
        return [float(one.norm()) for one in vectors], [torch_file(one) for one in vectors]

    def _download(self, run_id: str, name: str, folder: str) -> Path:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        if self._client is None:
            self._client = connect(self._tracking_uri)  # sets MLflow up, and says clearly where it cannot
        try:
            moved = moved_folder(self._client.get_run(run_id).info.artifact_uri, self._tracking_uri)
            if moved is not None and (moved / name).is_file():
                return moved / name
            found = download_artifacts(
                run_id=run_id, artifact_path=name, dst_path=folder, tracking_uri=self._tracking_uri
            )
        except (MlflowException, OSError) as error:
            raise StoreError(
                f"run {run_id} has no artifact {name!r}: {str(error).partition(chr(10))[0]}"
            ) from error
        return Path(found)
