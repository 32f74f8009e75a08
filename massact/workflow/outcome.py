"""What needs neither models nor judges: phase 4, the answer that a phase ends with, and where to look next."""

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from massact.addresses import resolve_tracking_uri, shown_uri
from massact.names import file_name
from massact.report.evidence import Evidence
from massact.report.phase_notes import PhaseName, phase_brief, phase_figures, phase_markdown, phase_verdicts
from massact.store.databases import ui_address
from massact.store.schema import StoredPoint
from massact.store.write.finished_run import Step
from massact.store.write.tracker import EVALUATIONS, PHASES, OpenRun, view_link
from massact.sweep.context import Session, keep_outcome, load_answers, open_phase
from massact.sweep.stores import Stores
from massact.vectors.positions import parse_position
from massact.workflow.run_notes import tell_evaluations
from massact.workflow.status import require


def require_steps(session: Session, step: str) -> None:
    """Raises MissingPrerequisiteError: the store lacks what a step needs."""
    with session.stores.read() as store:
        require(session.experiment, store, step)


def run_patterns(session: Session, parent: OpenRun | None = None) -> None:
    """Phase 4: coefficient patterns and recommendations, from the store alone."""
    require_steps(session, "phase4")
    with open_phase(session, "phase4", parent) as run:
        log_outcome(session, run, "phase4", {}, is_last=parent is None)


_MAX_SCALE = 1_000_000


def log_outcome(
    session: Session, run: OpenRun, phase: PhaseName, cosines: Mapping[tuple[str, str], float], *, is_last: bool
) -> None:
    """Answer the phase's question from the store, and keep it on the phase's run; show it, if no report follows."""
    answers = load_answers(session, phase if phase != "phase4" else None, with_scores=True)
    whole = Evidence.of(session.experiment, answers, cosines)
    declared = {(group.model, group.trait, group.position, group.label) for group in answers.groups}
    mine = [p for p in answers.evaluations if (p.model, p.trait, p.position, p.label) in declared]
    session.stores.tracker.log(run, steps=curve_steps(mine))
    figures = {f"figures/{name}.png": png for name, png in phase_figures(phase, whole).items()}
    text = phase_markdown(phase, whole)
    keep_outcome(session, run, phase, phase_verdicts(phase, whole), text, figures)
    if is_last:  # else the report does
        tell_evaluations(session, run, whole)
    session.tell(text, phase_brief(phase, whole) if is_last else "")


def curve_steps(points: Iterable[StoredPoint]) -> list[Step]:
    """Delta and coherence of every layer and label as metrics stepped by coefficient. MLflow's steps are integers, so
    the coefficient is scaled and the metric's name says by how much."""
    usable = sorted(points, key=lambda p: (p.label, p.layer, p.coefficient))
    scale = _scale([point.coefficient for point in usable])
    by = f"by_coefficient_x{scale}" if scale > 1 else "by_coefficient"
    steps = []
    for point in usable:
        model, position = file_name(point.model), parse_position(point.position).slug
        place = f"{model}/{position}/layer_{point.layer}/{file_name(point.label)}"
        figures = (("delta", point.delta), ("coherence", point.coherence_mean))
        steps += [
            Step(f"{name}_{by}/{place}", value, round(point.coefficient * scale))
            for name, value in figures
            if value is not None
        ]
    return steps


def _scale(coefficients: Sequence[float]) -> int:
    scale = 1
    while scale < _MAX_SCALE and any(abs(c * scale - round(c * scale)) > 1e-9 * scale for c in coefficients):
        scale *= 10
    return scale


def next_lines(stores: Stores) -> list[str]:
    """Lines that name the UI's command and links to the views of this experiment."""
    uri = stores.tracking_uri
    address = ui_address(uri)
    lines = [] if uri.startswith(("http://", "https://")) else [f"UI:          {_start(uri)}"]
    experiment_id = stores.tracker.shown_experiment_id
    return [
        *lines,
        f"evaluations: {view_link(address, experiment_id, EVALUATIONS)}",
        f"phases:      {view_link(address, experiment_id, PHASES)}",
    ]


def _start(uri: str) -> str:
    """The command that serves a database; one with a password is to be handed over by the environment."""
    path = Path(sys.executable)  # as it is called from here: `massact` need not be on the PATH
    python = shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
    command = f"{python} -m massact serve"
    if uri == resolve_tracking_uri(None) and "MLFLOW_TRACKING_URI" not in os.environ:
        return command
    if shown_uri(uri) != uri:
        return f"MLFLOW_BACKEND_STORE_URI=… {command}"
    return f"{command} --backend-store-uri {shlex.quote(uri)}"
