"""Where a person looks next: the command that starts the UI, and links that open it where the results are."""

import shlex
import sys
from pathlib import Path

from massact.phases.session import Session
from massact.tracking.views import EVALUATIONS, PHASES, UI_ADDRESS, view_link

UI_ENVIRONMENT = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
"""Without it MLflow's server starts a job runner that nothing here uses, and takes half a minute."""


def next_lines(session: Session) -> list[str]:
    """Lines that name the UI's command and links to the views of this experiment."""
    uri = session.tracking_uri
    is_server = uri.startswith(("http://", "https://"))
    address = uri.rstrip("/") if is_server else UI_ADDRESS
    start = f"{UI_ENVIRONMENT} {_python()} -m mlflow ui --workers 1 --backend-store-uri {shlex.quote(uri)}"
    lines = [] if is_server else [f"UI:          {start}"]
    experiment_id = session.tracker.shown_experiment_id
    return [
        *lines,
        f"evaluations: {view_link(address, experiment_id, EVALUATIONS)}",
        f"phases:      {view_link(address, experiment_id, PHASES)}",
    ]


def _python() -> str:
    """This interpreter, as it is called from here: `mlflow` need not be on the PATH."""
    path = Path(sys.executable)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
