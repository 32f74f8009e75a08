"""Runs commands of massact in processes that begin at once and can be killed: a parent that has imported all.

Reads one JSON a line, `{"arguments": [...], "folder": ..., "kill_after": seconds or null}` and perhaps an
`"environment"` beside the process's own, runs the command in
a fork of itself, kills it with -9 after that time, and answers with its exit code (-9 where it was killed).
"""

import importlib
import json
import os
import signal
import sys
import time


def main() -> None:
    """Serve until stdin is closed."""
    for module in ("torch", "mlflow", "transformers", "massact.workflow.steps", "massact.judges.likelihood"):
        importlib.import_module(module)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        sys.stdout.write(json.dumps(_wait(child, request["kill_after"])) + "\n")
        sys.stdout.flush()


def _run(request: dict[str, object]) -> None:
    """In the child: the command, with its output in a file, and no return."""
    os.chdir(str(request["folder"]))
    os.environ.update(request.get("environment", {}))  # type: ignore[call-overload]
    log = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    from massact.cli.app import cli

    torch.set_num_threads(1)
    code = 70
    try:
        cli.main(request["arguments"], prog_name="massact")  # type: ignore[call-overload]
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, kill_after: float | None) -> int:
    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
