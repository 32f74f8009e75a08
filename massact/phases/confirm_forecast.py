"""What `--dry-run` shows of confirming: exact once the grid is finished, else the least that it can come to."""

from collections.abc import Sequence
from dataclasses import replace

from massact.errors import MissingPrerequisiteError, NothingToConfirmError
from massact.keys import cell_key
from massact.phases.confirm_plan import Chosen, ConfirmPlan, plan_confirm
from massact.phases.plan import (
    Forecast,
    Known,
    calls_per_exchange,
    forecast_phases,
    forecast_text,
    read_known,
    seconds_per_response,
)
from massact.phases.preflight import check_experiment
from massact.phases.recast import Subject
from massact.phases.session import Session
from massact.phases.steps import GRID_PHASES

PHASE = "confirm"


def show_main(session: Session) -> None:
    """Show what the whole plan would do."""
    grid = forecast_phases(session, GRID_PHASES)
    confirm = forecast_confirm(session, grid) if session.experiment.confirm_share is not None else []
    session.show(forecast_text(session, [*grid, *confirm]))


def show_confirm(session: Session) -> None:
    """Show what confirming would do now.

    Raises:
        NothingToConfirmError: no questions are kept for it, or no winner can be confirmed.
    """
    session.is_dry = True
    for trait in session.experiment.traits:
        session.confirming_questions(trait)
    check_experiment(session, judges=True)
    try:
        plan = plan_confirm(session)
    except MissingPrerequisiteError as error:
        session.show(f"What there is to confirm cannot be foreseen: {error}.")
        return
    if plan.left_out:
        session.say(f"confirm: {plan.why_left_out}")
    known = read_known(session)
    found = [_exact(session, known, subject, plan) for subject in plan.by_subject]
    session.show(forecast_text(session, found))


def forecast_confirm(session: Session, grid: Sequence[Forecast]) -> list[Forecast]:
    """What confirming has to do after grid phases, model by model."""
    known, note = read_known(session), ""
    try:
        plan = plan_confirm(session)
    except NothingToConfirmError:
        plan = ConfirmPlan()
    except MissingPrerequisiteError as error:
        plan, note = ConfirmPlan(), f"what is confirmed is not known ({error})"
    found = []
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            mine = [one for one in grid if (one.model, one.trait) == (model.name, trait.name)]
            if any(one.todo for one in mine) or note:
                found.append(_least(session, known, Subject(model, trait), plan, note))
            elif Subject(model, trait) in plan.by_subject:
                found.append(_exact(session, known, Subject(model, trait), plan))
    return found


def _exact(session: Session, known: Known, subject: Subject, plan: ConfirmPlan) -> Forecast:
    cells, todo = plan.by_subject[subject], plan.todo(subject)
    needs_baseline = bool(todo) and not _has_baseline(plan, cells)
    return _forecast(session, known, subject, (len(cells), len(cells) - len(todo)), needs_baseline)


def _least(session: Session, known: Known, subject: Subject, plan: ConfirmPlan, note: str) -> Forecast:
    """One winner at every declared window; a window whose winner is confirmed may keep it."""
    groups = session.experiment.groups()
    names = (subject.model.name, subject.trait.name)
    windows = {group.position for group in groups if (group.model, group.trait) == names}
    cells = plan.by_subject.get(subject, [])
    done = {
        one.cell.steering.position for one in cells if one.key in plan.confirmed and one.cell.steering
    } & windows
    needs_baseline = len(done) < len(windows) and not _has_baseline(plan, cells)
    why = (
        note
        or "confirms one winner at each window where something reaches the floor, and all labels tied with it"
    )
    return _forecast(session, known, subject, (len(windows), len(done)), needs_baseline, why)


def _has_baseline(plan: ConfirmPlan, cells: Sequence[Chosen]) -> bool:
    return any(cell_key(replace(one.cell, steering=None)) in plan.confirmed for one in cells)


def _forecast(
    session: Session,
    known: Known,
    subject: Subject,
    counts: tuple[int, int],
    needs_baseline: bool,
    note: str = "",
) -> Forecast:
    """A forecast of so many cells, so many of them finished; with a note it is the least."""
    (cells, finished), model = counts, subject.model
    n_cells = cells - finished + needs_baseline
    n_questions = len(session.confirming_questions(subject.trait).questions)
    rate, n_measured = seconds_per_response(known, model, session)
    return Forecast(
        phase=PHASE,
        model=model.name,
        trait=subject.trait.name,
        cells=cells,
        finished=finished,
        earlier=0,
        same=0,
        judge_calls=n_cells * n_questions * calls_per_exchange(session.experiment.judge),
        seconds=None if rate is None else n_cells * n_questions * rate,
        n_measured=n_measured,
        note=note,
        is_least=bool(note),
    )
