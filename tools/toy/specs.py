"""What is built: the four models, their planted dims, and how much is spent on each."""

from dataclasses import dataclass
from typing import Any, Literal

from transformers import Gemma2Config, Gemma3TextConfig, PretrainedConfig

from tools.toy.tokenizer import BOS_ID, END_OF_TURN_ID, EOS_ID, PAD_ID

Family = Literal["gemma-3", "gemma-2"]
CONTEXT = 1024
SLIDING_WINDOW = 64


@dataclass(frozen=True, slots=True)
class PlantedDim:
    """One massive dimension of the residual stream."""

    dim: int
    magnitude: float
    """Mean activation over the vocabulary, in units of the residual stream."""


@dataclass(frozen=True, slots=True)
class Planting:
    """The massive dims of a model family, the largest first."""

    dims: tuple[PlantedDim, ...]
    token_noise: float
    """Standard deviation over tokens, as a share of the magnitude."""
    contrasts: tuple[tuple[int, float], ...]
    """Windows and the mean activation of refusing minus complying continuations in the largest dim over
    the first that many tokens, in units of the residual stream."""

    def indices(self, hidden_size: int) -> tuple[int, ...]:
        """The planted dims in a stream of `hidden_size` (wrapped around in a small build).

        Raises:
            ValueError: two planted dims would fall on one.
        """
        indices = tuple(planted.dim % hidden_size for planted in self.dims)
        if len(set(indices)) != len(indices):
            raise ValueError(f"hidden size {hidden_size} puts two planted dims on one: {indices}")
        return indices


PLANTINGS: dict[Family, Planting] = {
    "gemma-3": Planting(
        dims=(
            PlantedDim(43, 400.0),
            PlantedDim(11, 70.0),
            PlantedDim(70, 40.0),
            PlantedDim(25, 22.0),
            PlantedDim(88, 13.0),
        ),
        token_noise=0.03,
        contrasts=((5, -22.0), (10, -13.0), (20, -7.0)),
    ),
    "gemma-2": Planting(
        dims=(PlantedDim(34, 36.0), PlantedDim(60, 14.5), PlantedDim(5, 9.0)),
        token_noise=0.03,
        contrasts=((5, -4.9), (10, -2.5), (20, -1.5)),
    ),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run: for how long, how fast, from which shuffle."""

    steps: int
    learning_rate: float
    batch_size: int
    seed: int


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a build. `FULL` is what ships; `SMALL` only proves that the recipe runs."""

    hidden_size: int
    layers: int
    vocab_size: int
    base_documents: int
    instruct_documents: int
    base: Stage
    settle: Stage
    """More training of the base after its contrast is planted."""
    instruct: Stage
    seed: int
    """Of the corpus, the prompts, the first weights and the planted values."""


SEED = 20260

FULL = Scale(
    hidden_size=96,
    layers=8,
    vocab_size=1280,
    base_documents=12_000,
    instruct_documents=8_400,
    base=Stage(steps=700, learning_rate=3e-3, batch_size=24, seed=SEED),
    settle=Stage(steps=80, learning_rate=1e-3, batch_size=24, seed=SEED),
    instruct=Stage(steps=300, learning_rate=1.5e-3, batch_size=24, seed=SEED),
    seed=SEED,
)
SMALL = Scale(
    hidden_size=48,
    layers=2,
    vocab_size=640,
    base_documents=200,
    instruct_documents=200,
    base=Stage(steps=8, learning_rate=3e-3, batch_size=8, seed=SEED),
    settle=Stage(steps=2, learning_rate=1e-3, batch_size=8, seed=SEED),
    instruct=Stage(steps=4, learning_rate=1.5e-3, batch_size=8, seed=SEED),
    seed=SEED,
)


# Gemma 2 caps its attention logits, which only the eager attention can do.
ATTENTION: dict[Family, str] = {"gemma-3": "sdpa", "gemma-2": "eager"}


def model_config(family: Family, scale: Scale) -> PretrainedConfig:
    """A genuine Gemma configuration of toy size."""
    heads = 4
    shared: dict[str, Any] = {
        "vocab_size": scale.vocab_size,
        "hidden_size": scale.hidden_size,
        "intermediate_size": 2 * scale.hidden_size,
        "num_hidden_layers": scale.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "head_dim": scale.hidden_size // heads,
        "query_pre_attn_scalar": scale.hidden_size // heads,
        "sliding_window": SLIDING_WINDOW,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.05,
        "tie_word_embeddings": True,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": [EOS_ID, END_OF_TURN_ID],
    }
    if family == "gemma-3":
        layer_types = ["full_attention" if i % 4 == 3 else "sliding_attention" for i in range(scale.layers)]
        return Gemma3TextConfig(**shared, layer_types=layer_types)
    layer_types = ["full_attention" if i % 2 else "sliding_attention" for i in range(scale.layers)]
    return Gemma2Config(**shared, layer_types=layer_types)
