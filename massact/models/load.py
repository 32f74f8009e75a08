"""Loading a model: an embedded toy, a local folder or a hub id, and what identifies it."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from massact.domain import ModelIdentity
from massact.errors import ModelError
from massact.keys import digest
from massact.models.blocks import find_decoder_blocks, text_config
from massact.toy import is_toy, resolve

_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's configuration tells before its weights are loaded."""

    n_layers: int
    d_model: int


@dataclass(frozen=True)
class SteerableModel:
    """A causal language model with its tokenizer and decoder blocks, in evaluation mode."""

    model: Any
    tokenizer: Any
    identity: ModelIdentity

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """Decoder blocks, layer 0 first."""
        return find_decoder_blocks(self.model)

    @property
    def shape(self) -> ModelShape:
        return ModelShape(len(self.blocks), int(text_config(self.model).hidden_size))

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @cached_property
    def chat_template_digest(self) -> str:
        """Digest of the chat template, or of its absence."""
        return digest({"chat_template": self.tokenizer.chat_template})

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end a response."""
        ids = self.model.generation_config.eos_token_id
        ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
        own = self.tokenizer.eos_token_id
        return frozenset([*ids, *([] if own is None else [own])])


def read_shape(reference: str, revision: str | None = None) -> ModelShape:
    """Number of layers and width, from the configuration alone.

    Raises:
        ModelError: there is no such model, or its configuration does not tell.
    """
    folder = find_folder(reference)
    if folder is not None:
        try:
            document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{reference}: no readable config.json in {folder} ({error})") from error
        document = document.get("text_config", document)
        try:
            return ModelShape(int(document["num_hidden_layers"]), int(document["hidden_size"]))
        except KeyError:
            pass  # an architecture with other names for them: transformers knows them
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder or reference), revision=revision).get_text_config(
            decoder=True
        )
    except (OSError, ValueError) as error:
        raise not_found(reference, error) from error
    return ModelShape(int(config.num_hidden_layers), int(config.hidden_size))


def load_model(reference: str, *, revision: str | None, dtype: str, device: str) -> SteerableModel:
    """Load a model for steering.

    Args:
        reference: hub id, local folder or `toy:<name>`.
        revision: commit, tag or branch of a hub repository.
        dtype: `auto` (the checkpoint's), `float32`, `bfloat16` or `float16`.
        device: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ModelError: it cannot be found, is no causal language model, or the device is not there.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = find_folder(reference)
    source = str(folder or reference)
    target = _device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype="auto" if dtype == "auto" else getattr(torch, dtype)
        )
    except (OSError, ValueError) as error:
        raise not_found(reference, error) from error
    model = model.to(target).eval().requires_grad_(False)
    found = getattr(model.config, "_commit_hash", None)
    identity = identify(
        reference, commit=found, revision=revision, dtype=str(model.dtype).removeprefix("torch.")
    )
    loaded = SteerableModel(model, tokenizer, identity)
    find_decoder_blocks(model)
    return loaded


def identify(reference: str, *, commit: str | None, revision: str | None, dtype: str) -> ModelIdentity:
    """What identifies a model that is computed with in a dtype.

    Args:
        commit: of a hub repository, as transformers found it.
        revision: as it was asked for.
    """
    folder = find_folder(reference)
    return ModelIdentity(
        id=reference if folder is None or is_toy(reference) else folder.name,
        revision=weights_digest(folder) if folder is not None else str(commit or revision or "unknown"),
        dtype=dtype,
    )


def weights_digest(folder: Path) -> str:
    """SHA-256, in hex, of a folder's weights and configuration, file names included."""
    files = sorted(path for pattern in (*_WEIGHTS, "config.json") for path in folder.glob(pattern))
    if not files:
        raise ModelError(f"{folder}: no weights (*.safetensors) in this folder")
    return _digest_of(tuple((path, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files))


@lru_cache(maxsize=16)
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    # a plan asks for it and so does loading: gigabytes need not be read twice while they stay as they are
    total = hashlib.sha256()
    for path, _size, _changed in files:
        with path.open("rb") as stream:
            total.update(f"{path.name}:{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def find_folder(reference: str) -> Path | None:
    """The folder of a toy or of a local model; `None` for a hub id.

    Raises:
        ModelError: the reference is a path, and there is no such folder.
    """
    if is_toy(reference):
        return resolve(reference)
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if reference.startswith((".", "/", "~")):
        raise ModelError(
            f"{reference}: no such folder; give a folder with config.json and weights, or a hub id"
        )
    return None


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"device {device!r} cannot be used here ({reason}); write auto, cpu, cuda or cuda:N"
        ) from error
    return target


def not_found(reference: str, error: Exception) -> ModelError:
    """The error that says that a model cannot be loaded, and what to do."""
    reason = str(error).strip().splitlines()[0]
    return ModelError(
        f"model {reference!r} cannot be loaded: {reason} Give a hub id that you have access to (and, for a "
        "gated model, log in with `hf auth login`), or the path of a folder that holds its weights"
    )
