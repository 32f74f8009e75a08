"""The app `massact-auth`: MLflow's basic-auth app with the query API, for the same users and permissions."""

import json
import logging
import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from anyio import to_thread
from flask import Response, g, request
from mlflow.exceptions import MlflowException
from mlflow.protos.mlflow_artifacts_pb2 import ListArtifacts
from mlflow.protos.model_registry_pb2 import CreateModelVersion
from mlflow.protos.service_pb2 import CreateExperiment
from mlflow.server.handlers import _get_request_message, _get_tracking_store, catch_mlflow_exception
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from massact.server.app import WHICH_SERVER, add_query_api

# What MLflow's own rights leave open on a server with users, and is refused here.

_FORBIDDEN = HTTPStatus.FORBIDDEN
WRITERS_ONLY = "creating needs the role of a writer: ask an administrator (massact users role NAME writer)"
ADMINS_ONLY = "only administrators may use this"
NO_SOURCE = "only administrators may register what lies outside a run: give the run's id and a source in its artifacts"
NO_LOCATION = "only administrators may say where an experiment's artifacts lie: leave artifact_location out"

NOT_READABLE = "no artifacts of an experiment that you may read: give the path as EXPERIMENT_ID/RUN_ID/artifacts/…"
NO_HEAD = "only administrators may ask with HEAD: ask with GET"

NO_TRACE_LOCATION = "only administrators may say where a trace's files lie: leave the tag out"

_TRACE_LOCATIONS = ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")
"""Tags that MLflow's client never changes, and its server changes for whoever asks: it reads files there."""
_PROXY = re.compile(r"/mlflow-artifacts(?:/(?:artifacts|presigned|mpu/[^/]+))?(?:/(?P<path>.*))?\Z", re.DOTALL)
"""Routes of the artifact proxy, wherever a server has them, and the path that is asked for."""
_NATIVE_PROXY = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts/(?P<path>.*)", re.DOTALL)
_EXPERIMENT_ID = re.compile(r"0|[1-9][0-9]*")
_CHECKED_SCHEMES = ("runs", "models", "mlflow-artifacts", "file")


def add_refusals(flask_app: Any, served: Any) -> Any:
    """Add the refusals to a server that MLflow's `create_app` has given users."""
    flask_app.before_request_funcs[None].insert(0, _ask_for_a_password)
    flask_app.before_request(catch_mlflow_exception(_refuse_in_flask))  # type: ignore[no-untyped-call]
    if served is not flask_app:
        # innermost, behind MLflow's own, which leaves the name of who is logged in
        served.user_middleware.append(Middleware(_NativeRoutes))
    return served


def _ask_for_a_password() -> Any:
    """MLflow fails with 500 at a login that is no name and password, such as a token."""
    from mlflow.server import auth

    login = request.authorization
    is_other = login is not None and (login.type != "basic" or login.username is None)
    is_public: bool = auth.is_unprotected_route(request.path)
    return auth.make_basic_auth_response() if is_other and not is_public else None


def may_create(username: str) -> bool:
    """Whether a user may create experiments, registered models, prompts and the like."""
    from mlflow.server import auth
    from mlflow.server.auth.permissions import RESOURCE_TYPE_WORKSPACE, GrantLoadKey
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    if auth.store.get_user(username).is_admin:
        return True
    key = GrantLoadKey(RESOURCE_TYPE_WORKSPACE, "*")
    (granted,) = auth.resolve_permissions(username, DEFAULT_WORKSPACE_NAME, [key])
    return granted is not None and granted.can_use


def _is_admin(username: str) -> bool:
    from mlflow.server import auth

    return bool(auth.store.get_user(username).is_admin)


def experiment_of(path: str) -> str | None:
    """The id of the experiment that a path of the artifact proxy lies in; `None` where it is not plainly spelt. Rights
    are decided by that id alone, whatever else a spelling may stand for."""
    decoded = path
    while (further := unquote(decoded)) != decoded:
        decoded = further
    first, *others = decoded.removesuffix("/").split("/")
    is_plain = _EXPERIMENT_ID.fullmatch(first) is not None and path.split("/", maxsplit=1)[0] == first
    return first if is_plain and not {"", ".", ".."} & set(others) else None


def _may_read_proxied(username: str, paths: Iterator[str]) -> bool:
    """Whether all paths of a request to the artifact proxy lie in experiments that a user may read."""
    from mlflow.server import auth

    if _is_admin(username):
        return True
    found = [experiment_of(path) for path in paths]
    experiments = {experiment for experiment in found if experiment is not None}
    if not found or None in found:
        return False
    store: Any = _get_tracking_store()
    try:
        for experiment in experiments:
            store.get_experiment(experiment)  # rights may be granted on what is not there
    except MlflowException:
        return False
    return all(auth._get_experiment_permission(experiment, username).can_read for experiment in experiments)


def _proxied_paths(in_address: str | None) -> Iterator[str]:
    """Every path that MLflow may read a request to the artifact proxy as: of the address, the query and the body."""
    if in_address:
        yield in_address
    yield from request.args.getlist("path")
    if not in_address:
        message: Any = _get_request_message(ListArtifacts())  # type: ignore[no-untyped-call]
        yield str(message.path)


def _refuse_in_flask() -> Any:
    """Flask's hook: a refusal, or nothing where the request may go on."""
    username = getattr(g, "mlflow_authenticated_user", None)
    proxied = _PROXY.search(request.path)
    if username is None:  # a page that needs no login
        return Response(NOT_READABLE, status=_FORBIDDEN) if proxied else None
    if proxied and not _may_read_proxied(username, _proxied_paths(proxied["path"])):
        reason: str | None = NOT_READABLE
    elif request.method == "HEAD" and not _is_admin(username):
        reason = NO_HEAD
    else:
        reason = _reason(request.path, request.method, username)
    return Response(reason, status=_FORBIDDEN, mimetype="text/plain") if reason else None


def _reason(path: str, method: str, username: str) -> str | None:
    from mlflow.server import auth
    from mlflow.server.auth.routes import DEMO_GENERATE

    if method == "POST" and path == DEMO_GENERATE and not _is_admin(username):
        return ADMINS_ONLY
    if "/mlflow/traces" in path and method != "GET" and _moves_a_trace() and not _is_admin(username):
        return NO_TRACE_LOCATION
    validator = auth.BEFORE_REQUEST_VALIDATORS.get((path, method))
    if validator is auth.validate_can_create_model_version:
        return NO_SOURCE if _is_source_outside() and not _is_admin(username) else None
    creating = (  # what belongs to no experiment
        auth.validate_can_create_experiment,
        auth.validate_can_create_registered_model,
        auth.validate_can_create_gateway_secret,
        auth.validate_can_create_gateway_endpoint,
        auth.validate_can_create_gateway_model_definition,
    )
    if validator not in creating:
        return None
    if not may_create(username):
        return WRITERS_ONLY
    # as MLflow will read it from the request: it takes more spellings than one
    is_experiment = validator is auth.validate_can_create_experiment
    message: Any = _get_request_message(CreateExperiment()) if is_experiment else None  # type: ignore[no-untyped-call]
    return NO_LOCATION if is_experiment and message.artifact_location and not _is_admin(username) else None


def _moves_a_trace() -> bool:
    """Whether a text anywhere in the request is one of the tags that say where a trace's files lie."""
    body = request.get_json(force=True, silent=True)
    if isinstance(body, str):  # MLflow takes JSON within JSON too
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return False  # MLflow cannot read it either
    written = json.dumps(body, ensure_ascii=False)  # however the request spelt it
    return any(f'"{tag}"' in written for tag in _TRACE_LOCATIONS)


def _is_source_outside() -> bool:
    """Whether a model version would be made of files that MLflow hands out without asking whose they are. It reads a
    version's files with the server's own login, so that `s3://BUCKET/…` would be another user's artifacts, or another
    bucket of the server's. Of local paths and of its own schemes MLflow sees to that."""
    message: Any = _get_request_message(CreateModelVersion())  # type: ignore[no-untyped-call]
    scheme, is_uri, _ = str(message.source).partition(":/")
    if not is_uri or scheme in _CHECKED_SCHEMES:
        return False
    if not message.run_id:
        return True
    store: Any = _get_tracking_store()
    artifacts = store.get_run(message.run_id).info.artifact_uri.rstrip("/")
    parts = str(message.source).removeprefix(f"{artifacts}/").split("/")
    return not str(message.source).startswith(f"{artifacts}/") or ".." in parts


class _NativeRoutes:
    """ASGI middleware for the routes that Flask does not see."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        reason = await _reason_natively(scope) if scope["type"] == "http" else None
        if reason is None:
            await self._app(scope, receive, send)
            return
        await PlainTextResponse(reason, status_code=_FORBIDDEN)(scope, receive, send)


async def _reason_natively(scope: Any) -> str | None:
    from mlflow.server.asgi_utils import get_routed_asgi_path
    from mlflow.server.auth import _strip_static_prefix
    from mlflow.server.mcp_server_api import is_mcp_server_api_path

    path = get_routed_asgi_path(Request(scope))
    username = scope.get("state", {}).get("username")
    proxied = _NATIVE_PROXY.fullmatch(path) if scope["method"] in ("GET", "PUT") else None
    if proxied:  # at other addresses and methods the request is Flask's
        asked = iter([proxied["path"]])
        is_read = username is not None and await to_thread.run_sync(_may_read_proxied, username, asked)
        return None if is_read else NOT_READABLE
    path = _strip_static_prefix(path)
    is_for_admins = path.startswith(("/ajax-api/3.0/mlflow/assistant", "/ajax-api/3.0/jobs"))
    is_changing = scope["method"] not in ("GET", "HEAD", "OPTIONS")
    is_for_writers = is_changing and is_mcp_server_api_path(path)
    if not (is_for_admins or is_for_writers):
        return None
    ask = _is_admin if is_for_admins else may_create
    if username is not None and await to_thread.run_sync(ask, username):
        return None
    return ADMINS_ONLY if is_for_admins else WRITERS_ONLY


_log = logging.getLogger(__name__)
_BOOTSTRAPPED = "_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED"  # tells MLflow's auth app that the first user is there


def _create_app() -> Any:
    """MLflow's basic-auth app with the query API: for uvicorn an ASGI app, else its Flask app."""
    from mlflow.server import app, auth

    addresses = add_query_api(app, has_login=True)
    # Where MLFLOW_BASIC_AUTH_FAIL_CLOSED is set, an address without a validator is refused. Ours need none beyond
    # the login, which comes before it: answers leave out what their reader may not read.
    validators = getattr(auth, "BEFORE_REQUEST_VALIDATORS", None)
    if isinstance(validators, dict):
        validators.update(dict.fromkeys(addresses, lambda: True))
    else:
        _log.warning("this MLflow has no list of validators: unset MLFLOW_BASIC_AUTH_FAIL_CLOSED to be answered")
    return add_refusals(app, auth.create_app(app))


def __getattr__(name: str) -> Any:
    """The factory, when a server looks it up: then the first user is made, as `mlflow server` does for its own app. A
    missing password is then one error, and no loop of processes that end and are started again."""
    if name != "create_app":
        raise AttributeError(name)
    if WHICH_SERVER not in os.environ and _BOOTSTRAPPED not in os.environ:
        from mlflow.server import _bootstrap_basic_auth

        _bootstrap_basic_auth()
        os.environ[_BOOTSTRAPPED] = "true"  # for the processes that are started
    return _create_app
