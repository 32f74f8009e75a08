"""Vectors of finished evaluations: there, readable, and the one that the row names."""

import threading
from collections.abc import Iterator
from hashlib import sha256

from massact.doctor.base import CannotMendError, Check, Finding, FinishedRun, Patient
from massact.doctor.files import ArtifactError
from massact.doctor.rebuild import Donors, Rebuilt
from massact.errors import StoreError
from massact.schema import Artifact, EvaluationRow, Kind, Tag, format_param

_UNHARMED = "the result itself is unharmed"


class Vectors(Check):
    """Evaluations and confirmations whose vector is missing, cannot be read, or is another one."""

    name = "vectors"
    kinds = frozenset({Kind.EVALUATION, Kind.CONFIRMATION})
    tags = (Tag.ROW,)
    reads_files = True

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._donors, self._lock = Donors(patient), threading.Lock()

    def see(self, run: FinishedRun) -> Iterator[Finding]:
        """Its vector, where it has one: an imported evaluation has none by nature."""
        row = run.row
        if not isinstance(row, EvaluationRow) or row.origin == "imported" or row.vector_digest is None:
            return
        try:
            content = self._patient.files.read(run.raw.artifact_uri, Artifact.VECTOR)
            found = digest_in(content)
        except ArtifactError as error:
            if error.state == "unreachable":
                return
            wrong = (
                "has no vector" if error.state == "missing" else f"has a vector that was not read: {error}"
            )
        except ValueError as error:
            wrong = f"has a damaged vector file ({error})"
        else:
            if found == row.vector_digest:
                return
            wrong = f"has a vector of digest {found[:12]}, and its row names {row.vector_digest[:12]}"
        yield self._finding(run, row, wrong)

    def _finding(self, run: FinishedRun, row: EvaluationRow, wrong: str) -> Finding:
        what = f"{run.kind} {row.label} L{row.layer} c={format_param(row.coefficient)} {wrong}; {_UNHARMED}"
        advice = f"bring back a copy of its file, or leave it: {_UNHARMED}"
        try:
            made = self._rebuilt(run, row)
        except CannotMendError as error:
            return Finding(check=self.name, run_id=run.run_id, what=what, advice=f"{error}; {advice}")
        return Finding(
            check=self.name,
            run_id=run.run_id,
            what=what,
            advice=advice,
            remedy=f"writes it anew from {made.source}",
            mend=lambda: self._mend(run, row, made),
        )

    def _rebuilt(self, run: FinishedRun, row: EvaluationRow) -> Rebuilt:
        """The vector's file as it would be written: only what was tried is promised."""
        with self._lock:
            made = self._donors.vector_file(row)
        if why := self._patient.files.why_not_written(run.raw.artifact_uri, Artifact.VECTOR):
            raise CannotMendError(f"could not be written: {why}")
        return made

    def _mend(self, run: FinishedRun, row: EvaluationRow, made: Rebuilt) -> str:
        place = run.raw.artifact_uri
        try:
            self._patient.mender.put(place, Artifact.VECTOR, made.content)
            is_there = digest_in(self._patient.files.read(place, Artifact.VECTOR)) == row.vector_digest
        except (ArtifactError, StoreError, ValueError) as error:
            raise CannotMendError(f"the rebuilt vector could not be written: {error}") from error
        if not is_there:
            raise CannotMendError(f"the rebuilt vector was written to {place} and reads as another one")
        return f"rebuilt from {made.source}, the digest is the row's"


def digest_in(content: bytes) -> str:
    """The digest of the vector in a file, as `massact.vectors.geometry.vector_digest` makes it, without torch.

    Raises:
        ValueError: no such file, or no vector in it.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        vector = load(content)["vector"]
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"it holds no tensor `vector` that can be read ({error!r})") from error
    return sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()
