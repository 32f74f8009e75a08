"""What identifies a model, read without its weights in memory: enough to plan a sweep."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from massact.domain import ModelIdentity
from massact.errors import ModelError
from massact.keys import digest
from massact.models.load import ModelShape, SteerableModel, find_folder, identify, not_found, read_shape

_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names of dtypes in the header of a safetensors file, and torch's."""


@dataclass(frozen=True, slots=True)
class Description:
    """What of a model goes into the keys of its cells."""

    identity: ModelIdentity
    chat_template_digest: str
    shape: ModelShape


def describe(model: SteerableModel) -> Description:
    """The description of a model that is loaded."""
    return Description(model.identity, model.chat_template_digest, model.shape)


def read_description(reference: str, *, revision: str | None, dtype: str) -> Description | None:
    """The description that a model will have when it is loaded; `None` where only its weights tell.

    Args:
        reference: hub id, local folder or `toy:<name>`.
        revision: commit, tag or branch of a hub repository.
        dtype: as `load_model` takes it.

    Raises:
        ModelError: there is no such model.
    """
    from transformers import AutoConfig, AutoTokenizer

    folder = find_folder(reference)
    source = str(folder or reference)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise not_found(reference, error) from error
    found = _dtype(config, folder) if dtype == "auto" else dtype
    if found is None:
        return None
    commit = getattr(config, "_commit_hash", None)
    identity = identify(reference, commit=commit, revision=revision, dtype=found)
    return Description(
        identity, digest({"chat_template": tokenizer.chat_template}), read_shape(reference, revision)
    )


def _dtype(config: Any, folder: Path | None) -> str | None:
    """What `auto` comes to: the configuration's dtype, else the first float one in the checkpoint."""
    declared = getattr(config, "dtype", None)
    if declared is not None:
        return str(declared).removeprefix("torch.")
    files = sorted(folder.glob("*.safetensors")) if folder is not None else []
    return _first_float(files[0]) if files else None


def _first_float(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            dtypes = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    return next((_FLOATS[one] for one in dtypes if one in _FLOATS), None)
