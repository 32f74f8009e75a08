"""Making an evaluation's vector again, from what extractions keep. What gives another digest is not used."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from massact.doctor.base import CannotMendError, Patient, decode_row
from massact.doctor.files import ArtifactError
from massact.errors import MassactError
from massact.json_text import parse_object
from massact.labels import parse_label
from massact.schema import Artifact, EvaluationRow, Kind, StageRow, Tag
from massact.store.base import RawRun

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_KEPT = 64
"""Stacks of vectors that are kept in memory: the evaluations of one label come together or far apart."""
_ACTIVATIONS = ("train.safetensors", "validation.safetensors", "metadata.json")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A vector's file, and what it was made from."""

    content: bytes
    source: str


@dataclass(frozen=True, slots=True)
class _Stage:
    run: RawRun
    row: StageRow


class Donors:
    """The extractions of an experiment, superseded ones too, as sources of vectors."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._stacks: OrderedDict[tuple[str, str, str], torch.Tensor | None] = OrderedDict()

    def vector_file(self, row: EvaluationRow) -> Rebuilt:
        """The file of an evaluation's vector, as it was first written.

        Raises:
            CannotMendError: no extraction in the store gives a vector of the row's digest.
        """
        from massact.vectors.geometry import vector_digest

        tried = 0
        ways = (("vectors", self._read_stack), ("activations", self._make_stack))
        for what, stack_of in ways:
            for stage in self._extractions_of(row):
                stack = self._kept(what, stage, row.label or "", stack_of)
                if stack is None or row.layer is None or row.layer >= len(stack):
                    continue
                tried += 1
                if vector_digest(stack[row.layer]) == row.vector_digest:
                    return Rebuilt(
                        _file(row, stack[row.layer]), f"the {what} of extraction {stage.run.run_id}"
                    )
        reason = (
            "no extraction of its model, trait and window keeps vectors or activations that can be read"
            if not tried
            else "the extractions in the store give other vectors (it was extracted again since, or elsewhere)"
        )
        raise CannotMendError(f"beyond mending: {reason}")

    def _extractions_of(self, row: EvaluationRow) -> Iterator[_Stage]:
        wanted = (row.model, row.trait, row.position)
        for stage in self._extractions:
            if (stage.row.model, stage.row.trait, stage.row.position) == wanted:
                yield stage

    def _kept(
        self, what: str, stage: _Stage, label: str, make: "Callable[[_Stage, str], torch.Tensor | None]"
    ) -> "torch.Tensor | None":
        place = (what, stage.run.run_id, label)
        if place not in self._stacks:
            self._stacks[place] = make(stage, label)
            if len(self._stacks) > _KEPT:
                self._stacks.popitem(last=False)
        return self._stacks[place]

    def _read_stack(self, stage: _Stage, label: str) -> "torch.Tensor | None":
        """`[n_layers, d_model]`; `None` where the extraction keeps no readable vectors of the label."""
        from massact.tracking.tensors import read_tensor

        name = f"{Artifact.VECTORS}/{label}.safetensors"
        return self._unfolded(stage.run, (name,), lambda folder: read_tensor(folder / name, "vectors"))

    def _make_stack(self, stage: _Stage, label: str) -> "torch.Tensor | None":
        """The same, made again from the activations that it keeps."""
        from massact.pipeline.extract import make_vectors
        from massact.tracking.tensors import read_activations
        from massact.vectors.massive import parse_calibration

        calibrated = self._calibrations.get(stage.row.calibration_key or "")
        if calibrated is None or self._patient.seed is None:
            return None
        calibration = self._unfolded(
            calibrated.run,
            (Artifact.CALIBRATION,),
            lambda folder: parse_calibration(parse_object((folder / Artifact.CALIBRATION).read_bytes())),
        )
        names = tuple(f"{Artifact.ACTIVATIONS}/{name}" for name in _ACTIVATIONS)
        activations = self._unfolded(
            stage.run, names, lambda folder: read_activations(folder / Artifact.ACTIVATIONS)
        )
        if calibration is None or activations is None:
            return None
        try:
            recipe = parse_label(label)
            self._patient.say(
                f"making the vectors of {label} again, from the activations of {stage.run.run_id}"
            )
            return make_vectors([recipe], activations, calibration, seed=self._patient.seed)[label].vectors
        except (MassactError, ValueError, KeyError, IndexError, RuntimeError):
            return None  # activations of another model, or a label that is none of ours

    def _unfolded(self, run: RawRun, names: tuple[str, ...], read: Callable[[Path], T]) -> T | None:
        """What a reader makes of some of a run's files; `None` where one is missing or damaged."""
        with tempfile.TemporaryDirectory(prefix="massact-") as temporary:
            try:
                for name in names:
                    path = Path(temporary, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(self._patient.files.read(run.artifact_uri, name))
                return read(Path(temporary))
            except (ArtifactError, MassactError, ValueError):
                return None

    @cached_property
    def _extractions(self) -> list[_Stage]:
        return self._stages(Kind.EXTRACTION)

    @cached_property
    def _calibrations(self) -> dict[str, _Stage]:
        return {stage.row.key: stage for stage in self._stages(Kind.CALIBRATION)}

    def _stages(self, kind: Kind) -> list[_Stage]:
        """The finished runs of a stage, the newest last."""
        raw = self._patient.source.stream(self._patient.experiment, kind, tags=(Tag.ROW,))
        found = []
        for run in sorted(raw, key=lambda run: (run.finished_at or -1, run.run_id)):
            row = decode_row(kind, run.tags.get(Tag.ROW, ""))
            if isinstance(row, StageRow):
                found.append(_Stage(run, row))
        return found


def _file(row: EvaluationRow, vector: "torch.Tensor") -> bytes:
    from massact.tracking.evaluations import vector_provenance
    from massact.tracking.tensors import tensor_bytes

    return tensor_bytes({"vector": vector}, vector_provenance(row))
