"""A CSV file record by record, so that a broken line costs itself and not what follows it."""

import codecs
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from massact.errors import DataError, lfs_advice

_RECORD_LINES = 50
"""Most lines that one record may take: a note may hold line breaks."""


def read_csv_lines(path: Path) -> list[bytes]:
    """The lines of a file, without their ends and without a byte order mark.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if advice := lfs_advice(content):
        raise DataError(f"{path}: {advice}")
    return content.splitlines()


def csv_records(lines: Sequence[bytes], start: int, width: int) -> Iterator[tuple[int, list[str] | str]]:
    """Records from the line with index `start` on; what holds nothing is passed over.

    A quotation mark that is never closed costs its own line only: the csv module would read the
    rest of the file as one field.

    Args:
        lines: UTF-8, as `read_csv_lines` gives them.
        start: index of the first line, from 0.
        width: how many fields a record has that takes several lines.

    Yields:
        The number of the record's first line, from 1, and its fields, or in words why it has none.
    """
    while start < len(lines):
        n_lines, found = _record(lines[start : start + _RECORD_LINES], width)
        # a spreadsheet writes its empty rows as commas
        if isinstance(found, str) or any(field.strip() for field in found):
            yield start + 1, found
        start += n_lines


def _record(lines: Sequence[bytes], width: int) -> tuple[int, list[str] | str]:
    """How many of the lines the first record takes, and its fields or why it has none."""
    reason = ""
    for count in range(1, len(lines) + 1):
        try:
            fields = next(csv.reader([b"\n".join(lines[:count]).decode()], strict=True), [])
        except UnicodeDecodeError as error:
            reason = reason or f"not UTF-8: the byte 0x{error.object[error.start]:02x}"
            break
        except csv.Error as error:
            is_open = "unexpected end of data" in str(error)
            reason = reason or ("a quotation mark is not closed" if is_open else f"not CSV: {error}")
            if not is_open:
                break
        else:
            return (count, fields) if count == 1 or len(fields) == width else (1, reason)
    return 1, reason
