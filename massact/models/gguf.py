"""GGUF files, as llama.cpp and Ollama keep models: dequantised once into a folder that is loaded as any other.

transformers parses a file's vocabulary anew for its configuration, its tokenizer and its weights, seconds each. So the
first two are kept, by the file's digest, when it is first named, and the weights, by dtype, when they are first loaded.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from massact.errors import ModelError, lfs_advice
from massact.models.support import require

_MAGIC = b"GGUF"
_LINK = "model.gguf"
_QUANTIZATION = "quantization"
_INSTEAD = "Give the safetensors checkpoint that it was made from"
_DTYPES = {"F16": "float16", "BF16": "bfloat16"}
"""Of files that are not quantised; `auto` dequantises all others to float32, in which they keep their scales."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file, and what it says of its model."""

    path: Path
    digest: str  # SHA-256, in hex
    folder: Path  # its configuration, tokenizer and chat template, as transformers saves them

    @property
    def quantization(self) -> str:
        """How its weights are kept, such as `Q4_1`."""
        return (self.folder / _QUANTIZATION).read_text(encoding="utf-8")

    def dequantized(self, auto: Any, dtype: str) -> Path:
        """The folder of the whole model in a dtype, made where it is not there yet. `auto`: the class of transformers
        that loads it, such as `AutoModelForCausalLM`. Raises ModelError: the file lacks weights."""
        release = self.folder.name
        return _made(
            self.folder.with_name(f"{release}-{dtype}"), lambda folder: self._write_weights(auto, dtype, folder)
        )

    def _write_weights(self, auto: Any, dtype: str, folder: Path) -> None:
        import torch
        import transformers

        packed = getattr(transformers, "GgufConfig", None)  # of newer releases, which may keep weights packed
        arguments = {} if packed is None else {"quantization_config": packed(dequantize=True)}
        model, report = _ask(self.path, auto, dtype=getattr(torch, dtype), output_loading_info=True, **arguments)
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"{self.path}: {len(missing)} weights of {type(model).__name__} are not in this GGUF file, such as "
                f"{', '.join(missing[:3])}. {_INSTEAD}"
            )
        # transformers 5.23 takes what it has dequantised for quantised still, and refuses to save it
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        model.save_pretrained(folder)


def read_gguf(path: Path, digest: str) -> GgufFile:
    """What a GGUF file says of its model; its weights are not read. `digest`: SHA-256 of the file, in hex. Raises
    ModelError: it is none, is damaged, split or of an architecture that transformers does not read from GGUF."""
    with path.open("rb") as file:
        begin = file.read(100)
    if not begin.startswith(_MAGIC):
        advice = lfs_advice(begin) or "give a GGUF file, a folder with config.json and weights, or a hub id"
        raise ModelError(f"{path}: no GGUF file; {advice}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # another release of transformers may read the same file in another way
    folder = cache / "massact/gguf" / digest / version("transformers")
    return GgufFile(path, digest, _made(folder, lambda made: _write_description(path, made)))


def _made(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder that is whole or not there, whoever else makes it at the same time."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            made = Path(partial, folder.name)
            made.mkdir()
            write(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder


def _write_description(path: Path, folder: Path) -> None:
    header = _header(path)
    quantization = _check_header(path, header)
    config = _ask(path, "AutoConfig")
    _check_rotary(path, header, config)
    config.dtype = _DTYPES.get(quantization, "float32")
    config.save_pretrained(folder)
    _ask(path, "AutoTokenizer").save_pretrained(folder)
    (folder / _QUANTIZATION).write_text(quantization, encoding="utf-8")


def _header(path: Path) -> Any:
    for package in ("gguf", "accelerate"):
        require(package, "gguf", f"{path}: a GGUF model")
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # numpy's and Python's own, by where the file ends
        raise ModelError(
            f"{path}: this GGUF file is damaged or cut off ({type(error).__name__}: {error}); get it again"
        ) from error


def _check_header(path: Path, header: Any) -> str:
    """How the weights are kept. Raises ModelError: the file is one of several that make up a model."""
    from gguf import LlamaFileType

    if (parts := _field(header, "split.count") or 1) > 1:
        raise ModelError(
            f"{path}: this GGUF model is split into {parts} files; join them first: llama-gguf-split --merge "
            "FIRST-FILE JOINED-FILE"
        )
    kind = _field(header, "general.file_type")
    if kind in list(LlamaFileType):
        return LlamaFileType(kind).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    return str(max(header.tensors, key=lambda tensor: tensor.n_elements).tensor_type.name)


def _check_rotary(path: Path, header: Any, config: Any) -> None:
    """Refuse rotary embeddings that are scaled, of which transformers takes no notice: it would be another model.
    Raises ModelError: they are."""
    scaling = _field(header, f"{_field(header, 'general.architecture')}.rope.scaling.type")
    is_scaled = scaling not in (None, "none") or any(tensor.name.startswith("rope_f") for tensor in header.tensors)
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    if is_scaled and rope.get("rope_type", "default") == "default":
        raise ModelError(
            f"{path}: this GGUF file scales its rotary embeddings (as Llama 3.1 does), which transformers "
            f"{version('transformers')} does not read from GGUF: it would compute another model. {_INSTEAD}"
        )


def _field(header: Any, name: str) -> Any:
    field = header.get_field(name)
    return None if field is None else field.contents()


def _ask(path: Path, kind: str | Any, **arguments: Any) -> Any:
    """What transformers makes of a file alone, without others that lie beside it."""
    import transformers

    loader = getattr(transformers, kind) if isinstance(kind, str) else kind
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, _LINK).symlink_to(path.absolute())
        try:
            return loader.from_pretrained(folder, gguf_file=_LINK, **arguments)
        except Exception as error:  # what it does not know of a file comes as many types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ModelError(
                f"{path}: transformers {transformers.__version__} cannot read this GGUF file: {reason}. {_INSTEAD}, or "
                "another release of transformers"
            ) from error
