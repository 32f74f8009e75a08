"""Lines of a journal: a checksum, a blank, and one JSON object that can be understood without its neighbours.

Each line says its format and where its run belongs, and holds the run's artifacts, so that a line that is
damaged costs that one run and no other.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from massact.store.spool.journal import Journal, Slot
from massact.store.write.finished_run import WholeRun
from massact.store.write.tracker import Step

FORMAT = 1
_DIGITS = 16
"""Of the SHA-256 of the JSON, in hexadecimal: enough to tell damage, not meant against forgery."""


class DamagedLineError(ValueError):
    """A line is not as it was written."""


class OtherFormatError(ValueError):
    """A line is sound, and of a format that this version does not know."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The first line: whose journal it is."""

    store: str
    """Tracking URI without a password; see `massact.store.spool.records`."""
    experiment: str
    host: str
    pid: int
    started_at: int
    """Milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a run belongs."""

    store: str
    """Tracking URI without a password."""
    experiment_id: str
    """Of the MLflow experiment."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that is to be sent."""

    id: str
    """32 hexadecimal digits; it becomes the run's id where the store lets us choose that."""
    home: Home
    run: WholeRun


@dataclass(frozen=True, slots=True)
class Sent:
    """Records that the store has."""

    ids: tuple[str, ...]


Record = Opening | RunRecord | Sent


def encode(record: Record) -> bytes:
    """A record as a whole line.

    Raises:
        TypeError: a run holds what JSON has no form for.
    """
    text = json.dumps({"format": FORMAT, **_values(record)}, separators=(",", ":")).encode()
    return b"%s %s\n" % (_checksum(text), text)


def decode(line: bytes) -> Record:
    """The record of a line that `encode` wrote.

    Raises:
        DamagedLineError: the line is not whole, not as it was written, or none of ours.
        OtherFormatError: another version of massact wrote it.
    """
    checksum, _, text = line[:-1].partition(b" ")
    if not line.endswith(b"\n") or checksum != _checksum(text):
        raise DamagedLineError
    try:
        values = json.loads(text)  # our own, by its checksum: NaN and all
        if values["format"] == FORMAT:
            return _record(values)
        found = str(values["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedLineError from error
    raise OtherFormatError(found)


def _checksum(text: bytes) -> bytes:
    return sha256(text).hexdigest()[:_DIGITS].encode()


def _values(record: Record) -> dict[str, Any]:
    if isinstance(record, Sent):
        return {"kind": "sent", "ids": record.ids}
    if isinstance(record, Opening):
        return {
            "kind": "open",
            "store": record.store,
            "experiment": record.experiment,
            "host": record.host,
            "pid": record.pid,
            "started_at": record.started_at,
        }
    home = {"store": record.home.store, "experiment_id": record.home.experiment_id}
    return {"kind": "run", "id": record.id, **home, "run": _run_values(record.run)}


def _record(values: dict[str, Any]) -> Record:
    if values["kind"] == "sent":
        return Sent(tuple(values["ids"]))
    if values["kind"] == "open":
        return Opening(**{name: values[name] for name in Opening.__slots__})
    return RunRecord(values["id"], Home(values["store"], values["experiment_id"]), _run(values["run"]))


def _run_values(run: WholeRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "tags": dict(run.tags),
        "params": dict(run.params),
        "metrics": dict(run.metrics),
        "steps": [(one.name, one.value, one.step) for one in run.steps],
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "status": run.status,
        "files": {path: b64encode(content).decode() for path, content in run.files.items()},
    }


def _run(values: dict[str, Any]) -> WholeRun:
    changed: dict[str, Any] = {
        "steps": _steps(values["steps"]),
        "files": {path: b64decode(content) for path, content in values["files"].items()},
    }
    return WholeRun(**{**values, **changed})


def _steps(values: Iterable[Any]) -> tuple[Step, ...]:
    return tuple(Step(name, value, step) for name, value, step in values)


# Tracking URIs as a journal keeps them: without a password, and the same from every working directory.

_SECRETS = ("password", "sslpassword")
_OF_DATABASE = re.compile(r"([^:/@]*):[^@]*@")
"""User and password as SQLAlchemy takes them apart: the password may hold a slash or a question mark."""
_OF_SERVER = re.compile(r"([^:/?#]*):[^/?#]*@")


def stored_uri(tracking_uri: str) -> str:
    """A tracking URI without its password, that of a SQLite file with the file's whole path."""
    scheme, _, rest = tracking_uri.strip().partition("://")
    if scheme.lower().startswith("sqlite"):
        return _whole_path(scheme, rest)
    login = _OF_SERVER if scheme.lower().startswith("http") else _OF_DATABASE
    rest = login.sub(r"\1@", rest, count=1) if login.match(rest) else rest
    place, _, query = rest.partition("?")
    kept = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0].lower() not in _SECRETS]
    return f"{scheme}://{place.rstrip('/')}" + (f"?{urlencode(kept)}" if kept else "")


def usable_uri(stored: str, given: str | None) -> str:
    """The URI to reach a stored one: the given one, with its password, where it names the same place."""
    return given if given is not None and stored_uri(given) == stored else stored


def _whole_path(scheme: str, rest: str) -> str:
    path, mark, query = rest.removeprefix("/").partition("?")
    # a URI of SQLite's own (file:...) and a database in memory are no paths
    is_relative = path and not path.startswith(("/", "file:", ":memory:"))
    return f"{scheme}:///{Path(path).absolute() if is_relative else path}{mark}{query}"


# What a journal holds: read line by line, so that damage to one line costs that line only.


@dataclass(slots=True)
class Contents:
    """A journal as it was found."""

    opening: Opening | None = None
    waiting: dict[str, tuple[Home, Slot]] = field(default_factory=dict)
    """By record id, the runs that are not marked as sent, in the order in which they were put."""
    damaged: list[int] = field(default_factory=list)
    """Numbers of lines that are not as they were written, from 1."""
    torn_at: int | None = None
    """Where a last line without its end begins: it was being written when its process or machine died."""
    other_format: str | None = None
    """The first format that is not this version's, where there is one."""


def read_contents(journal: Journal) -> Contents:
    """Everything that can be read of a journal, in the memory of one line."""
    contents = Contents()
    for number, (slot, line) in enumerate(journal.lines(), start=1):
        if not line.endswith(b"\n"):
            contents.torn_at = slot.offset
            break
        try:
            record = decode(line)
        except DamagedLineError:
            contents.damaged.append(number)
        except OtherFormatError as error:
            contents.other_format = contents.other_format or str(error)
        else:
            _take(contents, record, slot)
    return contents


def _take(contents: Contents, record: Opening | RunRecord | Sent, slot: Slot) -> None:
    if isinstance(record, Opening):
        contents.opening = record
    elif isinstance(record, RunRecord):
        contents.waiting[record.id] = (record.home, slot)
    else:
        for id_ in record.ids:
            contents.waiting.pop(id_, None)
