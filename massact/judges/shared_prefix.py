"""Prompts read side by side: what they begin with alike is computed once, whatever their lengths.

Rows are padded on the left, so that a row's tokens keep their distances (sliding windows count them). A row's
cache then holds the shared keys and values from where the row begins, and the model reads as many last tokens of
each row as the longest row has beyond the prefix: of a shorter row that is the end of the prefix once more.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from massact.models.blocks import text_config
from massact.models.cache import with_cache
from massact.models.load import SteerableModel

Tokens = tuple[int, ...]


class Prefix:
    """Keys and values of tokens that several prompts begin with; none where it is empty."""

    def __init__(self, model: SteerableModel, tokens: Tokens) -> None:
        self.tokens = tokens
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Of each layer `[1, heads, tokens, head_dim]`, twice."""
        if tokens:
            cache = _Cache(model, capacity=len(tokens))
            ids = torch.tensor([tokens], device=model.device)
            model.model(input_ids=ids, **with_cache(model.model, cache))
            self.layers = [(layer.keys, layer.values) for layer in cache.rows]


def common_start(prompts: Sequence[Tokens]) -> Tokens:
    """What all prompts begin with, and at least one token short of each."""
    first, last = min(prompts), max(prompts)  # in the order of tuples all others lie between them
    n_alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[: min(n_alike, min(map(len, prompts)) - 1)]


class Prompts:
    """A batch of prompts that were read, and can be gone on from."""

    def __init__(
        self, model: SteerableModel, prefix: Prefix, prompts: Sequence[Tokens], *, room: int
    ) -> None:
        """Read the prompts.

        Args:
            prefix: what each of them begins with.
            room: tokens that will be put after a prompt at once, at most.
        """
        self._model, device = model, model.device
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._width = max(map(len, prompts))
        begin = len(prefix.tokens)
        self._starts = [self._width - len(prompt) for prompt in prompts]
        self._cache = _Cache(model, capacity=self._width + room)
        self._cache.begin(prefix, self._starts)
        read = [((0,) * start + prompt)[begin:] for start, prompt in zip(self._starts, prompts, strict=True)]
        self.first = self._run(torch.tensor(read, device=device), begin)
        """`[n_prompts, n_tokens]` probabilities, float32, of what follows each prompt."""

    def after(self, tokens: Tokens) -> torch.Tensor:
        """`[n_prompts, n_tokens]` probabilities, float32, of what follows the same tokens after every prompt."""
        ids = torch.tensor([tokens] * len(self._starts), device=self._model.device)
        try:
            return self._run(ids, self._width)
        finally:
            self._cache.rewind(self._width)

    def _run(self, ids: torch.Tensor, begin: int) -> torch.Tensor:
        """Probabilities after tokens that stand from `begin` on, counted from the left of the padded rows."""
        places = torch.arange(begin + ids.shape[1], device=ids.device)
        own = places[None, :] - (self._width - self._lengths)[:, None]
        output = self._model.model(
            input_ids=ids,
            attention_mask=(own >= 0).long(),
            position_ids=own[:, begin:].clamp_min(0),
            **with_cache(self._model.model, self._cache),
        )
        return torch.softmax(output.logits[:, -1].float(), dim=-1)


class _Cache(Cache):
    """A cache of whole layers: sliding ones keep everything, their mask leaves out what the window does."""

    def __init__(self, model: SteerableModel, *, capacity: int) -> None:
        n_layers = text_config(model.model).num_hidden_layers
        self.rows = [_Layer(capacity) for _ in range(n_layers)]
        super().__init__(layers=[*self.rows])

    def begin(self, prefix: Prefix, starts: Sequence[int]) -> None:
        """Put the prefix into every row, from where the row starts to as many tokens as the prefix has."""
        if prefix.layers:
            for layer, (keys, values) in zip(self.rows, prefix.layers, strict=True):
                layer.fill(keys, values, starts, len(prefix.tokens))

    def rewind(self, length: int) -> None:
        """Forget all after the first `length` tokens."""
        for layer in self.rows:
            layer.length = length


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    keys: torch.Tensor
    values: torch.Tensor
    is_sliding = False
    is_croppable = False

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room for as many rows as are given."""
        self._make_room(key_states, value_states, len(key_states))

    def _make_room(self, keys: torch.Tensor, values: torch.Tensor, n_rows: int) -> None:
        # zeros: padding is masked, but NaN times 0 is NaN
        self.keys, self.values = (
            like.new_zeros(n_rows, like.shape[1], self._capacity, like.shape[3]) for like in (keys, values)
        )
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def fill(self, keys: torch.Tensor, values: torch.Tensor, starts: Sequence[int], end: int) -> None:
        """Begin rows with one row's keys and values."""
        self._make_room(keys, values, len(starts))
        for start, first, last in _runs(starts):
            n_kept = max(0, end - start)
            self.keys[first:last, :, start : start + n_kept] = keys[:, :, :n_kept]
            self.values[first:last, :, start : start + n_kept] = values[:, :, :n_kept]
        self.length = end

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new keys and values `[rows, heads, tokens, head_dim]`; gives all that are to be attended."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is attended."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """How many tokens are kept."""
        return self.length

    def get_max_length(self) -> int:
        """How many can be kept."""
        return self._capacity


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Equal neighbours: the value, where they begin and where they end."""
    first = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[place] != values[first]:
            yield values[first], first, place
            first = place
