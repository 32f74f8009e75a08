"""Vectors of one model and trait, as the newest extraction that the experiment means holds them."""

import torch

from massact.config import ModelConfig, TraitConfig
from massact.domain import Recipe
from massact.errors import MissingPrerequisiteError, StoreError
from massact.labels import format_label
from massact.phases.session import Session
from massact.phases.stored_extractions import extract_command, newest_extractions, other_settings
from massact.pipeline.activations import Activations
from massact.pipeline.extract import make_vectors
from massact.schema import Artifact, Kind, StageRow
from massact.store.base import Stored
from massact.tracking.stages import read_calibration
from massact.tracking.tensors import read_activations, read_tensor
from massact.vectors.massive import Calibration


class StoredVectors:
    """Vectors of one model and trait, from the newest extraction that the experiment means."""

    def __init__(self, session: Session, config: ModelConfig, trait: TraitConfig) -> None:
        self._session = session
        name = session.experiment.name
        with session.store() as store:
            extractions = newest_extractions(session.experiment, store)
            stages = store.stages(Kind.CALIBRATION, name)
            calibrations = [one for one in stages if one.row.model == config.name and one.row.trait is None]
        self._extractions = {
            position or "": one
            for (model, of_trait, position), one in extractions.items()
            if (model, of_trait) == (config.name, trait.name)
        }
        if not self._extractions or not calibrations:
            lacking, command = ("activations", "extract") if calibrations else ("calibration", "calibrate")
            raise MissingPrerequisiteError(
                f"{config.name}, {trait.name}: no {lacking} in the store: run "
                f"massact {command} --experiment {session.experiment.file} first"
            )
        path = session.fetch(calibrations[-1].run_id, Artifact.CALIBRATION)
        self.calibration: Calibration = read_calibration(path)
        self._made: dict[tuple[str, str], torch.Tensor] = {}
        self._activations: dict[str, Activations] = {}

    def of(self, position: str, recipe: Recipe) -> torch.Tensor:
        """`[n_layers, d_model]`: read from the extraction, or made from its activations where it holds none.

        Raises:
            MissingPrerequisiteError: nothing was extracted at that position, or with another validation split
                or vetting only.
        """
        label = format_label(recipe)
        if (position, label) not in self._made:
            self._made[position, label] = self._read(position, recipe, label)
        return self._made[position, label]

    def activations(self, position: str) -> Activations:
        """What the vectors at a position were made from.

        Raises:
            MissingPrerequisiteError: nothing was extracted at that position.
        """
        if position not in self._activations:
            found = self._extraction(position)
            self._activations[position] = read_activations(
                self._session.fetch(found.run_id, Artifact.ACTIVATIONS)
            )
        return self._activations[position]

    def check(self, position: str) -> None:
        """Make sure that vectors can be had at a position, without reading any.

        Raises:
            MissingPrerequisiteError: as `of`.
        """
        self._extraction(position)

    def _extraction(self, position: str) -> Stored[StageRow]:
        found = self._extractions.get(position)
        if found is None:
            raise MissingPrerequisiteError(
                f"activations not found at {position}: add it to extraction.positions in "
                f"{self._session.experiment.file} and run massact extract first; there are "
                f"{', '.join(self._extractions)}"
            )
        other = other_settings(found.row, self._session.experiment)
        if other is not None:
            raise MissingPrerequisiteError(
                f"vectors at {position}: {other}. Run: {extract_command(self._session.experiment)}"
            )
        return found

    def _read(self, position: str, recipe: Recipe, label: str) -> torch.Tensor:
        found, fetch = self._extraction(position), self._session.fetch
        if label in found.row.labels:
            try:
                path = fetch(found.run_id, f"{Artifact.VECTORS}/{label}.safetensors")
                return read_tensor(path, "vectors")
            except StoreError as error:
                raise MissingPrerequisiteError(
                    f"vectors of {label} not found in extraction {found.run_id}: {error}. Delete that run and "
                    "run massact extract again"
                ) from error
        activations = self.activations(position)
        seed = self._session.experiment.extraction.seed
        return make_vectors([recipe], activations, self.calibration, seed=seed)[label].vectors
