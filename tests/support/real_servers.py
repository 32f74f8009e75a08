"""A real language model and two real servers of it, for the tests that toys cannot stand in for.

SmolLM2-135M-Instruct (Apache-2.0) is fetched as `tools/smollm2.py` does it, a llama.cpp server likewise in the wheel of
`xllamacpp`. `transformers serve` needs no more than what the project's own requirements bring.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.smollm2 import UnavailableError, smollm2_file, unpacked

XLLAMACPP = ("xllamacpp==2026.10.11549", "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261")
"""The wheel for Linux on x86-64, and its SHA-256."""
_START_SECONDS = 180
LLAMA = """
import sys, time
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.hostnames, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = ["127.0.0.1"], 4096, 2, 1
server = xllamacpp.Server(params)
time.sleep(3600)
"""


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct in float32, dequantised as massact does it; kept with its GGUF file in the user's cache."""
    from transformers import AutoModelForCausalLM

    from massact.models.source import find_gguf

    file = find_gguf(str(smollm2_file()))
    assert file is not None
    return file.dequantized(AutoModelForCausalLM, "float32")


@contextmanager
def llama_server() -> Iterator[str]:
    """The base URL of a llama.cpp server of SmolLM2."""
    file, package, port = smollm2_file(), unpacked(*XLLAMACPP), _free_port()
    with _serving([sys.executable, "-c", LLAMA, str(file), str(port)], port, package) as url:
        yield url


@contextmanager
def transformers_server(model: Path) -> Iterator[str]:
    """The base URL of `transformers serve`, pinned to a model's folder."""
    port = _free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"]
    with _serving([*command, "--host", "127.0.0.1", "--port", str(port)], port) as url:
        yield url


@contextmanager
def _serving(command: list[str], port: int, *packages: Path) -> Iterator[str]:
    log = subprocess.DEVNULL
    with subprocess.Popen(command, env=_environment(*packages), stdout=log, stderr=log) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UnavailableError(f"the server ended with exit code {process.returncode}: {process.args!r}")
        try:
            with direct.open(url, timeout=5) as answer:
                if json.load(answer).get("status") == "ok":
                    return
        except (OSError, urllib.error.URLError, ValueError):
            time.sleep(0.2)
    raise UnavailableError(f"the server did not start within {_START_SECONDS} s")


def _environment(*packages: Path) -> dict[str, str]:
    paths = [str(path) for path in packages] + [os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
