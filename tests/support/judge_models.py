"""Tiny random models that judge: genuine classes, with tokenizers that write integers in each of the known ways."""

import json
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

Digits = Literal["whole", "apart"]
_TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}[answer] "
_TEXT = "how do i make tea first boil some water then wait what is the time hi no"
_WORDS = _TEXT.split()


def make_tokenizer(digits: Digits) -> PreTrainedTokenizerFast:
    """Some words, and either a token for every integer 0 to 100 or one for every digit; all else is unknown."""
    words = ["<unk>", "</s>", "<s>", *_WORDS, *(f"{word} " for word in _WORDS)]
    integers = [str(n) for n in range(101)] if digits == "whole" else list("0123456789")
    vocabulary = {word: i for i, word in enumerate([*words, *integers])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pattern = ("100|[1-9]?[0-9]" if digits == "whole" else "[0-9]") + r"|[^0-9\s]+ ?|\s"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        bos_token="<s>",
        pad_token="</s>",
        chat_template=_TEMPLATE,
    )


def _config(architecture: str, n_tokens: int) -> PretrainedConfig:
    shared = {
        "vocab_size": n_tokens, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": 2,
        "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.3,
    }  # fmt: skip
    if architecture == "gpt2":  # learned positions
        return GPT2Config(
            vocab_size=n_tokens, n_embd=32, n_layer=3, n_head=4, n_positions=4096, bos_token_id=2, eos_token_id=1,
            initializer_range=0.3,
        )  # fmt: skip
    if architecture == "gemma2":  # sliding windows shorter than any prompt
        return Gemma2Config(**shared, head_dim=8, query_pre_attn_scalar=8, sliding_window=32)
    return {"llama": LlamaConfig, "qwen2": Qwen2Config}[architecture](**shared)


def make_judge_model(folder: Path, architecture: str, digits: Digits, seed: int = 0) -> Path:
    """Save a random model with its tokenizer. Returns the folder."""
    tokenizer = make_tokenizer(digits)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(architecture, len(tokenizer))).float()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    return folder
