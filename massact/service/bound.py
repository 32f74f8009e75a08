"""Run a command that is told to end when its parent dies: `python -m massact.service.bound PARENT COMMAND…`.

A killed `massact serve` would otherwise leave a server behind that nobody watches.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2); it outlives exec. Elsewhere the command runs unbound."""


def main() -> None:
    """Become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before this took effect
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # the command is our own parent's


if __name__ == "__main__":
    main()
