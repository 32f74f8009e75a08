"""Where a person looks next: the command that starts the UI, and links that open it where the results are."""

import os
import shlex
import sys
from pathlib import Path

from massact.addresses import resolve_tracking_uri, shown_uri
from massact.phases.session import Session
from massact.tracking.views import EVALUATIONS, PHASES, UI_ADDRESS, view_link


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
