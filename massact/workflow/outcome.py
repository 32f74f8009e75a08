"""What a phase's run shows: its tables in the note, its verdicts as tags, its curves as stepped metrics."""

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from massact.addresses import resolve_tracking_uri, shown_uri
from massact.names import file_name
from massact.report.phase_notes import PhaseName, phase_figures, phase_markdown, phase_verdicts
from massact.store.schema import MlflowTag, StoredPoint, Tag
from massact.store.write.experiments import EVALUATIONS, PHASES, UI_ADDRESS, view_link
from massact.store.write.finished_run import Step
from massact.store.write.tracker import OpenRun
from massact.sweep.planner import load_answers
from massact.vectors.positions import parse_position
from massact.workflow.context import Session

_MAX_SCALE = 1_000_000


def log_outcome(
    session: Session, run: OpenRun, phase: PhaseName, cosines: Mapping[tuple[str, str], float]
) -> None:
    """Answer the phase's question from the store, show it, and keep it on the phase's run."""
    answers = load_answers(session, phase if phase != "phase4" else None, with_scores=True)
    text = phase_markdown(phase, session.experiment, answers, cosines=cosines)
    tracker = session.tracker
    tracker.set_tag(run, MlflowTag.NOTE, text)
    for name, verdict in phase_verdicts(phase, session.experiment, answers, cosines).items():
        tracker.set_tag(run, f"{Tag.VERDICT}.{name}", verdict)
    declared = {(group.model, group.trait, group.position, group.label) for group in answers.groups}
    mine = [p for p in answers.evaluations if (p.model, p.trait, p.position, p.label) in declared]
    tracker.log(run, steps=curve_steps(mine))
    with tracker.artifacts(run) as folder:
        (folder / f"{phase}.md").write_text(text + "\n", encoding="utf-8")
        for name, png in phase_figures(phase, session.experiment, answers, cosines).items():
            (folder / "figures").mkdir(exist_ok=True)
            (folder / "figures" / f"{name}.png").write_bytes(png)
    session.show(text)


def curve_steps(points: Iterable[StoredPoint]) -> list[Step]:
    """Delta and coherence of every layer and label as metrics stepped by coefficient.

    MLflow's steps are integers, so the coefficient is scaled and the metric's name says by how much.
    """
    usable = sorted(points, key=lambda p: (p.label, p.layer, p.coefficient))
    scale = _scale([point.coefficient for point in usable])
    by = f"by_coefficient_x{scale}" if scale > 1 else "by_coefficient"
    steps = []
    for point in usable:
        place = f"{file_name(point.model)}/{parse_position(point.position).slug}/layer_{point.layer}/{point.label}"
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


# Where a person looks next: the command that starts the UI, and links that open it where the results are.


def next_lines(session: Session) -> list[str]:
    """Lines that name the UI's command and links to the views of this experiment."""
    uri = session.tracking_uri
    is_server = uri.startswith(("http://", "https://"))
    address = uri.rstrip("/") if is_server else UI_ADDRESS
    lines = [] if is_server else [f"UI:          {_start(uri)}"]
    experiment_id = session.tracker.shown_experiment_id
    return [
        *lines,
        f"evaluations: {view_link(address, experiment_id, EVALUATIONS)}",
        f"phases:      {view_link(address, experiment_id, PHASES)}",
    ]


def _start(uri: str) -> str:
    """The command that serves a database; one with a password is to be handed over by the environment."""
    command = f"{_python()} -m massact serve"
    if uri == resolve_tracking_uri(None) and "MLFLOW_TRACKING_URI" not in os.environ:
        return command
    if shown_uri(uri) != uri:
        return f"MLFLOW_BACKEND_STORE_URI=… {command}"
    return f"{command} --backend-store-uri {shlex.quote(uri)}"


def _python() -> str:
    """This interpreter, as it is called from here: `massact` need not be on the PATH."""
    path = Path(sys.executable)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
