"""The app `massact-auth`: MLflow's basic-auth app with the query API, for the same users and permissions."""

import logging
import os
from typing import Any

from massact.server.app import WHICH_SERVER, add_query_api
from massact.server.refusals import add_refusals

_log = logging.getLogger(__name__)
_BOOTSTRAPPED = "_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED"
"""Tells MLflow's auth app that the first user is there."""


def _create_app() -> Any:
    """MLflow's basic-auth app with the query API: for uvicorn an ASGI app, else its Flask app."""
    from mlflow.server import app, auth

    addresses = add_query_api(app, has_login=True)
    # Where MLFLOW_BASIC_AUTH_FAIL_CLOSED is set, an address without a validator is refused. Ours need none beyond
    # the login, which comes before it: answers leave out what their reader may not read.
    validators = getattr(auth, "BEFORE_REQUEST_VALIDATORS", None)
    if isinstance(validators, dict):
        validators.update(dict.fromkeys(addresses, _may_ask))
    else:
        _log.warning(
            "this MLflow has no list of validators: unset MLFLOW_BASIC_AUTH_FAIL_CLOSED to be answered"
        )
    return add_refusals(app, auth.create_app(app))


def _may_ask() -> bool:
    return True


def __getattr__(name: str) -> Any:
    """The factory, when a server looks it up.

    `mlflow server` makes the first user before any of its processes starts, but only of its own app. It looks the
    factory up in good time, so that is done here: a missing password is then one error, and no loop of processes
    that end and are started again.
    """
    if name != "create_app":
        raise AttributeError(name)
    if WHICH_SERVER not in os.environ and _BOOTSTRAPPED not in os.environ:
        from mlflow.server import _bootstrap_basic_auth

        _bootstrap_basic_auth()
        os.environ[_BOOTSTRAPPED] = "true"  # for the processes that are started
    return _create_app
