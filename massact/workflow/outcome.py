"""What a phase leaves behind: phase 4, the answer it ends with, where to look next, and what MLflow shows of runs."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from types import MappingProxyType

from massact import __version__
from massact.addresses import resolve_tracking_uri, shown_uri
from massact.domain import RANDOM
from massact.keys import canonical_json, digest
from massact.names import file_name
from massact.query.groups import is_at_floor
from massact.query.load import declared_by_data
from massact.query.rows import AnyPoint, Point
from massact.report.evidence import Evidence, Place
from massact.report.phase_notes import PhaseName, phase_brief, phase_figures, phase_markdown, phase_verdicts
from massact.report.section import escape_markdown, number, result, signed
from massact.store.databases import ui_address
from massact.store.read import stored_runs
from massact.store.read.base import FINISHED
from massact.store.schema import Artifact, Kind, MlflowTag, StoredPoint, Tag
from massact.store.schema.declared import declared_content
from massact.store.write.artifacts import write_files
from massact.store.write.finished_run import Step
from massact.store.write.tracker import EVALUATIONS, PHASES, PROJECT_RUN, OpenRun, view_link
from massact.sweep.context import Session, keep_outcome, load_answers, open_phase, phase_params
from massact.sweep.stores import Stores
from massact.vectors.positions import parse_position
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
    """The newest run of phase 4 where it holds that, and the store knows the experiment file as it is now."""
    name = session.experiment.name
    with session.stores.read() as store:
        declared, now = store.declared(name), declared_by_data(session.experiment)
        if declared is None or canonical_json(declared_content(declared)) != canonical_json(declared_content(now)):
            return None
        runs = [phase for phase in store.phases(name) if phase.status == FINISHED and Tag.CONTENT in phase.tags]
        return runs[-1].run_id if runs and runs[-1].tags[Tag.CONTENT] == content else None


_MAX_SCALE = 1_000_000


def phase_evidence(
    session: Session, phase: PhaseName, cosines: Mapping[tuple[str, str], float] = MappingProxyType({})
) -> Evidence:
    """What the store holds to answer a phase's question."""
    answers = load_answers(session, phase if phase != "phase4" else None, with_scores=True)
    return Evidence.of(session.experiment, replace(answers, cosines=cosines))


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
    scale, coefficients = 1, [point.coefficient for point in usable]
    while scale < _MAX_SCALE and any(abs(c * scale - round(c * scale)) > 1e-9 * scale for c in coefficients):
        scale *= 10
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
    path = Path(sys.executable)  # as it is called from here: `massact` need not be on the PATH
    python = shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
    command = f"{python} -m massact serve"
    if uri == resolve_tracking_uri(None) and "MLFLOW_TRACKING_URI" not in os.environ:
        return command
    if shown_uri(uri) != uri:
        return f"MLFLOW_BACKEND_STORE_URI=… {command}"
    return f"{command} --backend-store-uri {shlex.quote(uri)}"


# A line that says what an evaluation is, and a picture of its place in the trade-off.


_OURS = "**Evaluation**: "  # what our line of a note begins with; what others wrote there stays below it


def tell_evaluations(session: Session, run: OpenRun, evidence: Evidence) -> None:
    """Give every evaluation its line and its picture; those whose line is as it was are left alone."""
    uri, name, key = session.stores.tracking_uri, session.experiment.name, MlflowTag.NOTE.value
    known = {run.run_id: run for run in stored_runs(uri, name, Kind.EVALUATION, tags=(key,))}
    notes, files = {}, []
    for place, points, top, best in _places(evidence):
        for point in (point for some in points.values() for point in some if point.run_id in known):
            stored = known[point.run_id]
            before = stored.tags.get(key, "")
            told = "nothing at its place counts"
            if best is not None:
                link = f"[{top}, {result(best)}](#/experiments/{run.experiment_id}/runs/{best.run_id})"
                is_best = best.run_id == point.run_id
                told = "it is the best of its place" if is_best else f"the best of its place is {link}"
            line = f"{_line(evidence, place, point)}, one of {len(points[point.label])} of its label; {told}."
            rest = before.partition("\n\n")[2] if before.startswith(_OURS) else before
            if (note := f"{line}\n\n{rest}".strip()) != before:
                notes[point.run_id] = note
                drawn = {Artifact.PLACE.value: place_svg(evidence, place, point, points[point.label], best).encode()}
                files.append((stored.artifact_uri, drawn))
    write_files(files, uri, lasting=False)
    session.stores.tracker.set_notes(notes)


def _places(evidence: Evidence) -> Iterator[tuple[Place, Mapping[str, list[StoredPoint]], str, Point | None]]:
    """Each place with the evaluations of its labels, and its best label and evaluation."""
    for place, stratum in evidence.strata.items():
        points = {label: list(part.points) for label, part in stratum.slices.items()}
        bests = evidence.bests(place, (label for label in points if label != RANDOM))
        top = evidence.top(place, bests) if bests else ""
        yield place, points, top, bests.get(top)


def _line(evidence: Evidence, place: Place, point: StoredPoint) -> str:
    """What an evaluation is, and whether it counts."""
    floor = evidence.floor
    what = f"`{point.label}` at {place.position}, layer {point.layer}, coefficient {point.coefficient:g}"
    counts = "counts" if is_at_floor(point, floor) else f"does not count, below the floor of {floor:g}"
    if point.delta is None or point.coherence_mean is None:
        counts = "does not count, without scores of enough responses"
    figures = f"delta {number(point.delta, '+.1f')} at coherence {number(point.coherence_mean, '.1f')}"
    about = escape_markdown(f"{place.model} for {place.trait}")
    if not floor.is_coherence:
        figures += f", {floor.metric} {floor.shown(floor.value_of(point))}"
    return f"{_OURS}{what}, steering {about}: {figures}; {counts}"


_WIDTH, _HEIGHT, _EDGE = 560, 340, 56
_INK, _QUIET, _BLUE = "#1b1b1b", "#9aa0a6", "#0072b2"


def place_svg(
    evidence: Evidence, place: Place, point: StoredPoint, of_label: Iterable[StoredPoint], best: Point | None
) -> str:
    """Delta against coherence: the evaluation, ringed, on its label's curve, among the bests of its place. Written as
    text, since there are as many as evaluations."""
    curve = sorted((other for other in of_label if other.layer == point.layer), key=lambda other: other.coefficient)
    others = list(evidence.bests(place, evidence.strata[place].slices).values())
    shown: list[AnyPoint] = [*curve, *others]
    deltas = [point.delta for point in shown if point.delta is not None]
    low, high = min([0.0, *deltas]), max([1.0, *deltas])

    def at(point: AnyPoint) -> tuple[float, float] | None:
        measure = evidence.floor.measure_of(point)
        if point.delta is None or measure is None:
            return None
        across = _EDGE + (100 - measure) / 100 * (_WIDTH - 1.5 * _EDGE)
        return round(across, 1), round(_HEIGHT - _EDGE - (point.delta - low) / (high - low) * (_HEIGHT - 2 * _EDGE), 1)

    def dots(points: Iterable[AnyPoint], radius: float, look: str) -> list[str]:
        return [f'<circle cx="{x}" cy="{y}" r="{radius}" {look}/>' for x, y in filter(None, map(at, points))]

    def text(x: float, y: float, said: str, more: str = "") -> str:
        return f'<text x="{x}" y="{y}" fill="{_INK}" {more}>{escape(said)}</text>'

    floor = round(_EDGE + (100 - evidence.floor) / 100 * (_WIDTH - 1.5 * _EDGE), 1)
    foot, right = _HEIGHT - _EDGE, _WIDTH - _EDGE / 2
    path = " ".join(f"{x},{y}" for x, y in filter(None, map(at, curve)))
    title = f"{point.label}, layer {point.layer}, coefficient {point.coefficient:g}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>',
        text(_EDGE, 20, title, 'font-weight="bold"'),
        text(_EDGE, 37, f"{evidence.name(place)}; grey: the bests of the other labels"),
        f'<path d="M{_EDGE},{_EDGE} V{foot} H{right}" fill="none" stroke="{_INK}"/>',
        f'<path d="M{floor},{_EDGE} V{foot}" stroke="{_INK}" stroke-dasharray="3,3"/>',
        text(floor + 4, foot - 5, f"floor {evidence.floor:g}"),
        text(_EDGE, foot + 18, f"{evidence.floor.value_at(100):.3g}"),
        text(right - 8, foot + 18, f"{evidence.floor.value_at(0):.3g}"),
        text((_EDGE + right) / 2 - 40, foot + 36, evidence.floor.metric),
        text(6, _EDGE + 4, signed(high, 0)),
        text(6, foot, signed(low, 0)),
        text(6, (_EDGE + foot) / 2, "delta"),
        *dots(others, 3, f'fill="{_QUIET}"'),
        f'<polyline points="{path}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/>',
        *dots(curve, 3, f'fill="{_BLUE}"'),
        *dots([best] if best else [], 5, f'fill="{_INK}"'),
        *dots([point], 8, f'fill="none" stroke="{_INK}" stroke-width="2"'),
    ]
    return "\n".join([*parts, "</svg>\n"])
