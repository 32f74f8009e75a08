"""Which cells are wanted or declared, by what keys the store knows them, and whether the file can be meant so."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from massact.config import Experiment, Grid, ModelConfig, PhaseConfig, TraitConfig
from massact.data.traits import check_pairs, load_prompts
from massact.domain import (
    OWN_UNITS,
    Cell,
    Coefficients,
    Direction,
    Gate,
    Generation,
    Geometry,
    QuestionSet,
    Recipe,
    Setting,
    Steering,
)
from massact.errors import ConfigError, DataError, UsageError
from massact.evaluation import PlannedCell
from massact.keys import cell_key
from massact.labels import format_label, parse_label, parse_layers
from massact.models.load import Description, ModelShape, read_shape
from massact.plugins import own_digest
from massact.query.questions.gaps import GapsAnswer, ask_gaps
from massact.sweep.context import Session, load_answers
from massact.sweep.vectors import StoredVectors, unit_strength
from massact.vectors.massive_dims import check_cleaning
from massact.vectors.methods import cosine, massive_energy, vector_digest
from massact.vectors.steering import depth_weights, midpoint, subspace


@dataclass(frozen=True, slots=True)
class GridRequest:
    """Cells that somebody wants: every layer with every coefficient, for one window and recipe."""

    position: str
    recipe: Recipe
    layers: tuple[int, ...]
    coefficients: Coefficients


@dataclass(frozen=True, slots=True)
class Overrides:
    """What an `evaluate` command line changes of the experiment file; `None` keeps the file's."""

    max_new_tokens: int | None = None
    subset: int | None = None
    direction: Direction | None = None


NO_OVERRIDES = Overrides()


class Planner:
    """Plans cells of one model and one trait."""

    def __init__(
        self, session: Session, config: ModelConfig, trait: TraitConfig, overrides: Overrides = NO_OVERRIDES
    ) -> None:
        """Raises MissingPrerequisiteError: nothing was extracted, so that no cell has a vector."""
        self._session, self._config, self._trait = session, config, trait
        self.direction: Direction = overrides.direction or trait.direction
        self.questions = session.datasets.questions(trait, overrides.subset)
        self.generation = session.experiment.generation
        if overrides.max_new_tokens is not None:
            self.generation = replace(self.generation, max_new_tokens=overrides.max_new_tokens)
        self.vectors = StoredVectors(session, config, trait)
        self.massive_dims = tuple(self.vectors.calibration.uniform_dims)

    @property
    def description(self) -> Description:
        """What identifies the model, as far as it is known by now."""
        return self._session.models.description(self._config, self._config.instruct)

    @property
    def n_layers(self) -> int:
        return self.description.shape.n_layers

    def baseline(self) -> PlannedCell:
        """The cell without steering."""
        return PlannedCell(Cell(self._setting(), None), None)

    def cells(self, requests: Iterable[GridRequest]) -> dict[str, PlannedCell]:
        """The wanted cells by key, each once; those that steer alike are next to each other. Raises DataError: the
        vectors are of another model; UsageError: a layer or a label asks for more than there is."""
        requests, setting = list(requests), self._setting()
        wanted = {cell_key(cell.cell): cell for request in requests for cell in self._cells(request, setting)}
        steerings = {key: cell.cell.steering for key, cell in wanted.items()}
        order = {key: (s.layer, s.vector_digest, s.coefficient) for key, s in steerings.items() if s}
        return {key: wanted[key] for key in sorted(wanted, key=order.__getitem__)}

    def _setting(self) -> Setting:
        return make_setting(self._session, self._config, self._trait, self.questions, self.generation)

    def _vectors_of(self, request: GridRequest, source: StoredVectors) -> torch.Tensor:
        """The label's vectors `[n_layers, d_model]`, of which all that are asked for are there."""
        check_cleaning(request.recipe, len(self.massive_dims))
        vectors = source.of(request.position, request.recipe)
        shape = self.description.shape
        if tuple(vectors.shape) != (shape.n_layers, shape.d_model):
            is_file = request.recipe.is_imported
            advice = "name its own file" if is_file else "run massact calibrate and massact extract again"
            raise DataError(
                f"vectors of {format_label(request.recipe)} at {request.position} have shape {list(vectors.shape)}, "
                f"{self._config.instruct.reference} has {shape.n_layers} layers of {shape.d_model} dims: they are of "
                f"another model; {advice}"
            )
        n_layers = request.recipe.n_layers
        if beyond := [layer for layer in request.layers if layer + n_layers > shape.n_layers]:
            raise UsageError(
                f"{format_label(request.recipe)} steers {n_layers} layers from the one that is named on, and there are "
                f"none beyond {shape.n_layers - 1}: layer {shape.n_layers - n_layers} is the last to begin with, not "
                f"{beyond[0]}; say so with --layers, or in the grid"
            )
        steered = {layer + n for layer in request.layers for n in range(n_layers)}
        if absent := [layer for layer in sorted(steered) if not vectors[layer].any()]:
            there = ", ".join(str(layer) for layer, vector in enumerate(vectors) if vector.any())
            raise UsageError(
                f"{format_label(request.recipe)} at {request.position}: there is no vector of layer {absent[0]}, only "
                f"of {there or 'none'}: say so with --layers, in the grid, or in the gate"
            )
        return vectors

    def _cells(self, request: GridRequest, setting: Setting) -> Iterator[PlannedCell]:
        vectors, recipe = self._vectors_of(request, self.vectors), request.recipe
        uncleaned = self.vectors.of(request.position, recipe.uncleaned)
        calibration = self.vectors.calibration
        gate = self._gate(recipe.gate) if recipe.gate else None
        rows = {layer: self._rows(request, vectors, layer, gate) for layer in request.layers}
        weights = {layer: self._weights(recipe, vectors, layer) for layer in request.layers}
        for layer, coefficient in self._spots(request, vectors):
            steering = Steering(
                vector_digest=vector_digest(rows[layer]),
                position=request.position,
                recipe=recipe,
                layer=layer,
                coefficient=coefficient,
                direction=self.direction,
                operator_source=own_digest("operators", recipe.operator),
                weights=weights[layer],
                condition=gate and gate[0],
            )
            geometry = self._geometry(recipe, (vectors[layer], uncleaned[layer]), layer, coefficient)
            n_cleaned = len(calibration.dims(recipe.cleaning, layer))
            yield PlannedCell(Cell(setting, steering), rows[layer], geometry, n_dims_cleaned=n_cleaned)

    def _weights(self, recipe: Recipe, vectors: torch.Tensor, layer: int) -> tuple[float, ...]:
        band = range(layer, layer + recipe.n_layers)
        units = [unit_strength(vectors[layer], self.vectors.calibration, layer) for layer in band]
        if recipe.depth == "relative" and not min(units) > 0:
            raise UsageError(f"{format_label(recipe)}, layer {layer}: a vector lies in massive dims alone")
        return depth_weights(recipe, units)

    def _rows(
        self, request: GridRequest, vectors: torch.Tensor, layer: int, gate: tuple[Gate, torch.Tensor] | None
    ) -> torch.Tensor:
        """All that cells of a layer steer by; see `massact.vectors.steering`."""
        recipe, band = request.recipe, range(layer, layer + request.recipe.n_layers)
        rows = vectors[layer : layer + recipe.n_layers]
        if recipe.operator == "replace":
            activations, calibration = self.vectors.activations(request.position), self.vectors.calibration
            cleaned = recipe.cleaning
            of_layer = ((vectors[layer], activations.sides(layer), calibration.dims(cleaned, layer)) for layer in band)
            rows = torch.cat([subspace(v, sides, cleaned, dims, recipe.n_directions) for v, sides, dims in of_layer])
        if gate is not None:
            rows = torch.cat([rows, gate[1][None]])
        return rows[0] if len(rows) == 1 else rows

    def _gate(self, name: str) -> tuple[Gate, torch.Tensor]:
        """A gate that the experiment file declares, and its condition vector `[d_model]`; UsageError where it has
        none."""
        experiment = self._session.experiment
        config = next((gate for gate in experiment.gates if gate.name == name), None)
        if config is None or config.layer >= self.n_layers:
            told = "no such gate" if config is None else f"the model has layers 0 to {self.n_layers - 1}"
            raise UsageError(f"+if_{name}: {told}: see the key 'gates' of {experiment.file}")
        vectors, recipe = self.vectors, parse_label(config.label)
        if config.trait not in (None, self._trait.name):
            vectors = StoredVectors(self._session, self._config, experiment.trait(str(config.trait)))
        asked = GridRequest(config.position, recipe, (config.layer,), Coefficients(()))
        condition, threshold = self._vectors_of(asked, vectors)[config.layer], config.threshold
        if threshold is None:
            sides = vectors.activations(config.position).sides(config.layer)
            threshold = midpoint(condition, sides, config.measure)
        return Gate(config.layer, config.position, threshold, config.measure, config.opens), condition

    def _spots(self, request: GridRequest, vectors: torch.Tensor) -> Iterator[tuple[int, float]]:
        """Every layer with every coefficient of its vector."""
        is_relative = request.coefficients.is_relative
        if is_relative and request.recipe.operator in OWN_UNITS:
            raise UsageError(
                f"{format_label(request.recipe)}: the coefficient of {request.recipe.operator} is no length, so that "
                "it has no relative strength: write coefficients as they are"
            )
        for layer in request.layers:
            unit = unit_strength(vectors[layer], self.vectors.calibration, layer)
            if is_relative and not unit > 0:
                raise UsageError(
                    f"{format_label(request.recipe)} at {request.position}, layer {layer}: the vector lies in massive "
                    "dims alone, so that no coefficient has a relative strength: write coefficients as they are"
                )
            yield from ((layer, coefficient) for coefficient in request.coefficients.of(unit))

    def _geometry(
        self, recipe: Recipe, pair: tuple[torch.Tensor, torch.Tensor], layer: int, coefficient: float
    ) -> Geometry:
        """Where a layer's vector lies; `pair`: as it is, and uncleaned."""
        (vector, uncleaned), calibration = pair, self.vectors.calibration
        is_length = recipe.operator not in OWN_UNITS
        strength = coefficient * unit_strength(vector, calibration, layer) if is_length else None
        return Geometry(massive_energy(vector, calibration.uniform_dims), cosine(vector, uncleaned), strength)


def make_setting(
    session: Session, config: ModelConfig, trait: TraitConfig, questions: QuestionSet, generation: Generation
) -> Setting:
    """What cells of a model and trait share that are evaluated on some questions."""
    description = session.models.description(config, config.instruct)
    budget = description.chat.budget
    if budget is not None and budget >= generation.max_new_tokens:
        raise UsageError(
            f"models.{config.name}.thinking: a thought of {budget} tokens leaves none for the answer: responses have "
            f"{generation.max_new_tokens} in all (max_new_tokens); write more there, or a smaller budget"
        )
    return Setting(
        model=description.identity,
        trait=trait.name,
        trait_digest=session.datasets.of(trait).digest,
        questions_digest=questions.digest,
        subset=questions.subset,
        chat_template_digest=description.chat_template_digest,
        generation=generation,
        judge=session.judges.of(trait, config).identity,
        **description.chat.key,
    )


def phase_gaps(session: Session, phase: str | None = None) -> GapsAnswer:
    """The gaps of one phase, or of the whole experiment, at the experiment's floor."""
    return ask_gaps.of(load_answers(session, phase), session.experiment.coherence_floor)


def declared_requests(phase: PhaseConfig, model: ModelConfig, n_layers: int) -> list[GridRequest]:
    """A phase's declared grid for a model of so many layers."""
    grid = phase.grid(model)
    layers = parse_layers(grid.layers, n_layers)
    return [
        GridRequest(position, parse_label(label), layers, grid.coefficients)
        for position in phase.positions
        for label in phase.labels
    ]


# What only models and datasets can tell about an experiment file, checked before anything runs.

MOST_CELLS = 10_000_000  # cells of a phase or of a command at most: ten times what was ever tried (docs/scale.md)


def check_experiment(session: Session, *, judges: bool = False) -> dict[str, ModelShape]:
    """Check datasets, calibration prompts, and that every grid's layers exist. Returns each model's shape, by name.
    `judges`: also that the judge can be used, for steps that go on to evaluate."""
    experiment = session.experiment
    for trait in experiment.traits:
        session.datasets.questions(trait)
        if experiment.confirm_share is not None:
            session.datasets.confirming(trait)
        if experiment.extraction.vetting is not None and experiment.extraction.vetting.is_paired:
            check_pairs(session.datasets.of(trait), "extraction.vetting.filter is paired")
        asked, n = experiment.baselines.few_shot, len(getattr(session.datasets.of(trait), trait.direction))
        if asked > n:
            raise DataError(
                f"{experiment.file}: baselines.few_shot: {asked} examples, and {trait.name} has {n}: write fewer"
            )
        for model in experiment.models if judges else ():
            session.judges.of(trait, model)
    load_prompts(experiment.resolve(experiment.calibration.prompts))
    return {model.name: _check_model(experiment, model) for model in experiment.models}


def _check_model(experiment: Experiment, model: ModelConfig) -> ModelShape:
    instruct, base = (
        read_shape(experiment.resolve(variant.reference), variant.revision, options=model.load)
        for variant in (model.instruct, model.base)
    )
    if instruct != base:
        raise ConfigError(
            f"{experiment.file}: models.{model.name}: {model.base.reference} has {base.n_layers} layers of "
            f"{base.d_model} dims, {model.instruct.reference} {instruct.n_layers} of {instruct.d_model}: "
            "vectors of the one cannot steer the other"
        )
    _check_lengths(experiment, model, base, instruct)
    grids: dict[str, Grid] = {f"models.{model.name}": model.grid}
    for phase in experiment.phases:
        if model.name in dict(phase.grids):
            grids[f"phases.{phase.name}.grids.{model.name}"] = phase.grid(model)
    for key, grid in grids.items():
        try:
            parse_layers(grid.layers, instruct.n_layers)
        except UsageError as error:
            raise ConfigError(f"{experiment.file}: {key}.layers: {error}") from error
    for phase in experiment.phases:
        if model.name in phase.models:
            grid = phase.grid(model)
            n_grids = len(phase.labels) * len(phase.positions) * len(experiment.traits)
            n_cells = n_grids * len(parse_layers(grid.layers, instruct.n_layers)) * len(grid.coefficients)
            check_cells(n_cells, f"{experiment.file}: phases.{phase.name}, {model.name}")
    return instruct


def check_cells(n_cells: int, where: str) -> None:
    """Refuse what nobody can mean to evaluate. Raises UsageError: there are more cells than `MOST_CELLS`."""
    if n_cells > MOST_CELLS:
        raise UsageError(
            f"{where}: {n_cells:,} cells (labels x positions x traits x layers x coefficients); {MOST_CELLS:,} are the "
            "most that are taken: write fewer layers, coefficients or labels"
        )


def check_length(n_tokens: int, shape: ModelShape, where: str) -> None:
    """Refuse responses of as many tokens as a model was made to read, or more: they leave no room for a prompt."""
    if shape.max_positions is not None and n_tokens >= shape.max_positions:
        raise UsageError(
            f"{where}: {n_tokens} tokens leave no room for a prompt: the model reads {shape.max_positions} tokens at "
            "most, prompt and response together (max_position_embeddings of its configuration); write fewer"
        )


def check_dims(experiment: Experiment, model: ModelConfig, n_uniform: int) -> None:
    """Refuse declared labels that clean more dims than the model's uniform list has; says what to write instead."""
    for phase in experiment.phases:
        for label in phase.labels if model.name in phase.models else ():
            try:
                check_cleaning(parse_label(label), n_uniform)
            except UsageError as error:
                raise ConfigError(f"{experiment.file}: phases.{phase.name}.labels: {model.name}: {error}") from error


def _check_lengths(experiment: Experiment, model: ModelConfig, base: ModelShape, instruct: ModelShape) -> None:
    lengths = [
        ("generation.max_new_tokens", experiment.generation.max_new_tokens, instruct),
        ("calibration.max_new_tokens", experiment.calibration.max_new_tokens, base),
        ("extraction.max_new_tokens", experiment.extraction.max_new_tokens, base),
    ]
    if experiment.extraction.vetting is not None:
        lengths.append(("extraction.vetting.max_new_tokens", experiment.extraction.vetting.max_new_tokens, base))
    for key, n_tokens, shape in lengths:
        check_length(n_tokens, shape, f"{experiment.file}: {key}: {model.name}")
