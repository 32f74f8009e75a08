"""A cell's identity: the canonical JSON of everything that decides its outcome, and the SHA-256 of it, the key.

Two evaluations with one key are the same evaluation. The JSON is kept with every run, so that a cell is read back
as it was. Changing what goes in here makes every stored evaluation a stranger, so `KEY_VERSION` is part of it and is
raised on purpose only (docs/design/cell-identity.md). A field that is added to a cell is given `metadata=ADDED`
and a default: it stands in the JSON where it has another value, so that keys of before stay."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any

from massact.domain import ADDED, Cell, Choice, Conversation
from massact.json_text import parse_object, read_as

KEY_VERSION = 1


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON with one spelling: sorted keys, no spaces, `800.0` for a whole float. Raises ValueError: NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_text(text: str) -> str:
    """SHA-256, in hex, of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(value: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a mapping's canonical JSON."""
    return digest_text(canonical_json(value))


def digest_texts(texts: Iterable[str]) -> str:
    """SHA-256, in hex, of a sequence of texts: the order counts, line ends of the file do not."""
    return digest({"texts": [_whole(text) for text in texts]})


def _whole(text: str) -> Any:
    """A text with what it is asked with."""
    if isinstance(text, Conversation):
        return text.messages
    return (str(text), *text.answers) if isinstance(text, Choice) else text


def cell_json(cell: Cell) -> str:
    """The canonical JSON of a cell, or of a baseline; one that is only asked otherwise is of kind baseline too."""
    values: dict[str, Any] = {"version": KEY_VERSION, **_plain(cell.setting)}
    if cell.prompting is not None:
        values["prompting"] = _plain(cell.prompting)
    if cell.steering is None:
        return canonical_json({**values, "kind": "baseline"})
    return canonical_json({**values, "kind": "evaluation", "steering": _plain(cell.steering)})


def cell_key(cell: Cell) -> str:
    """The key of a cell, or of a baseline."""
    return digest_text(cell_json(cell))


def read_cell(text: str) -> Cell:
    """The cell that `cell_json` wrote. Raises ValueError: it is none, or holds what this version does not know."""
    try:
        values = parse_object(text)
        cell: Cell = read_as(
            Cell, {"setting": values, **{name: values.get(name) for name in ("steering", "prompting")}}
        )
        again = cell_json(cell)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a cell: {error!r}") from error
    if again != text:
        raise ValueError("not a cell as this version writes it")
    return cell


def setting_digest(cell: Cell) -> str:
    """Digest of what two evaluations must share to be compared: the setting and the direction."""
    done = cell.steering or cell.prompting
    direction = done.direction if done else None
    return digest({"setting": _plain(cell.setting), "direction": direction})


def differences(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """In what two cells, or two settings, differ: both values of each field, such as `setting.judge.model`."""
    differing: dict[str, tuple[Any, Any]] = {}
    for field in filter(attrgetter("init"), fields(a)):
        values, name = (getattr(a, field.name), getattr(b, field.name)), prefix + field.name
        if is_dataclass(values[0]) and type(values[0]) is type(values[1]):
            differing |= differences(*values, prefix=f"{name}.")
        elif values[0] != values[1]:
            differing[name] = values
    return differing


def _plain(value: Any) -> Any:
    """A frozen value as what JSON holds; fields that were added later only where they are not at their default."""
    if isinstance(value, float):
        return value + 0.0  # -0.0 and 0.0 are equal, but JSON writes each in its own way
    if not is_dataclass(value):
        return value
    plain = {}
    for field in fields(value):
        part = getattr(value, field.name)
        if field.metadata != ADDED or part != field.default:
            # 800 and 800.0 are equal too
            plain[field.name] = _plain(float(part) if field.type is float else part)
    return plain


def screening_key(key: str) -> str:
    """The key under which a cell is kept that was given up on a part of its questions; `key` is the cell's own."""
    return digest({"screening": key})
