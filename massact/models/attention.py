"""Attention of one new token a row, on a CPU, on keys and values where they lie in the cache.

transformers' eager attention copies keys and values for each head of a group, at every token and layer; torch's own is
made for many tokens. Here the heads of a group are the rows of one product, a window is a view of its tokens, and in
memory the tokens of one dim lie side by side (`RowCache`), along which the processor multiplies.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

from massact.models.load import SteerableModel

Masks = torch.Tensor | dict[str, torch.Tensor]
_NAME = "massact_one_token"
_KINDS = frozenset(
    {"gemma", "gemma2", "gemma3", "gemma3_text", "granite", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2"}
    | {"qwen3", "qwen3_moe", "smollm3"}
)
"""`model_type` of configurations whose attention is asked for by its name and is no other than this."""


def _attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`[n, 1, n_heads, head_dim]`, of queries `[n, n_heads, 1, head_dim]` to the keys `[n, n_kept, seq, head_dim]`;
    `attention_mask` is added, `[n, n_kept, 1, seq]`."""
    if sliding_window is not None:
        key, value = key[:, :, -sliding_window:], value[:, :, -sliding_window:]
        attention_mask = attention_mask[..., -sliding_window:]
    n, n_heads, _one, width = query.shape
    keys, values = key.flatten(0, 1).mT, value.flatten(0, 1).mT
    queries, mask = query.reshape(len(keys), -1, width), attention_mask.flatten(0, 1)
    if softcap is None:
        scores = torch.baddbmm(mask, queries, keys, alpha=scaling)
    else:
        scores = torch.add(mask, torch.bmm(queries * (scaling / softcap), keys).tanh_(), alpha=softcap)
    read = torch.bmm(values, scores.softmax(-1).mT)  # `[n * n_kept, head_dim, heads of a group]`
    return read.mT.reshape(n, 1, n_heads, width), None


AttentionInterface.register(_NAME, _attend)


def attends_here(model: SteerableModel) -> bool:
    """Whether a model attends in this way while it decodes."""
    network = model.model
    is_here: bool = model.device.type == "cpu" and network.dtype == torch.float32
    is_here = is_here and not hasattr(network, "hf_device_map")
    return is_here and network.config.model_type in _KINDS


@contextmanager
def one_token_attention(model: SteerableModel) -> Iterator[Callable[[torch.Tensor], Masks]]:
    """Within, a model that can attends in this way. Gives what makes of `[n, seq]`, 1 where a token may be attended,
    what the model takes for its mask."""
    if not attends_here(model):
        yield lambda valid: valid
        return
    block: Any = model.blocks[0]
    config = block.self_attn.config
    types = set(getattr(config, "layer_types", None) or ())
    before, config._attn_implementation = config._attn_implementation, _NAME

    def masks(valid: torch.Tensor) -> Masks:
        added = torch.where(valid.bool(), 0.0, torch.finfo(torch.float32).min)
        mask = added[:, None, None].expand(-1, config.num_key_value_heads, -1, -1).contiguous()
        return dict.fromkeys(types, mask) if len(types) > 1 else mask

    try:
        yield masks
    finally:
        config._attn_implementation = before
