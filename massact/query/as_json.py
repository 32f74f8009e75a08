"""An answer as JSON: what `--format json` prints and the query API answers; docs/json.md names its fields."""

import json
from dataclasses import fields
from typing import Any

from massact.query.rows import Answer, to_mapping

OUTPUT_SCHEMA_VERSION = 1


def to_json(answer: Answer[Any]) -> str:
    """An answer as JSON, ending in a line break. Missing is null, never 0 or NaN."""
    head = {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "question": answer.question,
        "floor": answer.floor,
        "experiment": answer.experiment,
        "store": answer.store,
        "rows": to_mapping(answer.rows),
        "notes": list(answer.notes),
    }
    own = {field.name: to_mapping(getattr(answer, field.name)) for field in fields(answer)}
    whole = {**head, **{name: value for name, value in own.items() if name not in head}}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"
