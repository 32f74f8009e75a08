"""A child of `massact serve` that sets up what a service stands on, and ends: `python -m massact.service.preparing`.

It reads a `Task` as JSON from stdin, since a command line and a log are read by others, and answers with one JSON
object on stdout: `{"notes": [...]}`, or `{"error": ..., "exit_code": ...}`.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from massact.errors import MassactError, UsageError
from massact.service.secrets import ADMIN_PASSWORD
from massact.service.settings import USERS_DATABASE, sqlite_path

PASSWORD_LENGTH = 12
"""The least that MLflow takes."""
_PASSWORD_WANTED = (
    f"Set {ADMIN_PASSWORD}, or {ADMIN_PASSWORD}_FILE to a file that holds it, to at least "
    f"{PASSWORD_LENGTH} characters"
)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be set up."""

    database: str
    """URI of the run store."""
    users_file: str | None = None
    """Configuration of MLflow's auth app, where there are to be users."""
    artifacts: str | None = None
    """Folder for artifacts, where they are kept in one."""
    tune: bool = False
    upgrade: bool = False
    """Whether a database of an older MLflow is migrated."""


def prepare(task: Task, environment: Mapping[str, str]) -> list[str]:
    """Have a child do the task. Returns what it did, in words.

    Raises:
        MassactError: it could not be done.
    """
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "massact.service.preparing"],
        input=json.dumps(asdict(task)),
        stdout=subprocess.PIPE,
        env=dict(environment),
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C must not break a first migration off in the middle
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        how = f"exit code {done.returncode}" if done.returncode >= 0 else f"the signal {-done.returncode}"
        raise MassactError(f"setting up the service ended with {how}; see above") from None
    if "error" in answer:
        raise (UsageError if answer["exit_code"] == UsageError.exit_code else MassactError)(answer["error"])
    return list(answer["notes"])


def _work(task: Task) -> list[str]:
    from massact.service import database

    _check_first_admin(task)
    made = task.artifacts is not None and _make_folder(Path(task.artifacts))
    try:
        notes = database.set_up(task.database, upgrade=task.upgrade)
    except MassactError:
        if made and task.artifacts is not None:
            Path(task.artifacts).rmdir()
        raise
    if task.tune:
        from massact.service.tuning import tuned

        return notes + tuned(task.database)
    if task.users_file is not None:
        _set_up_users()
    if n := database.strange_places(task.database):
        what = "1 experiment keeps its" if n == 1 else f"{n} experiments keep their"
        notes.append(
            f"note: {what} artifacts in folders, from before this database was served: the UI shows them as long as "
            "this machine has those folders; clients on other machines cannot read them"
        )
    return notes


def _make_folder(path: Path) -> bool:
    """Returns whether it was made."""
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path} for artifacts: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(
            f"cannot write into {path}, the folder for artifacts: give it to the user who runs this"
        )
    return is_new


def _check_first_admin(task: Task) -> None:
    """Before anything is made: where no user is there yet, the first one needs a password."""
    path = sqlite_path(task.database) if task.users_file is not None else None
    if path is None or (path.parent / USERS_DATABASE).exists():
        return
    if len(os.environ.get(ADMIN_PASSWORD, "")) < PASSWORD_LENGTH:
        raise UsageError(f"the first administrator cannot be made: {_PASSWORD_WANTED}")


def _set_up_users() -> None:
    from mlflow.exceptions import MlflowException

    try:
        from mlflow.server.auth import bootstrap_admin_user
    except ImportError as error:
        raise UsageError(f"--auth needs more of MLflow ({error}): pip install 'massact[server]'") from error
    try:
        bootstrap_admin_user()
    except MlflowException as error:
        reason = str(error).partition(" Set ")[0]
        raise UsageError(f"the first administrator cannot be made: {reason} {_PASSWORD_WANTED}") from error


def main() -> None:
    """Do the task on stdin."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no part of the answer
    task = Task(**json.load(sys.stdin))
    answer: dict[str, Any]
    try:
        answer = {"notes": _work(task)}
    except MassactError as error:
        answer = {"error": str(error), "exit_code": error.exit_code}
    with os.fdopen(answer_to, "w") as out:
        json.dump(answer, out)


if __name__ == "__main__":
    main()
