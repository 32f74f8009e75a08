"""Vectors of one model and trait, as the newest extraction that the experiment means holds them."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from massact.config import ModelConfig, TraitConfig
from massact.domain import DEFAULT_ALIKE, NEUTRAL_METHOD, PAIRED_METHOD, Recipe
from massact.errors import DataError, MissingPrerequisiteError, StoreError, UsageError
from massact.labels import format_label, parse_label
from massact.prediction.prior import VectorFacts
from massact.query import Answers
from massact.query.groups import recipe_of
from massact.query.questions.compare import before_after_pairs
from massact.store.read.base import Stored
from massact.store.schema import Artifact, Kind, StageRow
from massact.store.tensors import read_tensor
from massact.sweep.context import Session
from massact.sweep.stored_extractions import extract_command, newest_extractions, other_settings
from massact.vectors.arrays import array_cosine, array_digest
from massact.vectors.massive_dims import Calibration, read_calibration

if TYPE_CHECKING:
    import torch

    from massact._lazy import Numbers
    from massact.vectors.activations import Activations


class StoredVectors:
    """Vectors of one model and trait, from the newest extraction that the experiment means."""

    def __init__(self, session: Session, config: ModelConfig, trait: TraitConfig) -> None:
        self._session, self._place = session, (config.name, trait.name)
        name = session.experiment.name
        with session.stores.read() as store:
            extractions = newest_extractions(session.experiment, store)
            stages = store.stages(Kind.CALIBRATION, name)
            calibrations = [stage for stage in stages if stage.row.model == config.name and stage.row.trait is None]
        self._extractions = {
            position or "": extraction
            for (model, of_trait, position), extraction in extractions.items()
            if (model, of_trait) == (config.name, trait.name)
        }
        self._imported = [
            vector
            for vector in session.experiment.vectors
            if vector.model in (None, config.name) and vector.trait in (None, trait.name)
        ]
        if not calibrations or not (self._extractions or self._imported):
            lacking, command = ("activations", "extract") if calibrations else ("calibration", "calibrate")
            raise MissingPrerequisiteError(
                f"{config.name}, {trait.name}: no {lacking} in the store: run "
                f"massact {command} --experiment {session.experiment.file} first"
            )
        path = session.stores.fetch(calibrations[-1].run_id, Artifact.CALIBRATION)
        self.calibration: Calibration = read_calibration(path)
        self._made: dict[tuple[str, str], torch.Tensor] = {}
        self._activations: dict[str, Activations] = {}

    def of(self, position: str, recipe: Recipe) -> "torch.Tensor":
        """`[n_layers, d_model]`: read from the extraction, or made from its activations where it holds none; how the
        recipe steers makes no difference. Raises MissingPrerequisiteError: nothing was extracted there as the
        experiment asks for."""
        recipe = recipe.of_vector
        label = format_label(recipe)
        if (position, label) not in self._made:
            self._made[position, label] = self._read(position, recipe, label)
        return self._made[position, label]

    def array(self, position: str, recipe: Recipe) -> "Numbers":
        """The same as numpy's: what the extraction holds is read without torch."""
        recipe = recipe.of_vector
        label = format_label(recipe)
        if not recipe.is_imported and label in (found := self.extraction(position)).row.labels:
            vectors: Numbers = self._fetched(found, label, "np")
            return vectors
        return self.of(position, recipe).numpy()

    def activations(self, position: str) -> "Activations":
        """What the vectors at a position were made from."""
        from massact.store.write.stages import read_activations

        if position not in self._activations:
            path = self._session.stores.fetch(self.extraction(position).run_id, Artifact.ACTIVATIONS)
            self._activations[position] = read_activations(path)
        return self._activations[position]

    def extraction(self, position: str) -> Stored[StageRow]:
        """The extraction at a position; MissingPrerequisiteError where there is none as the experiment asks for."""
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

    def _read(self, position: str, recipe: Recipe, label: str) -> "torch.Tensor":
        if recipe.is_imported:
            return self._read_imported(recipe, label)
        found = self.extraction(position)
        if label in found.row.labels:
            vectors: torch.Tensor = self._fetched(found, label)
            return vectors
        methods = {known.method for known in map(recipe_of, found.row.labels) if known}
        if recipe.method in (PAIRED_METHOD, NEUTRAL_METHOD) and recipe.method not in methods:
            raise MissingPrerequisiteError(
                f"{label} cannot be made of what was extracted without {recipe.method}: write that under "
                f"extraction.methods, and run {extract_command(self._session.experiment)}"
            )
        from massact.vectors.extract import make_vectors  # loads transformers

        activations = self.activations(position)
        seed = self._session.experiment.extraction.seed
        return make_vectors([recipe], activations, self.calibration, seed=seed)[label].vectors

    def _fetched(self, found: Stored[StageRow], label: str, framework: Literal["pt", "np"] = "pt") -> Any:
        try:
            path = self._session.stores.fetch(found.run_id, f"{Artifact.VECTORS}/{label}.safetensors")
            return read_tensor(path, "vectors", framework)
        except StoreError as error:
            raise MissingPrerequisiteError(
                f"vectors of {label} not found in extraction {found.run_id}: {error}. Delete that run and "
                "run massact extract again"
            ) from error

    def _read_imported(self, recipe: Recipe, label: str) -> "torch.Tensor":
        """Unit vectors of another tool's file, cleaned; zero at layers that it has none of, or nothing is left of."""
        config = next((imported for imported in self._imported if imported.name == recipe.method), None)
        if config is None or recipe.cleaning.when == "before":
            why = "only cleaned afterwards: a file has no activations" if config else "not in the file's `vectors`"
            raise UsageError(f"{label}: {why} ({self._session.experiment.file}, for {', '.join(self._place)})")
        import torch

        from massact.vectors.imported import read_vectors
        from massact.vectors.methods import clean, normalise

        path, layers = Path(self._session.experiment.resolve(config.file)), self.calibration.layers
        found = read_vectors(path, layer=config.layer, index=config.index)
        vectors = {number + config.layer_shift: vector for number, vector in found.items()}
        if outside := [number for number in vectors if not 0 <= number < len(layers)]:
            raise DataError(f"{path}: layer {outside[0]}, and {self._place[0]} has 0 to {len(layers) - 1}")
        cleaned = torch.zeros(len(layers), len(next(iter(vectors.values()))))
        for number, vector in vectors.items():
            left = clean(vector, recipe.cleaning, self.calibration.dims(recipe.cleaning, number))
            if left.any():
                cleaned[number] = normalise(left, f"{label} at layer {number}")
        return cleaned


# What a prior needs to know of a ladder's vectors, from the calibration and the extraction that the store holds.


def facts_of(vectors: StoredVectors, position: str, recipe: Recipe, layers: Iterable[int]) -> dict[int, VectorFacts]:
    """Facts about one recipe's vector at each layer, without evaluating anything."""
    of_recipe, calibration = vectors.of(position, recipe), vectors.calibration
    strengths = {layer: unit_strength(of_recipe[layer], calibration, layer) for layer in layers}
    norms = calibration.layers
    return {layer: VectorFacts(unit_strength=strength, norm=norms[layer].norm) for layer, strength in strengths.items()}


def unit_strength(vector: "torch.Tensor", calibration: Calibration, layer: int) -> float:
    """Relative strength of coefficient 1 of a vector `[d_model]` at a layer."""
    from massact.vectors.methods import relative_strength

    norm = calibration.layers[layer].norm_without_massive
    return relative_strength(vector, 1.0, dims=calibration.uniform_dims, norm_without_massive=norm)


# Cosines between vectors whose bests are compared, so that a report says "same vector" instead of comparing noise.


def pair_cosines(session: Session, answers: Answers) -> dict[tuple[str, str], float]:
    """Cosine of each clean-before vector with its clean-after one, at every layer, by their digests."""
    cosines: dict[tuple[str, str], float] = {}
    pairs = before_after_pairs(answers.labels)
    places: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for (_, model_name, trait_name, position, _), points in answers.evaluations.by_place.items():
        if next(iter(points)).vector_digest:  # an imported result has no vector in the store
            at = ((position, layer) for layer in points.layers)
            places.setdefault((model_name, trait_name), set()).update(at)
    for model, trait in product(session.experiment.models, session.experiment.traits):
        if pairs and (model.name, trait.name) in places:
            with suppress(MissingPrerequisiteError):  # extracted elsewhere
                vectors = StoredVectors(session, model, trait)
                for position, layer in sorted(places[model.name, trait.name]):
                    cosines |= _of_place(session, vectors, pairs, (model.name, position, layer))
    return cosines


def _of_place(
    session: Session, vectors: StoredVectors, pairs: Iterable[tuple[str, str]], place: tuple[str, str, int]
) -> dict[tuple[str, str], float]:
    model, position, layer = place
    cosines = {}
    for a, b in pairs:
        first, second = (vectors.array(position, parse_label(label))[layer] for label in (a, b))
        found = array_cosine(first, second)
        cosines[array_digest(first), array_digest(second)] = found
        if parse_label(a).method == "mean_diff" and found <= DEFAULT_ALIKE:
            session.say(
                f"warning: {a} and {b} on {model} at {position}, layer {layer}, have cosine {found:.4f}; zeroing is "
                "linear, so they should be one direction: the extraction is wrong"
            )
    return cosines
