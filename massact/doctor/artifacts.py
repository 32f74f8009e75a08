"""Vectors and responses of finished evaluations: there, readable, and the ones that the row tells of.

A vector that is lost is made again from what extractions keep. What gives another digest is not used."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from massact._lazy import np
from massact.addresses import check_path, moved_folder
from massact.doctor.base import (
    MADE_AGAIN,
    RESULTS,
    ArtifactError,
    CannotMendError,
    Check,
    CheckedRun,
    DoctorContext,
    Finding,
    place_of,
)
from massact.errors import MassactError, StoreError, UsageError
from massact.json_text import parse_json
from massact.labels import format_label, parse_label
from massact.store.read import StoredStage, stored_stages
from massact.store.read.base import RawRun
from massact.store.responses import parse_responses
from massact.store.schema import Artifact, EvaluationRow, Kind, MlflowTag, Tag
from massact.store.schema.rows import format_param
from massact.store.write.artifacts import fetch_from
from massact.words import counted

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_UNHARMED = "the result itself is unharmed"
_KEPT = 64  # stacks of vectors that are kept in memory: the evaluations of one label come together or far apart


class Vectors(Check):
    """Evaluations and confirmations whose vector is missing, cannot be read, or is another one."""

    name = "vectors"
    kinds = frozenset(RESULTS)
    tags = (Tag.ROW,)
    reads_files = True

    def __init__(self, context: DoctorContext) -> None:
        super().__init__(context)
        self._sources, self._lock = VectorSources(context), threading.Lock()

    def see(self, run: CheckedRun) -> Iterator[Finding]:
        """Its vector, where it has one: an imported evaluation has none by nature."""
        row, digest = run.row, None
        if not isinstance(row, EvaluationRow) or row.origin == "imported" or row.vector_digest is None:
            return
        wrong = {"missing": "has no vector", "unreadable": "has a vector that was not read: {}"}
        try:
            digest = digest_in(self.context.files.read(run.raw.artifact_uri, Artifact.VECTOR))
            said = f"has a vector of digest {digest[:12]}, and its row names {row.vector_digest[:12]}"
        except ArtifactError as error:
            said = wrong.get(error.state, "").format(error)
        except ValueError as error:
            said = f"has a damaged vector file ({error})"
        if said and digest != row.vector_digest:
            yield self._finding(run, row, said)

    def _finding(self, run: CheckedRun, row: EvaluationRow, wrong: str) -> Finding:
        what = f"{run.kind} {row.label} L{row.layer} c={format_param(row.coefficient)} {wrong}; {_UNHARMED}"
        advice = f"bring back a copy of its file, or leave it: {_UNHARMED}"
        try:
            content, source = self._rebuilt(run, row)
        except CannotMendError as error:
            return self.finding(what, f"{error}; {advice}", run_id=run.run_id)
        return self.finding(
            run_id=run.run_id,
            what=what,
            advice=advice,
            remedy=f"writes it anew from {source}",
            mend=lambda: self._mend(run, row, content, source),
        )

    def _rebuilt(self, run: CheckedRun, row: EvaluationRow) -> tuple[bytes, str]:
        """The vector's file as it would be written, and from what: only what was tried is promised."""
        with self._lock:
            made = self._sources.vector_file(row)
        if why := self.context.files.why_not_written(run.raw.artifact_uri, Artifact.VECTOR):
            raise CannotMendError(f"could not be written: {why}")
        return made

    def _mend(self, run: CheckedRun, row: EvaluationRow, content: bytes, source: str) -> str:
        place = run.raw.artifact_uri
        try:
            self.context.mender.put(place, Artifact.VECTOR, content)
            is_there = digest_in(self.context.files.read(place, Artifact.VECTOR)) == row.vector_digest
        except (ArtifactError, StoreError, ValueError) as error:
            raise CannotMendError(f"the rebuilt vector could not be written: {error}") from error
        if not is_there:
            raise CannotMendError(f"the rebuilt vector was written to {place} and reads as another one")
        return f"rebuilt from {source}, the digest is the row's"


def digest_in(content: bytes) -> str:
    """The digest of the vector in a file, as `massact.vectors.methods.vector_digest` makes it, without torch."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        vector = load(content)["vector"]
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"it holds no tensor `vector` that can be read ({error!r})") from error
    return sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()


class VectorSources:
    """The extractions of an experiment, superseded ones too, as sources of vectors."""

    def __init__(self, context: DoctorContext) -> None:
        self._context = context
        self._stack = lru_cache(_KEPT)(self._load_stack)

    def vector_file(self, row: EvaluationRow) -> tuple[bytes, str]:
        """The file of an evaluation's vector, as it was first written, and what it was made from."""
        from massact.store.write.evaluations import vector_provenance
        from massact.store.write.stages import tensor_bytes
        from massact.vectors.methods import vector_digest

        if row.gate or row.operator == "replace":
            raise CannotMendError("beyond mending: it holds more than vectors of its label, a gate's or a subspace's")
        label = row.label or ""
        with suppress(UsageError):  # of a method that is not installed
            label = format_label(parse_label(label).of_vector)
        tried, place = 0, (row.model, row.trait, row.position)
        for what in ("vectors", "activations"):
            for run_id, stage in self._extractions.items():
                if (stage.row.model, stage.row.trait, stage.row.position) != place:
                    continue
                stack = self._stack(what, run_id, label)
                if stack is None or row.layer is None or row.layer + row.n_vectors > len(stack):
                    continue
                tried += 1
                vector = stack[row.layer : row.layer + row.n_vectors].squeeze(0)
                if vector_digest(vector) == row.vector_digest:
                    content = tensor_bytes({"vector": vector}, vector_provenance(row))
                    return content, f"the {what} of extraction {run_id}"
        reason = (
            "no extraction of its model, trait and window keeps vectors or activations that can be read"
            if not tried
            else "the extractions in the store give other vectors (it was extracted again since, or elsewhere)"
        )
        raise CannotMendError(f"beyond mending: {reason}")

    def _load_stack(self, what: str, run_id: str, label: str) -> "torch.Tensor | None":
        """`[n_layers, d_model]`: vectors of a label that an extraction keeps, or made again from the activations that
        it keeps; `None` where it keeps none that can be read."""
        from massact.store.tensors import read_tensor

        stage = self._extractions[run_id]
        if what == "activations":
            return self._make_stack(stage, label)
        name = f"{Artifact.VECTORS}/{label}.safetensors"
        return self._read(stage.run, name, lambda path: read_tensor(path, "vectors"))

    def _make_stack(self, stage: StoredStage, label: str) -> "torch.Tensor | None":
        from massact.store.write.stages import read_activations
        from massact.vectors.extract import make_vectors
        from massact.vectors.massive_dims import read_calibration

        calibrated, seed = self._calibrations.get(stage.row.calibration_key or ""), self._context.seed
        if calibrated is None or seed is None:
            return None
        calibration = self._read(calibrated.run, Artifact.CALIBRATION, read_calibration)
        activations = self._read(stage.run, Artifact.ACTIVATIONS, read_activations)
        if calibration is None or activations is None:
            return None
        try:
            recipe = parse_label(label)
            self._context.say(f"making the vectors of {label} again, from the activations of {stage.run.run_id}")
            return make_vectors([recipe], activations, calibration, seed=seed)[label].vectors
        except (MassactError, ValueError, KeyError, IndexError, RuntimeError):
            return None  # activations of another model, or a label that is none of ours

    def _read(self, run: RawRun, name: str, read: Callable[[Path], T]) -> T | None:
        """What a reader makes of a run's artifact; `None` where it is missing or damaged."""
        try:
            return read(fetch_from(run.artifact_uri, name, tracking_uri=self._context.tracking_uri))
        except (MassactError, ValueError):
            return None

    @cached_property
    def _extractions(self) -> dict[str, StoredStage]:
        stages = stored_stages(self._context.tracking_uri, self._context.experiment, Kind.EXTRACTION)
        return {stage.run.run_id: stage for stage in stages}

    @cached_property
    def _calibrations(self) -> dict[str, StoredStage]:
        stages = stored_stages(self._context.tracking_uri, self._context.experiment, Kind.CALIBRATION)
        return {stage.row.key: stage for stage in stages}


class Responses(Check):
    """Evaluations, baselines and confirmations whose table of responses is lost. Nothing can bring the texts back."""

    name = "responses"
    kinds = frozenset(RESULTS)
    tags = (MlflowTag.TABLES, Tag.ROW)
    reads_files = True

    def see(self, run: CheckedRun) -> Iterator[Finding]:
        """Its table, where it has one: with `--save-responses none` there is none to look for."""
        try:
            tables = parse_json(run.raw.tags.get(MlflowTag.TABLES) or "[]")
            if all(table["path"] != Artifact.RESPONSES for table in tables):
                return
        except (ValueError, KeyError, TypeError):
            return
        try:
            parse_responses(self.context.files.read(run.raw.artifact_uri, Artifact.RESPONSES))
            wrong = ""
        except ArtifactError as error:
            wrong = {"missing": "is missing", "unreachable": ""}.get(error.state, f"was not read: {error}")
        except ValueError as error:
            wrong = f"is damaged ({error})"
        if not wrong:
            return
        again = MADE_AGAIN.get(run.kind, "the next sweep")
        yield self.finding(
            run_id=run.run_id,
            what=f"the table of responses of this {run.kind} {wrong}; its scores are in the run and unharmed",
            advice="nothing can make the texts again: bring back a copy of the file, or delete the run "
            f"(mlflow runs delete --run-id {run.run_id}) and {again} generates and judges them anew",
        )


class Moved(Check):
    """Artifacts that lie beside the database, and not where the store says: it was moved or copied."""

    name = "moved"
    kinds = frozenset({Kind.CALIBRATION, Kind.EXTRACTION, *RESULTS})

    def __init__(self, context: DoctorContext) -> None:
        super().__init__(context)
        self._places: dict[str, Path | None] = {}

    def see(self, run: CheckedRun) -> Iterator[Finding]:
        place = place_of(run.raw.artifact_uri)
        uri = self.context.tracking_uri
        # some runs have no files: one that has tells
        if self._places.get(place) is None and moved_folder(run.raw.artifact_uri, uri) is not None:
            self._places[place] = moved_folder(place, uri)
        return iter(())

    def after(self) -> Iterator[Finding]:
        for old, new in self._places.items():
            if new is not None:
                yield self._finding(old, new)

    def _finding(self, old: str, new: Path) -> Finding:
        def mend() -> str:
            to = str(check_path(new, "the folder of artifacts"))
            return f"the store says {to} of {self.context.mender.move(old, to)} runs"

        return self.finding(
            what=f"the store was moved or copied: it says that artifacts are in {old}, and not beside it in {new}",
            advice="write the new place into the store with --fix, or use it where it was",
            remedy="writes the new place into the store, without which no phase adds to it",
            mend=mend,
        )


class UnreachableArtifacts(Check):
    """Comes after the checks that read files, and tells what they could not read."""

    name = "artifacts"

    def after(self) -> Iterator[Finding]:
        files = self.context.files
        for place, why in sorted(files.unreachable.items()):
            count = files.n_unseen[place]
            yield self.finding(
                what=f"{counted(count, 'file')} under {place} could not be looked at: {why}",
                advice="run it where that place can be read, or with --no-artifacts to leave files out",
            )
