"""What only models and datasets can tell about an experiment file, checked before anything runs."""

from massact.config import Experiment, Grid, ModelConfig
from massact.errors import ConfigError, UsageError
from massact.layers import parse_layers
from massact.models.load import ModelShape, read_shape
from massact.phases.session import Session
from massact.pipeline.dataset import load_prompts
from massact.pipeline.dataset_checks import check_pairs


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
        session.questions(trait)
        if experiment.confirm_share is not None:
            session.confirming_questions(trait)
        if experiment.extraction.vetting is not None and experiment.extraction.vetting.is_paired:
            check_pairs(session.dataset(trait))
        for model in experiment.models if judges else ():
            session.judge(trait, model)
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
    grids: dict[str, Grid] = {f"models.{model.name}": model.grid}
    for phase in experiment.phases:
        if model.name in dict(phase.grids):
            grids[f"phases.{phase.name}.grids.{model.name}"] = phase.grid(model)
    for key, grid in grids.items():
        try:
            parse_layers(grid.layers, instruct.n_layers)
        except UsageError as error:
            raise ConfigError(f"{experiment.file}: {key}.layers: {error}") from error
    return instruct
