"""Artifacts of runs, read where they lie or downloaded; what is missing is told from what cannot be reached."""

import os
import tempfile
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, Literal

from massact.addresses import first_line, local_folder, moved_folder
from massact.errors import MassactError
from massact.store.write.client import set_up_client


class ArtifactError(MassactError):
    """An artifact that was not read."""

    def __init__(self, state: Literal["missing", "unreadable", "unreachable"], why: str) -> None:
        """
        Args:
            state: the run holds no such file; the file is there and cannot be read; or the place where the
                run's files lie cannot be looked at from here, which says nothing about the run.
        """
        super().__init__(why)
        self.state = state


class RunFiles:
    """Reads artifacts of one tracking store. May be used from several threads."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._lock = Lock()
        self.unreachable: dict[str, str] = {}
        """Places whose files cannot be looked at, and why."""
        self.n_unseen: dict[str, int] = {}
        """How many files were not looked at there."""

    def read(self, artifact_uri: str, name: str) -> bytes:
        """A file of a run.

        Raises:
            ArtifactError: it was not read; its state says why.
        """
        folder = moved_folder(artifact_uri, self._tracking_uri) or local_folder(artifact_uri)
        place = place_of(artifact_uri)
        if place not in self.unreachable:
            try:
                return (
                    self._download(artifact_uri, name) if folder is None else _read_local(folder, place, name)
                )
            except ArtifactError as error:
                if error.state != "unreachable":
                    raise
                with self._lock:
                    self.unreachable.setdefault(place, str(error))
        with self._lock:
            self.n_unseen[place] = self.n_unseen.get(place, 0) + 1
        raise ArtifactError("unreachable", self.unreachable[place])

    def why_not_written(self, artifact_uri: str, name: str) -> str | None:
        """Why a file cannot be put into a folder of this machine; `None` where nothing is known against it."""
        folder = local_folder(artifact_uri)
        path = None if folder is None else folder / name
        if path is None or not (path.exists() or path.is_symlink() or path.parent.exists()):
            return None
        if path.exists() and not path.is_file():
            return f"{path} is no file"
        place = path if path.exists() else path.parent
        return None if os.access(place, os.W_OK) else f"{place} may not be written to"

    def _download(self, artifact_uri: str, name: str) -> bytes:
        with self._lock:  # imports MLflow the first time
            set_up_client()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with tempfile.TemporaryDirectory(prefix="massact-") as folder:
            try:
                repository = get_artifact_repository(artifact_uri, tracking_uri=self._tracking_uri)
            except Exception as error:  # of a kind that needs a package or a setting that is not there
                raise ArtifactError("unreachable", first_line(error)) from error
            try:
                # what `download_artifacts` calls in the end, after a question and with threads that cost more
                path = Path(folder, PurePosixPath(name).name)
                repository._download_file(name, str(path))  # type: ignore[no-untyped-call]
                return path.read_bytes()
            except Exception as error:  # each kind of store has errors of its own
                why = first_line(error)
            if self._is_listed(repository, name):
                raise ArtifactError("unreadable", f"it cannot be downloaded ({why})")
        raise ArtifactError("missing", "the run holds no such file")

    def _is_listed(self, repository: Any, name: str) -> bool:
        above = str(PurePosixPath(name).parent)
        try:
            listed = repository.list_artifacts(None if above == "." else above)
        except Exception as error:  # as above
            raise ArtifactError("unreachable", first_line(error)) from error
        return name in {file.path for file in listed}


def place_of(artifact_uri: str) -> str:
    """Where the runs of one MLflow experiment keep their files: the URI without run and `artifacts`."""
    return artifact_uri.rstrip("/").rsplit("/", 2)[0]


def _read_local(folder: Path, place: str, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        root = local_folder(place)
        if root is None or not root.is_dir():
            raise ArtifactError("unreachable", "there is no such folder on this machine") from None
        raise ArtifactError("missing", "the run holds no such file") from None
    except OSError as error:
        raise ArtifactError("unreadable", f"it cannot be read ({error.strerror})") from error
