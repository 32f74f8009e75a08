"""What the store holds for an experiment, prerequisite by prerequisite, and which command makes what is missing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from massact.config import Experiment
from massact.domain import Group
from massact.errors import MissingPrerequisiteError
from massact.floors import as_floor
from massact.query import Answers
from massact.query.groups import slices
from massact.query.load import read_answers
from massact.query.questions.confirmations import ask_confirmations
from massact.query.questions.gaps import ask_gaps
from massact.store.read import RunStore
from massact.store.schema import Kind, is_scored
from massact.sweep.stored_extractions import extract_command, newest_extractions, other_settings

NEEDS: dict[str, tuple[str, ...]] = {
    "calibrate": (),
    "extract": ("calibrate",),
    "phase1": ("calibrate", "extract"),
    "phase2": ("calibrate", "extract"),
    "phase3": ("calibrate", "extract"),
    "phase4": ("calibrate", "extract", "phase1"),
}
"""Which steps' results a step starts from."""
_STATUSES = ("ok", "below_floor", "missing", "failed")


@dataclass(frozen=True, slots=True)
class Prerequisite:
    step: str
    what: str
    ok: bool
    detail: str
    command: str
    is_ready: bool | None = None  # whether a later step can start from it; `None` is the same as `ok`

    @property
    def blocks(self) -> bool:
        """Whether steps that start from it have to wait."""
        return not (self.ok if self.is_ready is None else self.is_ready)


def list_prerequisites(
    experiment: Experiment, store: RunStore, *, any_extraction: bool = False, confirmed: bool = False
) -> list[Prerequisite]:
    """Every calibration, extraction, baseline and phase of an experiment, in the plan's order. `any_extraction`: count
    an extraction also where its split or its vetting is not the experiment's. `confirmed`: also whether winners are
    confirmed, where the experiment keeps questions for that."""
    listed = [*_calibrations(experiment, store), *_extractions(experiment, store, any_settings=any_extraction)]
    answers = read_answers(store, experiment)
    listed += [*_baselines(experiment, answers), *_phases(experiment, answers), _patterns(experiment, store)]
    if confirmed and experiment.confirm_share is not None:
        listed.append(_confirmations(experiment, store, answers))
    return listed


def require(experiment: Experiment, store: RunStore, step: str) -> None:
    """Refuse to start a step whose prerequisites are missing: names each and the command that makes it."""
    if not NEEDS[step]:
        return
    # phase 4 asks the store alone: it needs no vectors, and so does not care how they were extracted
    listed = list_prerequisites(experiment, store, any_extraction=step == "phase4")
    missing = [prerequisite for prerequisite in listed if prerequisite.step in NEEDS[step] and prerequisite.blocks]
    if missing:
        lines = "".join(
            f"\n  {prerequisite.what}: {prerequisite.detail}. Run: {prerequisite.command}" for prerequisite in missing
        )
        raise MissingPrerequisiteError(f"{step} lacks {len(missing)} of what it starts from:{lines}")


def _command(experiment: Experiment, step: str) -> str:
    return f"massact {step} --experiment {experiment.file}"


def _calibrations(experiment: Experiment, store: RunStore) -> Iterator[Prerequisite]:
    stored = {stage.row.model: stage.row for stage in store.stages(Kind.CALIBRATION, experiment.name)}
    for model in experiment.models:
        row = stored.get(model.name)
        dims = ", ".join(map(str, row.massive_dims)) if row else ""
        detail = f"uniform massive dims {dims or 'none'}" if row else "calibration.json not found"
        command = _command(experiment, "calibrate")
        yield Prerequisite("calibrate", f"calibration of {model.name}", row is not None, detail, command)


def _extractions(experiment: Experiment, store: RunStore, *, any_settings: bool) -> Iterator[Prerequisite]:
    stored = newest_extractions(experiment, store, any_settings=any_settings)
    for model, trait, position in product(experiment.models, experiment.traits, experiment.extraction.positions):
        extraction = stored.get((model.name, trait.name, position))
        row = extraction.row if extraction else None
        other = other_settings(row, experiment) if row and not any_settings else None
        detail = other or "activations not found"
        if row and not other:
            n_preclean = sum("_preclean" in label for label in row.labels)
            detail = f"{len(row.labels)} labels at {row.n_layers} layers, {n_preclean} of them preclean"
        what = f"activations and vectors of {model.name}, {trait.name}, {position}"
        yield Prerequisite("extract", what, bool(row and not other), detail, extract_command(experiment))


def _baselines(experiment: Experiment, answers: Answers) -> Iterator[Prerequisite]:
    stored = {(row.model, row.trait): row for row in answers.current_baselines}
    for model, trait in product(experiment.models, experiment.traits):
        row = stored.get((model.name, trait.name))
        is_whole = row is not None and row.trait_mean is not None and is_scored(row, experiment.least_scored)
        command = _command(experiment, experiment.phases[0].name if experiment.phases else "evaluate")
        if row is None:
            detail = "not evaluated"
        elif row.trait_mean is not None and not is_whole:
            detail = f"only {row.n_scored} of {row.n_scored + row.n_unscored} responses have scores"
        elif row.trait_mean is None or row.coherence_mean is None:
            detail = "every response unscored"
        else:
            detail = f"trait {row.trait_mean:.1f}, coherence {row.coherence_mean:.1f}"
        yield Prerequisite("baseline", f"baseline of {model.name}, {trait.name}", is_whole, detail, command)


def _phases(experiment: Experiment, answers: Answers) -> Iterator[Prerequisite]:
    rows = [row for row in ask_gaps.of(answers, experiment.coherence_floor).rows if row.is_current]
    elsewhere = answers.currency.over(slices(answers.evaluations, answers.failures)).undeclared
    for phase in experiment.phases:
        groups = set(experiment.groups(phase.name))
        counts: Counter[str] = Counter(
            "missing" if (row.model, row.trait) in elsewhere else row.status
            for row in rows
            if Group(row.model, row.trait, row.position, row.label) in groups
        )
        others = [pair for pair in elsewhere if any((g.model, g.trait) == pair for g in groups)]
        unrun = counts["missing"] + counts["failed"]
        what = f"{phase.name}: {len(groups)} groups at {as_floor(experiment.coherence_floor).bound}"
        detail = ", ".join(f"{counts[name]} {name.replace('_', ' the ')}" for name in _STATUSES if counts[name])
        detail += "".join(f"; {model}, {trait}: evaluated in other settings alone" for model, trait in others)
        command = _command(experiment, phase.name if unrun else "gaps")
        # a group below the floor was run: the phase did its part, `gaps` says what could still be tried
        yield Prerequisite(phase.name, what, counts["ok"] == len(groups), detail, command, is_ready=unrun == 0)


def _patterns(experiment: Experiment, store: RunStore) -> Prerequisite:
    finished = [
        phase for phase in store.phases(experiment.name) if phase.phase == "phase4" and phase.status == "FINISHED"
    ]
    detail = f"documented in run {finished[-1].run_id}" if finished else "not documented"
    command = _command(experiment, "phase4")
    return Prerequisite("phase4", "phase4: coefficient patterns", bool(finished), detail, command)


def _confirmations(experiment: Experiment, store: RunStore, answers: Answers) -> Prerequisite:
    floor = experiment.coherence_floor
    answers = answers.with_confirmations(store, experiment.name, floor)
    rows = [row for row in ask_confirmations.of(answers, floor).rows if row.standing is not None]
    n_done = sum(row.status != "unconfirmed" for row in rows)
    detail = f"{n_done} of {len(rows)} confirmed" if rows else "no winner to confirm yet"
    what = "winners and labels tied with them on the questions kept for confirming"
    return Prerequisite("confirm", what, bool(rows) and n_done == len(rows), detail, _command(experiment, "confirm"))
