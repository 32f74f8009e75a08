"""What massact's own reader may ask for, as requests: their parameters and bodies. `answering` answers them."""

import re
from collections.abc import Mapping
from typing import Any

from massact.json_text import parse_json
from massact.schema import Kind
from massact.server.parameters import ANY_TEXT, Parameter, choice, text
from massact.server.problems import BAD_BODY, ProblemError
from massact.server.questions import EXPERIMENT
from massact.store.wire import MAX_RUN_IDS

BY_GET: dict[str, tuple[str, tuple[Parameter, ...]]] = {
    "points": ("The evaluations of an experiment: of the finished ones their points", (EXPERIMENT,)),
    "runs": (
        "The runs of a kind, with some of their tags",
        (
            EXPERIMENT,
            choice("kind", "the kind", [kind.value for kind in Kind], is_required=True),
            choice(
                "status",
                "only runs in this status",
                ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"),
                is_repeated=True,
            ),
            text("tag", "this tag's value is given", is_repeated=True),
        ),
    ),
}
"""Of each, what it gives and its parameters."""
_RUN_ID = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[0-9A-Za-z_-]+$"}
_RUN_IDS = {"type": "array", "items": _RUN_ID, "maxItems": MAX_RUN_IDS}
_TAG = {**ANY_TEXT, "maxLength": 250}
BY_POST: dict[str, tuple[str, dict[str, Any]]] = {
    "finished": (
        "Those of some runs that are finished, with some of their tags",
        {"run_ids": _RUN_IDS, "tags": {"type": "array", "items": _TAG, "maxItems": 50}},
    ),
    "values": (
        "One tag of those of some runs that are finished, in the order of the runs",
        {"run_ids": _RUN_IDS, "tag": _TAG},
    ),
    "steps": ("The scores by question of some runs, from their stepped metrics", {"run_ids": _RUN_IDS}),
}
"""Of each, what it gives and the schemas of what its body holds."""


def read_body(name: str, data: bytes) -> dict[str, Any]:
    """The body of a request.

    Raises:
        ProblemError: it is not what the schema says.
    """
    _, schemas = BY_POST[name]
    try:
        body = parse_json(data)
    except ValueError:
        raise ProblemError(
            BAD_BODY, f"the body is no JSON: write an object with {', '.join(schemas)}"
        ) from None
    if not isinstance(body, dict) or set(body) != set(schemas):
        raise ProblemError(
            BAD_BODY, f"the body has to be an object with {', '.join(schemas)} and nothing else"
        )
    for key, schema in schemas.items():
        values = body[key] if schema["type"] == "array" else [body[key]]
        one = schema.get("items", schema)
        if not isinstance(values, list) or len(values) > schema.get("maxItems", 1):
            raise ProblemError(BAD_BODY, f"{key!r} has to be a list of at most {schema.get('maxItems', 1)}")
        if not all(_is_text(value, one) for value in values):
            raise ProblemError(
                BAD_BODY,
                f"{key!r} has to hold texts of 1 to {one['maxLength']} characters as in {one['pattern']}",
            )
    return body


def _is_text(value: object, schema: Mapping[str, Any]) -> bool:
    if not isinstance(value, str) or not 1 <= len(value) <= schema["maxLength"]:
        return False
    is_whole = (
        value.encode(errors="ignore").decode() == value
    )  # JSON can write half a character, a database cannot
    return is_whole and re.fullmatch(schema["pattern"], value) is not None
