"""What only models and datasets can tell about an experiment file, checked before anything runs."""

from massact.config import Experiment, Grid, ModelConfig
from massact.data.traits import check_pairs, load_prompts
from massact.errors import ConfigError, UsageError
from massact.labels import parse_label, parse_layers
from massact.models.load import ModelShape, read_shape
from massact.sweep.context import Session
from massact.vectors.massive_dims import check_cleaning

MOST_CELLS = 10_000_000
"""Cells of a phase or of a command at most: ten times what was ever tried (docs/scale.md)."""


def check_experiment(session: Session, *, judges: bool = False) -> dict[str, ModelShape]:
    """Check datasets, calibration prompts, and that every grid's layers exist.

    Args:
        session: whose experiment is checked.
        judges: also that the judge can be used, for steps that go on to evaluate.

    Returns:
        Each model's shape, by name.

    Raises:
        UsageError: something is wrong; nothing was written.
    """
    experiment = session.experiment
    for trait in experiment.traits:
        session.datasets.questions(trait)
        if experiment.confirm_share is not None:
            session.datasets.confirming(trait)
        if experiment.extraction.vetting is not None and experiment.extraction.vetting.is_paired:
            check_pairs(session.datasets.of(trait))
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
    """Refuse what nobody can mean to evaluate.

    Raises:
        UsageError: there are more cells than `MOST_CELLS`.
    """
    if n_cells > MOST_CELLS:
        raise UsageError(
            f"{where}: {n_cells:,} cells (labels x positions x traits x layers x coefficients); {MOST_CELLS:,} are the "
            "most that are taken: write fewer layers, coefficients or labels"
        )


def check_length(n_tokens: int, shape: ModelShape, where: str) -> None:
    """Refuse responses that leave a model no room for a prompt.

    Raises:
        UsageError: so many tokens are as many as the model was made to read, or more.
    """
    if shape.max_positions is not None and n_tokens >= shape.max_positions:
        raise UsageError(
            f"{where}: {n_tokens} tokens leave no room for a prompt: the model reads {shape.max_positions} tokens at "
            "most, prompt and response together (max_position_embeddings of its configuration); write fewer"
        )


def check_dims(experiment: Experiment, model: ModelConfig, n_uniform: int) -> None:
    """Refuse declared labels that clean more dims than the model's uniform list has.

    Raises:
        ConfigError: a phase declares such a label; with what to write instead.
    """
    for phase in experiment.phases:
        for label in phase.labels if model.name in phase.models else ():
            try:
                check_cleaning(parse_label(label), n_uniform)
            except UsageError as error:
                raise ConfigError(
                    f"{experiment.file}: phases.{phase.name}.labels: {model.name}: {error}"
                ) from error


def _check_lengths(
    experiment: Experiment, model: ModelConfig, base: ModelShape, instruct: ModelShape
) -> None:
    lengths = [
        ("generation.max_new_tokens", experiment.generation.max_new_tokens, instruct),
        ("calibration.max_new_tokens", experiment.calibration.max_new_tokens, base),
        ("extraction.max_new_tokens", experiment.extraction.max_new_tokens, base),
    ]
    if experiment.extraction.vetting is not None:
        lengths.append(
            ("extraction.vetting.max_new_tokens", experiment.extraction.vetting.max_new_tokens, base)
        )
    for key, n_tokens, shape in lengths:
        check_length(n_tokens, shape, f"{experiment.file}: {key}: {model.name}")
