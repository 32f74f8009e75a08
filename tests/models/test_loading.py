"""Loading: the options, what is refused with a reason, and that a plan without weights names the same model."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from massact.config import LoadConfig
from massact.domain import Generation
from massact.errors import ModelError
from massact.models.generate import Row, generate
from massact.models.load import (
    SteerableModel,
    check_attention,
    choose_attention,
    describe,
    load_model,
    read_description,
    read_shape,
)
from tests.support.saved import save, save_model
from tests.support.tiny import CONFIGS, END_TOKEN, prompts, tiny_model

ON_CPU = LoadConfig(device="cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
}  # fmt: skip


def _load(folder: Path, **options: Any) -> SteerableModel:
    """Load, and see that the description without weights is the same."""
    asked = LoadConfig(**{"device": "cpu", **options})
    model = load_model(str(folder), options=asked)
    assert read_description(str(folder), options=asked) == describe(model)
    return model


def _tokens(model: SteerableModel) -> list[tuple[int, ...]]:
    return generate(model, [Row(prompt) for prompt in prompts(3)], Generation(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vision_wrapped_gemma_3_is_loaded_as_its_checkpoint_is(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = save_model(tmp_path / "gemma", "gemma3_vision", dtype)
    model = _load(folder)
    assert type(model.model).__name__ == "Gemma3ForConditionalGeneration"
    assert model.model.dtype == dtype
    assert model.shape == read_shape(str(folder))
    network = model.model
    assert network.get_input_embeddings().weight is network.get_output_embeddings().weight
    assert not network.training


def test_a_list_of_end_tokens_is_kept_whole(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "gemma", "gemma3_vision")
    generation = hf.GenerationConfig.from_pretrained(folder)
    generation.eos_token_id = [END_TOKEN, 7]
    generation.save_pretrained(folder)
    assert _load(folder).end_tokens >= {END_TOKEN, 7}


# what is refused


def _bert() -> Any:
    return hf.BertForMaskedLM(hf.BertConfig(**SMALL))


def _t5() -> Any:
    config = hf.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=4)
    return hf.T5ForConditionalGeneration(config)


def _bart() -> Any:
    config = hf.BartConfig(
        vocab_size=64, d_model=32, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
    )  # fmt: skip
    return hf.BartForConditionalGeneration(config)


def _clip() -> Any:
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    del vision["vocab_size"]
    return hf.CLIPModel(hf.CLIPConfig(text_config=SMALL, vision_config=vision))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_bert, "Bert is an encoder, whose tokens see those after them"),
        (_t5, "T5 is an encoder-decoder"),
        (_bart, "Bart is an encoder-decoder"),
        (_clip, "CLIP is a kind that transformers has no causal language model for"),
    ],
)
def test_what_is_no_causal_language_model(make: Any, match: str, tmp_path: Path) -> None:
    folder = save(tmp_path, make())
    for use in (load_model, read_description):
        with pytest.raises(ModelError, match=match):
            use(str(folder), options=ON_CPU)


def test_weights_that_the_checkpoint_lacks_are_never_made_up(tmp_path: Path) -> None:
    folder = save(tmp_path, hf.LlamaModel(hf.LlamaConfig(**SMALL, pad_token_id=0)))
    with pytest.raises(ModelError, match=r"1 weights of LlamaForCausalLM .* lm_head.weight"):
        load_model(str(folder), options=ON_CPU)


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_a_classifier_is_refused_before_its_weights_are_read(head: str, tmp_path: Path) -> None:
    made = getattr(hf, f"LlamaFor{head}")(hf.LlamaConfig(**SMALL, pad_token_id=0))
    folder = save(tmp_path, made)
    (folder / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(ModelError, match=f"saved from LlamaFor{head}, which writes no text"):
        read_description(str(folder), options=ON_CPU)


@pytest.mark.parametrize("architecture", ["gemma3", "llama", "gpt2", "qwen3"])
def test_a_folder_without_a_tokenizer(architecture: str, tmp_path: Path) -> None:
    # some classes fail, others come with an empty vocabulary
    folder = save(tmp_path, tiny_model(architecture).model, tokenizer=False)
    for use in (load_model, read_description):
        with pytest.raises(ModelError, match=r"its tokenizer cannot be loaded.*tokenizer\.json"):
            use(str(folder), options=ON_CPU)


def test_a_folder_without_weights_and_one_with_half_of_them(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cannot be loaded: .*[Ii]ncomplete.* Check its files"):
        load_model(str(folder), options=ON_CPU)
    weights.unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded: .*no file named model\.safetensors"):
        load_model(str(folder), options=ON_CPU)
    with pytest.raises(ModelError, match="no weights"):
        read_description(str(folder), options=ON_CPU)


def test_pickled_tensors_are_read_and_pickled_code_is_not_run(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama")
    expected = _tokens(_load(folder))
    (folder / "model.safetensors").unlink()
    torch.save(_state(), folder / "pytorch_model.bin")
    assert _tokens(_load(folder)) == expected

    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save({"weight": Attack()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds more than tensors and is not opened\. Use a revision"):
        load_model(str(folder), options=ON_CPU)
    assert not (tmp_path / "attacked").exists()


def _state() -> dict[str, torch.Tensor]:
    """The weights that `save_model` saves."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]).state_dict()
    return state


# code of a repository's own

_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_repository_runs_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = save_model(tmp_path / "own_model", "llama")
    expected = _tokens(_load(folder))
    config = (folder / "config.json").read_text()
    own = '"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},'
    config = config.replace('"model_type": "llama"', '"model_type": "own"').replace("{", "{" + own, 1)
    (folder / "config.json").write_text(config)
    (folder / "own.py").write_text(_CODE)
    for use in (load_model, read_description):
        with pytest.raises(ModelError, match=r"Python code of its own.*`trust_remote_code: true`"):
            use(str(folder), options=ON_CPU)
    model = _load(folder, trust_remote_code=True)
    assert type(model.model).__name__ == "OwnForCausalLM"
    assert _tokens(model) == expected
    # the code decides the outcome, so it is part of what identifies the model
    (folder / "own.py").write_text(_CODE + "\n# another line\n")
    other = read_description(str(folder), options=LoadConfig(device="cpu", trust_remote_code=True))
    assert other is not None
    assert other.identity.revision != model.identity.revision


# attention


def test_gemma_2_never_runs_with_sdpa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path, "gemma2")
    assert _load(folder).attention == "eager"
    with pytest.raises(ModelError, match=r"attention sdpa cannot cap.*attn_logit_softcapping: 50\.0"):
        _load(folder, attention="sdpa")
    # nor where a release of transformers would let it
    from transformers.models.gemma2.modeling_gemma2 import Gemma2PreTrainedModel

    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)
    assert _load(folder).attention == "eager"


def test_the_attention_that_is_asked_for_is_what_computes(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "gemma3_vision")
    assert _load(folder).attention == "sdpa"
    eager = _load(folder, attention="eager")
    assert eager.attention == "eager"
    assert _tokens(eager) == _tokens(_load(folder))
    assert eager.identity == _load(folder).identity  # how attention is computed is no part of it
    with pytest.raises(ModelError, match=r"attention sdpa was asked for .* computes with eager"):
        check_attention(eager, LoadConfig(attention="sdpa"))
    with pytest.raises(ModelError, match=r"Flash ?Attention ?2"):
        _load(folder, attention="flash_attention_2")


def test_attention_that_caps_may_be_one_that_can() -> None:
    assert choose_attention("flash_attention_2", CONFIGS["gemma2"]) == "flash_attention_2"
    assert choose_attention("auto", CONFIGS["llama"]) is None


# several devices, quantisation


def test_a_device_map_changes_no_token(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    folder = save_model(tmp_path, "gemma3")
    plain = _load(folder)
    spread = load_model(str(folder), options=LoadConfig(device_map="auto"))
    assert spread.identity == plain.identity
    if spread.device.type == "cpu":
        assert _tokens(spread) == _tokens(plain)


def test_weights_that_accelerate_keeps_on_the_disk_are_steered_alike(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = _load(save_model(tmp_path / "model", "gemma2"))
    expected = _tokens(model)
    network = accelerate.disk_offload(model.model, tmp_path / "offload", execution_device=torch.device("cpu"))
    offloaded = SteerableModel(network, model.tokenizer, model.identity)
    assert network.get_input_embeddings().weight.device.type == "meta"
    assert offloaded.device == torch.device("cpu")
    assert _tokens(offloaded) == expected


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_weights_are_another_model(bits: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    # on processors with bfloat16 arithmetic bitsandbytes lays 4-bit weights out in blocks of 64
    wide = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}
    config = hf.LlamaConfig(**{**CONFIGS["llama"].to_dict(), **wide})
    folder = save(tmp_path, hf.AutoModelForCausalLM.from_config(config).to(torch.bfloat16))
    plain, model = _load(folder), _load(folder, quantization=bits)
    assert model.identity.dtype == f"bfloat16+{bits}"
    assert (model.identity.id, model.identity.revision) == (plain.identity.id, plain.identity.revision)
    block: Any = model.blocks[0]
    weight = block.mlp.up_proj.weight
    assert weight.dtype == (torch.int8 if bits == "8bit" else torch.uint8)
    assert all(len(tokens) > 0 for tokens in _tokens(model))
    tokens = torch.tensor([prompts(1)[0]])
    exact, rough = (one.model(input_ids=tokens).logits.float() for one in (plain, model))
    assert torch.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.6
    assert not torch.equal(exact, rough)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"quantization": "4bit"}, r"quantization: 4bit needs the package \w+: pip install 'massact\[quantized\]'"),
        ({"device_map": "auto"}, r"device_map: auto needs the package accelerate: pip install 'massact\[devices\]'"),
    ],
)
def test_a_missing_extra_is_named(
    options: dict[str, str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path, "llama")
    monkeypatch.setattr("massact.models.support.importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ModelError, match=match):
        load_model(str(folder), options=LoadConfig(**options))


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    for device in ("cuda:99", "toaster"):
        with pytest.raises(ModelError, match=f"device '{device}' cannot be used here"):
            load_model(str(folder), options=LoadConfig(device=device))


def test_memory_that_does_not_suffice_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path, "llama")

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5 GiB")

    monkeypatch.setattr(hf.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(ModelError, match=r"does not fit in the memory of cpu: CUDA out of memory.*quantization: 4bit"):
        load_model(str(folder), options=ON_CPU)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "recursion depth"),
        ("[]", "`model_type` key"),
        ('"x"', "`model_type` key"),
        ("{", "not a valid JSON file"),
        ('{"model_type": "llama", "num_hidden_layers": null}', "'num_hidden_layers' expected int, got NoneType"),
        ('{"model_type": "llama", "num_hidden_layers": "abc"}', "field 'num_hidden_layers'"),
        ('{"model_type": "llama", "hidden_size": []}', "field 'hidden_size'"),
        ('{"model_type": "llama", "hidden_size": 0}', "hidden_size of its configuration is 0, not a whole"),
        ('{"model_type": "gemma3", "text_config": 5}', "field 'text_config'"),
        ('{"model_type": "gemma3", "text_config": {"num_hidden_layers": 2.5}}', "field 'num_hidden_layers'"),
        ('{"model_type": "llama", "rms_norm_eps": "small"}', "field 'rms_norm_eps'"),
    ],
    ids=lambda value: value[:40],
)
def test_a_damaged_configuration_is_refused_with_its_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=re.escape(said)) as refused:
        read_shape(str(tmp_path))
    assert str(tmp_path) in str(refused.value)


def test_infinity_in_a_configuration_is_passed_over(tmp_path: Path) -> None:
    text = '{"model_type": "llama", "time_step_limit": [0, Infinity], "num_hidden_layers": 2, "hidden_size": 64}'
    (tmp_path / "config.json").write_text(text)
    assert (read_shape(str(tmp_path)).n_layers, read_shape(str(tmp_path)).d_model) == (2, 64)
