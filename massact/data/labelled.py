"""People's scores of responses, in a CSV file: a row for each response that somebody scored, or passed over."""

import csv
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massact.errors import DataError, UsageError
from massact.names import shown

SCORES = ("trait_score", "coherence_score")
_TEXTS = ("annotator", "trait", "model", "question", "response")
_COLUMNS = (*_TEXTS, *SCORES)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A response and what a person says of it."""

    question: str
    response: str
    trait: str = ""
    model: str = ""
    """That wrote it, by the experiment file's name; empty: not told, as the trait where there is one alone."""
    annotator: str = ""
    trait_score: float | None = None  # 0 to 100; `None`: not scored
    coherence_score: float | None = None

    @property
    def text(self) -> tuple[str, str, str]:
        """What is scored: equal texts of a trait are one."""
        return (self.trait, self.question, self.response)


def read_labelled(path: Path) -> list[Labelled]:
    """The rows of a file; of several of one person and text the last, which corrects those before. Raises DataError: it
    cannot be read, lacks a column, or a score is no number from 0 to 100; line and column are named."""
    csv.field_size_limit(2**31 - 1)
    rows: dict[tuple[str, ...], Labelled] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            between = _delimiter(path)
            point = "," if between == ";" else "."  # where Excel writes semicolons a half is 0,5
            reader = csv.DictReader(file, strict=True, delimiter=between)
            missing = [name for name in ("question", "response") if name not in (reader.fieldnames or ())]
            if missing or not set(SCORES) & set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}: its first line names no column {missing[0] if missing else ' or '.join(SCORES)}; "
                    f"it has question, response and {' or '.join(SCORES)}, and may have annotator, trait and model"
                )
            for row in reader:
                texts: Any = {name: row.get(name) or "" for name in _TEXTS}
                scores: Any = {
                    name: _score((row.get(name) or "").replace(point, "."), f"{path}, line {reader.line_num}, {name}")
                    for name in SCORES
                }
                labelled = Labelled(**texts, **scores)
                rows[labelled.annotator, *labelled.text] = labelled
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file in UTF-8 ({error})") from error
    return list(rows.values())


def _delimiter(path: Path) -> str:
    """What stands between the columns in its first line: Excel writes semicolons in many countries."""
    with path.open(encoding="utf-8-sig") as file:
        return max(",;\t", key=file.readline().count)


def _score(text: str, where: str) -> float | None:
    if not text.strip():
        return None
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 100:
        raise DataError(f"{where}: {shown(text)} is no number from 0 to 100; leave it empty where there is none")
    return score


def columns_of(path: Path) -> list[str]:
    """The columns of a file to add rows to; none: there is no file. Raises UsageError: it lacks one that a row has."""
    columns: list[str] = []
    if path.exists():
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = next(csv.reader(file, delimiter=_delimiter(path)), [])
    if columns and (absent := [name for name in _COLUMNS if columns.count(name) != 1]):
        raise UsageError(
            f"{path}: its first line has to name the column {absent[0]} once, for a score to be added: name another "
            "file with --labels"
        )
    return columns


def append_labelled(path: Path, labelled: Labelled) -> None:
    """Add a row, on the disk when this returns. Raises UsageError: the file cannot be written, or lacks a column."""
    try:
        columns = columns_of(path)
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns or _COLUMNS, delimiter=_delimiter(path) if columns else ",")
            if not columns:
                writer.writeheader()
            elif not path.read_bytes().endswith((b"\n", b"\r")):
                file.write("\r\n")  # whoever wrote the last line did not end it
            writer.writerow({name: getattr(labelled, name) for name in _COLUMNS})
            file.flush()
            os.fsync(file.fileno())
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"cannot write {path}: {error}; name another file with --labels") from error


def unlabelled(known: Iterable[Labelled], annotator: str) -> list[Labelled]:
    """The texts that others scored and a person did not, each once, without scores."""
    known = list(known)
    mine = {labelled.text for labelled in known if labelled.annotator == annotator}
    others = {labelled.text: labelled for labelled in known if labelled.text not in mine}
    return [Labelled(other.question, other.response, other.trait, other.model, annotator) for other in others.values()]
