"""What the experiment file declares, and what the store holds of it."""

from massact.asked import read_answers
from massact.config import ModelConfig, PhaseConfig
from massact.labels import parse_label
from massact.layers import parse_layers
from massact.phases.planning import GridRequest
from massact.phases.session import Session
from massact.query import Answers, GapsAnswer


def load_answers(
    session: Session,
    phase: str | None = None,
    *,
    with_scores: bool = False,
    with_confirmations: bool = False,
) -> Answers:
    """What the store holds, with the declared matrix of one phase or of all.

    Args:
        with_scores: also by question, for intervals and tests.
        with_confirmations: also what was evaluated once more on other questions.
    """
    experiment = session.experiment
    with session.store() as store:
        answers = read_answers(store, experiment, phase)
        if with_scores:
            answers = answers.with_scores(store, experiment.coherence_floor)
        if with_confirmations:
            answers = answers.with_confirmations(store, experiment.name, experiment.coherence_floor)
    return answers


def phase_gaps(session: Session, phase: str | None = None) -> GapsAnswer:
    """The gaps of one phase, or of the whole experiment, at the experiment's floor."""
    return load_answers(session, phase).gaps(session.experiment.coherence_floor)


def declared_requests(phase: PhaseConfig, model: ModelConfig, n_layers: int) -> list[GridRequest]:
    """A phase's declared grid for a model of so many layers."""
    grid = phase.grid(model)
    layers = parse_layers(grid.layers, n_layers)
    return [
        GridRequest(position, parse_label(label), layers, grid.coefficients)
        for position in phase.positions
        for label in phase.labels
    ]
