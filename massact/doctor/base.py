"""What a check of the doctor is, what it finds, and what it looks and mends with: rows, and artifacts of runs."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, ClassVar, Literal

from massact.addresses import first_line, local_folder, moved_folder
from massact.errors import MassactError
from massact.store.read.base import RawRun, RunSource
from massact.store.schema import EvaluationRow, Kind, Tag
from massact.store.schema.rows import Row, row_of
from massact.store.write.artifacts import Mender
from massact.store.write.client import set_up_client


class ArtifactError(MassactError):
    def __init__(self, state: Literal["missing", "unreadable", "unreachable"], why: str) -> None:
        """`unreachable`: the place where files lie cannot be looked at from here, which says nothing about the run."""
        super().__init__(why)
        self.state = state


class RunFiles:
    """Reads artifacts of one tracking store. May be used from several threads."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._lock = Lock()
        self.unreachable: dict[str, str] = {}  # places whose files cannot be looked at, and why
        self.n_unseen: dict[str, int] = {}  # how many files were not looked at there

    def read(self, artifact_uri: str, name: str) -> bytes:
        folder = moved_folder(artifact_uri, self._tracking_uri) or local_folder(artifact_uri)
        place = place_of(artifact_uri)
        if place not in self.unreachable:
            try:
                return self._download(artifact_uri, name) if folder is None else _read_local(folder, place, name)
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


Level = Literal["problem", "note"]


class CannotMendError(MassactError):
    """A finding that --fix cannot mend after all; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    check: str
    run_id: str | None
    what: str  # what was found, and what it means for results
    advice: str  # what a person can do where it is not mended
    remedy: str | None = None  # what --fix does about it; `None`: nothing mends it
    mend: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    """Mends it and says what was done. Raises `CannotMendError`, or `StoreError` where the store fails."""
    level: Level = "problem"  # a note is told, and is nothing that has to be mended


@dataclass(frozen=True, kw_only=True)
class DoctorContext:
    """What is looked over, and what checks look and mend with."""

    tracking_uri: str
    experiment: str  # the experiment's name, as in the tag `massact.experiment`
    source: RunSource
    files: RunFiles
    mender: Mender
    now: int  # milliseconds since 1970
    stale_after_hours: float  # how long a run of a process that cannot be asked is left alone
    spool: Path
    seed: int | None = None
    """The extraction's seed in the experiment file; `None` where only the store knows the experiment."""
    told: Callable[[EvaluationRow], Mapping[str, str]] = lambda _row: {}
    """What the files of today tell of a row's cell, for rows that lack it; see `massact.store.schema.stored_cell`."""
    say: Callable[[str], None] = lambda _line: None


class CheckedRun:
    """A finished run, as checks are shown it."""

    def __init__(self, raw: RawRun) -> None:
        self.raw = raw
        self.run_id = raw.run_id
        self.kind = Kind(raw.tags[Tag.KIND])

    @cached_property
    def row(self) -> Row | None:
        row: Row | None = row_of(self.kind, self.raw.tags)
        return row


class Check:
    """Looks for one thing that may be wrong. It is built with a `DoctorContext`, and only reads. A new check is a class
    that inherits this one, and an entry in `massact.doctor.CHECKS`."""

    name: ClassVar[str]
    kinds: ClassVar[frozenset[Kind]] = frozenset()  # of which kinds it wants to see the finished runs
    tags: ClassVar[tuple[str, ...]] = ()  # the tags that it needs of those
    reads_files: ClassVar[bool] = False  # whether it reads artifacts: then `see` is called from several threads

    def __init__(self, context: DoctorContext) -> None:
        self.context = context

    def finding(self, what: str, advice: str, *, run_id: str | None = None, **fields: Any) -> Finding:
        """What this check found; further fields are those of `Finding`."""
        return Finding(check=self.name, run_id=run_id, what=what, advice=advice, **fields)

    def before(self) -> Iterator[Finding]:
        return iter(())

    def see(self, run: CheckedRun) -> Iterator[Finding]:  # noqa: ARG002  # for those who override it
        """What is wrong with one finished run; superseded runs come too."""
        return iter(())

    def after(self) -> Iterator[Finding]:
        return iter(())


RESULTS = (Kind.EVALUATION, Kind.BASELINE, Kind.CONFIRMATION, Kind.CONTROL, Kind.SIDE_EFFECT)
"""Kinds of runs of a cell that was asked all questions."""
MADE_AGAIN = {
    Kind.CONFIRMATION: "`massact confirm`",
    Kind.CONTROL: "`massact baselines`",
    Kind.SIDE_EFFECT: "`massact rejudge --every-trait`",
}
"""Which command evaluates the results of a kind that no sweep does."""
