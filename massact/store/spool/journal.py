"""A journal: one file per process, only ever appended to, and locked for as long as its process lives.

Each line is a checksum, a blank, and one JSON object that can be understood without its neighbours: it says its format
and where its run belongs, and holds the run's artifacts, so that damage to a line costs that one run and no other."""

import errno
import fcntl
import json
import os
import re
import secrets
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from massact.errors import SpoolFolderError
from massact.store.write.finished_run import FinishedRun, Step

FORMAT = 1
_DIGITS = 16  # of the SHA-256 of the JSON, in hexadecimal: enough to tell damage, not meant against forgery


class DamagedLineError(ValueError):
    """A line is not as it was written."""


class OtherFormatError(ValueError):
    """A line is sound, and of a format that this version does not know."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The first line: whose journal it is."""

    store: str  # tracking URI without a password; see `massact.addresses.stored_uri`
    experiment: str
    host: str
    pid: int
    started_at: int  # milliseconds since 1970


@dataclass(frozen=True, slots=True)
class Home:
    """Where a run belongs."""

    store: str
    experiment_id: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that is to be sent."""

    id: str  # 32 hexadecimal digits; it becomes the run's id where the store lets us choose that
    home: Home
    run: FinishedRun


@dataclass(frozen=True, slots=True)
class Sent:
    """Records that the store has."""

    ids: tuple[str, ...]


Record = Opening | RunRecord | Sent


def encode(record: Record) -> bytes:
    """A record as a whole line."""
    text = json.dumps({"format": FORMAT, **_values(record)}, separators=(",", ":")).encode()
    return b"%s %s\n" % (_checksum(text), text)


def decode(line: bytes) -> Record:
    """The record of a line that `encode` wrote; DamagedLineError or OtherFormatError where it is none of ours."""
    checksum, _, text = line[:-1].partition(b" ")
    if not line.endswith(b"\n") or checksum != _checksum(text):
        raise DamagedLineError
    try:
        values = json.loads(text)  # our own, by its checksum: NaN and all
        if values["format"] == FORMAT:
            return _record(values)
        other_format = str(values["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedLineError from error
    raise OtherFormatError(other_format)


def decode_run(line: bytes) -> FinishedRun:
    """The run of a line that holds one."""
    record = decode(line)
    assert isinstance(record, RunRecord)
    return record.run


def _checksum(text: bytes) -> bytes:
    return sha256(text).hexdigest()[:_DIGITS].encode()


def _values(record: Record) -> dict[str, Any]:
    if isinstance(record, Sent):
        return {"kind": "sent", "ids": record.ids}
    if isinstance(record, Opening):
        return {"kind": "open", **asdict(record)}
    run = {field.name: getattr(record.run, field.name) for field in fields(FinishedRun)}
    run["steps"] = [(step.name, step.value, step.step) for step in record.run.steps]
    run["files"] = {path: b64encode(content).decode() for path, content in record.run.files.items()}
    return {"kind": "run", "id": record.id, **asdict(record.home), "run": run}


def _record(values: dict[str, Any]) -> Record:
    if values["kind"] == "sent":
        return Sent(tuple(values["ids"]))
    if values["kind"] == "open":
        return Opening(**{name: values[name] for name in Opening.__slots__})
    run = values["run"]
    run["steps"] = tuple(Step(*step) for step in run["steps"])
    run["files"] = {path: b64decode(content) for path, content in run["files"].items()}
    return RunRecord(values["id"], Home(values["store"], values["experiment_id"]), FinishedRun(**run))


SUFFIX, DAMAGED_SUFFIX = ".journal", ".damaged"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a line lies in its file, in bytes."""

    offset: int
    length: int


class Journal:
    """An open and locked journal. Only `read` may be called while another thread uses it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size  # bytes
        self._is_sound = True

    def append(self, lines: Sequence[bytes], *, sync: bool = True) -> list[Slot]:
        """Append lines, all with one sync: they survive a power cut. After an OSError none of them is there."""
        if not self._is_sound:
            raise OSError(errno.EIO, "an earlier write could not be undone")
        slots, end = [], self.size
        for line in lines:
            slots.append(Slot(end, len(line)))
            end += len(line)
        try:
            offset, rest = self.size, memoryview(b"".join(lines))
            while rest:
                written = os.pwrite(self._descriptor, rest, offset)
                offset, rest = offset + written, rest[written:]
            if sync:
                os.fsync(self._descriptor)
        except BaseException:
            self.cut(self.size)
            raise
        self.size = end
        return slots

    def mark_sent(self, ids: tuple[str, ...]) -> None:
        """Say which records the store has; where that cannot be written, the store can be asked."""
        with suppress(OSError):
            self.append([encode(Sent(ids))] if ids else (), sync=False)

    def read(self, slot: Slot) -> bytes:
        """The line that lies there."""
        return os.pread(self._descriptor, slot.length, slot.offset)

    def lines(self) -> Iterator[tuple[Slot, bytes]]:
        """All lines from the first on; the last may lack its end."""
        offset = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for line in file:
                yield Slot(offset, len(line)), line
                offset += len(line)

    def cut(self, end: int) -> None:
        """Forget everything from an offset on. Where that fails nothing is appended any more."""
        try:
            os.ftruncate(self._descriptor, end)
            self.size = end
        except OSError:
            self._is_sound = False

    def close(self) -> None:
        """Let go of it: another process may take it."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the file and let go of it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def set_aside(self) -> Path:
        """Keep the file under a name that nobody sends from, and let go of it. Returns that name."""
        kept = self.path.with_name(self.path.name + DAMAGED_SUFFIX)
        self.path.rename(kept)
        self.close()
        return kept


@dataclass(slots=True)
class Contents:
    """A journal as it was read."""

    opening: Opening | None = None
    waiting: dict[str, tuple[Home, Slot]] = field(default_factory=dict)
    """By record id, the runs that are not marked as sent, in the order in which they were put."""
    damaged: list[int] = field(default_factory=list)  # numbers of lines that are not as they were written, from 1
    torn_at: int | None = None
    """Where a last line without its end begins: it was being written when its process or machine died."""
    other_format: str | None = None  # the first format that is not this version's, where there is one


def read_contents(journal: Journal) -> Contents:
    """Everything that can be read of a journal, line by line: damage to one line costs that line only."""
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
            if isinstance(record, Opening):
                contents.opening = record
            elif isinstance(record, RunRecord):
                contents.waiting[record.id] = (record.home, slot)
            else:
                for id_ in record.ids:
                    contents.waiting.pop(id_, None)
    return contents


def create_journal(folder: Path, opening: bytes) -> Journal:
    """A new journal with its first line, synced to the disk together with the folder; else a SpoolFolderError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = _claim_new(folder)
        try:
            journal.append([opening])
        except OSError:
            journal.remove()
            raise
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SpoolFolderError(explain(folder, error)) from error
    return journal


def open_journal(path: Path) -> Journal | None:
    """A journal that a process left behind, locked; `None` while a process works on it, or where it is gone."""
    try:
        return _locked(path, os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return None


def explain(folder: Path, error: OSError) -> str:
    """What is wrong with a spool's folder and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        cure = "free space there, or name a folder on another disk with --spool"
    elif error.errno in _NO_LOCKS:
        cure = "its file system knows no locks: name a folder on a local disk with --spool"
    else:
        cure = "ask for the right to write there, or name another folder with --spool"
    return f"the spool {folder} cannot be written to ({error.strerror}): {cure}"


def _claim_new(folder: Path) -> Journal:
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40]
    while True:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = folder / f"{now}-{host}-{os.getpid()}-{secrets.token_hex(3)}{SUFFIX}"
        try:
            journal = _locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, fcntl.LOCK_EX)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        if journal is not None:
            return journal


def _locked(path: Path, flags: int, lock: int) -> Journal | None:
    """The journal; `None` where the file was deleted or renamed while its lock was waited for. Whoever looks for
    leftovers may find a new one empty, before it is locked, and delete it."""
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, lock)
        if os.path.samestat(path.stat(), os.fstat(descriptor)):
            return Journal(path, descriptor)
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
