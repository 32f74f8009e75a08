"""How much memory generation may take, and how much rows take."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from massact.models.blocks import text_config
from massact.models.cache import RowCache
from massact.models.load import SteerableModel
from massact.models.rows import Row

_SHARE = {"cuda": 0.85, "cpu": 0.5}
"""Of what is free: on a GPU the rest is for fragmentation, on a CPU for other programs."""
_UNKNOWN_DEVICE = 4 << 30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that may be taken, and the shape that decides what rows take."""

    n_bytes: int
    cache_bytes: int
    """Of one token in all layers' keys and values."""
    stream_bytes: int
    """Of one token in one decoder block, its inner tensors included."""
    row_bytes: int
    """Of one row whatever its length: its logits, in float32 and once sorted."""

    def of_row(self, n_prompt: int, max_new_tokens: int) -> int:
        """Bytes of one row at its peak."""
        kept = (n_prompt + max_new_tokens) * self.cache_bytes
        return kept + n_prompt * self.stream_bytes + self.row_bytes

    def fitting(self, rows: Sequence[Row], max_new_tokens: int) -> int:
        """How many of the rows, from the first on, fit side by side, padded to the longest of them."""
        longest = 0
        for count, row in enumerate(rows):
            longest = max(longest, len(row.prompt))
            if (count + 1) * self.of_row(longest, max_new_tokens) > self.n_bytes:
                return count
        return len(rows)


def measure_memory(model: SteerableModel, n_bytes: int | None, *, held: RowCache | None = None) -> Memory:
    """The memory for batches.

    Args:
        n_bytes: what may be taken; `None`: a share of what is free on the device now.
        held: a cache that is there already and will be used again, or given back.
    """
    config = text_config(model.model)
    n_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    size = model.model.dtype.itemsize
    cache_bytes = 2 * config.num_hidden_layers * n_heads * head_dim * size
    if n_bytes is None:
        kept = held.n_rows * held.capacity * cache_bytes if held is not None else 0
        n_bytes = int(_SHARE.get(model.device.type, 0.5) * _free_bytes(model.device)) + kept
    return Memory(
        n_bytes=n_bytes,
        cache_bytes=cache_bytes,
        # residual stream and norms in float32, queries to output, gate, up and their product
        stream_bytes=4 * config.hidden_size * 4 + (4 * config.hidden_size + 3 * inner) * size,
        row_bytes=4 * config.vocab_size * 4,
    )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what torch holds on to without using it is free as well
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        try:
            with open("/proc/meminfo", encoding="ascii") as lines:
                found = dict(line.split(":") for line in lines)
            return int(found["MemAvailable"].split()[0]) << 10
        except (OSError, KeyError, ValueError):
            pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
            return pages * os.sysconf("SC_PAGE_SIZE") // 2 if pages > 0 else _UNKNOWN_DEVICE
    return _UNKNOWN_DEVICE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
