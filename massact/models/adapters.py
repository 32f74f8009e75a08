"""LoRA adapters of peft, kept beside the weights.

An adapter is not merged: in bfloat16 merging rounds what was trained away, and quantised weights cannot
take it at all. peft puts its layers in the place of the model's linear ones, and the model's own class,
its decoder blocks and its cache stay what they are.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from massact.config import AdapterConfig
from massact.errors import ModelError
from massact.json_text import parse_object
from massact.models.source import check_pointers, digest_files, hub_file, others_digest, require

_CONFIG, _WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_LONGEST = 200
"""Characters of peft's reason that are shown: it lists every weight."""


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """An adapter that is there."""

    source: str
    """Folder or hub id."""
    commit: str | None
    """Of a hub repository."""
    identity: str
    """Digest of a folder's files, or `id@commit`: part of the model's revision."""


def find_adapter(adapter: AdapterConfig) -> FoundAdapter:
    """Where an adapter is and what identifies it; nothing but its configuration is read.

    Raises:
        ModelError: there is none, or it is no LoRA.
    """
    folder = Path(adapter.reference).expanduser()
    if folder.is_dir():
        check_pointers(folder)
        weights = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
        if not (folder / _CONFIG).is_file() or not weights:
            raise ModelError(
                f"{adapter.reference}: no adapter in this folder; peft saves {_CONFIG} and {_WEIGHTS[0]}"
            )
        _check_kind(adapter.reference, folder / _CONFIG)
        identity = digest_files([folder / _CONFIG, weights[0]], folder) + others_digest(folder)
        return FoundAdapter(str(folder), None, identity)
    if adapter.reference.startswith((".", "/", "~")):
        raise ModelError(
            f"{adapter.reference}: no such folder; give an adapter's folder as peft saves it, or a hub id"
        )
    path = hub_file(adapter.reference, _CONFIG, adapter.revision)
    _check_kind(adapter.reference, path)
    commit = path.parent.name
    return FoundAdapter(adapter.reference, commit, f"{adapter.reference}@{commit}")


def attach(model: Any, adapter: FoundAdapter) -> Any:
    """The model with the adapter's layers in it; still of its own class.

    Raises:
        ModelError: peft is not installed, or the adapter was trained on another model.
    """
    require("peft", "adapters", "an adapter")
    from peft import PeftModel
    from safetensors import SafetensorError

    revision: dict[str, Any] = {} if adapter.commit is None else {"revision": adapter.commit}
    try:
        with warnings.catch_warnings():
            # peft only warns of layers for which the file has no weights, and they do nothing
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            wrapped = PeftModel.from_pretrained(model, adapter.source, **revision)
    except UnpicklingError as error:
        raise ModelError(
            f"adapter {adapter.source!r}: its weights file (*.bin) holds more than tensors and is not opened. Use a "
            "revision with safetensors, or convert the file where you trust it"
        ) from error
    except SafetensorError as error:
        raise ModelError(
            f"adapter {adapter.source!r}: {_WEIGHTS[0]} is no readable safetensors file ({error}): it is damaged, cut "
            "off or of another kind; get it again"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, EOFError, UserWarning) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        shown = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}…"
        raise ModelError(
            f"adapter {adapter.source!r} does not fit {type(model).__name__}: {shown} Give the model that it was "
            "trained on"
        ) from error
    return wrapped.get_base_model()


def _check_kind(reference: str, path: Path) -> None:
    try:
        kind = parse_object(path.read_bytes(), allow_nan=True).get("peft_type")
    except (OSError, ValueError) as error:
        raise ModelError(f"{reference}: no readable {_CONFIG} ({error})") from error
    if kind != "LORA":
        raise ModelError(f"{reference}: an adapter of type {kind}; only LORA can be loaded")
