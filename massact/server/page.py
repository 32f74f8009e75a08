"""The explorer's page and what it loads: its own few files, and plotly.js as the installed package ships it."""

import gzip
import os
from functools import lru_cache
from hashlib import sha256
from html import escape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flask import Blueprint, Request, Response, request

from massact.errors import MassactError
from massact.server.answering import read_parameters
from massact.server.views import VIEWS
from massact.store.databases import told_address

PAGE = "/massact"
PAGE_RULES = ("/", "/explorer.js", "/explorer.css", "/plotly.js")  # what lies below it, beside the query API
_FOLDER = Path(__file__).parent / "explorer"
_TYPES = {"js": "text/javascript", "css": "text/css", "html": "text/html"}
_POLICY = (
    # plotly writes styles of its own; a model server beside it answers on this machine, or elsewhere over TLS
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self' http://127.0.0.1:* http://localhost:* https:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)


def page_blueprint(prefix: str, tracking_uri: str, *, has_runs_pages: bool) -> Blueprint:
    """The page's addresses below a prefix; `has_runs_pages`: whether MLflow's own pages lie beside it."""
    blueprint = Blueprint("massact_page", __name__, url_prefix=prefix)

    def page() -> Response:
        told = {"runs": "../#/runs/" if has_runs_pages else None, "models": model_server(tracking_uri)}
        data = "".join(f' data-{name}="{escape(value)}"' for name, value in told.items() if value)
        return _sent("index.html", data)

    blueprint.add_url_rule("/", "page", page)
    for name in ("explorer.js", "explorer.css"):
        blueprint.add_url_rule(f"/{name}", name.replace(".", "_"), lambda name=name: _sent(name))
    blueprint.add_url_rule("/plotly.js", "plotly", lambda: _sent("plotly.js"))
    return blueprint


def asked_view(name: str, received: Request) -> dict[str, Any]:
    """A request for one of the views, as `massact.server.answering` takes it."""
    given = read_parameters(VIEWS[name][1], received.args.to_dict(flat=False))
    return {"view": name, "given": given, "is_packed": received.accept_encodings["gzip"] > 0}


def model_server(tracking_uri: str) -> str | None:
    """Where a model server answers: as MASSACT_MODEL_SERVER says, or here as one told beside the database."""
    is_here = request.remote_addr in ("127.0.0.1", "::1")
    return os.environ.get("MASSACT_MODEL_SERVER") or (told_address(tracking_uri, "models") if is_here else None)


def _sent(name: str, data: str = "") -> Response:
    try:
        packed = _packed(name, data)
    except MassactError as error:
        return Response(str(error), 501, mimetype="text/plain")
    is_packed = request.accept_encodings["gzip"] > 0
    response = Response(packed if is_packed else gzip.decompress(packed), mimetype=_TYPES[name.rpartition(".")[2]])
    if is_packed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers.update(
        {
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Vary": "Accept-Encoding",
            "Cache-Control": "no-cache",  # the tag below says whether it has changed
        }
    )
    response.set_etag(sha256(packed).hexdigest()[:16])
    response.make_conditional(request)
    return response


@lru_cache(16)
def _packed(name: str, data: str) -> bytes:
    if name == "plotly.js":
        content = _plotly().read_bytes()
    else:
        content = (_FOLDER / name).read_bytes()
        content = content.replace(b"<body>", f"<body{data}>".encode()) if data else content
    return gzip.compress(content, 6, mtime=0)


def _plotly() -> Path:
    """plotly.js as the package ships it; MassactError: it is not installed."""
    found = find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        raise MassactError("the explorer draws with plotly: pip install 'massact[explore]' where the server runs")
    path = Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    if not path.exists():
        raise MassactError(f"plotly {version('plotly')} ships no plotly.js: pip install 'massact[explore]'")
    return path
