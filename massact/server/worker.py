"""A process that answers questions one after the other: run as `python -m massact.server.worker FD`.

It ends when the server does, whose end of the socket is then closed.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

from massact.server.answering import Answering
from massact.server.problems import limits_of
from massact.server.processes import LENGTH, Reply

_NICENESS = 5
"""Logging of runs goes before questions."""


def main() -> None:
    """Answer until nobody is left to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when it is over
    with suppress(OSError):
        os.nice(_NICENESS)
    answering = Answering(os.environ["MASSACT_SERVER_DATABASE"], limits_of())
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        while message := _receive(connection):
            _send(connection, answering.answer(json.loads(message)))


def _receive(connection: socket.socket) -> bytes:
    head = _exactly(connection, LENGTH.size)
    return _exactly(connection, LENGTH.unpack(head)[0]) if head else b""


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        part = connection.recv(min(length - len(found), 1 << 20))
        if not part:
            return b""
        found += part
    return bytes(found)


def _send(connection: socket.socket, reply: Reply) -> None:
    head = json.dumps({"status": reply.status, "headers": reply.headers, "has_more": reply.has_more}).encode()
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(LENGTH.pack(len(head)) + head + LENGTH.pack(len(reply.body)))
        connection.sendall(reply.body)


if __name__ == "__main__":
    main()
