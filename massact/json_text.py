"""JSON that others wrote, read so that whatever is wrong with it is one error."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from itertools import cycle
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
    return _as_object(parse_json(text, allow_nan=allow_nan))


def read_as(kind: Any, value: Any) -> Any:
    """A JSON value as the type that it is of: a plain one, a literal, an enumeration, a tuple, a mapping, a dataclass
    (keys that are none of its fields are left out), a union of such. Raises ValueError, TypeError: it is none."""
    return _reader(kind)(value)


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    types, texts, made = set[Any](), set[Any](), list[Callable[[Any], Any]]()
    for part in get_args(kind) if isinstance(kind, UnionType) or get_origin(kind) is Union else (kind,):
        inner = get_args(part)
        if get_origin(part) is Literal:
            texts |= set(inner)
        elif get_origin(part) is tuple:
            made.append(partial(_tuple, [_reader(one) for one in inner if one is not ...], ... in inner))
        elif get_origin(part) is Mapping:
            made.append(partial(_mapping, _reader(inner[1])))
        elif is_dataclass(part):
            hints = get_type_hints(part)
            made.append(partial(_built, part, {one.name: _reader(hints[one.name]) for one in fields(part) if one.init}))
        elif issubclass(part, Enum):
            made.append(part)
        else:
            types |= {int, float} if part is float else {part}

    def read(value: Any) -> Any:
        if type(value) in types or (type(value) is str and value in texts):
            return value
        if not made:
            raise TypeError(f"of the wrong type: {str(value)[:80]!r}")
        return made[0](value)

    return read


def _tuple(readers: list[Callable[[Any], Any]], is_open: bool, value: Any) -> tuple[Any, ...]:
    if type(value) is not list or (len(value) != len(readers) and not is_open):
        raise TypeError(f"not such a list: {str(value)[:80]!r}")
    return tuple(read(one) for read, one in zip(cycle(readers), value, strict=False))


def _mapping(read: Callable[[Any], Any], value: Any) -> dict[str, Any]:
    return {key: read(one) for key, one in _as_object(value).items()}


def _built(kind: Any, readers: Mapping[str, Callable[[Any], Any]], value: Any) -> Any:
    told, name = {}, ""
    try:
        for name, one in _as_object(value).items():
            if name in readers:
                told[name] = readers[name](one)
    except (ValueError, TypeError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{name} is {error}") from error
    required = (one.name for one in fields(kind) if one.init and one.default is MISSING is one.default_factory)
    if absent := [one for one in required if one not in told]:
        raise ValueError(f"it has no {', '.join(absent)}")
    return kind(**told)


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JsonError(f"it is no object: {str(value)[:80]!r}")
    return value


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
