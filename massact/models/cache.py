"""Keys and values of the rows of a batch, in memory that is taken once.

transformers' own dynamic cache copies everything at each token and at each row that leaves.
"""

import ctypes
import inspect
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from massact.models.blocks import text_config
from massact.models.load import SteerableModel
from massact.models.prompting import Row
from massact.models.support import gives_all_logits


class RowCache(Cache):
    """A cache of `n_rows` rows and at most `capacity` tokens, of which the first `n_live` rows are used. It is filled
    in one prefill, in which several rows may read the same stream, then token by token. Sliding layers keep everything
    as well: their mask leaves out what lies outside the window. `by_dim`: in memory the tokens of one dim of a head lie
    side by side, not the dims of one token, as `massact.models.attention` reads them fastest."""

    def __init__(self, config: Any, n_rows: int, capacity: int, *, by_dim: bool = False) -> None:
        self.by_dim = by_dim
        self._layers = [_RowLayer(self, n_rows, capacity) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=[*self._layers])
        self.n_rows, self.capacity = n_rows, capacity
        self.n_live = n_rows
        self.position: torch.Tensor | None = None
        """Where the next token goes, `[1]` on the device, so that a recorded step can be repeated; `None`: behind the
        last."""
        self.n_attended = capacity  # how many tokens a static cache shows; those not written yet must be masked

    def begin(self, n_live: int) -> None:
        """Forget what is kept: the next update is a prefill of `n_live` rows."""
        self.n_live, self.position = n_live, None
        for layer in self._layers:
            layer.length = 0

    def sources(self, rows: list[torch.Tensor | None]) -> None:
        """Of each layer, the stream whose keys each row takes at the prefill; `None`: its own."""
        for layer, source in zip(self._layers, rows, strict=True):
            layer.source = source

    def move(self, taken: torch.Tensor, places: torch.Tensor, n_live: int) -> None:
        """Put the rows `taken` in the rows `places`, and use only the first `n_live` from now on."""
        for layer in self._layers:
            if layer.is_initialized and len(taken):
                here, there = taken.to(layer.keys.device), places.to(layer.keys.device)
                for kept in (layer.keys, layer.values):
                    kept[there, :, : layer.length] = kept[here, :, : layer.length]
        self.n_live = n_live

    def wrote(self, n_tokens: int) -> None:
        """Count tokens that recorded steps have written."""
        for layer in self._layers:
            layer.length += n_tokens

    def share(self, other: "RowCache", starts: Sequence[int]) -> None:
        """Begin every row with what another cache keeps in its first one, from where the row starts to its end."""
        for kept, known, length in self._copied(other):
            for start, rows in groupby(range(len(starts)), starts.__getitem__):
                places, n_kept = list(rows), max(0, length - start)
                kept[places, :, start : start + n_kept] = known[:1, :, :n_kept]

    def take(self, other: "RowCache", rows: torch.Tensor) -> None:
        """Begin each row with what another cache keeps in one of its rows, `[n_rows]`."""
        for kept, known, length in self._copied(other):
            kept[:, :, :length] = known[rows.to(known.device), :, :length]

    def _copied(self, other: "RowCache") -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Keys, then values, of each layer here and of another cache, and how many tokens that has."""
        for layer, source in zip(self._layers, other._layers, strict=True):
            layer.lazy_initialization(source.keys, source.values)
            layer.length = source.length
            yield layer.keys, source.keys, source.length
            yield layer.values, source.values, source.length

    def rewind(self, length: int) -> None:
        """Forget all after the first `length` tokens."""
        for layer in self._layers:
            layer.length = length


class _RowLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    keys: torch.Tensor
    values: torch.Tensor
    is_sliding = False
    is_croppable = False

    def __init__(self, cache: RowCache, n_rows: int, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache: RowCache = weakref.proxy(cache)  # no cycle: its memory is free once nothing holds the cache
        self._n_rows, self._capacity = n_rows, capacity
        self.length = 0
        self.source: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        def room(like: torch.Tensor) -> torch.Tensor:
            # zeros: what a static cache shows before it is written is masked, but NaN times 0 is NaN
            shape = (self._n_rows, like.shape[1], self._capacity, like.shape[3])
            return like.new_zeros(*shape[:2], shape[3], shape[2]).mT if self._cache.by_dim else like.new_zeros(shape)

        self.keys, self.values = room(key_states), room(value_states)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new keys and values `[rows, heads, tokens, head_dim]`; gives all that are to be attended."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.length == 0:
            return self._fill(key_states, value_states)
        n_live, position = self._cache.n_live, self._cache.position
        keys, values = self.keys[:n_live], self.values[:n_live]
        if position is not None:
            keys.index_copy_(2, position, key_states)
            values.index_copy_(2, position, value_states)
            end = self._cache.n_attended
        else:
            end = self.length + key_states.shape[2]
            keys[:, :, self.length : end] = key_states
            values[:, :, self.length : end] = value_states
            self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def _fill(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.length = key_states.shape[2]
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            rows = new if self.source is None else new.index_select(0, self.source.to(new.device))
            kept[: self._cache.n_live, :, : self.length] = rows
        self.source = None
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is attended."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """How many tokens are kept."""
        return self.length

    def get_max_length(self) -> int:
        """How many can be kept."""
        return self._capacity


def with_cache(model: Any, cache: Cache) -> dict[str, Any]:
    """The arguments with which a model reads and writes a cache, and gives the logits of the last token alone."""
    kind: Any = type(model)
    return {_cache_argument(kind): cache, "use_cache": True, "logits_to_keep": 1}


@lru_cache
def _cache_argument(model: Any) -> str:
    """`cache` since transformers 5.24; `past_key_values` before, and in code of a repository's own."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


# How much memory generation may take, and how much rows take.

_SHARE = {"cuda": 0.85, "cpu": 0.5}
"""Of what is free: on a GPU the rest is for fragmentation, on a CPU for other programs."""
_UNKNOWN_DEVICE = 4 << 30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that may be taken, and the shape that decides what rows take."""

    n_bytes: int
    cache_bytes: int  # of one token in all layers' keys and values
    stream_bytes: int  # of one token in one decoder block, its inner tensors included
    row_bytes: int  # of one row whatever its length: its logits, in float32 and once sorted

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
    """The memory for batches. `n_bytes`: what may be taken; `None`: a share of what is free on the device now. `held`:
    a cache that is there already and will be used again, or given back."""
    config = text_config(model.model)
    size = model.model.dtype.itemsize
    layers = getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers
    inner = max(_number(layer, "intermediate_size", 4 * config.hidden_size) for layer in layers)
    cache_bytes = 2 * sum(map(_kept_numbers, layers)) * size
    if n_bytes is None:
        kept = held.n_rows * held.capacity * cache_bytes if held is not None else 0
        n_bytes = int(_SHARE.get(model.device.type, 0.5) * _free_bytes(model.device)) + kept
    # residual stream and norms in float32, queries to output, gate, up and their product
    stream_bytes = 4 * config.hidden_size * 4 + (4 * config.hidden_size + 3 * inner) * size
    return Memory(
        n_bytes=n_bytes,
        cache_bytes=cache_bytes,
        stream_bytes=stream_bytes + 4 * config.vocab_size * gives_all_logits(model.model),
        row_bytes=4 * config.vocab_size * 4,
    )


def _kept_numbers(layer: Any) -> int:
    """Numbers in the keys of one token, by a layer's configuration; at most `hidden_size` where it has no heads."""
    n_heads = _number(layer, "num_attention_heads", 1)
    head_dim = _number(layer, "head_dim", layer.hidden_size // n_heads)
    return _number(layer, "num_key_value_heads", n_heads) * head_dim


def _number(config: Any, name: str, default: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else default


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what torch holds on to without using it is free as well
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        try:
            with open("/proc/meminfo", encoding="ascii") as lines:
                figures = dict(line.split(":") for line in lines)
            return int(figures["MemAvailable"].split()[0]) << 10
        except (OSError, KeyError, ValueError):
            pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
            return pages * os.sysconf("SC_PAGE_SIZE") // 2 if pages > 0 else _UNKNOWN_DEVICE
    return _UNKNOWN_DEVICE


def return_freed() -> None:
    """Give memory that was freed back to the system: glibc keeps what tensors below 32 MB took."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
