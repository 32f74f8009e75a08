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
_THOUGHT = ("thinking", "is_answered")


def response_bytes(responses: Sequence[Response]) -> bytes:
    """Responses as such a file, with their metrics as further columns."""
    columns = _COLUMNS
    data: list[list[object]] = [[r.question, r.response, r.trait, r.coherence, r.reason] for r in responses]
    if any(r.thinking is not None or not r.is_answered for r in responses):
        columns = (*columns, *_THOUGHT)
        data = [[*row, r.thinking, r.is_answered] for row, r in zip(data, responses, strict=True)]
    metrics = list(dict.fromkeys(name for r in responses for name in r.metrics))
    columns = (*columns, *metrics)
    data = [[*row, *map(r.metrics.get, metrics)] for row, r in zip(data, responses, strict=True)]
    return json.dumps({"columns": columns, "data": data}, ensure_ascii=False).encode()


def parse_responses(content: bytes) -> tuple[Response, ...]:
    """The responses of a table that `response_bytes` made. Raises ValueError: it is none."""
    try:
        table = parse_json(content)
        columns = table.get("columns", ())
        n = sum(name in (*_COLUMNS, *_THOUGHT) for name in columns) or len(_FIELDS)
        return tuple(
            read_as(
                Response,
                {**dict(zip(_FIELDS, row[:n], strict=False)), "metrics": dict(zip(columns[n:], row[n:], strict=True))},
            )
            for row in table["data"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a table of responses: {error!r}") from error


def read_responses(path: Path) -> tuple[Response, ...]:
    """The responses of such a file. Raises DataError: it is missing or damaged."""
    try:
        return parse_responses(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a table of responses ({error!r})") from error
