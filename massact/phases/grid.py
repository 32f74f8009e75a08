"""Filling the cells of a phase: its declared grid where nothing was run, a finer one where nothing is coherent."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from massact.config import ModelConfig, PhaseConfig, TraitConfig
from massact.labels import parse_label
from massact.layers import parse_layers
from massact.phases.evaluate import Evaluator, GridRequest, Tally
from massact.phases.session import Session
from massact.query import Answers, GapRow, GapsAnswer
from massact.tracking.tracker import OpenRun


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
    ranges = {model.name: model.coefficient_range for model in experiment.models if model.coefficient_range}
    with session.store() as store:
        answers = Answers.from_store(
            store, experiment.name, groups=experiment.groups(phase), coefficient_ranges=ranges
        )
        if with_scores:
            answers = answers.with_scores(store, experiment.name, experiment.coherence_floor)
        if with_confirmations:
            answers = answers.with_confirmations(store, experiment.name, experiment.coherence_floor)
    return answers


def phase_gaps(session: Session, phase: str | None = None) -> GapsAnswer:
    """The gaps of one phase, or of the whole experiment, at the experiment's floor."""
    return load_answers(session, phase).gaps(session.experiment.coherence_floor)


def fill_phase(session: Session, run: OpenRun, phase: PhaseConfig) -> Tally:
    """Evaluate a phase's declared grid, then finer coefficients for the gaps, until none is left to try."""
    tally = Tally()
    for trait in session.experiment.traits:
        for name in phase.models:
            tally.add(_fill_model(session, run, phase, (session.experiment.model(name), trait)))
    return tally


def _fill_model(
    session: Session, run: OpenRun, phase: PhaseConfig, subject: tuple[ModelConfig, TraitConfig]
) -> Tally:
    model, trait = subject
    evaluator = Evaluator(session, run, model, trait)
    tally = evaluator.run(declared_requests(phase, model, evaluator.n_layers))
    for round_number in range(1, session.workload.max_rounds + 1):
        open_rows = [
            row
            for row in phase_gaps(session, phase.name).rows
            if row.model == model.name
            and row.trait == trait.name
            and row.status == "below_floor"
            and row.is_current
        ]
        requests = _finer(open_rows)
        if not requests:
            break
        session.say(f"{model.name}: {len(open_rows)} gaps, finer coefficients, round {round_number}")
        tally.add(evaluator.run(requests))
    return tally


def declared_requests(phase: PhaseConfig, model: ModelConfig, n_layers: int) -> list[GridRequest]:
    """A phase's declared grid for a model of so many layers."""
    grid = phase.grid(model)
    layers = parse_layers(grid.layers, n_layers)
    return [
        GridRequest(position, parse_label(label), layers, grid.coefficients)
        for position in phase.positions
        for label in phase.labels
    ]


def _finer(rows: Iterable[GapRow]) -> Sequence[GridRequest]:
    wanted: dict[tuple[str, str, tuple[float, ...]], list[int]] = defaultdict(list)
    for row in rows:
        for bracket in row.brackets:
            if bracket.try_next:
                wanted[row.position, row.label, bracket.try_next].append(bracket.layer)
    return [
        GridRequest(position, parse_label(label), tuple(layers), coefficients)
        for (position, label, coefficients), layers in wanted.items()
    ]
