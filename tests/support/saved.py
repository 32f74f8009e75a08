"""Folders as transformers and peft save them, with tiny random models of genuine classes in them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from massact.toy import resolve
from tests.support.tiny import CONFIGS


def save_model(folder: Path, architecture: str, dtype: torch.dtype = torch.float32) -> Path:
    """A causal language model with the toy's tokenizer (whose ids go beyond the tiny vocabulary)."""
    torch.manual_seed(0)
    return save(folder, AutoModelForCausalLM.from_config(CONFIGS[architecture]).to(dtype))


def save(folder: Path, model: Any, *, tokenizer: bool = True) -> Path:
    """Any model, with the toy's tokenizer or without."""
    model.save_pretrained(folder)
    if tokenizer:
        AutoTokenizer.from_pretrained(resolve("toy:gemma-3-instruct")).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, targets: tuple[str, ...] = ("q_proj", "down_proj")) -> Any:
    """A LoRA adapter of random weights on a saved model. Returns peft's own model, in evaluation mode."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=list(targets), init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(folder)
    return model.eval()
