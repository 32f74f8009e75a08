"""Tiny models of the families that think: genuine classes, and templates with the switches and marks of theirs."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from massact.config import ChatConfig
from massact.domain import ModelIdentity
from massact.models.load import SteerableModel
from tests.support.tiny import D_MODEL, END_TOKEN, N_LAYERS, VOCABULARY

TURNS = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}<assistant> "


@dataclass(frozen=True)
class Family:
    """What is peculiar to a family."""

    kind: str
    """Its `model_type`."""
    ending: str
    """What its template writes after the turns."""
    marks: tuple[str, ...] = ("<think>", "</think>")
    """Tokens of its own, the last of which begins an answer."""
    is_special: bool = False
    """Whether its marks are special tokens, which are left out of text."""
    options: tuple[tuple[str, Any], ...] = ()
    """Of its configuration."""


_MOE = (
    ("n_routed_experts", 4), ("num_experts_per_tok", 2), ("moe_intermediate_size", 24), ("n_shared_experts", 1),
    ("n_group", 1), ("topk_group", 1), ("first_k_dense_replace", 1),
)  # fmt: skip
_LATENT = (
    ("q_lora_rank", 16),
    ("kv_lora_rank", 16),
    ("qk_rope_head_dim", 8),
    ("qk_nope_head_dim", 8),
    ("v_head_dim", 8),
)
_EMPTY = "<think> </think> "
FAMILIES = {
    "qwen3": Family("qwen3", "{% if enable_thinking is defined and not enable_thinking %}" + _EMPTY + "{% endif %}"),
    "qwen3_5": Family("qwen3_5_text", "{% if enable_thinking is defined and not enable_thinking %}" + _EMPTY
        + "{% else %}<think> {% endif %}",
        options=(("layer_types", ["linear_attention", "full_attention"] * 2), ("linear_key_head_dim", 8),
                 ("linear_value_head_dim", 8), ("linear_num_key_heads", 2), ("linear_num_value_heads", 4))),
    "glm": Family("glm4_moe", "{{ '/nothink' if enable_thinking is defined and not enable_thinking }} "
        "{{ '<think> </think>' if enable_thinking is defined and not enable_thinking }}", options=_MOE),
    "smollm3": Family("smollm3", "{% if enable_thinking | default(true) %}{% else %}" + _EMPTY + "{% endif %}"),
    "r1_distill": Family("qwen2", "<think> "),
    "deepseek_v3.1": Family("deepseek_v3", "{{ '<think>' if thinking | default(false) else '</think>' }} ",
        options=(*_MOE, *_LATENT, ("num_key_value_heads", 4))),
    "gpt_oss": Family("gpt_oss", "{{ reasoning_effort | default('medium') }}"
        "{# <|channel|>analysis<|message|> or <|channel|>final<|message|> #} ",
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "analysis", "final"), is_special=True,
        options=(("head_dim", 8), ("num_local_experts", 4), ("num_experts_per_tok", 2), ("sliding_window", 8))),
    "gemma4": Family("gemma4_text",
        "{% if not enable_thinking | default(false) %}<|channel>thought <channel|>{% endif %}",
        ("<|channel>", "thought", "<channel|>"), is_special=True,
        options=(("head_dim", 8), ("global_head_dim", 16), ("sliding_window", 8), ("hidden_size_per_layer_input", 0),
                 ("layer_types", ["sliding_attention", "full_attention"] * 2), ("vocab_size_per_layer_input", 64))),
    "seed_oss": Family("seed_oss", "{% if thinking_budget | default(-1) == 0 %}<seed:think> </seed:think> {% endif %}",
        ("<seed:think>", "</seed:think>"), options=(("head_dim", 8),)),
    "mistral": Family("mistral", "{{ '[THINK] [/THINK] ' if reasoning_effort | default('high') == 'none' }}",
        ("[THINK]", "[/THINK]"), is_special=True),
}  # fmt: skip


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """Words `t3`, `t4` and so on, and the family's marks, each a token."""
    words = ["<pad>", "<eos>", "<bos>", *family.marks, "<user>", "<system>", "<assistant>", "/nothink", "medium", "low"]
    words += [f"t{i}" for i in range(len(words), VOCABULARY)]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>")
    marks = [mark for mark in family.marks if not mark.isalpha()]
    tokenizer.add_tokens([AddedToken(mark, special=family.is_special) for mark in marks])
    tokenizer.chat_template = TURNS + family.ending
    return tokenizer


@cache
def _weights(name: str) -> Any:
    family = FAMILIES[name]
    options: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": D_MODEL, "intermediate_size": 48, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 2,
        "eos_token_id": END_TOKEN, "pad_token_id": 0, "initializer_range": 0.3, **dict(family.options),
    }  # fmt: skip
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family.kind](**options)
    return AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)


def thinker(name: str, thinking: str | None = None, arguments: str | None = None) -> SteerableModel:
    """A family's tiny model, asked as an experiment file may say."""
    identity = ModelIdentity(f"tiny-{name}", "0", "float32")
    return SteerableModel(_weights(name), tokenizer_of(FAMILIES[name]), identity, ChatConfig(thinking, arguments))
