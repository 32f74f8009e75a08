"""What a phase's run shows: its tables in the note, its verdicts as tags, its curves as stepped metrics."""

from collections.abc import Iterable, Mapping, Sequence

from massact.phases.grid import load_answers
from massact.phases.session import Session
from massact.report.tables import PhaseName, phase_markdown, phase_verdicts
from massact.schema import EvaluationRow, MlflowTag, Tag
from massact.tracking.tracker import OpenRun, Step
from massact.vectors.positions import parse_position

_MAX_SCALE = 1_000_000


def log_outcome(
    session: Session, run: OpenRun, phase: PhaseName, cosines: Mapping[tuple[str, str], float]
) -> None:
    """Answer the phase's question from the store, show it, and keep it on the phase's run."""
    answers = load_answers(session, phase if phase != "phase4" else None)
    text = phase_markdown(phase, session.experiment, answers, cosines=cosines)
    tracker = session.tracker
    tracker.set_tag(run, MlflowTag.NOTE, text)
    for name, verdict in phase_verdicts(phase, session.experiment, answers, cosines).items():
        tracker.set_tag(run, f"{Tag.VERDICT}.{name}", verdict)
    declared = {(group.model, group.trait, group.position, group.label) for group in answers.groups}
    rows = [one.row for one in answers.rows]
    mine = [row for row in rows if (row.model, row.trait, row.position, row.label) in declared]
    tracker.log(run, steps=curve_steps(mine))
    with tracker.artifacts(run) as folder:
        (folder / f"{phase}.md").write_text(text + "\n", encoding="utf-8")
    session.show(text)


def curve_steps(rows: Iterable[EvaluationRow]) -> list[Step]:
    """Delta and coherence of every layer and label as metrics stepped by coefficient.

    MLflow's steps are integers, so the coefficient is scaled and the metric's name says by how much.
    """
    usable = list(rows)
    scale = _scale([row.coefficient for row in usable if row.coefficient is not None])
    by = f"by_coefficient_x{scale}" if scale > 1 else "by_coefficient"
    steps = []
    for row in usable:
        if row.coefficient is None or row.position is None:
            continue  # a baseline has neither
        place = f"{row.model}/{parse_position(row.position).slug}/layer_{row.layer}/{row.label}"
        figures = (("delta", row.delta), ("coherence", row.coherence_mean))
        steps += [
            Step(f"{name}_{by}/{place}", value, round(row.coefficient * scale))
            for name, value in figures
            if value is not None
        ]
    return steps


def _scale(coefficients: Sequence[float]) -> int:
    scale = 1
    while scale < _MAX_SCALE and any(abs(c * scale - round(c * scale)) > 1e-9 * scale for c in coefficients):
        scale *= 10
    return scale
