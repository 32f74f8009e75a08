"""What needs neither models nor judges: phase 4, the answer that a phase ends with, and where to look next."""

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from massact import __version__
from massact.addresses import resolve_tracking_uri, shown_uri
from massact.keys import canonical_json, digest
from massact.names import file_name
from massact.query.load import declared_by_data
from massact.report.evidence import Evidence
from massact.report.phase_notes import PhaseName, phase_brief, phase_figures, phase_markdown, phase_verdicts
from massact.store.databases import ui_address
from massact.store.read.base import FINISHED
from massact.store.schema import StoredPoint, Tag
from massact.store.schema.declared import declared_content
from massact.store.write.finished_run import Step
from massact.store.write.tracker import EVALUATIONS, PHASES, PROJECT_RUN, OpenRun, view_link
from massact.sweep.context import Session, keep_outcome, load_answers, open_phase, phase_params
from massact.sweep.stores import Stores
from massact.vectors.positions import parse_position
from massact.workflow.run_notes import tell_evaluations
from massact.workflow.status import require


def require_steps(session: Session, step: str) -> None:
    """Raises MissingPrerequisiteError: the store lacks what a step needs."""
    with session.stores.read() as store:
        require(session.experiment, store, step)


def run_patterns(session: Session, parent: OpenRun | None = None) -> None:
    """Phase 4: coefficient patterns and recommendations, from the store alone. By itself it writes no second run that
    says what one says already: MLflow, which takes most of its time, is not loaded then."""
    require_steps(session, "phase4")
    whole = phase_evidence(session, "phase4")
    content = _content(session, whole)
    if parent is None and PROJECT_RUN not in os.environ and (run_id := _said_by(session, content)):
        session.tell(phase_markdown("phase4", whole), phase_brief("phase4", whole))
        session.say(f"phase4: run {run_id} says so already")
        return
    with open_phase(session, "phase4", parent) as run:
        log_outcome(session, run, "phase4", whole, is_last=parent is None)
        session.stores.tracker.set_tag(run, Tag.CONTENT, content)


def _content(session: Session, whole: Evidence) -> str:
    """Digest of all that a run of phase 4 holds: what it says, and which evaluations its metrics and figures show."""
    runs = sorted(point.run_id for point in whole.answers.evaluations)
    said = {"text": phase_markdown("phase4", whole), "verdicts": phase_verdicts("phase4", whole)}
    return digest({**said, "runs": runs, "params": str(phase_params(session)), "version": __version__})


def _said_by(session: Session, content: str) -> str | None:
    """The run that holds it, where the store also knows the experiment file as it is now."""
    name = session.experiment.name
    with session.stores.read() as store:
        declared, now = store.declared(name), declared_by_data(session.experiment)
        if declared is None or canonical_json(declared_content(declared)) != canonical_json(declared_content(now)):
            return None
        runs = (one for one in store.phases(name) if one.status == FINISHED and one.tags.get(Tag.CONTENT) == content)
        return next((one.run_id for one in runs), None)


_MAX_SCALE = 1_000_000


def phase_evidence(
    session: Session, phase: PhaseName, cosines: Mapping[tuple[str, str], float] = MappingProxyType({})
) -> Evidence:
    """What the store holds to answer a phase's question."""
    answers = load_answers(session, phase if phase != "phase4" else None, with_scores=True)
    return Evidence.of(session.experiment, answers, cosines)


def log_outcome(session: Session, run: OpenRun, phase: PhaseName, whole: Evidence, *, is_last: bool) -> None:
    """Answer the phase's question, and keep it on the phase's run; show it, if no report follows."""
    answers = whole.answers
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
    if not stores.is_written:
        return []
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
