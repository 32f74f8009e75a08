"""Finding a model's decoder blocks by its own structure, and reading and replacing what they return."""

from typing import Any

import torch
from torch import nn

from massact.errors import ModelError

_NOT_DECODER = ("vision", "visual", "audio", "image", "encoder")


def find_decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks, layer 0 first: the one list of `num_hidden_layers` equal modules outside vision towers.

    Raises:
        ModelError: there is no such list, or more than one; the message lists what was seen.
    """
    n_layers = text_config(model).num_hidden_layers
    seen: list[str] = []
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        seen.append(f"{name} ({len(module)} x {type(module[0]).__name__ if len(module) else 'nothing'})")
        is_language = not any(part in name.lower() for part in _NOT_DECODER)
        inside_another = any(name.startswith(outer + ".") for outer in found)
        if len(module) == n_layers and is_language and not inside_another:
            found[name] = module
    if len(found) != 1:
        problem = "no list" if not found else f"{len(found)} lists ({', '.join(found)})"
        raise ModelError(
            f"{type(model).__name__}: {problem} of {n_layers} decoder blocks found, one is needed. "
            f"Lists of modules seen: {', '.join(seen) or 'none'}"
        )
    return list(next(iter(found.values())))


def text_config(model: nn.Module) -> Any:
    """The configuration of the language part, also where a vision wrapper is around it."""
    config: Any = model.config
    return config.get_text_config(decoder=True)


def block_output(output: object, layer: int) -> torch.Tensor:
    """The residual stream `[batch, seq, d_model]` in what a decoder block returned.

    Raises:
        ModelError: the block returned something unknown; steering must never silently do nothing.
    """
    tensor = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 3:
        shape = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"decoder block {layer} returned {shape}, not a residual stream [batch, seq, d_model]"
        )
    return tensor


def replace_block_output(output: object, stream: torch.Tensor) -> object:
    """What the block returned, with `stream` in the residual stream's place."""
    return (stream, *output[1:]) if isinstance(output, tuple) else stream
