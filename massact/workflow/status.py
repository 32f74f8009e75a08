"""What the store holds for an experiment, prerequisite by prerequisite, and which command makes what is missing.

Reads the run store only: no model is loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from massact.config import Experiment
from massact.errors import MissingPrerequisiteError
from massact.query import Answers
from massact.query.load import read_answers
from massact.query.questions.confirmations import confirmations_of
from massact.query.questions.gaps import ask_gaps
from massact.store.read import RunStore
from massact.store.schema import Kind, StageRow, is_scored
from massact.workflow.stored_extractions import extract_command, newest_extractions, other_settings

NEEDS: dict[str, tuple[str, ...]] = {
    "calibrate": (),
    "extract": ("calibrate",),
    "phase1": ("calibrate", "extract"),
    "phase2": ("calibrate", "extract"),
    "phase3": ("calibrate", "extract"),
    "phase4": ("calibrate", "extract", "phase1"),
}
"""Which steps' results a step starts from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prerequisite:
    """One thing that the store should hold."""

    step: str
    """The step that makes it, which is also the command's name."""
    what: str
    ok: bool
    detail: str
    command: str
    """What to run where it is missing."""
    is_ready: bool | None = None
    """Whether a later step can start from it; `None` is the same as `ok`."""

    @property
    def blocks(self) -> bool:
        """Whether steps that start from it have to wait."""
        return not (self.ok if self.is_ready is None else self.is_ready)


def list_prerequisites(
    experiment: Experiment, store: RunStore, *, any_extraction: bool = False, confirmed: bool = False
) -> list[Prerequisite]:
    """Every calibration, extraction, baseline and phase of an experiment, in the plan's order.

    Args:
        any_extraction: count an extraction also where its split or its vetting is not the experiment's.
        confirmed: also whether winners are confirmed, where the experiment keeps questions for that.
    """
    found = [
        *_calibrations(experiment, store),
        *_extractions(experiment, store, any_settings=any_extraction),
    ]
    answers = read_answers(store, experiment)
    found += [*_baselines(experiment, answers), *_phases(experiment, answers), _patterns(experiment, store)]
    if confirmed and experiment.confirm_share is not None:
        found.append(_confirmations(experiment, store, answers))
    return found


def require(experiment: Experiment, store: RunStore, step: str) -> None:
    """Refuse to start a step whose prerequisites are missing.

    Raises:
        MissingPrerequisiteError: names each missing one and the command that makes it.
    """
    if not NEEDS[step]:
        return
    # phase 4 asks the store alone: it needs no vectors, and so does not care how they were extracted
    found = list_prerequisites(experiment, store, any_extraction=step == "phase4")
    missing = [one for one in found if one.step in NEEDS[step] and one.blocks]
    if missing:
        lines = "".join(f"\n  {one.what}: {one.detail}. Run: {one.command}" for one in missing)
        raise MissingPrerequisiteError(f"{step} lacks {len(missing)} of what it starts from:{lines}")


def _command(experiment: Experiment, step: str) -> str:
    return f"massact {step} --experiment {experiment.file}"


def _calibrations(experiment: Experiment, store: RunStore) -> Iterator[Prerequisite]:
    stored = {one.row.model: one.row for one in store.stages(Kind.CALIBRATION, experiment.name)}
    for model in experiment.models:
        row = stored.get(model.name)
        dims = ", ".join(str(dim) for dim in row.massive_dims) if row else ""
        yield Prerequisite(
            step="calibrate",
            what=f"calibration of {model.name}",
            ok=row is not None,
            detail=f"uniform massive dims {dims or 'none'}" if row else "calibration.json not found",
            command=_command(experiment, "calibrate"),
        )


def _extractions(experiment: Experiment, store: RunStore, *, any_settings: bool) -> Iterator[Prerequisite]:
    stored = newest_extractions(experiment, store, any_settings=any_settings)
    for model in experiment.models:
        for trait in experiment.traits:
            for position in experiment.extraction.positions:
                found = stored.get((model.name, trait.name, position))
                row = found.row if found else None
                other = other_settings(row, experiment) if row and not any_settings else None
                yield Prerequisite(
                    step="extract",
                    what=f"activations and vectors of {model.name}, {trait.name}, {position}",
                    ok=row is not None and other is None,
                    detail=other or _extraction_detail(row),
                    command=extract_command(experiment),
                )


def _extraction_detail(row: StageRow | None) -> str:
    if row is None:
        return "activations not found"
    n_preclean = sum("_preclean" in label for label in row.labels)
    return f"{len(row.labels)} labels at {row.n_layers} layers, {n_preclean} of them preclean"


def _baselines(experiment: Experiment, answers: Answers) -> Iterator[Prerequisite]:
    stored = {(row.model, row.trait): row for row in answers.current_baselines}
    for model in experiment.models:
        for trait in experiment.traits:
            row = stored.get((model.name, trait.name))
            trait_mean, coherence = (row.trait_mean, row.coherence_mean) if row else (None, None)
            is_whole = row is not None and is_scored(row, experiment.least_scored)
            scores = (
                "every response unscored"
                if trait_mean is None or coherence is None
                else f"trait {trait_mean:.1f}, coherence {coherence:.1f}"
            )
            if row is not None and trait_mean is not None and not is_whole:
                scores = f"only {row.n_scored} of {row.n_scored + row.n_unscored} responses have scores"
            yield Prerequisite(
                step="baseline",
                what=f"baseline of {model.name}, {trait.name}",
                ok=trait_mean is not None and is_whole,
                detail=scores if row else "not evaluated",
                command=_command(experiment, "phase1"),
            )


def _phases(experiment: Experiment, answers: Answers) -> Iterator[Prerequisite]:
    rows = ask_gaps.of(answers, experiment.coherence_floor).rows
    for phase in experiment.phases:
        groups = set(experiment.groups(phase.name))
        mine = [r for r in rows if _group_of(r) in {_group_of(g) for g in groups} and r.is_current]
        counts = {
            state: sum(row.status == state for row in mine)
            for state in ("ok", "below_floor", "missing", "failed")
        }
        states = ", ".join(
            f"{count} {state.replace('_', ' the ')}" for state, count in counts.items() if count
        )
        unrun = counts["missing"] + counts["failed"]
        yield Prerequisite(
            step=phase.name,
            what=f"{phase.name}: {len(groups)} groups at coherence {experiment.coherence_floor:g} or more",
            ok=counts["ok"] == len(groups),
            detail=states,
            command=_command(experiment, phase.name if unrun else "gaps"),
            # a group below the floor was run: the phase did its part, `gaps` says what could still be tried
            is_ready=unrun == 0,
        )


def _group_of(row: object) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in ("model", "trait", "position", "label"))


def _patterns(experiment: Experiment, store: RunStore) -> Prerequisite:
    finished = [
        one for one in store.phases(experiment.name) if one.phase == "phase4" and one.status == "FINISHED"
    ]
    return Prerequisite(
        step="phase4",
        what="phase4: coefficient patterns",
        ok=bool(finished),
        detail=f"documented in run {finished[-1].run_id}" if finished else "not documented",
        command=_command(experiment, "phase4"),
    )


def _confirmations(experiment: Experiment, store: RunStore, answers: Answers) -> Prerequisite:
    floor = experiment.coherence_floor
    answers = answers.with_confirmations(store, experiment.name, floor)
    rows = [row for row in confirmations_of(answers, floor, is_split=True).rows if row.standing is not None]
    n_done = sum(row.status != "unconfirmed" for row in rows)
    return Prerequisite(
        step="confirm",
        what="winners and labels tied with them on the questions kept for confirming",
        ok=bool(rows) and n_done == len(rows),
        detail=f"{n_done} of {len(rows)} confirmed" if rows else "no winner to confirm yet",
        command=_command(experiment, "confirm"),
    )
