"""A headless Chromium, driven over its DevTools protocol through a pair of pipes: no driver, no package."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PATIENCE_SECONDS = 60.0
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")


class Page:
    """One tab. What it asked the network for and what its console said is kept."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._in, self._out = os.fdopen(read_fd, "rb", buffering=0), os.fdopen(write_fd, "wb", buffering=0)
        self._ids = itertools.count(1)
        self._left = b""
        self._session: str | None = None
        self.requests: list[str] = []
        """Every address that was asked for, the page's own first."""
        self.console: list[str] = []
        """Errors and warnings, exceptions that nobody caught, and what the content policy refused."""
        self._is_loaded = False
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def show(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Emulate a screen; sizes in CSS pixels."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = "dark" if dark else "light"
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def media(self, name: str) -> None:
        """Emulate a medium, such as `print`."""
        self._ask("Emulation.setEmulatedMedia", media=name)

    def open(self, url: str) -> None:
        """Load an address anew, also where it differs from the last by its fragment alone, and wait for it."""
        for address in ("about:blank", url):
            self.requests.clear()
            self.console.clear()
            self._is_loaded = False
            answer = self._ask("Page.navigate", url=address)
            assert "errorText" not in answer, f"{address}: {answer['errorText']}"
            self._until(lambda: self._is_loaded, f"{address} to load")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Move the pointer there; in CSS pixels of the screen."""
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Press the pointer's button there."""
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, such as `Tab`, by its name and Windows' code for it."""
        for kind in ("keyDown", "keyUp"):
            said = {"text": text} if kind == "keyDown" and text else {}
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **said)

    def wait_for(self, script: str, patience: float = PATIENCE_SECONDS) -> Any:
        """The value of an expression once it is true."""
        found: list[Any] = []

        def is_true() -> bool:
            found[:] = [self.run(script)]
            return bool(found[0])

        self._until(is_true, script, patience)
        return found[0]

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """A PNG of the whole page, or of the screen."""
        options: dict[str, Any] = {"captureBeyondViewport": whole}
        if whole:
            size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png", **options)["data"]))

    def pdf(self, file: Path) -> None:
        """The page as it prints on A4."""
        answer = self._ask("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        file.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self._session = None
        self._send("Browser.close", {})
        self._out.close()
        self._in.close()

    def _until(self, is_true: Any, what: str, patience: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + patience
        while not is_true():
            assert time.monotonic() < deadline, f"waited {patience:g} s for {what}"
            self._ask("Runtime.evaluate", expression="0")  # reads the events that have come in
            time.sleep(0.05)

    def _ask(self, method: str, **params: Any) -> Any:
        number = self._send(method, params)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._take(message)

    def _send(self, method: str, params: Mapping[str, Any]) -> int:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": dict(params)}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        return number

    def _receive(self) -> Any:
        while b"\0" not in self._left:
            read = self._in.read(1 << 20)
            assert read, "chromium ended"
            self._left += read
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _take(self, event: Mapping[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._is_loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.console.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.console.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.console.append(json.dumps(params["args"]))


@contextmanager
def chromium(profile: Path, options: Sequence[str] = ()) -> Iterator[Page]:
    """A browser of one's own; `profile` is a folder for its files."""
    assert CHROMIUM is not None
    (to_browser, write_fd), (read_fd, from_browser) = os.pipe(), os.pipe()

    # Chromium reads its commands from 3 and writes its answers to 4, whatever else lies there
    launch = (
        "import fcntl, os, sys; "
        f"fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in ({to_browser}, {from_browser})]; "
        "os.dup2(fds[0], 3); os.dup2(fds[1], 4); os.execv(sys.argv[1], sys.argv[1:])"
    )
    switches = (
        "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run "
        "--disable-background-networking --remote-debugging-pipe"
    )
    command = [sys.executable, "-c", launch, CHROMIUM, *switches.split(), f"--user-data-dir={profile}", *options]
    with (profile / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "about:blank"], pass_fds=(to_browser, from_browser), stdout=log, stderr=log
        )
    os.close(to_browser)
    os.close(from_browser)
    try:
        page = Page(read_fd, write_fd)
        yield page
        page.close()
        process.wait(10)
    finally:
        process.kill()
        process.wait()
