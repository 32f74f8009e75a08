"""The text of the tag that holds a point.

Three lines: the numbers of the evaluation (little-endian, in base64: `_RECORD`), its key, and as JSON
what all coefficients of a layer share, which is parsed once for all of them. The tag's key carries a
digest of the experiment's name, since MLflow indexes tags by key: another experiment's evaluations cost
nothing.
"""

import base64
import hashlib
import json
import math
import struct
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from massact.json_text import parse_json
from massact.schema.names import POINT_TAG
from massact.schema.points import COUNTS, HEAD, MARKS, NUMBERS, Points, RunText, is_point, or_nan
from massact.schema.rows import EvaluationRow

if TYPE_CHECKING:
    from massact.schema.points import Numbers

POINT_VERSION = 1
POINT_LIMIT = 2000
"""Of a point's text, in bytes: a row of an index in PostgreSQL holds 2,700 (docs/service.md, tuning)."""
_RECORD = struct.Struct("<B6d2i")
"""Version, `NUMBERS` (NaN where missing), `COUNTS`: 57 bytes, so that base64 needs no padding."""
_WIDTH = _RECORD.size // 3 * 4
_HEAD_TYPES: tuple[frozenset[type[Any]], ...] = (
    *[frozenset({str})] * 6,
    frozenset({int}),
    frozenset({int, type(None)}),
    frozenset({str, type(None)}),
    frozenset({str, type(None)}),
    frozenset({float, int, type(None)}),
)
_LENGTHS = {len(_HEAD_TYPES), len(_HEAD_TYPES) - len(MARKS)}


@cache
def point_tag(experiment: str) -> str:
    """Key of the tag that holds the points of an experiment's evaluations."""
    return f"{POINT_TAG}.{experiment_digest(experiment)}"


def experiment_digest(experiment: str) -> str:
    """What stands for an experiment's name in keys of tags, which are too short for some names."""
    return hashlib.sha256(experiment.encode()).hexdigest()[:12]


def encode_point(row: EvaluationRow) -> str | None:
    """The tag's text for an evaluation; `None` for a row that is not a point of the grid, or has names too long.

    A run without a point is read from its row.

    Raises:
        ValueError: a number that is NaN or infinite.
    """
    if not is_point(row):
        return None
    numbers = [or_nan(getattr(row, name)) for name in NUMBERS]
    given = [getattr(row, name) for name in NUMBERS]
    if any(value is not None and not math.isfinite(value) for value in given):
        raise ValueError(f"evaluation {row.key[:12]}: a number is NaN or infinite: {given}")
    record = _RECORD.pack(POINT_VERSION, *numbers, row.n_scored, row.n_unscored)
    head = [row.experiment, *(getattr(row, name) for name in HEAD)]
    if row.same_as is None:
        del head[-len(MARKS) :]  # as every version wrote it
    lines = (base64.b64encode(record).decode(), row.key, json.dumps(head, separators=(",", ":")))
    text = "\n".join(lines)
    return text if len(text.encode()) <= POINT_LIMIT else None


def decode_points(experiment: str, found: Sequence[RunText]) -> tuple[Points, list[str]]:
    """The points of runs, and the ids of runs whose tag is not a point of this experiment."""
    try:
        return _decode(experiment, found), []
    except ValueError:
        good, bad = [], []
    for one in found:  # at least one is none: find which
        try:
            _decode(experiment, [one])
        except ValueError:
            bad.append(one[0])
        else:
            good.append(one)
    return _decode(experiment, good), bad


def _decode(experiment: str, found: Sequence[RunText]) -> Points:
    import numpy as np

    if not found:
        return Points.of(())
    # by columns, a call for all: a hundred thousand calls cost more than what they decode
    run_ids, ends, texts = zip(*found, strict=True)
    lines = [text.split("\n", 2) for text in texts]
    if set(map(len, lines)) != {3}:
        raise ValueError("a point has three lines")
    numbers, keys, thirds = zip(*lines, strict=True)
    records = base64.b64decode("".join(numbers), validate=True)
    if set(map(len, numbers)) != {_WIDTH} or len(records) != _RECORD.size * len(found):
        raise ValueError("a point's numbers are of another length")
    heads: dict[str, int] = {}
    head = np.array([heads.setdefault(third, len(heads)) for third in thirds], dtype=np.intp)
    parsed = _parse_heads(experiment, list(heads))
    layers = np.array([one[HEAD.index("layer")] for one in parsed], dtype=np.float64)
    return Points(
        list(run_ids),
        np.array([-1 if end is None else end for end in ends], dtype=np.int64),
        list(keys),
        parsed,
        head,
        _numbers(records) | {"layer": layers[head]},
    )


def _numbers(records: bytes) -> dict[str, "Numbers"]:
    import numpy as np

    types = [("version", "u1"), *((n, "<f8") for n in NUMBERS), *((n, "<i4") for n in COUNTS)]
    table = np.frombuffer(records, dtype=types)
    if (table["version"] != POINT_VERSION).any():
        raise ValueError("a point of another version")
    columns = {name: table[name].astype(np.float64) for name in NUMBERS + COUNTS}
    if any(np.isinf(column).any() for column in columns.values()) or np.isnan(columns["coefficient"]).any():
        raise ValueError("a point with an infinite number or without a coefficient")
    return columns


def _parse_heads(experiment: str, texts: Sequence[str]) -> list[list[Any]]:
    parsed = parse_json(f"[{','.join(texts)}]")
    if len(parsed) != len(texts) or set(map(type, parsed)) != {list}:
        raise ValueError("not one list a line")
    if not set(map(len, parsed)) <= _LENGTHS:
        raise ValueError("a list of the wrong length")
    parsed = [one + [None] * (len(_HEAD_TYPES) - len(one)) for one in parsed]
    columns = list(zip(*parsed, strict=True))
    if set(columns[0]) != {experiment}:
        raise ValueError(f"not a point of {experiment!r}")
    if any(not set(map(type, one)) <= types for one, types in zip(columns, _HEAD_TYPES, strict=True)):
        raise ValueError("a value of the wrong type")
    return [head[1:] for head in parsed]
