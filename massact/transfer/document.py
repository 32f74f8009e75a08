"""One line of a file as a JSON document in one spelling, or the reason why it is none."""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from massact.errors import lfs_advice
from massact.json_text import JsonError, parse_json

MAX_LINE_BYTES = 10_000_000
"""A longer line is refused unread: no result takes a hundredth of it."""
_MAX_EXACT = 2.0**53
_BOM = b"\xef\xbb\xbf"


class LineError(ValueError):
    """A line that cannot be imported; the message is the reason."""


def read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers, from 1, and lines; `None` for one longer than `MAX_LINE_BYTES`, passed over unread."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        is_whole = len(line) <= MAX_LINE_BYTES
        rest = line
        while not rest.endswith(b"\n") and len(rest) > MAX_LINE_BYTES:
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield number, (line.removeprefix(_BOM) if number == 1 else line) if is_whole else None


def parse_document(line: bytes | None, *, allow_nan: bool = False) -> dict[str, Any]:
    """The JSON object of a line, numbers in one spelling (`800.0` as 800).

    Args:
        allow_nan: whether NaN, numpy's mean of nothing, is let through.

    Raises:
        LineError: not UTF-8, not a JSON object, or with something that no store can hold.
    """
    if line is None:
        raise LineError(f"the line is longer than {MAX_LINE_BYTES // 1_000_000} MB")
    if advice := lfs_advice(line):
        raise LineError(advice)
    try:
        document = parse_json(line, allow_nan=allow_nan)
    except JsonError as error:
        raise LineError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise LineError("not a JSON object")
    if b"\\u" in line:
        _check_text(document)
    spelled: dict[str, Any] = _one_spelling(document)
    return spelled


def _one_spelling(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return value
        if math.isinf(value):
            raise LineError(f"{'-' if value < 0 else ''}Infinity is not a number that JSON has")
        return int(value) if value.is_integer() and abs(value) < _MAX_EXACT else value
    if isinstance(value, dict):
        return {key: _one_spelling(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_one_spelling(one) for one in value]
    return value


def without_nan(value: Any) -> Any:
    """A document with `None` for each NaN, which no digest and no other reader's JSON knows."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _check_text(value: Any) -> None:
    """Refuse what an escape can spell and no database keeps: NUL."""
    if isinstance(value, str):
        if "\0" in value:
            raise LineError("a text holds a NUL, which no store can keep")
    elif isinstance(value, dict):
        for key, one in value.items():
            _check_text(key)
            _check_text(one)
    elif isinstance(value, list):
        for one in value:
            _check_text(one)
