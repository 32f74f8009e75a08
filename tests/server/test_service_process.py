"""How a server's processes are watched over and ended, with small programs in a server's place."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from massact.errors import MassactError
from massact.service import serving as process
from massact.service.serving import Server
from tests.support.composed import ROOT

NOWHERE = "http://127.0.0.1:1"
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code])
print(child.pid, flush=True)
time.sleep(60)
"""


def _server(code: str) -> Server:
    return Server([sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)})


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_that_dies_before_it_answers_is_told_with_its_last_lines(capfd: pytest.CaptureFixture[str]) -> None:
    server = _server("for i in range(100): print('line', i)\nraise SystemExit(3)")
    with pytest.raises(MassactError, match=r"before it answered \(exit code 3\)") as caught:
        server.wait_until_healthy(NOWHERE, lambda: False)
    server.end()
    lines = str(caught.value).splitlines()[1:]
    assert lines == [f"line {i}" for i in range(100 - len(lines), 100)]
    assert "line 0\n" in capfd.readouterr().err  # the whole log


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (-9, "", "was ended by the signal SIGKILL, by itself: by the system for want of memory"),
        (-15, "", "was ended by the signal SIGTERM"),
        (137, "", "was ended by the signal SIGKILL"),
        (1, "Non-zero exit code: -9", "ended since one of its processes was ended by the signal SIGKILL"),
        (0, "", "ended by itself (exit code 0), as it does when it is told to by a signal from outside"),
        (3, "", "ended by itself (exit code 3)"),
    ],
)
def test_how_it_ended_names_a_signal(code: int, said: str, words: str) -> None:
    assert words in process._ended(code, "by itself", said)


def test_one_that_is_killed_later_is_told_by_the_signal() -> None:
    server = _server("import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(MassactError, match="the signal SIGKILL"):
        server.watch(lambda: False)
    server.end()


def test_one_that_dies_later_is_noticed() -> None:
    server = _server("import time\ntime.sleep(0.5)\nprint('no space left')")
    with pytest.raises(MassactError, match=r"by itself(.|\n)*no space left"):
        server.watch(lambda: False)
    server.end()


def test_one_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "START_SECONDS", 0.3)
    server = _server("import time\ntime.sleep(60)")
    with pytest.raises(MassactError, match="did not answer within"):
        server.wait_until_healthy(NOWHERE, lambda: False)
    server.end()


def test_one_that_will_not_go_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.3)
    server = _server(STUBBORN)
    said = ""

    def tells_its_child() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return bool(said.strip())

    _wait_until(tells_its_child)
    child = int(said)
    assert _runs(child)
    server.end()
    _wait_until(lambda: not _runs(child))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_killed_parent_takes_its_server_with_it() -> None:
    code = (
        "import sys, time\nfrom massact.service.serving import Server\nimport os\n"
        "server = Server([sys.executable, '-c', 'import time; time.sleep(60)'], os.environ)\n"
        "print(server._process.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    _wait_until(lambda: b"bound" not in Path(f"/proc/{child}/cmdline").read_bytes())  # it has become the command
    assert _runs(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_until(lambda: not _runs(child))
    parent.stdout.close()
