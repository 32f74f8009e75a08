"""What the options of loading (`massact.config.LoadConfig`) come to in transformers."""

import logging
from typing import Any

import torch

from massact.config import LoadConfig
from massact.errors import ModelError
from massact.models.extras import require


def loading_arguments(options: LoadConfig, config: Any, dtype: str | None) -> dict[str, Any]:
    """Keyword arguments for `from_pretrained`.

    Args:
        config: the model's configuration.
        dtype: what `auto` comes to, where that is known before loading.

    Raises:
        ModelError: a package or a device is not there, or the model cannot compute so.
    """
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
    """The device of that name.

    Raises:
        ModelError: it is not there.
    """
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
    """The attention implementation to ask transformers for; `None` leaves it to the model's class.

    A model that caps its attention scores (Gemma 2) never runs with `sdpa`, which cannot: some releases
    of transformers would let it, and compute another model without a word.

    Raises:
        ModelError: `sdpa` was asked for on such a model.
    """
    cap = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    if cap is None:
        return None if asked == "auto" else asked
    if asked == "sdpa":
        raise ModelError(
            f"attention sdpa cannot cap attention scores, as {type(config).__name__} asks (attn_logit_softcapping: "
            f"{cap}); write auto or eager, or on a GPU flash_attention_2"
        )
    return "eager" if asked == "auto" else asked


def attention_of(model: Any) -> str:
    """The attention implementation that a model's language part computes with, such as `eager`."""
    config = model.config.get_text_config(decoder=True)
    return str(getattr(config, "_attn_implementation", None) or model.config._attn_implementation)


def check_attention(model: Any, options: LoadConfig) -> None:
    """See that what was loaded computes attention as it was asked to, and in a way that rows can share.

    Raises:
        ModelError: it does not.
    """
    asked, used = options.attention, attention_of(model)
    if used not in ("eager", "sdpa") and "flash" not in used:
        raise ModelError(
            f"{type(model).__name__} computes attention with {used}, whose masks cannot be shared by rows that are "
            "steered at different layers; write eager, sdpa or flash_attention_2"
        )
    # without the package flash-attn transformers may take the same algorithm from another one
    is_flash = "flash" in asked and "flash" in used
    if asked not in ("auto", used) and not is_flash:
        raise ModelError(
            f"attention {asked} was asked for and {type(model).__name__} computes with {used}; write auto or {used}"
        )


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
