"""The parent of the processes of `processes.py`: imports everything once, then forks what is asked for.

Its argument is the number of the socket where the processes of a test session connect. A request is JSON with stdout,
stderr and a pipe for the process's pid and exit code beside it. It is answered by two forks: the process itself, and
one that waits for its end.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from typing import Any

from tests.support.templates import TEMPLATE, share_tables

MODULES = (
    "matplotlib.backends.backend_svg", "matplotlib.figure", "mlflow.server.fastapi_app",
    "mlflow.store.tracking.sqlalchemy_store", "openai.resources.chat.completions", "psycopg", "safetensors.torch",
    "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "scipy.stats", "sklearn.linear_model", "torch",
    "transformers", "transformers.models.gemma2.modeling_gemma2", "transformers.models.gemma3.modeling_gemma3",
    "uvicorn",
)  # fmt: skip
FORGOTTEN = ("mlflow.server", "massact.server")
"""What reads the environment when it is imported: a server imports it again."""


def main() -> None:
    """Serve until the last connection is closed; in each fork, be the process that was asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    listener = socket.socket(fileno=int(sys.argv[1]))
    links: list[socket.socket] = []
    _import_everything()
    while True:
        for link in select.select([listener, *links], [], [])[0]:
            if link is listener:
                links.append(listener.accept()[0])
                continue
            message, fds, *_ = socket.recv_fds(link, 1 << 20, 3)
            if not message:
                links.remove(link)
                link.close()
                if not links:
                    os._exit(0)
                continue
            if os.fork() == 0:
                for other in (listener, *links):
                    other.close()
                _start(json.loads(message), *fds)
                return
            for fd in fds:
                os.close(fd)
            os.wait3(os.WNOHANG)  # those that waited for an end


def _import_everything() -> None:
    import massact

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = [found.name for found in pkgutil.walk_packages(massact.__path__, "massact.")]
        for name in (*MODULES, *ours):
            if ".ray" not in name and not name.endswith(("__main__", ".harness")):  # of packages that may be absent
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or every fork's collection would copy all of it


def _start(asked: dict[str, Any], out: int, errors: int, status: int) -> None:
    """Fork the process and return in it; the one that waits for it never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pid = os.fork()
    if pid:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _tell(status, pid)
        for fd in (out, errors):
            os.close(fd)
        _tell(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    os.close(status)
    os.dup2(out, 1)
    os.dup2(errors, 2)
    for fd in (out, errors):
        os.close(fd)
    if asked["new_session"]:
        os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    if TEMPLATE in os.environ:
        share_tables()
    sys.path[0] = asked["folder"]
    _see_packages(os.environ.get("PYTHONPATH", ""))
    sys.argv = [asked["module"], *asked["arguments"]]


def _see_packages(places: str) -> None:
    """Find what the environment adds to Python's path, as a new interpreter would."""
    added = [place for place in places.split(os.pathsep) if place and place not in sys.path]
    if added:
        from massact import api, plugins

        sys.path[1:1] = added
        importlib.invalidate_caches()
        for function in (*vars(api).values(), *vars(plugins).values()):
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def _tell(status: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(status, number.to_bytes(4, "big", signed=True))


def _serve_here(command: list[str], extra_env: dict[str, str], **_: object) -> None:
    """Instead of a new process for `uvicorn`, which would import everything again."""
    os.environ.update(extra_env)
    for name in list(sys.modules):
        if name.startswith(FORGOTTEN):
            del sys.modules[name]
    sys.argv = ["uvicorn", *command[3:]]
    runpy.run_module("uvicorn", run_name="__main__", alter_sys=True)


def _run() -> int:
    """Be `python -m MODULE` (or `python -c CODE`) with the arguments that lie in `sys.argv`. Returns the exit code."""
    module, *arguments = sys.argv
    if module == "-c":
        code, sys.argv = arguments[0], ["-c", *arguments[1:]]
        exec(code, {"__name__": "__main__"})
        return 0
    if sys.argv[:2] == ["mlflow", "server"]:
        import mlflow.server

        vars(mlflow.server)["_exec_cmd"] = _serve_here
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _end(code: int) -> None:
    """End as an interpreter does, but for what it frees: that would copy all that is shared with the parent."""
    vars(threading)["_shutdown"]()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
    try:
        code = _run()
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            sys.stderr.write(f"{error.code}\n")
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code)
