"""Massive dims, planted before training and kept exact through it.

A model this small grows no massive dims, so they are written in: a few columns of the embedding hold
large values, every sublayer is kept from writing to these dims and from reading them. What a token
carries there is then the same at every layer. The other dims are scaled back up wherever a norm has
divided them by the large values.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tools.toy.specs import Planting

PRE_NORMS = ("input_layernorm", "pre_feedforward_layernorm", "model.norm")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
MAX_NORM_RATE = 100.0


def draw_values(planting: Planting, vocab_size: int, seed: int) -> NDArray[np.float64]:
    """What each token carries in the planted dims, in units of the residual stream: `[vocab, n_planted]`."""
    magnitudes = np.array([planted.magnitude for planted in planting.dims])
    noise = np.random.default_rng(seed).standard_normal((vocab_size, magnitudes.size))
    return np.asarray(magnitudes * (1.0 + planting.token_noise * noise), dtype=np.float64)


def stored_values(values: NDArray[np.float64], hidden_size: int) -> Tensor:
    """`values` as the embedding holds them, `[vocab, n_planted]`: Gemma multiplies by sqrt(hidden_size).

    Rounded to what bfloat16 holds, so that saving does not move them.
    """
    return torch.tensor(values / math.sqrt(hidden_size)).to(torch.bfloat16).to(torch.float32)


class PlantedDims:
    """Writes the planted dims into a model, masks their gradients and puts them back after a step."""

    def __init__(self, model: nn.Module, planting: Planting, hidden_size: int) -> None:
        self._columns = torch.tensor(planting.indices(hidden_size))
        squares = sum(planted.magnitude**2 for planted in planting.dims)
        self.norm_scale = math.sqrt(squares / hidden_size + 1.0)
        """What a norm's divisor grows by because of the planted dims."""
        named = dict(model.named_parameters())
        self._embedding = named["model.embed_tokens.weight"]
        self.pre_norms = [p for name, p in named.items() if _is_norm(name, PRE_NORMS)]
        self.post_norms = [p for name, p in named.items() if _is_norm(name, POST_NORMS)]
        self._stored = self._embedding.detach()[:, self._columns].clone()

    @torch.no_grad()
    def plant(self, stored: Tensor) -> None:
        """Write `stored` `[vocab, n_planted]` into the embedding of an untrained model, scale its norms."""
        for weight in self.pre_norms:
            weight.fill_(self.norm_scale - 1.0)  # Gemma's norms multiply by 1 + weight
        self.replant(stored)

    def replant(self, stored: Tensor) -> None:
        """Write other values `[vocab, n_planted]` and leave what was trained alone."""
        self._stored = stored.clone()
        self.restore()

    @property
    def norm_rate(self) -> float:
        """Factor on the learning rate of the pre-norms, whose weights are larger than usual."""
        return min(self.norm_scale, MAX_NORM_RATE)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Drop the gradients of everything planted."""
        if self._embedding.grad is not None:
            self._embedding.grad[:, self._columns] = 0.0
        for weight in (*self.pre_norms, *self.post_norms):
            if weight.grad is not None:
                weight.grad[self._columns] = 0.0

    @torch.no_grad()
    def restore(self) -> None:
        """Undo what the optimizer did to the planted entries (weight decay needs no gradient)."""
        self._embedding[:, self._columns] = self._stored
        for weight in (*self.pre_norms, *self.post_norms):
            weight[self._columns] = -1.0


def _is_norm(name: str, kinds: tuple[str, ...]) -> bool:
    return any(name.endswith(f"{kind}.weight") for kind in kinds)
