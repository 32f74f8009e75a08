"""Hooks on decoder blocks, as context managers: they always come off, and they raise on what they do not know.

Layer L is the output of decoder block L, from 0, before any final norm. It equals transformers'
`hidden_states[L + 1]` for every layer but the last, where `hidden_states` is taken after the final norm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from massact.errors import ModelError
from massact.models.blocks import block_output, replace_block_output

Reader = Callable[[int, torch.Tensor], None]


@contextmanager
def record(blocks: Sequence[nn.Module], reader: Reader) -> Iterator[None]:
    """Call `reader(layer, stream)` with every block's output `[batch, seq, d_model]`, in the model's dtype.

    Raises:
        ModelError: at the end, if a block was never run: it is none of those that the model computes with.
    """
    silent = set(range(len(blocks)))

    def hook(layer: int) -> Callable[[nn.Module, object, object], None]:
        def read(_module: nn.Module, _inputs: object, output: object) -> None:
            silent.discard(layer)
            reader(layer, block_output(output, layer))

        return read

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if silent:
        raise ModelError(
            f"the model ran without its decoder blocks {sorted(silent)}: nothing was recorded there"
        )


@contextmanager
def steer(blocks: Sequence[nn.Module], additions: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Add to the residual stream of the given layers, in float32, cast back to the model's dtype.

    Args:
        blocks: the model's decoder blocks.
        additions: per layer a tensor `[batch, 1, d_model]` in float32, a row of the batch each; it is
            read at every call, so its contents may be replaced between two calls of the model.
    """

    def hook(layer: int) -> Callable[[nn.Module, object, object], object]:
        def add(_module: nn.Module, _inputs: object, output: object) -> object:
            stream = block_output(output, layer)
            moved = (stream.float() + additions[layer].to(stream.device)).to(stream.dtype)
            return replace_block_output(output, moved)

        return add

    handles = [blocks[layer].register_forward_hook(hook(layer)) for layer in additions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
