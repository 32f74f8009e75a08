"""JSON that others wrote, read so that whatever is wrong with it is one error."""

import json
import re
from functools import cache
from typing import Any

_SUSPECT = re.compile(r"\d{19}|[eE]\+?\d{3}|\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""Only a text that has this can hold a number that no column takes, or half a character."""
_LARGEST = 2**63


class JsonError(ValueError):
    """A text that is no JSON, or holds what cannot be stored, counted or printed; it says what."""


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The value of a JSON text. `allow_nan`: whether NaN and infinity, which Python and numpy write, are let through.
    Raises JsonError: it is no JSON, is nested too deeply, names something twice, or holds a number beyond 64 bits or
    half of a character."""
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        constant = float if allow_nan else _constant
        if _SUSPECT.search(text) is None:
            return json.loads(text, parse_constant=constant, object_pairs_hook=_object)
        value = json.loads(
            text, parse_constant=constant, object_pairs_hook=_object, parse_int=_integer, parse_float=_float
        )
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise JsonError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 (byte {error.start + 1})") from error
    except UnicodeError as error:
        raise JsonError("it holds half of a surrogate pair, which is no character") from error
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(str(error)) from error
    return value


def parse_object(text: str | bytes, *, allow_nan: bool = False) -> dict[str, Any]:
    """The object of a JSON text. Raises JsonError: as `parse_json`, or it is no object."""
    value = parse_json(text, allow_nan=allow_nan)
    if not isinstance(value, dict):
        raise JsonError(f"it is no object: {str(value)[:80]!r}")
    return value


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # where it is needed: most questions read no more than points

    return TypeAdapter(kind)


def read_as(kind: Any, value: Any) -> Any:
    """A JSON value as the type that it is of: a plain one, a literal, an enumeration, a tuple, a mapping, a dataclass
    (keys that are none of its fields are left out), a union of such. Raises ValueError: it is none."""
    try:
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValueError as error:
        if not hasattr(error, "errors"):
            raise
        (wrong, *_) = error.errors(include_url=False)
        raise ValueError(f"{'.'.join(map(str, wrong['loc'])) or 'it'}: {wrong['msg']}") from error


def _constant(name: str) -> float:
    # Python reads NaN where JSON has none; a mean of NaN would be neither above nor below a floor
    raise JsonError(f"{name} is no number of JSON's")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"it names {twice[:80]!r} twice")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -_LARGEST <= (value := int(text)) < _LARGEST:
        raise JsonError(f"the number {text[:20]}… is too large")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise JsonError(f"the number {text[:20]} is too large")
    return value
