"""The description of the query API: OpenAPI 3.1, made of the tables that the addresses are made of."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from massact import __version__
from massact.server import API
from massact.server.parameters import MAX_REPEATED, Parameter
from massact.server.problems import KINDS, NOT_LOGGED_IN, PROBLEM_TYPE, Kind
from massact.server.questions import QUESTIONS, Served
from massact.server.readings import BY_GET, BY_POST
from massact.server.schemas import Schemas
from massact.store.wire import WIRE_TYPE

_ABOUT = """\
The questions of massact, answered by the tracking server. Answers are those of the commands with `--format json`.
Whoever asks is shown what they may read in MLflow and nothing of the rest. What cannot be answered is a problem
(RFC 9457), whose `type` programs decide by. What lies under `raw` is for massact's own reader."""
_PROBLEM_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_ANYONE_REFUSED = (401, 403, 500)
_ASKED = (*_ANYONE_REFUSED, 400, 404, 422, 501, 503, 504)
_READ = (*_ANYONE_REFUSED, 400, 422, 501, 503, 504)


@cache
def description(*, has_login: bool) -> str:
    """The description as JSON.

    Args:
        has_login: whether the server asks for a login.
    """
    schemas = Schemas()
    paths: dict[str, Any] = {
        f"{API}/{one.name}": {"get": _question(one, schemas)} for one in QUESTIONS.values()
    }
    for name, (summary, parameters) in BY_GET.items():
        paths[f"{API}/raw/{name}"] = {"get": _reading(name, summary, parameters)}
    for name, (summary, body) in BY_POST.items():
        paths[f"{API}/raw/{name}"] = {"post": _reading(name, summary, (), body)}
    paths[f"{API}/openapi.json"] = {"get": _this_one()}
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "massact query API",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": {**dict(sorted(schemas.components.items())), "Problem": _problem()}},
    }
    if has_login:
        whole["components"]["securitySchemes"] = {"login": {"type": "http", "scheme": "basic"}}
        whole["security"] = [{"login": []}]
    return json.dumps(whole, indent=1) + "\n"


def _question(served: Served, schemas: Schemas) -> dict[str, Any]:
    answered: dict[str, Any] = {
        "description": "The answer.",
        "content": {"application/json": {"schema": schemas.of_answer(served)}},
    }
    if served.has_pages:
        text = "Where there may be more rows, the address that gives them, as rel=next."
        answered["headers"] = {"Link": {"description": text, "schema": {"type": "string"}}}
    return {
        "operationId": served.name,
        "summary": served.summary,
        "tags": ["questions"],
        "parameters": _parameters(served.parameters),
        "responses": {"200": answered, **_refusals(_ASKED)},
    }


def _reading(
    name: str, summary: str, parameters: Sequence[Parameter], body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    content = {WIRE_TYPE: {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}}
    found: dict[str, Any] = {
        "operationId": f"raw_{name}",
        "summary": summary,
        "tags": ["raw"],
        "responses": {
            "200": {"description": "As massact.store.wire packs it.", "content": content},
            **_refusals(_READ),
        },
    }
    if parameters:
        found["parameters"] = _parameters(parameters)
    if body:
        schema = {
            "type": "object",
            "properties": dict(body),
            "required": list(body),
            "additionalProperties": False,
        }
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        found["responses"] |= _refusals([413])
    return found


def _this_one() -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": "openapi",
        "summary": "This description",
        "tags": ["about"],
        "responses": {
            "200": {"description": "OpenAPI 3.1.", "content": content},
            "304": {"description": "It is as the ETag that was sent says."},
            **_refusals(_ANYONE_REFUSED),
        },
    }


def _parameters(parameters: Iterable[Parameter]) -> list[dict[str, Any]]:
    return [_parameter(one) for one in parameters]


def _parameter(one: Parameter) -> dict[str, Any]:
    schema = dict(one.schema)
    if one.is_repeated:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_REPEATED}
    found: dict[str, Any] = {
        "name": one.name,
        "in": "query",
        "description": one.meaning,
        "required": one.is_required,
        "schema": schema,
    }
    return found | ({"style": "form", "explode": True} if one.is_repeated else {})


def _refusals(statuses: Iterable[int]) -> dict[str, Any]:
    return {
        str(status): _refusal([one for one in KINDS if one.status == status]) for status in sorted(statuses)
    }


def _refusal(kinds: Sequence[Kind]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": "; ".join(f"`{one.name}`: {one.title}" for one in kinds) + ".",
        "content": {PROBLEM_TYPE: {"schema": _PROBLEM_REFERENCE}},
    }
    if kinds[0].status == 503:
        text = "Seconds after which it may go well."
        found["headers"] = {"Retry-After": {"description": text, "schema": {"type": "integer"}}}
    if kinds[0] is NOT_LOGGED_IN:
        text = "How to log in."
        found["headers"] = {"WWW-Authenticate": {"description": text, "schema": {"type": "string"}}}
    return found


def _problem() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "properties": {
            "type": {"type": "string", "format": "uri", "description": "Which kind of problem it is."},
            "title": {"type": "string", "description": "What that kind is."},
            "status": {"type": "integer", "description": "The answer's status once more."},
            "detail": {"type": "string", "description": "What is wrong here and what to do; for people."},
        },
        "required": ["type", "title", "status", "detail"],
    }
