"""`main`: the whole plan in order, ending in a report."""

from pathlib import Path

from massact.errors import NothingToConfirmError
from massact.store.write.tracker import OpenRun
from massact.sweep.confirm import run_confirm
from massact.sweep.driver import Tally
from massact.workflow.accounting import counted_work
from massact.workflow.context import Session
from massact.workflow.report import run_report
from massact.workflow.steps import phase_params, run_phases
from massact.workflow.validate import check_experiment


def run_main(session: Session, output: Path) -> tuple[str, Tally]:
    """Run what the store does not hold yet and write the report. Returns what to tell the user, and the count.

    Raises:
        UsageError: the experiment cannot be run as it is; nothing was started.
    """
    check_experiment(session, judges=True)
    with session.tracker.phase("main", params=phase_params(session)) as run:
        with counted_work(session, run, say=False):
            tally = run_phases(session, run)
            if session.experiment.confirm_share is not None:
                tally.add(_confirm(session, run))
        report = run_report(session, output, run)
    again = "; nothing was evaluated again" if tally.evaluated == 0 and tally.failed == 0 else ""
    return f"{report.summary}\n\n{tally}{again}", tally


def _confirm(session: Session, parent: OpenRun) -> Tally:
    """Confirm the winners; that there is none is no failure of the plan."""
    try:
        return run_confirm(session, parent)
    except NothingToConfirmError as error:
        session.say(f"confirm: {error}")
        return Tally()
