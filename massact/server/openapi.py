"""The description of the query API: OpenAPI 3.1, made of the tables that the addresses are made of."""

import ast
import inspect
import json
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal

from massact import __version__
from massact.metrics import DEFAULT_METRICS
from massact.query import Answer, Point
from massact.query.question import Parameter, Question
from massact.query.rows import OUTPUT_SCHEMA_VERSION
from massact.server import API
from massact.server.answering import MAX_REPEATED, READINGS, parameters_of, served
from massact.server.processes import KINDS, PROBLEM_TYPE, Kind, Kinds
from massact.server.views import VIEWS
from massact.store.read.base import WIRE_TYPE

# the texts under the fields of a dataclass, which only the source holds


def field_docstrings(cls: type[Any]) -> dict[str, str]:
    """By field, the text under it, on one line, or else what `Point` says of a field of its name."""
    found = {} if cls is Point else field_docstrings(Point)
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            (node,) = ast.parse(inspect.getsource(base)).body
            assert isinstance(node, ast.ClassDef)
            found.update(docstrings(node.body))
    return found


def docstrings(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """The name and text of each assignment with a text under it."""
    for node, below in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        text = below.value.value if is_text else None  # type: ignore[attr-defined]  # as was looked
        if isinstance(target, ast.Name) and isinstance(text, str):
            yield target.id, " ".join(text.split())


def first_paragraph(cls: type[Any]) -> str:
    """The first paragraph of a class's own text, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


# schemas of answers, made of the same types as docs/json.md

Schema = dict[str, Any]
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}


class Schemas:
    """The schemas of answers and what they hold, each once, by the name of its type."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of_answer(self, posed: Question[..., Any]) -> Schema:
        head: Schema = {
            "schema_version": {"const": OUTPUT_SCHEMA_VERSION},
            "question": {"const": posed.name},
            "floor": {"type": "number", "minimum": 0},
            "floor_rule": {"type": "string", "description": "The floor as a request has it, such as `kl<=0.3`."},
            "experiment": {"type": "string", "description": "The experiment that was asked about."},
            "store": {"type": "null", "description": "Which run store: this server's."},
            "rows": {"type": "array", "items": self._reference(posed.row)},
            "notes": {
                "type": "array",
                "items": {"type": "string"},
                "description": "What was left out, and what a reader must not miss.",
            },
            "least_scored": {"type": "number", "minimum": 0, "maximum": 1},
        }
        own = self._properties(
            typing.get_origin(posed.answer) or posed.answer, left_out={field.name for field in fields(Answer)}
        )
        name = f"{posed.name.capitalize()}Answer"
        self.components[name] = _object({**head, **own}, posed.summary + ".")
        return _ref(name)

    def _reference(self, cls: type[Any]) -> Schema:
        if cls.__name__ not in self.components:
            self.components[cls.__name__] = {}  # while it is made, it may refer to itself
            self.components[cls.__name__] = _object(self._properties(cls), first_paragraph(cls))
        return _ref(cls.__name__)

    def _properties(self, cls: type[Any], left_out: Collection[str] = ()) -> dict[str, Schema]:
        hints, meanings = typing.get_type_hints(cls), field_docstrings(cls)
        found = {}
        # what `differs` holds stands in the row itself, under names that depend on the answer
        for field in (field for field in fields(cls) if field.name not in {*left_out, "differs", "metrics"}):
            schema = self._of(hints[field.name])
            text = meanings.get(field.name)
            found[field.name] = {**schema, "description": text} if text else schema
        if "metrics" in hints:
            found |= {name: {"type": ["number", "null"]} for name in DEFAULT_METRICS}
        return found

    def _of(self, hint: Any) -> Schema:
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if hint in _TYPES:
            return {"type": _TYPES[hint]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin in (typing.Union, types.UnionType):
            schemas = [self._of(hint) for hint in inner]
            is_plain = all(set(schema) == {"type"} for schema in schemas)
            return {"type": [schema["type"] for schema in schemas]} if is_plain else {"anyOf": schemas}
        if origin is tuple and inner[1:] == (Ellipsis,):
            return {"type": "array", "items": self._of(inner[0])}
        if is_dataclass(hint) and inspect.isclass(hint):
            return self._reference(hint)
        raise TypeError(f"no schema for {hint!r}: say one in massact/server/openapi.py")


def _object(properties: dict[str, Schema], description: str) -> Schema:
    # further fields may be added without a new version (docs/json.md)
    return {"type": "object", "description": description, "properties": properties, "required": list(properties)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_ABOUT = """\
The questions of massact, answered by the tracking server. Answers are those of the commands with `--format json`.
Whoever asks is shown what they may read in MLflow and nothing of the rest. What cannot be answered is a problem
(RFC 9457), whose `type` programs decide by. What lies under `raw` is for massact's own reader, under `view` for its
page: both belong to one version."""
_ANYONE_REFUSED = (401, 403, 500)
_ASKED = (*_ANYONE_REFUSED, 400, 404, 422, 501, 503, 504)
_READ = (*_ANYONE_REFUSED, 400, 413, 422, 501, 503, 504)


_PROBLEM = _object(
    {
        "type": {"type": "string", "format": "uri", "description": "Which kind of problem it is."},
        "title": {"type": "string", "description": "What that kind is."},
        "status": {"type": "integer", "description": "The answer's status once more."},
        "detail": {"type": "string", "description": "What is wrong here and what to do; for people."},
    },
    "What went wrong (RFC 9457).",
)


@cache
def description(*, has_login: bool) -> str:
    schemas = Schemas()
    paths: dict[str, Any] = {f"{API}/{posed.name}": {"get": _question(posed, schemas)} for posed in served().values()}
    for name, (view, parameters) in VIEWS.items():
        paths[f"{API}/view/{name}"] = {"get": _view(name, inspect.cleandoc(view.__doc__ or ""), parameters)}
    for name, (summary, body, _) in READINGS.items():
        paths[f"{API}/raw/{name}"] = {"post": _reading(name, summary, body)}
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
        "components": {"schemas": {**dict(sorted(schemas.components.items())), "Problem": _PROBLEM}},
    }
    if has_login:
        whole["components"]["securitySchemes"] = {"login": {"type": "http", "scheme": "basic"}}
        whole["security"] = [{"login": []}]
    return json.dumps(whole, indent=1) + "\n"


def _question(posed: Question[..., Any], schemas: Schemas) -> dict[str, Any]:
    answered = _json("The answer.", schemas.of_answer(posed))
    if posed.traits.has_pages:
        text = "Where there may be more rows, the address that gives them, as rel=next."
        answered["headers"] = {"Link": _header(text, "string")}
    parameters = list(map(_parameter, parameters_of(posed)))
    return _operation(posed.name, posed.summary, "questions", answered, _ASKED, parameters=parameters)


def _reading(name: str, summary: str, body: Mapping[str, Any]) -> dict[str, Any]:
    packed = {WIRE_TYPE: {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}}
    answered = {"description": "As massact.store.read.base packs it.", "content": packed}
    schema = {"type": "object", "properties": body, "required": list(body), "additionalProperties": False}
    asked = {"required": True, "content": {"application/json": {"schema": schema}}}
    return _operation(f"raw_{name}", summary, "raw", answered, _READ, requestBody=asked)


def _view(name: str, summary: str, parameters: Sequence[Parameter]) -> dict[str, Any]:
    answered, asked = _json("For the explorer's page.", {"type": "object"}), list(map(_parameter, parameters))
    return _operation(f"view_{name}", summary.removesuffix("."), "explorer", answered, _ASKED, parameters=asked)


def _this_one() -> dict[str, Any]:
    answered = _json("OpenAPI 3.1.", {"type": "object"})
    told = _operation("openapi", "This description", "about", answered, _ANYONE_REFUSED)
    told["responses"]["304"] = {"description": "It is as the ETag that was sent says."}
    return told


def _json(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _operation(
    name: str, summary: str, tag: str, answered: Schema, refused: Iterable[int], **asked: object
) -> dict[str, Any]:
    about = {"operationId": name, "summary": summary, "tags": [tag]}
    refusals = {str(status): _refusal([kind for kind in KINDS if kind.status == status]) for status in sorted(refused)}
    return {**about, **asked, "responses": {"200": answered, **refusals}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = dict(parameter.schema)
    if parameter.is_repeated:
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_REPEATED}
    found: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.meaning,
        "required": parameter.is_required,
        "schema": schema,
    }
    return found | ({"style": "form", "explode": True} if parameter.is_repeated else {})


def _refusal(kinds: Sequence[Kind]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": "; ".join(f"`{kind.name}`: {kind.title}" for kind in kinds) + ".",
        "content": {PROBLEM_TYPE: {"schema": _ref("Problem")}},
    }
    if kinds[0].status == 503:
        found["headers"] = {"Retry-After": _header("Seconds after which it may go well.", "integer")}
    if kinds[0] is Kinds.NOT_LOGGED_IN:
        found["headers"] = {"WWW-Authenticate": _header("How to log in.", "string")}
    return found


def _header(description: str, kind: str) -> Schema:
    return {"description": description, "schema": {"type": kind}}
