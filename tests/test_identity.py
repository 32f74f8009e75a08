"""What identifies a model, read without its weights, is what the loaded model says of itself."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from massact.config import LoadConfig
from massact.errors import ModelError
from massact.models.identity import describe, read_description
from massact.models.load import load_model
from tests.saved import save_model

TOYS = ("gemma-3-base", "gemma-3-instruct", "gemma-2-base", "gemma-2-instruct")


def _same(reference: str, dtype: str) -> None:
    read = read_description(reference, options=LoadConfig(dtype=dtype))
    assert read == describe(load_model(reference, options=LoadConfig(dtype=dtype, device="cpu")))


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("name", TOYS)
def test_of_a_toy(name: str, dtype: str) -> None:
    _same(f"toy:{name}", dtype)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["gemma3", "llama", "gpt2"])
def test_of_a_folder(architecture: str, stored: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "my-model", architecture, getattr(torch, stored))
    for dtype in ("auto", "float32", "bfloat16"):
        _same(str(folder), dtype)


def test_of_a_folder_whose_configuration_names_no_dtype(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "my-model", "llama", torch.float16)
    config = folder / "config.json"
    text = config.read_text()
    assert '"dtype": "float16",' in text
    config.write_text(text.replace('"dtype": "float16",', ""))
    _same(str(folder), "auto")


def test_a_chat_template_is_part_of_it(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "my-model", "llama", torch.float32)
    before = read_description(str(folder), options=LoadConfig(dtype="float32"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ messages }} and more"
    tokenizer.save_pretrained(folder)
    _same(str(folder), "float32")
    after = read_description(str(folder), options=LoadConfig(dtype="float32"))
    assert before is not None
    assert after is not None
    assert before.chat_template_digest != after.chat_template_digest
    assert before.identity == after.identity


def test_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_description(str(tmp_path / "none"))
