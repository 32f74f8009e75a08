"""JSON Schemas of answers, made of the same types that docs/json.md is made of."""

import inspect
import types
import typing
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from massact.docstrings import field_docstrings, first_paragraph
from massact.query import Answer
from massact.query.as_json import OUTPUT_SCHEMA_VERSION
from massact.server.questions import Served

Schema = dict[str, Any]
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}


class Schemas:
    """The schemas of answers and what they hold, each once, by the name of its type."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of_answer(self, served: Served) -> Schema:
        """A reference to the schema of a question's answer."""
        head: Schema = {
            "schema_version": {"const": OUTPUT_SCHEMA_VERSION},
            "question": {"const": served.name},
            "floor": {"type": "number", "minimum": 0, "maximum": 100},
            "experiment": {"type": "string", "description": "The experiment that was asked about."},
            "store": {"type": "null", "description": "Which run store: this server's."},
            "rows": {"type": "array", "items": self._reference(served.row)},
            "notes": {
                "type": "array",
                "items": {"type": "string"},
                "description": "What was left out, and what a reader must not miss.",
            },
            "least_scored": {"type": "number", "minimum": 0, "maximum": 1},
        }
        own = self._properties(served.answer, left_out={field.name for field in fields(Answer)})
        name = f"{served.name.capitalize()}Answer"
        self.components[name] = _object({**head, **own}, served.summary + ".")
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
        for field in (one for one in fields(cls) if one.name not in {*left_out, "differs"}):
            schema = self._of(hints[field.name])
            text = meanings.get(field.name)
            found[field.name] = {**schema, "description": text} if text else schema
        return found

    def _of(self, hint: Any) -> Schema:
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if hint in _TYPES:
            return {"type": _TYPES[hint]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin in (typing.Union, types.UnionType):
            return _any_of([self._of(one) for one in inner])
        if origin is tuple and inner[1:] == (Ellipsis,):
            return {"type": "array", "items": self._of(inner[0])}
        if is_dataclass(hint) and inspect.isclass(hint):
            return self._reference(hint)
        raise TypeError(f"no schema for {hint!r}: say one in massact/server/schemas.py")


def _any_of(schemas: list[Schema]) -> Schema:
    if all(set(one) == {"type"} for one in schemas):
        return {"type": [one["type"] for one in schemas]}
    return {"anyOf": schemas}


def _object(properties: dict[str, Schema], description: str) -> Schema:
    # further fields may be added without a new version (docs/json.md)
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
