"""MLflow's client of a tracking store: set up, tried once, and explained where it fails."""

import logging
import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

from massact.addresses import hide_passwords, is_database, shown_uri
from massact.errors import StoreError, UnusableStoreError
from massact.login import find_login
from massact.tracking.database import TrackingDatabase

_ENVIRONMENT = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # over a server it would print two lines on standard output for each run that ends
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # bounded retries: the default waits four minutes for a server that is not there
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}
"""Defaults for MLflow's client; what the user has set stays."""


def connect(tracking_uri: str, *, say: Callable[[str], None] = lambda _line: None) -> Any:
    """MLflow's client of a tracking store that answers; a database that is not there is made.

    Args:
        say: told in one line that a half-made database was set aside.

    Raises:
        StoreError: it cannot be reached or is no tracking store.
    """
    set_up_client()
    if tracking_uri.startswith(("http://", "https://")):
        find_login()  # MLflow's own error about a credentials file quotes it
    elif is_database(tracking_uri):
        with closing(TrackingDatabase(tracking_uri, shown_uri(tracking_uri))) as database:
            database.make_ready(None, say)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        # MLflow lets SQLAlchemy's, requests' and its own errors through here, and a driver's that is not installed;
        # anything else is a bug of ours
        is_known = isinstance(error, MlflowException | OSError | ImportError)
        if not is_known and "sqlalchemy" not in type(error).__module__:
            raise
        raise (UnusableStoreError if isinstance(error, ImportError) else StoreError)(
            f"tracking store {shown_uri(tracking_uri)} cannot be used: {without_password(error, tracking_uri)} "
            "Check --tracking-uri or MLFLOW_TRACKING_URI, and that the server runs"
        ) from error
    return client


def set_up_client() -> None:
    """Import MLflow with few retries and without its chatter; again it changes nothing."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  sets up the loggers that are turned down next

    # they tell of every migration step and download
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # every attempt to reach a database, with SQLAlchemy's whole text; what came of them is raised
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # every retry; what came of them is raised


def without_password(error: Exception, tracking_uri: str) -> str:
    """The first line of an error, without the passwords that the URI may hold."""
    return hide_passwords(first_line(error), tracking_uri)


def first_line(error: Exception) -> str:
    """The first line of an error's text, or the name of its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
