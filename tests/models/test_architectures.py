"""Recording and steering on tiny models of every genuine class that docs/models.md names as tested.

Exactly, for a stream: bit by bit in float32. A block's output with steering is the float32 sum of its output without
and the addition, and every stream before it is the same bits. tests/models/test_generate.py holds that steered
responses are, token by token, those of transformers' own `generate` for the same classes.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from massact.errors import ModelError
from massact.models.blocks import record, steer
from massact.models.load import SteerableModel
from massact.models.operators import Edit
from massact.vectors.positions import parse_position
from massact.vectors.streams import Continued, window_means
from tests.support.tiny import CONFIGS, D_MODEL, N_LAYERS, prompts, tiny_model, unit

ARCHITECTURES = sorted(CONFIGS)
CLASSES = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gemma3_vision": "Gemma3ForConditionalGeneration",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
TOKENS = torch.tensor([prompts(1)[0]])


def streams(model: SteerableModel, tokens: torch.Tensor = TOKENS) -> list[torch.Tensor]:
    """Every block's output, layer 0 first."""
    seen: dict[int, torch.Tensor] = {}
    with record(model.blocks, lambda layer, stream: seen.update({layer: stream.clone()})):
        model.model(input_ids=tokens)
    return [seen[layer] for layer in range(N_LAYERS)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_recorded_layer_is_the_hidden_state_one_further_on(architecture: str) -> None:
    model = tiny_model(architecture)
    assert type(model.model).__name__ == CLASSES[architecture]
    states = model.model(input_ids=TOKENS, output_hidden_states=True).hidden_states
    seen = streams(model)
    for layer in range(N_LAYERS - 1):
        torch.testing.assert_close(seen[layer], states[layer + 1], rtol=0, atol=0)
    # the last hidden state is taken after the final norm, the recorded stream before it
    assert not torch.allclose(seen[-1], states[-1])
    torch.testing.assert_close(_final_norm(model.model)(seen[-1]), states[-1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steering_moves_its_layer_by_exactly_the_vector(architecture: str) -> None:
    model, addition = tiny_model(architecture), 3.0 * unit(1)
    plain = streams(model)
    for steered in range(N_LAYERS):
        with steer(model.blocks, {steered: Edit(addition.view(1, 1, -1))}):
            moved = streams(model)  # by hooks that run after the one that steers
        for layer in range(steered):
            assert torch.equal(moved[layer], plain[layer])
        assert torch.equal(moved[steered], plain[steered] + addition)
        for layer in range(steered + 1, N_LAYERS):
            assert not torch.allclose(moved[layer], plain[layer], atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(streams(model), plain, strict=True))


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_vision", "mixtral"])
def test_in_bfloat16_the_sum_is_taken_in_float32_and_rounded_once(architecture: str) -> None:
    plain = tiny_model(architecture)
    half = SteerableModel(deepcopy(plain.model).bfloat16(), plain.tokenizer, plain.identity)
    addition = 100.3 * unit(1)
    before = streams(half)
    with steer(half.blocks, {1: Edit(addition.view(1, 1, -1))}):
        after = streams(half)
    assert torch.equal(after[1], (before[1].float() + addition).bfloat16())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_changes_nothing_that_is_read(architecture: str) -> None:
    model = tiny_model(architecture)
    texts = [Continued(prompt[:-2], prompt[-2:]) for prompt in prompts(5)]
    assert len({len(text.tokens) for text in texts}) > 2
    windows = [parse_position(text) for text in ("response[:]", "prompt[-1]", "all[:]")]

    def read(some: Sequence[Continued]) -> torch.Tensor:
        return window_means(model, some, windows)

    together = read(texts)
    alone = torch.cat([read([text]) for text in texts], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "gemma3_vision", "gpt2", "mixtral"])
def test_left_padding_changes_no_logit(architecture: str) -> None:
    model = tiny_model(architecture).model
    alone = model(input_ids=TOKENS).logits[0, -1]
    n_pad = 5
    mask = torch.ones(2, TOKENS.shape[1] + n_pad, dtype=torch.long)
    mask[0, :n_pad] = 0
    tokens = torch.cat([torch.zeros(1, n_pad, dtype=torch.long), TOKENS], dim=1)
    both = torch.cat([tokens, tokens.flip(1)])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    padded = model(input_ids=both, attention_mask=mask, position_ids=positions).logits[0, -1]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-4)


def test_a_vision_tower_is_neither_steered_nor_run() -> None:
    model = tiny_model("gemma3_vision")
    inner = model.model.model
    tower = inner.vision_tower.encoder.layers
    assert len(tower) == len(model.blocks)  # their number does not tell them apart
    assert model.blocks == list(inner.language_model.layers)
    handles = [one.register_forward_hook(_never) for one in (*tower, inner.multi_modal_projector)]
    try:
        streams(model)
    finally:
        for handle in handles:
            handle.remove()


def test_experts_are_no_blocks() -> None:
    for architecture in ("mixtral", "qwen3_moe"):
        model = tiny_model(architecture)
        assert model.blocks == list(model.model.model.layers)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(D_MODEL, D_MODEL) for _ in range(N_LAYERS)])

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = CONFIGS["mixtral"]
            self.layers = nn.ModuleList([Block() for _ in range(N_LAYERS)])

    mixture = Mixture()
    assert SteerableModel(mixture, None, model.identity).blocks == list(mixture.layers)


def test_blocks_that_the_model_does_not_run_are_an_error() -> None:
    model = tiny_model("llama")
    spare = [*model.blocks[:2], nn.Identity(), *model.blocks[3:]]
    with pytest.raises(ModelError, match=r"without its decoder blocks \[2\]"), record(spare, lambda *_: None):
        model.model(input_ids=TOKENS)


def test_an_error_inside_is_not_hidden_by_blocks_that_did_not_run() -> None:
    with pytest.raises(KeyError), record(tiny_model("llama").blocks, lambda *_: None):
        raise KeyError("the reason")


def _never(module: nn.Module, *_: object) -> None:
    raise AssertionError(f"{type(module).__name__} was run")


def _final_norm(model: Any) -> nn.Module:
    decoder = model.get_decoder()
    return next(
        norm for name in ("norm", "ln_f", "final_layer_norm") if (norm := getattr(decoder, name, None)) is not None
    )
