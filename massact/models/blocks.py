"""Finding a model's decoder blocks by its own structure, and reading and replacing what they return."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from massact.errors import ModelError

_OTHER_TOWERS = ("vision", "visual", "audio", "image", "encoder")
"""Parts of names that tell towers apart, where the model itself does not say which part is its decoder."""


def find_decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks, layer 0 first: the one list of `num_hidden_layers` modules in the model's decoder.
    The decoder is what the model names as such (`get_decoder` of transformers), so that the towers of a vision wrapper
    are left out whatever they are called; experts and the like are inside blocks and do not count.
    Raises ModelError: there is no such list, or more than one; the message lists what was seen."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{type(model).__name__}: an encoder-decoder; only decoders can be steered")
    n_layers = text_config(model).num_hidden_layers
    lists = _outermost_lists(_decoder(model), n_layers) or _outermost_lists(model, n_layers)
    if len(lists) > 1:
        lists = {
            name: blocks for name, blocks in lists.items() if not any(part in name.lower() for part in _OTHER_TOWERS)
        }
    if len(lists) != 1:
        problem = "no list" if not lists else f"{len(lists)} lists ({', '.join(lists)})"
        seen = [_describe(name, modules) for name, modules in _lists(model)]
        raise ModelError(
            f"{type(model).__name__}: {problem} of {n_layers} decoder blocks found, one is needed. "
            f"Lists of modules seen: {', '.join(seen) or 'none'}"
        )
    return list(next(iter(lists.values())))


def _decoder(model: nn.Module) -> nn.Module:
    """The part that the model says is its decoder; the model itself where it says nothing."""
    ask = getattr(model, "get_decoder", None)
    part = ask() if callable(ask) else None
    return part if isinstance(part, nn.Module) else model


def _outermost_lists(module: nn.Module, length: int) -> dict[str, nn.ModuleList]:
    outermost: dict[str, nn.ModuleList] = {}
    for name, modules in _lists(module):
        if len(modules) == length and not any(name.startswith(outer + ".") for outer in outermost):
            outermost[name] = modules
    return outermost


def _lists(module: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    return ((name, part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList))


def _describe(name: str, modules: nn.ModuleList) -> str:
    return f"{name} ({len(modules)} x {type(modules[0]).__name__ if len(modules) else 'nothing'})"


def text_config(model: nn.Module) -> Any:
    """The configuration of the language part, also where a vision wrapper is around it."""
    config: Any = model.config
    return config.get_text_config(decoder=True)


def block_output(output: object, layer: int) -> torch.Tensor:
    """The residual stream `[batch, seq, d_model]` in what a decoder block returned. Raises ModelError: the block
    returned something unknown; steering must never silently do nothing."""
    tensor = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 3:
        shape = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(output).__name__
        raise ModelError(f"decoder block {layer} returned {shape}, not a residual stream [batch, seq, d_model]")
    return tensor


def replace_block_output(output: object, stream: torch.Tensor) -> object:
    """What the block returned, with `stream` in the residual stream's place."""
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


# Hooks on decoder blocks. Layer L is the output of decoder block L, from 0, before any final norm. It equals
# transformers' `hidden_states[L + 1]` for every layer but the last, which is taken after the final norm there.

Reader = Callable[[int, torch.Tensor], None]


def record(blocks: Sequence[nn.Module], reader: Reader) -> AbstractContextManager[None]:
    """Call `reader(layer, stream)` with every block's output `[batch, seq, d_model]`, in the model's dtype. Raises
    ModelError: at the end, if a block was never run: it is none of those that the model computes with."""

    def read(layer: int, stream: torch.Tensor) -> torch.Tensor:
        reader(layer, stream)
        return stream

    return steer(blocks, {layer: partial(read, layer) for layer in range(len(blocks))}, "recorded")


def check_all_ran(silent: Collection[int], what: str) -> None:
    """See that every decoder block was run in which something was to be done. Raises ModelError: these were not; the
    model does not compute with them, as with cross-attention to images on text."""
    if silent:
        raise ModelError(f"the model ran without its decoder blocks {sorted(silent)}: nothing was {what} there")


Edit = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def steer(blocks: Sequence[nn.Module], edits: Mapping[int, Edit], what: str = "added") -> Iterator[None]:
    """Change the residual stream of the given layers. `blocks`: the model's decoder blocks. `edits`: per layer what
    makes of a stream `[batch, seq, d_model]` another, such as `massact.models.operators.Edit`. Raises ModelError: at
    the end, if a block was never run: nothing was added there. `what`: another word for that."""
    silent = set(edits)

    def hook(layer: int) -> Callable[[nn.Module, object, object], object]:
        def change(_module: nn.Module, _inputs: object, output: object) -> object:
            silent.discard(layer)
            return replace_block_output(output, edits[layer](block_output(output, layer)))

        return change

    with ExitStack() as hooks:
        for layer in edits:
            hooks.enter_context(blocks[layer].register_forward_hook(hook(layer)))
        yield
    check_all_ran(silent, what)
