"""Tensors and tables as files: safetensors with their provenance, MLflow's table format."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from massact.domain import Response
from massact.errors import DataError, lfs_advice
from massact.json_text import parse_json
from massact.vectors.activations import Activations

_COLUMNS = ("question", "response", "trait_score", "coherence_score", "unscored_because")


def tensor_bytes(tensors: Mapping[str, torch.Tensor], provenance: Mapping[str, object]) -> bytes:
    """Tensors as safetensors; the provenance goes into the header, as text."""
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = {key: str(value) for key, value in provenance.items() if value is not None}
    content: bytes = save(dense, metadata=header)
    return content


def read_tensor(path: Path, name: str) -> torch.Tensor:
    """One tensor of a safetensors file.

    Raises:
        DataError: the file is missing, damaged, or holds no such tensor.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor
    except (OSError, SafetensorError) as error:
        reason = _other_format(path) or error
        raise DataError(f"{path}: not a readable safetensors file with {name!r} ({reason})") from error


def torch_file(tensor: torch.Tensor) -> bytes:
    """A tensor as `torch.save` writes it, for programs that read nothing else; it holds no code to run."""
    file = io.BytesIO()
    torch.save(tensor.contiguous().clone(), file)
    return file.getvalue()


def _other_format(path: Path) -> str | None:
    """What a file is that is not opened, whatever its name: reading it could run what is in it."""
    try:
        with path.open("rb") as file:
            begin = file.read(100)
    except OSError:
        return None
    if advice := lfs_advice(begin):
        return advice
    kinds = {
        b"\x80": "a pickle",
        b"PK": "a zip archive, as torch.save and numpy write",
        b"\x93NUMPY": "a numpy file",
    }
    found = next((kind for magic, kind in kinds.items() if begin.startswith(magic)), None)
    return found and f"it is {found}: only safetensors are opened"


def activation_files(activations: Activations, metadata: Mapping[str, object]) -> dict[str, bytes]:
    """`train.safetensors`, `validation.safetensors` and `metadata.json`, for `read_activations`."""
    document = {
        **metadata,
        "n_examples_pos": activations.n_train_positive,
        "n_examples_neg": len(activations.train) - activations.n_train_positive,
        "n_validation_pos": activations.n_validation_positive,
        "n_validation_neg": len(activations.validation) - activations.n_validation_positive,
        "n_dropped": activations.n_dropped,
        "n_layers": activations.train.shape[1],
        "d_model": activations.train.shape[2],
        "dtype": "float32",
    }
    return {
        "train.safetensors": tensor_bytes({"activations": activations.train}, document),
        "validation.safetensors": tensor_bytes({"activations": activations.validation}, document),
        "metadata.json": f"{json.dumps(document, indent=2)}\n".encode(),
    }


def read_activations(folder: Path) -> Activations:
    """The activations in a folder of `activation_files`.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        metadata = parse_json((folder / "metadata.json").read_bytes())
        return Activations(
            train=read_tensor(folder / "train.safetensors", "activations"),
            validation=read_tensor(folder / "validation.safetensors", "activations"),
            n_train_positive=int(metadata["n_examples_pos"]),
            n_validation_positive=int(metadata["n_validation_pos"]),
            n_dropped=int(metadata["n_dropped"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not activations of ours ({error!r}); run massact extract") from error


def response_bytes(responses: Sequence[Response]) -> bytes:
    """Responses with their scores, in the format that MLflow's UI shows as a table."""
    data = [[r.question, r.response, r.trait, r.coherence, r.reason] for r in responses]
    return json.dumps({"columns": _COLUMNS, "data": data}, ensure_ascii=False).encode()


def _response(
    question: object, response: object, trait: object, coherence: object, reason: object
) -> Response:
    if not (isinstance(question, str) and isinstance(response, str) and isinstance(reason, str | None)):
        raise TypeError("a text of the wrong type")
    if not (isinstance(trait, int | float | None) and isinstance(coherence, int | float | None)):
        raise TypeError("a score of the wrong type")
    return Response(question, response, trait, coherence, reason)


def read_responses(path: Path) -> tuple[Response, ...]:
    """The responses of a table that `response_bytes` made.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        rows = parse_json(path.read_bytes())["data"]
        return tuple(_response(*row) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a table of responses ({error!r})") from error
