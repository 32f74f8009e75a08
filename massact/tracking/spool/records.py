"""Lines of a journal: a checksum, a blank, and one JSON object that can be understood without its neighbours.

Each line says its format and where its run belongs, and holds the run's artifacts, so that a line that is
damaged costs that one run and no other.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from massact.tracking.tracker import Step
from massact.tracking.whole_run import WholeRun

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
    """Tracking URI without a password; see `massact.tracking.spool.places`."""
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
