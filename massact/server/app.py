"""The app `massact`: MLflow's tracking server with the query API (`mlflow server --app-name massact`)."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Flask, Request, Response, current_app, request
from mlflow.server.handlers import _add_static_prefix
from mlflow.server.security_utils import get_allowed_origins_from_env, should_block_cors_request
from werkzeug.test import Client

from massact import __version__
from massact.addresses import is_database
from massact.server import API
from massact.server.answering import READINGS, ROWS, parameters_of, read_body, read_parameters, read_question, served
from massact.server.openapi import description
from massact.server.page import PAGE, PAGE_RULES, asked_view, page_blueprint
from massact.server.processes import PROBLEM_TYPE, Kinds, ProblemError, Processes, Reply, kind_of_status, limits_of
from massact.server.views import VIEWS
from massact.store.read.base import MAX_RUN_IDS

# Which MLflow experiments whoever asks may read: MLflow is asked, in this process, in their name. Its answer
# to `experiments/search` is what its own permissions leave, whatever authorises here: the basic-auth app, a
# plugin of it, or nobody. Nothing is kept from one request to the next, so a changed permission counts at
# once.

_PAGE = 1000
_NOT_PASSED_ON = (
    "Content-Length", "Content-Type", "Transfer-Encoding", "Accept-Encoding", "Origin", "Referer", "Connection",
)  # fmt: skip
"""Of the body that is not passed on; and the origin, which was checked when the request came in."""


def readable_experiments(app: Flask, request: Request) -> list[int]:
    """The ids of the MLflow experiments, not deleted, that the sender of a request may read."""
    client = Client(app.wsgi_app, use_cookies=False)
    headers = [(name, value) for name, value in request.headers if name not in _NOT_PASSED_ON]
    ids: set[int] = set()
    token = ""
    while True:
        body = {"max_results": _PAGE, "view_type": "ACTIVE_ONLY"} | ({"page_token": token} if token else {})
        answer = client.open(
            _add_static_prefix("/api/2.0/mlflow/experiments/search"),
            method="POST",
            json=body,
            headers=headers,
            environ_base={"REMOTE_ADDR": request.remote_addr or ""},
        )
        if answer.status_code != 200:
            kind = kind_of_status(answer.status_code) if 400 <= answer.status_code < 500 else Kinds.FAILED
            raise ProblemError(kind, "MLflow does not say which experiments may be read")
        page = json.loads(answer.get_data())
        ids |= {int(experiment["experiment_id"]) for experiment in page.get("experiments", [])}
        token = page.get("next_page_token", "")
        if not token:
            return sorted(ids)


_log = logging.getLogger(__name__)
_MAX_BODY = MAX_RUN_IDS * 70  # bytes: ids of 64 characters, quotes and commas
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Answers change with every run that ends and with whoever asks, so nobody may keep one."""


def mount(app: Flask, processes: Processes | None, *, has_login: bool) -> list[tuple[str, str]]:
    """Add the query API to MLflow's app. Returns its addresses, each with its method."""
    blueprint = Blueprint("massact", __name__, url_prefix=_add_static_prefix(API))
    routes = [("/openapi.json", "openapi", "GET", _describing(has_login=has_login))]
    routes += [(f"/{name}", name, "GET", _asking(processes, "question", name)) for name in served()]
    routes += [(f"/view/{name}", f"view_{name}", "GET", _asking(processes, "view", name)) for name in VIEWS]
    routes += [(f"/raw/{name}", f"raw_{name}", "POST", _asking(processes, "reading", name)) for name in READINGS]
    routes.append(("/raw/answer", "raw_answer", "POST", _asking(processes, "question", "")))
    for rule, endpoint, method, view in routes:
        blueprint.add_url_rule(rule, endpoint, view, methods=[method])
    app.register_blueprint(blueprint)
    page = page_blueprint(_add_static_prefix(PAGE), processes.database if processes else "", has_runs_pages=True)
    app.register_blueprint(page)
    app.after_request(_as_problem)
    addresses = [(_add_static_prefix(API + rule), method) for rule, _, method, _ in routes]
    addresses += [(_add_static_prefix(PAGE) + rule, "GET") for rule in PAGE_RULES]
    return addresses + [(address, "HEAD") for address, method in addresses if method == "GET"]  # Flask's own


def _asking(processes: Processes | None, what: str, name: str) -> Any:
    def view() -> Response:
        try:
            return _respond(_ask(processes, what, name))
        except ProblemError as problem:
            return _respond(problem.reply)
        except Exception:
            _log.exception("a request could not be answered")
            return _respond(ProblemError(Kinds.FAILED, "the server failed to answer; its log says why").reply)

    return view


def _ask(processes: Processes | None, what: str, name: str) -> Reply:
    _refuse_other_sites(request)
    asked = _asked(what, name, request)
    if processes is None:
        raise ProblemError(
            Kinds.NO_DATABASE,
            "the server's backend store is no SQLite or PostgreSQL database: ask MLflow's own search instead",
        )
    readable = readable_experiments(current_app, request)
    reply = processes.ask({**asked, "readable": readable})
    if not reply.has_more:
        return reply
    given = asked["given"]
    following = {"limit": [given.get("limit", ROWS)], "offset": [given.get("offset", 0) + given.get("limit", ROWS)]}
    query = urlencode({**request.args.to_dict(flat=False), **following}, doseq=True)
    link = {"Link": f'<{request.path}?{query}>; rel="next"'}
    return Reply(reply.status, {**reply.headers, **link}, reply.body)


def _refuse_other_sites(received: Request) -> None:
    """Refuse what another site's page sends with a browser's login, as MLflow does at its own addresses."""
    if os.environ.get("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "").lower() == "true":
        return
    allowed = get_allowed_origins_from_env() or []
    origin = received.headers.get("Origin") or ""
    if should_block_cors_request(origin, received.method, allowed):
        raise ProblemError(Kinds.FORBIDDEN, "another site's page may not ask: see --cors-allowed-origins of the server")


def _asked(what: str, name: str, received: Request) -> dict[str, Any]:
    arguments = received.args.to_dict(flat=False)
    if what == "view":
        return asked_view(name, received)
    if name and what == "question":
        return {what: name, "given": read_parameters(parameters_of(served()[name]), arguments)}
    read_parameters((), arguments)
    if (received.content_length or 0) > _MAX_BODY:
        raise ProblemError(Kinds.BODY_TOO_LARGE, f"name at most {MAX_RUN_IDS} runs, and ask several times")
    data = received.get_data(cache=False)
    return {what: name, "given": read_body(name, data)} if name else read_question(data)


def _respond(reply: Reply) -> Response:
    return Response(reply.body, reply.status, {**HEADERS, **reply.headers})


def _describing(*, has_login: bool) -> Any:
    def view() -> Response:
        response = Response(description(has_login=has_login), content_type="application/json")
        response.headers["Cache-Control"] = "no-cache"  # the tag below says whether it has changed
        response.add_etag()
        response.make_conditional(request)
        return response

    return view


def _as_problem(response: Response) -> Response:
    """What MLflow or Flask refuses here, before it comes to us, as a problem too: 401, 403, 404, 405."""
    here = _add_static_prefix(API)
    is_ours = request.path == here or request.path.startswith(here + "/")
    if not is_ours:
        return response
    response.headers["X-Massact-Version"] = __version__
    if response.status_code < 400 or response.mimetype == PROBLEM_TYPE:
        return response
    kind = kind_of_status(response.status_code)
    response.set_data(kind.body(_DETAILS.get(kind.status, "see the server's log")))
    response.content_type = PROBLEM_TYPE
    response.headers["Cache-Control"] = "no-store"
    return response


_DETAILS: Mapping[int, str] = {
    401: "log in as for MLflow: user and password by HTTP basic authentication, or whatever this server asks for",
    403: "ask whoever runs the server for the right to read",
    404: f"see {API}/openapi.json for what can be asked",
    405: "questions are asked with GET",
}
WHICH_SERVER = "_MLFLOW_SGI_NAME"  # set by `mlflow server` for its processes: uvicorn, gunicorn or waitress


def create_app() -> Any:
    """MLflow's app with the query API: for uvicorn an ASGI app, else its Flask app."""
    from mlflow.server import app

    add_query_api(app, has_login=False)
    if os.environ.get(WHICH_SERVER) != "uvicorn":
        return app
    from mlflow.server.fastapi_app import create_fastapi_app

    return create_fastapi_app(app)


def add_query_api(app: Flask, *, has_login: bool) -> list[tuple[str, str]]:
    """Add the query API over the database that this server writes to. Returns its addresses and methods."""
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

    database = os.environ.get(BACKEND_STORE_URI_ENV_VAR, "")
    limits = limits_of()
    if not is_database(database):
        _log.warning("the backend store is no SQLite or PostgreSQL database: the query API answers nothing")
        return mount(app, None, has_login=has_login)
    return mount(app, Processes(database, limits), has_login=has_login)
