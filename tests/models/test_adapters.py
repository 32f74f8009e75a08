"""LoRA adapters as peft saves them: kept beside the weights, part of the identity, never without effect."""

import json
from pathlib import Path

import pytest
import torch

from massact.config import AdapterConfig, LoadConfig
from massact.domain import Generation
from massact.errors import ModelError
from massact.models.blocks import steer
from massact.models.generate import Intervention, Row, generate
from massact.models.load import SteerableModel, describe, load_model, read_description
from massact.models.operators import Edit
from tests.support.saved import save_adapter, save_model
from tests.support.tiny import N_LAYERS, prompts, unit

pytest.importorskip("peft")
ON_CPU = LoadConfig(device="cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "tiny", "gemma3_vision")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    save_adapter(folder, base)
    return folder


@pytest.fixture(scope="module")
def model(base: Path, adapter: Path) -> SteerableModel:
    return load_model(str(base), adapter=AdapterConfig(str(adapter)), options=ON_CPU)


@pytest.mark.slow
def test_it_computes_what_peft_computes(model: SteerableModel, base: Path, tmp_path: Path) -> None:
    theirs = save_adapter(tmp_path, base)
    tokens = torch.tensor([prompts(1)[0]])
    found = model.model(input_ids=tokens).logits
    assert torch.equal(found, theirs(input_ids=tokens).logits)
    plain = load_model(str(base), options=ON_CPU).model(input_ids=tokens).logits
    assert not torch.allclose(found, plain, atol=0.1)
    # merged into the weights it is the same model to rounding, in float32
    torch.testing.assert_close(found, theirs.merge_and_unload()(input_ids=tokens).logits, rtol=1e-3, atol=1e-3)


def test_the_model_keeps_its_class_and_its_blocks(model: SteerableModel) -> None:
    assert type(model.model).__name__ == "Gemma3ForConditionalGeneration"
    assert model.blocks == list(model.model.model.language_model.layers)
    assert not any(one.requires_grad for one in model.model.parameters())
    assert not model.model.training


def test_rows_of_a_batch_say_what_transformers_says(model: SteerableModel) -> None:
    rows = [
        Row(prompt, addition)
        for prompt in prompts(3)
        for addition in (None, Intervention(1, unit(1), 4.0), Intervention(N_LAYERS - 1, unit(2), 6.0))
    ]
    found = generate(model, rows, Generation(8))
    for row, tokens in zip(rows, found, strict=True):
        additions = (
            {} if row.intervention is None else {row.intervention.layer: Edit(row.intervention.values[None, None])}
        )
        with steer(model.blocks, additions):
            said = model.model.generate(
                torch.tensor([row.prompt]),
                attention_mask=torch.ones(1, len(row.prompt), dtype=torch.long),
                max_new_tokens=8,
                do_sample=False,
            )[0, len(row.prompt) :].tolist()
        ended = next((i for i, token in enumerate(said) if token in model.end_tokens), None)
        assert tokens == tuple(said[:ended])


def test_it_is_part_of_the_identity(model: SteerableModel, base: Path, adapter: Path, tmp_path: Path) -> None:
    asked = AdapterConfig(str(adapter))
    assert read_description(str(base), adapter=asked, options=ON_CPU) == describe(model)
    plain = read_description(str(base), options=ON_CPU)
    assert plain is not None
    assert plain.identity != model.identity
    assert model.identity.revision.startswith(plain.identity.revision + "+adapter:")
    save_adapter(tmp_path, base, ("k_proj",))
    other = read_description(str(base), adapter=AdapterConfig(str(tmp_path)), options=ON_CPU)
    assert other is not None
    assert other.identity.revision != model.identity.revision


def test_one_for_another_model_is_refused_instead_of_doing_nothing(adapter: Path, tmp_path: Path) -> None:
    # the same names of layers without the vision wrapper: peft would make empty adapters and only warn
    text_only = save_model(tmp_path / "text", "gemma3")
    with pytest.raises(ModelError, match="does not fit Gemma3ForCausalLM: Found missing adapter keys"):
        load_model(str(text_only), adapter=AdapterConfig(str(adapter)), options=ON_CPU)
    other = save_model(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ModelError, match=r"does not fit GPT2LMHeadModel.*trained on"):
        load_model(str(other), adapter=AdapterConfig(str(adapter)), options=ON_CPU)


def test_what_is_no_lora_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    def refused(reference: Path, match: str) -> None:
        for use in (load_model, read_description):
            with pytest.raises(ModelError, match=match):
                use(str(base), adapter=AdapterConfig(str(reference)), options=ON_CPU)  # type: ignore[operator]

    refused(tmp_path / "none", "no such folder")
    refused(base, "no adapter in this folder")
    document = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "adapter_config.json").write_text(json.dumps({**document, "peft_type": "PREFIX_TUNING"}))
    refused(tmp_path, "type PREFIX_TUNING; only LORA")
    (tmp_path / "adapter_config.json").write_text("[")
    refused(tmp_path, "no readable adapter_config.json")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_folder_cloned_without_git_lfs_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    for use in (load_model, read_description):
        with pytest.raises(ModelError, match=rf"{name}: a Git LFS pointer.*git lfs pull"):
            use(str(tmp_path), options=ON_CPU)  # type: ignore[operator]


def test_an_adapter_cloned_without_git_lfs_is_named_too(base: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: a Git LFS pointer"):
        load_model(str(base), adapter=AdapterConfig(str(tmp_path)), options=ON_CPU)


def test_an_adapter_in_the_place_of_a_model_is_told_apart(base: Path, adapter: Path) -> None:
    for use in (load_model, read_description):
        with pytest.raises(ModelError, match=r"holds an adapter.*as `adapter`"):
            use(str(adapter), options=ON_CPU)  # type: ignore[operator]


def test_without_peft_the_command_that_installs_it_is_told(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(ModelError, match=r"pip install 'massact\[adapters\]'"):
        load_model(str(base), adapter=AdapterConfig(str(adapter)), options=ON_CPU)
