"""What identifies a model, read without its weights, is what the loaded model says of itself."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from massact.config import AdapterConfig, LoadConfig
from massact.errors import ModelError
from massact.models.load import describe, load_model, read_description
from massact.models.source import find_adapter, find_source, identify, weights_digest
from massact.toy import resolve
from tests.support.saved import save_model

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
    assert before.identity != after.identity  # its file is one of the folder's


DECIDING = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "qwen.tiktoken", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/tool_use.jinja", "model.safetensors.index.json", "config.json",
)  # fmt: skip
IDLE = (
    "README.md", "LICENSE", ".gitattributes", ".cache/huggingface/download/x.json", "optimizer.pt", "optimizer.bin",
    "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json", "eval_results.json", "notes.txt",
    "preprocessor_config.json", "runs/events.json", "checkpoint-500/model.safetensors",
)  # fmt: skip


def _revision(folder: Path) -> str:
    options = LoadConfig()
    return identify(find_source(str(folder)), dtype="float32", options=options, adapter=None).revision


def _written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


@pytest.mark.parametrize("name", DECIDING)
def test_every_file_of_a_folder_that_decides_an_outcome_counts(name: str, tmp_path: Path) -> None:
    bare = _written(tmp_path, "model.safetensors", "weights")
    without = _revision(bare)
    revisions = [without, *(_revision(_written(bare, name, text)) for text in ('{"a": 1}', '{"a": 2}'))]
    assert len(set(revisions)) == 3
    (tmp_path / name).unlink()
    assert _revision(bare) == without


@pytest.mark.parametrize("name", IDLE)
def test_what_decides_nothing_does_not_count(name: str, tmp_path: Path) -> None:
    bare = _written(tmp_path, "model.safetensors", "weights")
    before = _revision(_written(bare, "tokenizer.json", "{}"))
    assert _revision(_written(bare, name, "{}")) == before


def test_an_adapters_files_count_likewise(tmp_path: Path) -> None:
    adapter = _written(tmp_path, "adapter_config.json", '{"peft_type": "LORA"}')
    _written(adapter, "adapter_model.safetensors", "weights")
    bare = find_adapter(AdapterConfig(str(adapter))).identity
    assert find_adapter(AdapterConfig(str(_written(adapter, "README.md", "text")))).identity == bare
    own = find_adapter(AdapterConfig(str(_written(adapter, "chat_template.jinja", "text")))).identity
    assert own.startswith(f"{bare}+files:")


def test_changed_end_tokens_are_another_model_with_the_same_weights(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "my-model", "llama", torch.float32)
    before = load_model(str(folder), options=LoadConfig(device="cpu"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 9]}')
    _same(str(folder), "float32")
    after = load_model(str(folder), options=LoadConfig(device="cpu"))
    assert after.end_tokens - before.end_tokens == {9}
    revisions = before.identity.revision, after.identity.revision
    assert revisions[0] != revisions[1]
    assert {revision.partition("+files:")[0] for revision in revisions} == {weights_digest(folder)}


def test_the_toys_are_what_their_weights_and_configurations_are() -> None:
    # the results of the demo's stores hang on it
    assert _toy_revision("gemma-2-instruct") == weights_digest(resolve("toy:gemma-2-instruct"))


def _toy_revision(name: str) -> str:
    described = read_description(f"toy:{name}")
    assert described is not None
    return described.identity.revision


def test_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_description(str(tmp_path / "none"))
