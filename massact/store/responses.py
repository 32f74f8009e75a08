"""Responses with their scores as a file of a run, in the format that MLflow's UI shows as a table."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from massact.domain import Response
from massact.errors import DataError
from massact.json_text import parse_json, read_as

_FIELDS = [field.name for field in fields(Response)]
_COLUMNS: tuple[str, ...] = ("question", "response", "trait_score", "coherence_score", "unscored_because")


def response_bytes(responses: Sequence[Response]) -> bytes:
    """Responses as such a file."""
    columns = _COLUMNS
    data: list[list[object]] = [[r.question, r.response, r.trait, r.coherence, r.reason] for r in responses]
    if any(r.thinking is not None or not r.is_answered for r in responses):
        columns = (*columns, "thinking", "is_answered")
        data = [[*row, r.thinking, r.is_answered] for row, r in zip(data, responses, strict=True)]
    return json.dumps({"columns": columns, "data": data}, ensure_ascii=False).encode()


def read_responses(path: Path) -> tuple[Response, ...]:
    """The responses of a table that `response_bytes` made. Raises DataError: the file is missing or damaged."""
    try:
        rows = parse_json(path.read_bytes())["data"]
        return tuple(read_as(Response, dict(zip(_FIELDS, row, strict=False))) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a table of responses ({error!r})") from error
