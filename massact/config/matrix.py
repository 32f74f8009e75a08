"""What of an experiment file questions ask for."""

from massact.config.values import Experiment
from massact.store.schema import Declared, DeclaredPhase, DeclaredSetting


def declared_by(experiment: Experiment) -> Declared:
    """The part of an experiment file that questions need, as the run store keeps it too."""
    return Declared(
        experiment=experiment.name,
        floor=experiment.coherence_floor,
        traits=tuple(trait.name for trait in experiment.traits),
        phases=tuple(
            DeclaredPhase(phase.name, phase.models, phase.positions, phase.labels)
            for phase in experiment.phases
        ),
        coefficient_ranges={
            model.name: model.coefficient_range
            for model in experiment.models
            if model.coefficient_range is not None
        },
        confirm_share=experiment.confirm_share,
        printed_models={
            printed: model.name
            for model in experiment.models
            for printed in (model.base.reference, model.instruct.reference, model.name)
        },
        setting=_setting(experiment),
        least_scored=experiment.least_scored,
        source=str(experiment.file),
    )


def _setting(experiment: Experiment) -> DeclaredSetting:
    return DeclaredSetting(
        judge=experiment.judge.name,
        subset=experiment.subset,
        max_new_tokens=experiment.generation.max_new_tokens,
        temperature=experiment.generation.temperature,
        seed=experiment.generation.seed,
        directions={trait.name: trait.direction for trait in experiment.traits},
        weights={model.name: experiment.resolve(model.instruct.reference) for model in experiment.models},
        confirm_share=experiment.confirm_share,
    )
