"""Loading a model for steering: an embedded toy, a local folder or a hub id, with its options and adapter."""

import json
import logging
import re
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from massact.config import AdapterConfig, ChatConfig, LoadConfig
from massact.domain import ModelIdentity
from massact.errors import ModelError
from massact.keys import digest
from massact.models.blocks import find_decoder_blocks
from massact.models.chat import Chat, read_chat
from massact.models.source import (
    FoundAdapter,
    Source,
    attach,
    auto_class,
    cannot_load,
    find_adapter,
    find_source,
    identify,
    read_config,
    read_tokenizer,
)
from massact.models.support import check_streams, require, sharing, sharing_of
from massact.names import shown
from massact.toy import is_toy

# What the options of loading (`massact.config.LoadConfig`) come to in transformers.


def loading_arguments(options: LoadConfig, config: Any, dtype: str | None) -> dict[str, Any]:
    """Keyword arguments for `from_pretrained`. `config`: the model's configuration. `dtype`: what `auto` comes to,
    where that is known before loading. Raises ModelError: a package or a device is not there, or the model cannot
    compute so."""
    arguments: dict[str, Any] = {
        "dtype": "auto" if options.dtype == "auto" else getattr(torch, options.dtype),
        "trust_remote_code": options.trust_remote_code,
    }
    attention = choose_attention(options.attention, config)
    if attention is not None:
        arguments["attn_implementation"] = attention
    if options.device_map is not None:
        require("accelerate", "devices", f"device_map: {options.device_map}")
        arguments["device_map"] = options.device_map
    if options.quantization is not None:
        arguments["quantization_config"] = _quantization(options.quantization, dtype)
        arguments.setdefault("device_map", {"": find_device(options.device)})
    return arguments


def find_device(device: str) -> torch.device:
    """The device of that name. Raises ModelError: it is not there."""
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


def choose_attention(asked: str, config: Any) -> str | None:
    """The attention implementation to ask transformers for; `None` leaves it to the model's class. A model that caps
    its attention scores (Gemma 2) never runs with `sdpa`, which cannot: some releases of transformers would let it, and
    compute another model without a word. Raises ModelError: `sdpa` was asked for on such a model."""
    cap = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    if cap is None:
        return None if asked == "auto" else asked
    if asked == "sdpa":
        raise ModelError(
            f"attention sdpa cannot cap attention scores, as {type(config).__name__} asks (attn_logit_softcapping: "
            f"{cap}); write auto or eager, or on a GPU flash_attention_2"
        )
    return "eager" if asked == "auto" else asked


def _quantization(bits: str, dtype: str | None) -> Any:
    require("bitsandbytes", "quantized", f"quantization: {bits}")
    require("accelerate", "quantized", f"quantization: {bits}")
    from transformers import BitsAndBytesConfig

    # it warns at every product of matrices that it takes its input to float16
    logging.getLogger("bitsandbytes.autograd").setLevel(logging.ERROR)
    config: Any = BitsAndBytesConfig
    if bits == "8bit":
        return config(load_in_8bit=True)
    compute = torch.bfloat16 if dtype is None else getattr(torch, dtype)
    return config(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


_DEFAULT = LoadConfig()


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's configuration tells before its weights are loaded."""

    n_layers: int
    d_model: int
    max_positions: int | None = field(default=None, compare=False)
    """Tokens that it was made to read at most, prompt and response together; `None`: its configuration does not say."""


@dataclass(frozen=True)
class SteerableModel:
    """A causal language model with its tokenizer and decoder blocks, in evaluation mode."""

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    asked: ChatConfig = _DEFAULT.chat  # how the experiment file has it asked

    @cached_property
    def chat(self) -> Chat:
        """How it is asked."""
        return read_chat(self.tokenizer, self.asked, self.identity.id)

    @cached_property
    def unasked_chat(self) -> Chat:
        """How it is asked where no experiment file says how, as a judge is: not to think where that can be said."""
        return read_chat(self.tokenizer, ChatConfig(), self.identity.id)

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """Decoder blocks, layer 0 first."""
        return find_decoder_blocks(self.model)

    @property
    def shape(self) -> ModelShape:
        return _shape(self.model.config, self.identity.id)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        embedding = self.model.get_input_embeddings()
        device: torch.device = embedding.weight.device
        if device.type == "meta":  # kept elsewhere by accelerate, which says where it computes
            return torch.device(embedding._hf_hook.execution_device)
        return device

    @property
    def attention(self) -> str:
        """How attention is computed, such as `eager` or `sdpa`. It is no part of the identity."""
        config = self.model.config.get_text_config(decoder=True)
        return str(getattr(config, "_attn_implementation", None) or self.model.config._attn_implementation)

    @cached_property
    def chat_template_digest(self) -> str:
        """Digest of the chat template, or of its absence."""
        return digest({"chat_template": self.tokenizer.chat_template})

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end a response."""
        ids = self.model.generation_config.eos_token_id
        ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
        end = self.tokenizer.eos_token_id
        return frozenset([*ids, *([] if end is None else [end])])

    @property
    def unused_settings(self) -> str:
        """What its generation_config.json asks for beyond the end tokens, such as `top_p=0.8`: none of it is obeyed."""
        asked = self.model.generation_config.to_diff_dict()
        return ", ".join(
            f"{name}={value}" if isinstance(value, int | float | str) else name
            for name, value in sorted(asked.items())
            if not _changes_nothing(name, value)
        )


_NO_SETTINGS = re.compile(
    r"(eos|bos|pad|decoder_start)_token_id|transformers_version|max_(length|new_tokens)|use_cache|(output|return)_.*|"
    r".*(cache|compile|batching).*|num_return_sequences|_.*|(assistant|target|prompt_lookup|num_assistant)_.*|use_mtp"
)
"""Of a generation configuration: what is obeyed, what the experiment file says itself, and what changes no token."""


def _changes_nothing(name: str, value: Any) -> bool:
    """Whether a setting of a generation configuration leaves greedy and sampled tokens as they are."""
    if value is None or _NO_SETTINGS.fullmatch(name):
        return True
    if name.endswith("_token_id"):
        return False
    is_factor = name.endswith(("temperature", "_p", "penalty", "num_beams", "beam_groups"))
    return value in (False, [], {}) or (is_factor and value == 1)


def read_shape(reference: str, revision: str | None = None, *, options: LoadConfig = _DEFAULT) -> ModelShape:
    """Number of layers and width, from the configuration alone. Raises ModelError: there is no such model, or its
    configuration does not tell."""
    return _shape(read_config(find_source(reference, revision), options), reference)


def _shape(config: Any, reference: str) -> ModelShape:
    text = config.get_text_config(decoder=True)
    names = ("num_hidden_layers", "hidden_size", "max_position_embeddings")
    told: tuple[Any, ...] = tuple(getattr(text, name, None) for name in names)
    for name, value in zip(names[:2], told, strict=False):
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{reference}: {name} of its configuration is {shown(value)}, not a whole number from 1")
    n_layers, d_model, most = told
    return ModelShape(n_layers, d_model, most if isinstance(most, int) and most > 0 else None)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's files, found and read as far as that takes no weights in memory."""

    source: Source
    adapter: FoundAdapter | None
    config: Any
    tokenizer: Any
    options: LoadConfig

    def place(self) -> str:
        """Where transformers finds the weights; those of a GGUF file dequantised."""
        if self.source.gguf is None:
            return self.source.place
        return str(self.source.gguf.dequantized(auto_class(self.config), str(self.known_dtype)))

    @property
    def known_dtype(self) -> str | None:
        """The dtype that the configuration and the options come to; `None` where only the weights tell."""
        declared = self.options.dtype if self.options.dtype != "auto" else getattr(self.config, "dtype", None)
        return None if declared is None else str(declared).removeprefix("torch.")

    @property
    def chat(self) -> Chat:
        """How the model is asked. Raises ModelError: its chat template cannot do what the options say."""
        return read_chat(self.tokenizer, self.options.chat, self.source.reference)

    def identity(self, dtype: str) -> ModelIdentity:
        """What identifies the model, computed with in a dtype."""
        adapter = self.adapter.identity if self.adapter is not None else None
        return identify(self.source, dtype=dtype, options=self.options, adapter=adapter)


def find_model(
    reference: str, *, revision: str | None, adapter: AdapterConfig | None, options: LoadConfig
) -> ModelFiles:
    """Find a model's files; see `load_model`."""
    attached = find_adapter(adapter) if adapter is not None else None
    source = find_source(reference, revision)
    return ModelFiles(source, attached, read_config(source, options), read_tokenizer(source, options), options)


def load_model(
    reference: str, *, revision: str | None = None, adapter: AdapterConfig | None = None, options: LoadConfig = _DEFAULT
) -> SteerableModel:
    """Load a model for steering.
    `reference`: hub id, local folder or `toy:<name>`. `revision`: commit, tag or branch of a hub repository. `adapter`:
    a LoRA adapter, kept beside the weights. `options`: dtype, devices, attention and quantisation.
    Raises ModelError: it cannot be found, is no causal language model, lacks weights, does not fit in memory, or an
    option cannot be met."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    files = find_model(reference, revision=revision, adapter=adapter, options=options)
    _ = files.chat  # refused before weights are read
    model = _read_weights(files, options)
    identity = files.identity(str(model.dtype).removeprefix("torch."))
    if files.adapter is not None:
        model = attach(model, files.adapter)
    loaded = SteerableModel(model.eval().requires_grad_(False), files.tokenizer, identity, options.chat)
    check_attention(loaded, options)
    _check_blocks(reference, loaded)
    return loaded


def check_attention(loaded: SteerableModel, options: LoadConfig) -> None:
    """See that what was loaded computes attention as it was asked to, and in a way that rows can share. Raises
    ModelError: it does not."""
    asked, used, name = options.attention, loaded.attention, type(loaded.model).__name__
    if used not in ("eager", "sdpa") and "flash" not in used:
        raise ModelError(
            f"{name} computes attention with {used}, whose masks cannot be shared by rows that are "
            "steered at different layers; write eager, sdpa or flash_attention_2"
        )
    # without the package flash-attn transformers may take the same algorithm from another one
    is_flash = "flash" in asked and "flash" in used
    if asked not in ("auto", used) and not is_flash:
        raise ModelError(f"attention {asked} was asked for and {name} computes with {used}; write auto or {used}")


def _check_blocks(reference: str, loaded: SteerableModel) -> None:
    """See that what is to be steered is there; of a kind that was never tried, that it does what it should."""
    if sharing_of(loaded.model).obstacle is None:
        find_decoder_blocks(loaded.model)
        return
    try:
        check_streams(loaded.model, device=loaded.device, generating=True)
    except (RuntimeError, LookupError, AttributeError) as error:
        name, reason = type(loaded.model).__name__, str(error).strip().splitlines()[0]
        raise ModelError(f"{reference}: {name} cannot be run on text: {type(error).__name__}: {reason}") from error


def _read_weights(files: ModelFiles, options: LoadConfig) -> Any:
    device, reference = find_device(options.device), files.source.reference
    arguments = loading_arguments(options, files.config, files.known_dtype)
    place = files.place()
    try:
        loaded: Any = auto_class(files.config).from_pretrained(
            place, revision=files.source.commit, output_loading_info=True, **arguments
        )
        model, report = loaded
        if "device_map" not in arguments:
            model = model.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {reference!r} does not fit in the memory of {device}: {str(error).splitlines()[0]} Use "
            "`dtype: bfloat16`, `quantization: 4bit`, `device_map: auto` or a smaller model"
        ) from error
    except Exception as error:  # damaged files, classes without an option and missing packages: many types
        raise cannot_load(reference, error) from error
    _check_complete(reference, model, report)
    return model


def _check_complete(reference: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse weights that transformers has made up, and an adapter that it has loaded unasked."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{reference}: {len(missing)} weights of {type(model).__name__} are not in the checkpoint, such as "
            f"{', '.join(missing[:3])}; it was saved from another kind of model"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"{reference}: this repository holds an adapter; give the model that it was trained on as `model`, and "
            "this one as `adapter`"
        )


# What identifies a model, read without its weights in memory: enough to plan a sweep.
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names of dtypes in the header of a safetensors file, and torch's."""


@dataclass(frozen=True, slots=True)
class Description:
    """What of a model goes into the keys of its cells."""

    identity: ModelIdentity
    chat_template_digest: str
    shape: ModelShape
    chat: Chat  # how it is asked
    unasked_chat: Chat  # how it is asked as a judge
    note: str | None = field(default=None, compare=False)
    """How the model is generated with, where that is not the usual way."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know before a sweep."""
        return tuple(note for note in (self.note, self.chat.note) if note)


def describe(model: SteerableModel) -> Description:
    """The description of a model that is loaded."""
    template, note = model.chat_template_digest, sharing_of(model.model).note
    return Description(model.identity, template, model.shape, model.chat, model.unasked_chat, note)


def read_description(
    reference: str, *, revision: str | None = None, adapter: AdapterConfig | None = None, options: LoadConfig = _DEFAULT
) -> Description | None:
    """The description that a model will have when it is loaded; `None` where only its weights tell.
    `reference`: hub id, local folder or `toy:<name>`. `revision`: commit, tag or branch of a hub repository. `adapter`:
    a LoRA adapter on it. `options`: as `load_model` takes them.
    Raises ModelError: there is no such model, or it is no causal language model."""
    files = find_model(reference, revision=revision, adapter=adapter, options=options)
    dtype = files.known_dtype or _stored_dtype(files.source.folder)
    if dtype is None:
        return None
    template = digest({"chat_template": files.tokenizer.chat_template})
    shape = _shape(files.config, reference)
    unasked = read_chat(files.tokenizer, ChatConfig(), reference)
    return Description(files.identity(dtype), template, shape, files.chat, unasked, sharing(files.config).note)


def read_notes(reference: str, revision: str | None = None, *, options: LoadConfig = _DEFAULT) -> tuple[str, ...]:
    """What a user should know of how a model is steered and asked before a sweep, without its weights. Raises
    ModelError: there is no such model, it cannot be steered, or its chat template cannot do what is asked."""
    if is_toy(reference) and options.chat == ChatConfig():
        return ()
    files = find_model(reference, revision=revision, adapter=None, options=options)
    return tuple(note for note in (sharing(files.config).note, files.chat.note) if note)


def _stored_dtype(folder: Path | None) -> str | None:
    """The first float dtype in a checkpoint, which is what `auto` takes where the configuration has none."""
    from safetensors import SafetensorError, safe_open

    path = min(folder.glob("*.safetensors"), default=None) if folder is not None else None
    if path is None:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            dtypes = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    return next((_FLOATS[dtype] for dtype in dtypes if dtype in _FLOATS), None)


# Taking turns with a model: hooks act on every pass, so a judge must not run one beside steered generation.

_guard = threading.Lock()
_turns: "WeakKeyDictionary[Any, threading.RLock]" = WeakKeyDictionary()


def model_lock(model: Any) -> AbstractContextManager[Any]:
    """While the block runs no other thread has a turn with the model, a `torch.nn.Module`."""
    with _guard:
        return _turns.setdefault(model, threading.RLock())
