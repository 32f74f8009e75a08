"""The explorer over a tracking database, without a tracking server."""

import logging
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlencode

from flask import Flask, Response, abort, request
from werkzeug.serving import make_server

from massact.addresses import is_database, local_folder, shown_uri
from massact.errors import StoreError, UsageError
from massact.server import API
from massact.server.answering import Answering
from massact.server.app import HEADERS
from massact.server.page import PAGE, asked_view, page_blueprint
from massact.server.processes import ProblemError, limits_of
from massact.server.views import VIEWS
from massact.store.read import open_source
from massact.store.schema import Artifact
from massact.store.write.artifacts import fetch_from

HOST = "127.0.0.1"


def explorer_app(tracking_uri: str) -> Flask:
    """The page, the views that it asks for, and responses where MLflow's server has them; for this machine alone.
    Raises UsageError: the store is no database."""
    if not is_database(tracking_uri):
        raise UsageError(
            f"{shown_uri(tracking_uri)} is no database: a tracking server of massact serve shows the explorer itself, "
            f"at its address and {PAGE}/"
        )
    app, answering = Flask(__name__), Answering(tracking_uri, limits_of())
    app.register_blueprint(page_blueprint(PAGE, tracking_uri, has_runs_pages=False))

    def view(name: str) -> Response:
        try:
            reply = answering.answer({**asked_view(name, request), "readable": None})
        except ProblemError as problem:
            reply = problem.reply
        return Response(reply.body, reply.status, {**HEADERS, **reply.headers})

    for name in VIEWS:
        app.add_url_rule(f"{API}/view/{name}", f"view_{name}", lambda name=name: view(name))
    app.add_url_rule("/get-artifact", "responses", lambda: _responses(tracking_uri))

    @app.before_request
    def only_here() -> None:
        """A page of another site, whose name was made to lead to this machine, gets nothing."""
        if request.host.rpartition(":")[0] not in (HOST, "localhost"):
            abort(403)

    return app


def _responses(tracking_uri: str) -> Response:
    """The table of responses of a run, at MLflow's own address for it."""
    with closing(open_source(tracking_uri)) as source:
        runs = source.finished_runs([request.args.get("run_uuid", "")], tags=())
    if not runs or request.args.get("path") != Artifact.RESPONSES:
        abort(404)
    folder = local_folder(runs[0].artifact_uri)
    path = folder / Artifact.RESPONSES if folder else None
    try:
        if path is None or not path.exists():
            path = fetch_from(runs[0].artifact_uri, Artifact.RESPONSES, tracking_uri=tracking_uri)
        return Response(path.read_bytes(), headers=HEADERS, content_type="application/json")
    except (StoreError, OSError):
        abort(404)


def link(address: str, experiment: str) -> str:
    """Where the page shows an experiment."""
    return f"{address}{PAGE}/#{urlencode({'experiment': experiment})}"


def explore(tracking_uri: str, port: int, say: Callable[[str], None], show: Callable[[str], str]) -> None:
    """Serve the page until it is interrupted; `show` has the line that is said, of the server's address."""
    app = explorer_app(tracking_uri)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    try:
        server = make_server(HOST, port, app, threaded=True)
    except (OSError, SystemExit) as error:
        raise UsageError(f"cannot listen on {HOST}:{port}: give another --port, 0 for one that is free") from error
    with closing(server.socket):
        say(show(f"http://{HOST}:{server.server_port}"))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
