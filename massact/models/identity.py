"""What identifies a model, read without its weights in memory: enough to plan a sweep."""

import json
from dataclasses import dataclass
from pathlib import Path

from massact.config import AdapterConfig, LoadConfig
from massact.domain import ModelIdentity
from massact.errors import ModelError
from massact.keys import digest
from massact.models.adapters import find_adapter
from massact.models.load import ModelShape, SteerableModel, known_dtype, read_shape
from massact.models.source import find_commit, find_folder, identify, read_config, read_tokenizer

_DEFAULT = LoadConfig()
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


def read_description(
    reference: str,
    *,
    revision: str | None = None,
    adapter: AdapterConfig | None = None,
    options: LoadConfig = _DEFAULT,
) -> Description | None:
    """The description that a model will have when it is loaded; `None` where only its weights tell.

    Args:
        reference: hub id, local folder or `toy:<name>`.
        revision: commit, tag or branch of a hub repository.
        adapter: a LoRA adapter on it.
        options: as `load_model` takes them.

    Raises:
        ModelError: there is no such model, or it is no causal language model.
    """
    folder = find_folder(reference)
    found = find_adapter(adapter) if adapter is not None else None
    commit = find_commit(reference, revision)
    config = read_config(reference, revision=commit, options=options)
    tokenizer = read_tokenizer(reference, revision=commit, options=options)
    dtype = known_dtype(config, options) or _stored_dtype(folder)
    if dtype is None:
        return None
    identity = identify(
        reference,
        commit=commit,
        dtype=dtype,
        options=options,
        adapter=found.identity if found is not None else None,
    )
    shape = read_shape(reference, commit, options=options)
    return Description(identity, digest({"chat_template": tokenizer.chat_template}), shape)


def _stored_dtype(folder: Path | None) -> str | None:
    """The first float dtype in a checkpoint, which is what `auto` takes where the configuration has none."""
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
