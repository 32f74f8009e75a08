"""What of an experiment file questions ask for."""

from massact.config.values import Experiment
from massact.schema import Declared, DeclaredPhase


def declared_by(experiment: Experiment) -> Declared:
    """The part of an experiment file that questions need, as the run store keeps it too."""
    return Declared(
        experiment=experiment.name,
        floor=experiment.coherence_floor,
        traits=tuple(trait.name for trait in experiment.traits),
        phases=tuple(
            DeclaredPhase(one.name, one.models, one.positions, one.labels) for one in experiment.phases
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
        source=str(experiment.file),
    )
