"""Where a model comes from: its folder or hub id, its configuration and tokenizer, and what identifies it."""

import hashlib
import inspect
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from massact.config import AdapterConfig, LoadConfig
from massact.domain import ModelIdentity
from massact.errors import ModelError, lfs_advice
from massact.json_text import parse_object
from massact.models.gguf import GgufFile, read_gguf
from massact.models.support import check_config, require
from massact.toy import is_toy, resolve

_WEIGHTS = ("*.safetensors", "*.bin")
_TEXT = (
    "*.json",  # generation settings, tokenizers, their templates, indices of shards
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.model",
    "*.model.v*",  # Mistral's
    "*.spm",
    "*.tiktoken",
    "*vocab*",
    "merges.txt",
)
"""What beside weights and configuration decides which tokens a prompt is and where a response ends."""
_TRAINING = re.compile(
    r"(trainer_state|.*_results|(pre|image_|video_)*processor_config)\.json|(training_args|optimizer|scheduler).*\.bin"
)
"""What lies among these files and decides nothing about texts."""
_ADAPTER_CONFIG = "adapter_config.json"
_GGUF = ".gguf"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's files are."""

    reference: str
    folder: Path | None  # of a toy, of a local model, or made of a GGUF file; `None`: a hub repository
    commit: str | None = None  # of the hub repository: everything is read from it, and it identifies the model
    gguf: GgufFile | None = None

    @property
    def place(self) -> str:
        """What transformers takes."""
        return str(self.folder or self.reference)


def find_source(reference: str, revision: str | None = None) -> Source:
    """Find a model. Raises ModelError: there is no such folder, hub repository or revision, it cannot be reached, or it
    is an adapter."""
    if is_toy(reference):
        return Source(reference, resolve(reference))
    if (file := find_gguf(reference, revision)) is not None:
        return Source(reference, file.folder, gguf=file)
    path = Path(reference).expanduser()
    if path.is_dir():
        if (path / _ADAPTER_CONFIG).is_file():
            raise ModelError(
                f"{reference}: this folder holds an adapter ({_ADAPTER_CONFIG}); give the model that it was trained on "
                "as `model`, and the folder as `adapter`"
            )
        check_pointers(path)
        return Source(reference, path)
    if reference.startswith((".", "/", "~")) or reference.endswith(_GGUF):
        raise ModelError(
            f"{reference}: no such folder or file; give a folder with config.json and weights, a GGUF file, a hub id, "
            "or REPOSITORY:FILE.gguf of the hub"
        )
    # the hub's cache keeps each commit in a folder of its name; transformers tells it in some releases only
    return Source(reference, None, hub_file(reference, "config.json", revision).parent.name)


def find_gguf(reference: str, revision: str | None = None) -> GgufFile | None:
    """The GGUF file of a model: a file, one in a folder without other weights, or `REPOSITORY:FILE.gguf` of the hub.
    Raises ModelError: it cannot be read, or a folder holds several."""
    path = Path(reference).expanduser()
    if path.is_dir():
        files = sorted(path.glob(f"*{_GGUF}"))
        if not files or any(file for pattern in _WEIGHTS for file in path.glob(pattern)):
            return None
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ModelError(f"{reference}: several GGUF files ({names}); give one, such as {files[0]}")
        path = files[0]
    elif not path.is_file():
        repository, _, name = reference.rpartition(":")
        if not repository or not name.endswith(_GGUF):
            return None
        path = hub_file(repository, name, revision)
    return read_gguf(path, _digest_as_it_is(path))


def check_pointers(folder: Path) -> None:
    """Refuse a folder that was cloned without its large files. Raises ModelError: Git LFS left a pointer in place of
    one."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                if advice := lfs_advice(file.read(100)):
                    raise ModelError(f"{path}: {advice}")


def hub_file(repository: str, name: str, revision: str | None) -> Path:
    """A file of a hub repository, in the cache. Raises ModelError: there is no such file, or it cannot be reached."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except (OSError, ValueError) as error:
        raise cannot_load(repository, error) from error


def read_config(source: Source, options: LoadConfig) -> Any:
    """The configuration of a causal language model, as transformers reads it. Raises ModelError: there is none, or it
    is that of another kind of model."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            source.place, revision=source.commit, trust_remote_code=options.trust_remote_code
        )
    except Exception as error:  # each configuration fails in its own way at what is damaged
        raise cannot_load(source.reference, error) from error
    _check_causal(source.reference, config)
    return config


def read_tokenizer(source: Source, options: LoadConfig) -> Any:
    """The tokenizer that lies beside a model's weights. Raises ModelError: there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            source.place, revision=source.commit, trust_remote_code=options.trust_remote_code
        )
    except Exception as error:  # each tokenizer class fails in its own way on a file that is missing or damaged
        raise _no_tokenizer(source.reference, _reason(error)) from error
    words = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys()
    if not words - set(tokenizer.all_special_tokens):  # what some classes make of no file at all
        raise _no_tokenizer(source.reference, "It has no vocabulary.")
    return tokenizer


def _no_tokenizer(reference: str, reason: str) -> ModelError:
    return ModelError(
        f"{reference}: its tokenizer cannot be loaded. {reason} A model needs its tokenizer's files beside its weights "
        "(tokenizer.json and tokenizer_config.json, or a file that sentencepiece or tiktoken reads, with that package "
        "installed)"
    )


def auto_class(config: Any) -> Any:
    """The class of transformers that loads a model which reads and writes text; `None` where there is none. A model
    that sees images as well is loaded whole and given text alone."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return AutoModelForCausalLM
    kinds: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText)
    return next((kind for kind in kinds if type(config) in kind._model_mapping), None)


def _check_causal(reference: str, config: Any) -> None:
    """Refuse what would load as a causal language model, or fail with a riddle, but is none."""
    name = type(config).__name__.removesuffix("Config")
    if getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder"
    elif (loader := auto_class(config)) is None:
        kind = "a kind that transformers has no causal language model for"
    elif "is_decoder" in inspect.signature(type(config)).parameters and not config.is_decoder:
        kind = "an encoder, whose tokens see those after them"
    else:
        check_config(reference, config, loader)
        return
    raise ModelError(
        f"{reference}: {name} is {kind}; massact steers causal language models, such as Gemma, Llama or Qwen"
    )


def identify(source: Source, *, dtype: str, options: LoadConfig, adapter: str | None) -> ModelIdentity:
    """What identifies a model that is computed with in a dtype. `dtype`: of the weights that are not quantised.
    `adapter`: identity of the adapter on it, if there is one."""
    if source.gguf is not None:
        name, revision = source.gguf.path.stem, source.gguf.digest
        dtype = f"{dtype}+{source.gguf.quantization}"
    elif source.folder is None:
        name, revision = source.reference, str(source.commit)
    else:
        name = source.reference if is_toy(source.reference) else source.folder.name
        revision = weights_digest(source.folder, with_code=options.trust_remote_code)
        if not is_toy(source.reference):  # those are what they were when their keys were made
            revision += others_digest(source.folder)
    revision += "" if adapter is None else f"+adapter:{adapter}"
    return ModelIdentity(name, revision, dtype if options.quantization is None else f"{dtype}+{options.quantization}")


def weights_digest(folder: Path, *, with_code: bool = False) -> str:
    """SHA-256, in hex, of a folder's weights and configuration, file names included. `with_code`: also of its Python
    files, which decide the outcome where they may run. Raises ModelError: there are no weights."""
    files = _files(folder, (*_WEIGHTS, "config.json"))
    if not any(path.match(pattern) for path in files for pattern in _WEIGHTS):
        raise ModelError(f"{folder}: no weights (*.safetensors) in this folder")
    if with_code:
        files = sorted({*files, *folder.rglob("*.py")})
    return digest_files(files, folder)


def others_digest(folder: Path) -> str:
    """`+files:` and the digest of a folder's other files that decide what is read and where a response ends. Empty
    where there are none: an adapter seldom has any."""
    files = _files(folder, _TEXT, but=("config.json", _ADAPTER_CONFIG))
    return f"+files:{digest_files(files, folder)}" if files else ""


def _files(folder: Path, patterns: tuple[str, ...], but: tuple[str, ...] = ()) -> list[Path]:
    seen = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in seen if path.name not in but and not _TRAINING.fullmatch(path.name))


def digest_files(files: list[Path], folder: Path) -> str:
    """SHA-256, in hex, of files of a folder and their names in it."""
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(folder).as_posix()}:{_digest_as_it_is(path)}\n".encode())
    return total.hexdigest()


def _digest_as_it_is(path: Path) -> str:
    stat = path.stat()
    return _digest_of(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=512)
def _digest_of(path: Path, *_as_it_is: int) -> str:
    # a plan asks for it and so does loading: gigabytes need not be read twice while they stay as they are
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cannot_load(reference: str, error: Exception) -> ModelError:
    """The error that says that a model cannot be loaded, and what to do."""
    reason = _reason(error)
    if "trust_remote_code" in str(error):
        advice = (
            "It comes with Python code of its own: read that code, then write `trust_remote_code: true` beside the "
            "model's layers if you want it to run"
        )
        reason = ""
    elif isinstance(error, UnpicklingError):
        reason = "a weights file of it (*.bin) holds more than tensors and is not opened."
        advice = "Use a revision with safetensors, or convert the file where you trust it"
    elif isinstance(error, OSError):
        advice = (
            "Give a hub id that you have access to (and, for a gated model, log in with `hf auth login`), or the path "
            "of a folder that holds its weights"
        )
    else:
        advice = "Check its files and the options that it is loaded with (docs/models.md)"
    return ModelError(f"model {reference!r} cannot be loaded: {reason} {advice}".replace("  ", " "))


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # what ends with a colon is a heading: of a configuration's field, then what is wrong with it
    text = " ".join(map(str.strip, lines[: 1 + lines[0].endswith(":")]))
    return text.rstrip(" :,") + ("" if text.endswith((".", "!", "?")) else ".")


# LoRA adapters of peft are kept beside the weights, not merged: in bfloat16 merging rounds what was trained away, and
# quantised weights cannot take it at all. peft puts its layers in the place of the model's linear ones, and the model's
# own class, its decoder blocks and its cache stay what they are.

_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_LONGEST = 200  # characters of peft's reason that are shown: it lists every weight


@dataclass(frozen=True, slots=True)
class FoundAdapter:
    """An adapter that is there."""

    source: str  # folder or hub id
    commit: str | None  # of a hub repository
    identity: str  # digest of a folder's files, or `id@commit`: part of the model's revision


def find_adapter(adapter: AdapterConfig) -> FoundAdapter:
    """Where an adapter is and what identifies it; nothing but its configuration is read. Raises ModelError: there is
    none, or it is no LoRA."""
    folder = Path(adapter.reference).expanduser()
    if folder.is_dir():
        check_pointers(folder)
        weights = [folder / name for name in _ADAPTER_WEIGHTS if (folder / name).is_file()]
        if not (folder / _ADAPTER_CONFIG).is_file() or not weights:
            raise ModelError(
                f"{adapter.reference}: no adapter in this folder; peft saves {_ADAPTER_CONFIG} and "
                f"{_ADAPTER_WEIGHTS[0]}"
            )
        _check_kind(adapter.reference, folder / _ADAPTER_CONFIG)
        identity = digest_files([folder / _ADAPTER_CONFIG, weights[0]], folder) + others_digest(folder)
        return FoundAdapter(str(folder), None, identity)
    if adapter.reference.startswith((".", "/", "~")):
        raise ModelError(f"{adapter.reference}: no such folder; give an adapter's folder as peft saves it, or a hub id")
    path = hub_file(adapter.reference, _ADAPTER_CONFIG, adapter.revision)
    _check_kind(adapter.reference, path)
    commit = path.parent.name
    return FoundAdapter(adapter.reference, commit, f"{adapter.reference}@{commit}")


def attach(model: Any, adapter: FoundAdapter) -> Any:
    """The model with the adapter's layers in it; still of its own class. Raises ModelError: peft is not installed, or
    the adapter was trained on another model."""
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
            f"adapter {adapter.source!r}: {_ADAPTER_WEIGHTS[0]} is no readable safetensors file ({error}): it is "
            "damaged, cut off or of another kind; get it again"
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
        raise ModelError(f"{reference}: no readable {_ADAPTER_CONFIG} ({error})") from error
    if kind != "LORA":
        raise ModelError(f"{reference}: an adapter of type {kind}; only LORA can be loaded")
