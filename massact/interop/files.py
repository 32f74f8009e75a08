"""Writing files: whole or not at all, and never over one that is there."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from massact.addresses import moved_folder
from massact.domain import Response
from massact.errors import DataError, StoreError, UsageError
from massact.store.schema import Artifact
from massact.store.write.client import connect


def check_free(paths: Iterable[Path]) -> None:
    """Check that none of the files is there.

    Raises:
        UsageError: one is.
    """
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} is there already: pass --overwrite to replace it, or another --output")


def write_whole(path: Path, content: Iterable[bytes]) -> None:
    """Write a file under another name and move it into place; its folder is made.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(content)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)  # mkstemp's files are for their owner only
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}. Choose an --output that can be written"
        ) from error


# Artifacts of stored runs, as bytes or as responses.


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
        from massact.store.write.tensors import read_responses  # loads torch

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
        from massact.store.write.tensors import read_tensor, torch_file  # loads torch

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
