"""Tensors as files, without torch: safetensors read, and what `torch.load` reads written."""

import io
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile, ZipInfo

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


_PICKLE = (
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
    b"J%btQK\0J%b\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR."
)
"""A tensor of one dim: its storage, where it begins in it, its shape and stride; `%b` is how many numbers."""


def torch_file(values: bytes) -> bytes:
    """A vector, given as its float32 in memory, as `torch.save` writes a tensor `[n]`: for programs that read nothing
    else."""
    before, between, behind, end = _torch_parts(len(values) // 4)
    check = zlib.crc32(values).to_bytes(4, "little")
    return b"".join((before, check, between, values, behind, check, end))


@lru_cache(maxsize=8)
def _torch_parts(n: int) -> tuple[bytes, bytes, bytes, bytes]:
    """What stands around the checksum, the numbers and the checksum again in a file of n numbers."""
    file, count, numbers = io.BytesIO(), struct.pack("<i", n), ZipInfo("archive/data/0")
    with ZipFile(file, "w") as archive:
        archive.writestr(ZipInfo("archive/data.pkl"), _PICKLE % (count, count))
        archive.writestr(ZipInfo("archive/byteorder"), "little")
        archive.writestr(ZipInfo("archive/version"), "3\n")
        archive.writestr(numbers, bytes(4 * n))
    content, check = file.getvalue(), numbers.header_offset + 14
    data, again = check + 16 + len(numbers.filename), content.rindex(b"PK\1\2") + 16
    return content[:check], content[check + 4 : data], content[data + 4 * n : again], content[again + 4 :]
