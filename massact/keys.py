"""A cell's identity: SHA-256 of the canonical JSON of everything that decides its outcome.

Two evaluations with one key are the same evaluation. Changing what goes in here makes every
stored evaluation a stranger, so `KEY_VERSION` is part of it and is raised on purpose only
(docs/design/cell-identity.md).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from massact.domain import Cell

KEY_VERSION = 1


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON with one spelling: sorted keys, no spaces, floats that are whole written as `800.0`.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a mapping's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_texts(texts: Iterable[str]) -> str:
    """SHA-256, in hex, of a sequence of texts: the order counts, line ends of the file do not."""
    return digest({"texts": list(texts)})


def cell_key(cell: Cell) -> str:
    """The key of a cell, or of a baseline (a cell without steering)."""
    fields: dict[str, Any] = {"version": KEY_VERSION, **_setting_fields(cell)}
    if cell.steering is None:
        fields["kind"] = "baseline"
    else:
        steering = asdict(cell.steering)
        steering["coefficient"] = _one_spelling(cell.steering.coefficient)
        fields.update(kind="evaluation", steering=steering)
    return digest(fields)


def setting_digest(cell: Cell) -> str:
    """Digest of what two evaluations must share to be compared: the setting and the direction."""
    direction = cell.steering.direction if cell.steering else None
    return digest({"setting": _setting_fields(cell), "direction": direction})


def _setting_fields(cell: Cell) -> dict[str, Any]:
    fields = asdict(cell.setting)
    fields["generation"]["temperature"] = _one_spelling(cell.setting.generation.temperature)
    return fields


def _one_spelling(number: float) -> float:
    # 800 and 800.0 are equal, and so are -0.0 and 0.0, but JSON writes each in its own way
    return float(number) + 0.0


def screening_key(key: str) -> str:
    """The key under which a cell is kept that was given up on a part of its questions; `key` is the cell's own."""
    return digest({"screening": key})
