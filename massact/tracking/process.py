"""Which process works on a run that is open, and whether that process still lives."""

import json
import os
import socket
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from massact.json_text import parse_json

_PROC = Path("/proc")
_ENDED = ("Z", "X", "x")
"""States of a process that runs no more: one that nobody has waited for yet, and dead ones."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, so that no other is taken for it. Empty and `None` where the system does not tell."""

    host: str
    machine: str
    """Digest of the machine's id: two machines may have one name."""
    boot: str
    """Of this boot of the machine."""
    space: str
    """The namespace in which the pid counts: each container may have its own."""
    pid: int
    started: int | None
    """Clock ticks between the boot and the process's start."""


def process_tag() -> str:
    """This process, for the tag `massact.process` of a run that it opens."""
    return json.dumps(asdict(this_process()), separators=(",", ":"))


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()  # asked each time: after a fork it is another one
    state = _state(pid)
    return Process(*_surroundings(), pid, state[1] if state else None)


def read_process(text: str | None) -> Process | None:
    """The process in a tag's text; `None` where there is none or it cannot be read."""
    try:
        values = parse_json(text or "")
        texts = {name: str(values[name]) for name in ("host", "machine", "boot", "space")}
        started = values["started"]
        return Process(**texts, pid=int(values["pid"]), started=None if started is None else int(started))
    except (ValueError, KeyError, TypeError):
        return None


def is_alive(process: Process) -> bool | None:
    """Whether a process still runs; `None` where that cannot be known from here."""
    host, machine, boot, space = _surroundings()
    if (process.host, process.machine) != (host, machine):
        return None
    if process.boot != boot:
        # a machine without an id may be another one of the same name
        return False if machine and process.boot and boot else None
    if process.space != space:
        return None
    return _runs(process)


def _runs(process: Process) -> bool | None:
    if process.pid <= 0:
        return None
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's, or none at all: what the system tells of it decides
    state = _state(process.pid)
    if state is None:
        # no /proc, or one that hides what others run: then the pid alone says that it lives
        return True if process.started is None else None
    letter, started = state
    return letter not in _ENDED and process.started in (None, started)


def _state(pid: int) -> tuple[str, int] | None:
    """State and start of a process; `None` where the system does not tell."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()  # the name before may hold anything
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def _surroundings() -> tuple[str, str, str, str]:
    """Host, machine, boot and namespace of pids."""
    machine = _text(Path("/etc/machine-id")) or _text(Path("/var/lib/dbus/machine-id"))
    # systemd wants the id itself kept on the machine
    digest = sha256(f"massact {machine}".encode()).hexdigest()[:16] if machine else ""
    try:
        space = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        space = ""
    return socket.gethostname(), digest, _text(_PROC / "sys/kernel/random/boot_id"), space


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
