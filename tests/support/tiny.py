"""Tiny randomly initialised models of genuine classes, for tests that need no trained text."""

from functools import cache
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from massact.domain import ModelIdentity
from massact.models.load import SteerableModel

VOCABULARY, D_MODEL, N_LAYERS = 64, 32, 4
END_TOKEN = 1

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 2,
    "eos_token_id": END_TOKEN,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
# what the classes take and do not name
_END: dict[str, Any] = {"eos_token_id": END_TOKEN}
_HEADS: dict[str, Any] = {"head_dim": 8}
_GEMMA: dict[str, Any] = {**_SHARED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
# as many layers as the language part, which must not confuse the search for blocks
_VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip

CONFIGS: dict[str, PretrainedConfig] = {
    "gemma2": Gemma2Config(**_GEMMA),
    "gemma3": Gemma3TextConfig(**_GEMMA),
    "gemma3_vision": Gemma3Config(
        text_config=_GEMMA, vision_config=_VISION, mm_tokens_per_image=4, initializer_range=0.3,
        image_token_index=VOCABULARY - 1, boi_token_index=VOCABULARY - 2, eoi_token_index=VOCABULARY - 3,
        **_END,
    ),
    "llama": LlamaConfig(**_SHARED),
    "mistral": MistralConfig(**_SHARED, sliding_window=8),
    # as many experts as layers
    "mixtral": MixtralConfig(**_SHARED, num_local_experts=N_LAYERS, num_experts_per_tok=2),
    "olmo2": Olmo2Config(**_SHARED),
    "phi3": Phi3Config(**_SHARED),
    "qwen2": Qwen2Config(**_SHARED),
    "qwen3": Qwen3Config(**_SHARED, head_dim=8),
    "qwen3_moe": Qwen3MoeConfig(
        **_SHARED, **_HEADS, num_experts=N_LAYERS, num_experts_per_tok=2, moe_intermediate_size=24,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=4, bos_token_id=2, eos_token_id=END_TOKEN,
        initializer_range=0.3,
    ),
    "gpt_neox": GPTNeoXConfig(
        **{k: v for k, v in _SHARED.items() if k != "num_key_value_heads"}
    ),
}  # fmt: skip


class FakeTokenizer:
    """A token a word `tN`; no chat template."""

    chat_template = None
    bos_token_id = 2
    eos_token_id = END_TOKEN

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [int(word[1:]) for word in text.split()]
        return {"input_ids": [2, *ids] if add_special_tokens else ids}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(f"t{i}" for i in ids if not (skip_special_tokens and i < 3))


@cache
def tiny_model(architecture: str, seed: int = 0) -> SteerableModel:
    """A random model in float32 with a fake tokenizer."""
    torch.manual_seed(seed + (architecture == "gemma3_vision"))  # with 0 it says nothing but its last token
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]).float().eval().requires_grad_(False)
    identity = ModelIdentity(f"tiny-{architecture}", str(seed), "float32")
    return SteerableModel(model, FakeTokenizer(), identity)


def prompts(n: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 14, (n,), generator=generator).tolist()
    return [(2, *torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()) for length in lengths]


def unit(seed: int) -> torch.Tensor:
    """A random unit vector `[D_MODEL]`."""
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()
