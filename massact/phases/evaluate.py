"""Evaluating cells of one model and trait: what the store holds is skipped, the rest is generated and logged."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from massact.config import ModelConfig, TraitConfig
from massact.domain import Cell, Direction, Generation, Geometry, Recipe, Setting, Steering
from massact.errors import DataError, MissingPrerequisiteError, StoreError
from massact.judges import Judge
from massact.keys import cell_key
from massact.labels import format_label
from massact.models.load import SteerableModel
from massact.phases.session import Session
from massact.pipeline.evaluate import Evaluation, FailedCell, PlannedCell, evaluate_cells
from massact.pipeline.extract import make_vectors
from massact.schema import Artifact, Kind, StageRow
from massact.store import RunStore
from massact.store.base import Stored
from massact.tracking.evaluations import log_evaluation, log_failure
from massact.tracking.rows import Baseline, Place
from massact.tracking.stages import read_calibration, read_kept_activations, read_vectors
from massact.tracking.tracker import OpenRun
from massact.vectors.geometry import cosine, massive_energy, relative_strength, vector_digest
from massact.vectors.massive import Calibration


@dataclass(frozen=True, slots=True)
class GridRequest:
    """Cells that somebody wants: every layer with every coefficient, for one window and recipe."""

    position: str
    recipe: Recipe
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Overrides:
    """What an `evaluate` command line changes of the experiment file; `None` keeps the file's."""

    max_new_tokens: int | None = None
    subset: int | None = None
    direction: Direction | None = None


@dataclass(slots=True)
class Tally:
    """What came of a set of requests."""

    wanted: int = 0
    finished_before: int = 0
    evaluated: int = 0
    failed: int = 0

    def add(self, other: "Tally") -> None:
        self.wanted += other.wanted
        self.finished_before += other.finished_before
        self.evaluated += other.evaluated
        self.failed += other.failed

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.wanted} cells: {self.finished_before} finished already, {self.evaluated} evaluated{failed}"


class Evaluator:
    """Evaluates cells of one model and one trait, under one parent run."""

    def __init__(
        self,
        session: Session,
        parent: OpenRun,
        config: ModelConfig,
        trait: TraitConfig,
        overrides: Overrides = Overrides(),
    ) -> None:
        self._session, self._parent, self._config = session, parent, config
        self._direction: Direction = overrides.direction or trait.direction
        self._questions = session.questions(trait, overrides.subset)
        self._trait = trait
        generation = session.experiment.generation
        if overrides.max_new_tokens is not None:
            generation = replace(generation, max_new_tokens=overrides.max_new_tokens)
        self._vectors = StoredVectors(session, config, trait)
        self._setting = self._make_setting(generation)
        self._place = Place(
            session.experiment.name, config.name, config.instruct.name, len(self._questions.questions)
        )
        self._best: dict[tuple[str, str], float] = {}

    @property
    def n_layers(self) -> int:
        return self._model.shape.n_layers

    @property
    def _model(self) -> SteerableModel:
        return self._session.model(self._config, self._config.instruct)

    @property
    def _judge(self) -> Judge:
        return self._session.judge(self._trait)

    def _make_setting(self, generation: Generation) -> Setting:
        return Setting(
            model=self._model.identity,
            trait=self._trait.name,
            trait_digest=self._session.dataset(self._trait).digest,
            questions_digest=self._questions.digest,
            subset=self._questions.subset,
            chat_template_digest=self._model.chat_template_digest,
            generation=generation,
            judge=self._judge.identity,
        )

    def run(self, requests: Iterable[GridRequest]) -> Tally:
        """Evaluate what the store does not hold of the requested cells, the baseline first."""
        wanted = {cell_key(planned.cell): planned for request in requests for planned in self._plan(request)}
        with self._session.store() as store:
            finished = store.finished_keys(self._session.experiment.name)
        todo = [planned for key, planned in wanted.items() if key not in finished]
        tally = Tally(wanted=len(wanted), finished_before=len(wanted) - len(todo))
        if todo:
            baseline = self._baseline()
            for result in self._evaluate(todo):
                self._log(result, baseline, tally)
        self._session.say(f"{self._config.name}, {self._trait.name}: {tally}")
        return tally

    def _baseline(self) -> Baseline:
        cell = Cell(self._setting, None)
        key = cell_key(cell)
        with self._session.store() as store:
            found = {one.row.key: one for one in store.baselines(self._session.experiment.name)}
        if key in found:
            return Baseline(key, found[key].row.trait_mean)
        (result,) = self._evaluate([PlannedCell(cell, None)])
        if isinstance(result, FailedCell):
            log_failure(self._session.tracker, self._parent, self._place, result)
            raise MissingPrerequisiteError(
                f"the baseline of {self._config.name} could not be evaluated: {result.error}"
            )
        log_evaluation(
            self._session.tracker, self._parent, self._place, result, baseline=None, keep_responses=True
        )
        return Baseline(key, result.summary.trait_mean)

    def _evaluate(self, cells: Sequence[PlannedCell]) -> Iterator[Evaluation | FailedCell]:
        return evaluate_cells(
            self._model,
            cells,
            self._questions.questions,
            self._judge,
            batch_rows=self._session.workload.batch_rows,
            progress=self._session.progress,
        )

    def _log(self, result: Evaluation | FailedCell, baseline: Baseline, tally: Tally) -> None:
        tracker = self._session.tracker
        if isinstance(result, FailedCell):
            tally.failed += 1
            self._session.say(f"failed: {result.error}")
            log_failure(tracker, self._parent, self._place, result)
            return
        tally.evaluated += 1
        log_evaluation(
            tracker,
            self._parent,
            self._place,
            result,
            baseline=baseline,
            keep_responses=self._keeps_responses(result, baseline),
        )

    def _keeps_responses(self, result: Evaluation, baseline: Baseline) -> bool:
        keep = self._session.workload.save_responses
        if keep != "best":
            return keep == "all"
        summary, steering = result.summary, result.planned.cell.steering
        coherent = (summary.coherence_mean or 0.0) >= self._session.experiment.coherence_floor
        if steering is None or summary.trait_mean is None or not coherent:
            return False
        gain = (summary.trait_mean - (baseline.trait_mean or 0.0)) * (
            1 if self._direction == "positive" else -1
        )
        group = (steering.position, format_label(steering.recipe))
        is_best = gain > self._best.get(group, float("-inf"))
        if is_best:
            self._best[group] = gain
        return is_best

    def _plan(self, request: GridRequest) -> Iterator[PlannedCell]:
        vectors = self._vectors.of(request.position, request.recipe)
        shape = self._model.shape
        if tuple(vectors.shape) != (shape.n_layers, shape.d_model):
            raise DataError(
                f"vectors of {format_label(request.recipe)} at {request.position} have shape {list(vectors.shape)}, "
                f"{self._config.instruct.reference} has {shape.n_layers} layers of {shape.d_model} dims: they are of "
                "another model; run massact calibrate and massact extract again"
            )
        uncleaned = self._vectors.of(request.position, request.recipe.uncleaned)
        calibration = self._vectors.calibration
        for layer, coefficient in product(request.layers, request.coefficients):
            vector = vectors[layer]
            steering = Steering(
                vector_digest=vector_digest(vector),
                position=request.position,
                recipe=request.recipe,
                layer=layer,
                coefficient=coefficient,
                direction=self._direction,
            )
            yield PlannedCell(
                Cell(self._setting, steering),
                vector,
                _geometry(vector, uncleaned[layer], coefficient, calibration, layer),
                n_dims_cleaned=len(calibration.dims(request.recipe.cleaning, layer)),
            )


class StoredVectors:
    """Vectors of one model and trait, from the newest extraction in the store."""

    def __init__(self, session: Session, config: ModelConfig, trait: TraitConfig) -> None:
        self._session = session
        name = session.experiment.name
        with session.store() as store:
            self._extractions = _newest(store, Kind.EXTRACTION, name, config.name, trait.name)
            calibrations = _newest(store, Kind.CALIBRATION, name, config.name, None)
        if not self._extractions or not calibrations:
            lacking, command = ("activations", "extract") if calibrations else ("calibration", "calibrate")
            raise MissingPrerequisiteError(
                f"{config.name}, {trait.name}: no {lacking} in the store: run "
                f"massact {command} --experiment {session.experiment.file} first"
            )
        path = session.tracker.fetch(next(iter(calibrations.values())).run_id, Artifact.CALIBRATION)
        self.calibration: Calibration = read_calibration(path)
        self._made: dict[tuple[str, str], torch.Tensor] = {}

    def of(self, position: str, recipe: Recipe) -> torch.Tensor:
        """`[n_layers, d_model]`: read from the extraction, or made from its activations where it holds none.

        Raises:
            MissingPrerequisiteError: nothing was extracted at that position.
        """
        label = format_label(recipe)
        if (position, label) not in self._made:
            found = self._extractions.get(position)
            if found is None:
                raise MissingPrerequisiteError(
                    f"activations not found at {position}: add it to extraction.positions in "
                    f"{self._session.experiment.file} and run massact extract first; there are "
                    f"{', '.join(self._extractions)}"
                )
            self._made[position, label] = self._read(found, recipe, label)
        return self._made[position, label]

    def _read(self, found: Stored[StageRow], recipe: Recipe, label: str) -> torch.Tensor:
        tracker = self._session.tracker
        if label in found.row.labels:
            try:
                return read_vectors(tracker, found.run_id, label)
            except StoreError as error:
                raise MissingPrerequisiteError(
                    f"vectors of {label} not found in extraction {found.run_id}: {error}. Delete that run and "
                    "run massact extract again"
                ) from error
        activations = read_kept_activations(tracker, found.run_id)
        seed = self._session.experiment.extraction.seed
        return make_vectors([recipe], activations, self.calibration, seed=seed)[label].vectors


def _newest(
    store: RunStore, kind: Kind, experiment: str, model: str, trait: str | None
) -> dict[str, Stored[StageRow]]:
    """By position, the newest run of a stage (stages come the oldest first)."""
    stages = store.stages(kind, experiment)
    return {
        one.row.position or "": one for one in stages if one.row.model == model and one.row.trait == trait
    }


def _geometry(
    vector: torch.Tensor, uncleaned: torch.Tensor, coefficient: float, calibration: Calibration, layer: int
) -> Geometry:
    dims = calibration.uniform_dims
    norm = calibration.layers[layer].norm_without_massive
    return Geometry(
        massive_energy=massive_energy(vector, dims),
        cosine_to_uncleaned=cosine(vector, uncleaned),
        relative_strength=relative_strength(vector, coefficient, dims=dims, norm_without_massive=norm),
    )
