"""Secrets of the service: from the environment or from a file that `<NAME>_FILE` names, never a command line."""

from collections.abc import Mapping
from pathlib import Path

from massact.errors import UsageError

DATABASE_URI = "MLFLOW_BACKEND_STORE_URI"
DATABASE_PASSWORD = "PGPASSWORD"  # noqa: S105  # a name
ADMIN_NAME = "MLFLOW_AUTH_ADMIN_USERNAME"
ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105  # a name
SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105  # a name
SECRETS = (
    DATABASE_URI,
    DATABASE_PASSWORD,
    ADMIN_PASSWORD,
    SECRET_KEY,
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
"""What may be given as `<NAME>_FILE` too."""
_SUFFIX = "_FILE"


def with_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with each secret's file read, and without the names of those files.

    Raises:
        UsageError: a secret is given twice, or its file is missing, empty or no text.
    """
    found = dict(environment)
    for name in SECRETS:
        path = found.pop(name + _SUFFIX, "")
        if not path:
            continue
        if found.get(name):
            raise UsageError(f"both {name} and {name}{_SUFFIX} are set: unset one of them")
        found[name] = _read(name + _SUFFIX, Path(path))
    return found


def _read(name: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{name} names {path}, which cannot be read: {reason}") from error
    if not text:
        raise UsageError(f"{name} names {path}, which is empty: write the secret into it")
    return text
