"""Vectors that another tool made, read from its files (docs/vectors.md): what each layer has, as it stands there.

Read are safetensors (ours, saklas'; SAE decoder rows of a SAELens folder), GGUF control vectors (repeng, llama.cpp),
`.pt` tensors and dicts (hotwire-vllm, trait-interp, lm-eval, steering-vectors) and folders of `layerN.pt`. No code in a
file ever runs."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from massact.errors import DataError, lfs_advice
from massact.labels import format_layers
from massact.models.support import require

_NUMBERED = re.compile(r"(?:direction|layers?|blocks?|h)?[._]?(\d{1,5})(?:[._](?:basis|vector))?", re.ASCII)
_IN_FOLDER = re.compile(r"layer_?(\d{1,5})\.pt", re.ASCII)
_IN_HOOK = re.compile(r"blocks\.(\d{1,5})\.hook_resid_post", re.ASCII)
_READ = "safetensors, .gguf, .pt and .pth files, folders of layerN.pt, and SAELens folders with `index`"


_UNREADABLE = (OSError, SafetensorError, UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError)
"""What the libraries raise at files that are damaged or hold something else."""


@dataclass
class _SteeringVector:
    """What steering-vectors saves with `torch.save`; its own class is not needed, and none of its code runs."""

    layer_activations: Mapping[int, torch.Tensor]
    layer_type: str = "decoder_block"


def read_vectors(path: Path, *, layer: int | None = None, index: int | None = None) -> dict[int, torch.Tensor]:
    """The vectors `[d_model]` in a file or folder, float32, by layer (decoder blocks from 0), lengths as they are.
    `layer`: of a file that holds one vector and does not say of which layer. `index`: of a folder with a sparse
    autoencoder: which decoder row.
    Raises DataError: it cannot be read, or does not say which vector is of which layer."""
    try:
        found = _read(path, index)
        if isinstance(found, torch.Tensor) and found.ndim == 2:
            found = dict(enumerate(found))
        told: Iterable[tuple[int | None, torch.Tensor]]
        told = [(layer, found)] if isinstance(found, torch.Tensor) else found.items()
        read = {number: _real(tensor) for number, tensor in told}
    except _UNREADABLE as error:
        raise DataError(f"{path}: no vectors can be read from it ({_reason(path, error)})") from error
    vectors = {number: vector for number, vector in read.items() if number is not None and vector.any()}
    if None in read:
        raise DataError(f"{path}: one vector, and nothing says of which layer: write `layer: N`, or --layer N")
    if layer is not None and vectors and [*vectors] != [layer]:
        of = format_layers(sorted(vectors))
        raise DataError(f"{path}: it says itself that it is of layers {of}, not {layer}: leave out `layer`, or --layer")
    shapes = {tuple(vector.shape) for vector in vectors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise DataError(f"{path}: not vectors [d_model] of one length: {', '.join(map(str, sorted(shapes))) or 'none'}")
    return vectors


def _read(path: Path, index: int | None) -> torch.Tensor | dict[int, torch.Tensor]:
    if path.is_dir():
        return _decoder_row(path, index) if index is not None else _folder(path)
    if index is not None:
        raise ValueError("`index` names a row of a SAELens folder, and this is none")
    readers = {".safetensors": _safetensors, ".gguf": _gguf, ".pt": _of_torch, ".pth": _of_torch}
    if path.suffix not in readers:
        raise ValueError(f"read are {_READ}")
    return readers[path.suffix](path)


def _safetensors(path: Path) -> torch.Tensor | dict[int, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        names, facts = list(file.keys()), file.metadata() or {}
        if names == ["vector"]:
            vector = file.get_tensor("vector")
            return {int(facts["layer"]): vector} if "layer" in facts else vector
        if names == ["vectors"]:
            every: torch.Tensor = file.get_tensor("vectors")
            return every
        if bases := [name for name in names if name.endswith(".basis")]:  # of saklas; `.mean` only centers activations
            rows = {number: file.get_tensor(name) for name, number in _numbers(bases).items()}
            if any(name.endswith(".node_params") for name in names) or any(len(row) != 1 for row in rows.values()):
                raise ValueError("a manifold that is curved or of several directions, not one direction for each layer")
            return {number: row[0] for number, row in rows.items()}
        return {number: file.get_tensor(name) for name, number in _numbers(names).items()}


def _gguf(path: Path) -> dict[int, torch.Tensor]:
    require("gguf", "gguf", f"{path}: a GGUF control vector")
    from gguf import GGUFReader

    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    numbers = _numbers([name for name in tensors if name.startswith("direction.")])
    return {number: torch.from_numpy(tensors[name].data.copy()) for name, number in numbers.items()}


def _folder(path: Path) -> dict[int, torch.Tensor]:
    files = {match: file for file in sorted(path.iterdir()) if (match := _IN_FOLDER.fullmatch(file.name))}
    if not files:
        raise ValueError(f"no layerN.pt in this folder; read are {_READ}")
    return {int(match[1]): _tensor(_load(file)) for match, file in files.items()}


def _decoder_row(path: Path, index: int) -> torch.Tensor | dict[int, torch.Tensor]:
    """A row of `W_dec` `[n_features, d_model]` of a sparse autoencoder on a block's output, as SAELens saves one."""
    config = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
    with safe_open(path / "sae_weights.safetensors", framework="pt") as file:
        rows = file.get_slice("W_dec")
        n_rows = rows.get_shape()[0]
        if not 0 <= index < n_rows:
            raise ValueError(f"index {index}: it has the features 0 to {n_rows - 1}")
        row: torch.Tensor = rows[index : index + 1][0]
    name = str(config.get("hook_name") or config.get("metadata", {}).get("hook_name", ""))
    hook = _IN_HOOK.fullmatch(name)
    if name and hook is None:
        raise ValueError(f"it is of {name}, not of a decoder block's output (blocks.N.hook_resid_post)")
    return row if hook is None else {int(hook[1]): row}


def _load(path: Path) -> Any:
    stand_in = (_SteeringVector, "steering_vectors.steering_vector.SteeringVector")
    with torch.serialization.safe_globals([stand_in]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _of_torch(path: Path) -> torch.Tensor | dict[int, torch.Tensor]:
    value = _load(path)
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, _SteeringVector):
        if value.layer_type != "decoder_block":
            raise ValueError(f"it steers {value.layer_type}, not decoder blocks")
        value = value.layer_activations
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"it holds a {type(value).__name__}, not vectors")
    return {number: _tensor(value[name]) for name, number in _numbers(list(value)).items()}


def _real(vector: torch.Tensor) -> torch.Tensor:
    if vector.is_complex() or not (dense := vector.to_dense().float()).isfinite().all():
        raise ValueError("it holds numbers that are not real or not finite")
    return dense


def _tensor(value: Any) -> torch.Tensor:
    """A vector, or what lm-eval keeps of one: vector, coefficient and action."""
    if isinstance(value, Mapping):
        vector, coefficient = value.get("steering_vector"), value.get("steering_coefficient", 1.0)
        if value.get("action") != "add" or value.get("head_index") is not None:
            raise ValueError("it clamps, or steers one attention head: only what is added to a block's output is read")
        if not isinstance(vector, torch.Tensor) or not isinstance(coefficient, int | float | torch.Tensor):
            raise TypeError("it has no steering_vector, or a steering_coefficient that is no number")
        value = vector * coefficient
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"it holds a {type(value).__name__}, not a vector")
    return value


def _numbers(names: list[Any]) -> dict[Any, int]:
    """The layer that each name stands for."""
    matches = {name: _NUMBERED.fullmatch(str(name).removeprefix("model.")) for name in names}
    if not matches or None in matches.values():
        unknown = [str(name) for name, match in matches.items() if match is None]
        raise ValueError(
            f"which layer is {', '.join(unknown[:3]) or 'it of'}? Names are such as layer_5 or direction.5"
        )
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    if len(set(numbers.values())) < len(numbers):
        raise ValueError("two of its tensors are of one layer")
    return numbers


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "there is no such file"
    for member in filter(Path.is_file, path.iterdir() if path.is_dir() else [path]):
        with member.open("rb") as file:
            if advice := lfs_advice(file.read(100)):
                return f"{member.name}: {advice}"
    if isinstance(error, UnpicklingError):
        return "it is damaged, or holds objects whose code would have to run; save plain tensors"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
