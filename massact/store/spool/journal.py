"""A journal: one file per process, only ever appended to, and locked for as long as its process lives."""

import errno
import fcntl
import os
import re
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from massact.errors import SpoolFolderError

SUFFIX, DAMAGED_SUFFIX = ".journal", ".damaged"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a line lies in its file, in bytes."""

    offset: int
    length: int


class Journal:
    """An open and locked journal. Its methods may be called from several threads."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._lock = Lock()
        self._end = os.fstat(descriptor).st_size
        self._is_sound = True

    @property
    def size(self) -> int:
        """Bytes."""
        return self._end

    def append(self, lines: Sequence[bytes]) -> list[Slot]:
        """Append lines, all with one sync: when it returns they survive a power cut.

        Raises:
            OSError: none of them is there: what was written of them has been cut off again.
        """
        return self._write(lines, sync=True)

    def mark(self, line: bytes) -> None:
        """Append a line that may be lost, and is where it cannot be written."""
        try:
            self._write([line], sync=False)
        except OSError:
            return  # what it says can be found out from the store

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
        with self._lock:
            self._cut(end)

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

    def _write(self, lines: Sequence[bytes], *, sync: bool) -> list[Slot]:
        with self._lock:
            if not self._is_sound:
                raise OSError(errno.EIO, "an earlier write could not be undone")
            slots, end = [], self._end
            for line in lines:
                slots.append(Slot(end, len(line)))
                end += len(line)
            try:
                self._write_all(b"".join(lines))
                if sync:
                    os.fsync(self._descriptor)
            except BaseException:
                self._cut(self._end)
                raise
            self._end = end
            return slots

    def _write_all(self, content: bytes) -> None:
        offset, rest = self._end, memoryview(content)
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            offset, rest = offset + written, rest[written:]

    def _cut(self, end: int) -> None:
        try:
            os.ftruncate(self._descriptor, end)
            self._end = end
        except OSError:
            self._is_sound = False


def create_journal(folder: Path, opening: bytes) -> Journal:
    """A new journal with its first line, synced to the disk together with the folder.

    Raises:
        SpoolFolderError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = _claim_new(folder)
        try:
            journal.append([opening])
        except OSError:
            journal.remove()
            raise
        _sync_folder(folder)
    except OSError as error:
        raise SpoolFolderError(explain(folder, error)) from error
    return journal


def open_journal(path: Path) -> Journal | None:
    """A journal that a process left behind, locked; `None` while a process works on it, or where it is gone.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return _if_there(path, descriptor)


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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        # between these two calls somebody who looks for leftovers may have found it empty, and deleted it
        journal = _if_there(path, descriptor)
        if journal is not None:
            return journal


def _if_there(path: Path, descriptor: int) -> Journal | None:
    """The journal, unless the file was deleted or renamed while its lock was waited for."""
    try:
        is_there = os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        is_there = False
    if is_there:
        return Journal(path, descriptor)
    os.close(descriptor)
    return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
