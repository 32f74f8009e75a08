"""The app `massact`: MLflow's tracking server with the query API (`mlflow server --app-name massact`)."""

import logging
import os
from typing import Any

from flask import Flask

from massact.addresses import is_database
from massact.server.problems import limits_of
from massact.server.processes import Processes
from massact.server.routes import mount

_log = logging.getLogger(__name__)
WHICH_SERVER = "_MLFLOW_SGI_NAME"
"""Set by `mlflow server` for its processes: uvicorn, gunicorn or waitress."""


def create_app() -> Any:
    """MLflow's app with the query API: for uvicorn an ASGI app, else its Flask app."""
    from mlflow.server import app

    add_query_api(app, has_login=False)
    return for_this_server(app)


def add_query_api(app: Flask, *, has_login: bool) -> list[tuple[str, str]]:
    """Add the query API over the database that this server writes to. Returns its addresses and methods.

    Raises:
        ConfigError: a limit is none.
    """
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

    database = os.environ.get(BACKEND_STORE_URI_ENV_VAR, "")
    limits = limits_of()
    if not is_database(database):
        _log.warning("the backend store is no SQLite or PostgreSQL database: the query API answers nothing")
        return mount(app, None, has_login=has_login)
    return mount(app, Processes(database, limits), has_login=has_login)


def for_this_server(app: Flask) -> Any:
    """The app as the server that is started wants it."""
    if os.environ.get(WHICH_SERVER) != "uvicorn":
        return app
    from mlflow.server.fastapi_app import create_fastapi_app

    return create_fastapi_app(app)
