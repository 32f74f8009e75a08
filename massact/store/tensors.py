"""Tensors as files: safetensors, read without torch, and what `torch.load` reads, written with it."""

import io
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from massact.errors import DataError, lfs_advice


def read_tensor(path: Path, name: str, framework: Literal["pt", "np"] = "pt") -> Any:
    """One tensor of a safetensors file, as torch's or as numpy's. Raises DataError: the file is missing, damaged, or
    holds no such tensor."""
    try:
        with safe_open(path, framework=framework) as file:
            return file.get_tensor(name)
    except (OSError, SafetensorError, TypeError, AttributeError) as error:  # the last two: numpy has no such numbers
        reason = _other_format(path) or error
        raise DataError(f"{path}: not a readable safetensors file with {name!r} ({reason})") from error


def _other_format(path: Path) -> str | None:
    """What a file is that is not opened, whatever its name: reading it could run what is in it."""
    try:
        with path.open("rb") as file:
            begin = file.read(100)
    except OSError:
        return None
    if advice := lfs_advice(begin):
        return advice
    kinds = {b"\x80": "a pickle", b"PK": "a zip archive, as torch.save and numpy write", b"\x93NUMPY": "a numpy file"}
    found = next((kind for magic, kind in kinds.items() if begin.startswith(magic)), None)
    return found and f"it is {found}: only safetensors are opened"


def torch_file(values: bytes) -> bytes:
    """A vector, given as its float32 in memory, as `torch.save` writes a tensor `[n]`: for programs that read nothing
    else."""
    import torch

    file = io.BytesIO()
    torch.save(torch.frombuffer(bytearray(values), dtype=torch.float32), file)
    return file.getvalue()
