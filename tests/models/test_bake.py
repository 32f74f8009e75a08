"""Interventions as weights: logits of the saved checkpoint beside those of hooks that share nothing with it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from massact.domain import Gate, ModelIdentity
from massact.errors import UsageError
from massact.models.bake import Baked, bake, why_not
from massact.models.load import SteerableModel
from massact.models.prompting import Intervention
from tests.support.tiny import CONFIGS, D_MODEL, N_LAYERS, FakeTokenizer, tiny_model, unit

PROMPTS = [(2, 5, 9, 30, 31, 4), (2, 7, 8)]
PARTS = {
    "gpt2": ("attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    **dict.fromkeys(("llama", "mistral", "phi3", "qwen2", "qwen3"), ("self_attn", "mlp")),
}
"""What of a block adds to the stream, by hand."""
EVERYWHERE = Intervention(0, unit(3).expand(N_LAYERS, D_MODEL), 1.0, "ablate")


@contextmanager
def moved(modules: list[Any], vector: torch.Tensor, *, is_ablated: bool) -> Iterator[None]:
    """Take a direction out of what modules give, or add a vector to it."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        first = first - (first @ vector)[..., None] * vector if is_ablated else first + vector
        return (first, *output[1:]) if isinstance(output, tuple) else first

    handles = [module.register_forward_hook(hook) for module in modules]
    yield
    for handle in handles:
        handle.remove()


def baked(architecture: str, one: Intervention, folder: Path) -> tuple[Any, SteerableModel, Baked]:
    """The checkpoint that comes of it, as transformers loads it; the model as it was; what was told."""
    bare = tiny_model(architecture)
    copied = SteerableModel(copy.deepcopy(bare.model), bare.tokenizer, bare.identity)
    told = bake(copied, one, PROMPTS)
    copied.model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), bare, told


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([one])).logits[0] for one in PROMPTS])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", PARTS)
def test_a_direction_is_taken_out_of_all_that_writes_to_the_stream(architecture: str, tmp_path: Path) -> None:
    found, bare, told = baked(architecture, EVERYWHERE, tmp_path)
    parts = [block.get_submodule(name) for block in bare.blocks for name in PARTS[architecture]]
    embeddings = [part for part in bare.model.modules() if isinstance(part, nn.Embedding)]
    with moved([*embeddings, *parts], unit(3), is_ablated=True):
        torch.testing.assert_close(logits(found), logits(bare.model), rtol=1e-4, atol=1e-4)
    with moved(bare.blocks, unit(3), is_ablated=True):
        evaluated = logits(bare.model)
    share = (logits(found) - evaluated).abs().max() / evaluated.abs().max()
    assert told.from_evaluated == pytest.approx(float(share), rel=1e-3)
    assert told.from_weights < 1e-5


def test_a_model_of_one_block_is_baked_as_well() -> None:
    config = copy.deepcopy(CONFIGS["llama"])
    config.num_hidden_layers = 1
    one_block = AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)
    model = SteerableModel(one_block, FakeTokenizer(), ModelIdentity("one", "0", "float32"))
    assert bake(model, Intervention(0, unit(3), 1.0, "ablate"), PROMPTS).from_weights < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])
def test_what_is_added_becomes_a_bias(architecture: str, tmp_path: Path) -> None:
    one = Intervention(1, torch.stack([unit(1), unit(2)]), 4.0, weights=(1.0, 0.5))
    found, bare, told = baked(architecture, one, tmp_path)
    with moved([bare.blocks[1]], 4 * unit(1), is_ablated=False), moved([bare.blocks[2]], 2 * unit(2), is_ablated=False):
        torch.testing.assert_close(logits(found), logits(bare.model), rtol=1e-4, atol=1e-4)
    assert told.from_weights == told.from_evaluated < 1e-5


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (Intervention(1, unit(1), 2.0, tokens="response"), "tokens"),
        (Intervention(1, unit(1), 2.0, decay=0.5), "decay"),
        (Intervention(1, unit(1), 2.0, gate=Gate(0, "prompt[-1]", 0.0), condition=unit(2)), "gate"),
        (Intervention(1, unit(1), 30.0, "rotate"), "rotate"),
        (Intervention(1, unit(1), 1.0, "ablate"), "everylayer"),
        (Intervention(0, EVERYWHERE.vector, 0.5, "ablate"), "coefficient 1"),
        (Intervention(0, torch.stack([unit(i) for i in range(N_LAYERS)]), 1.0, "ablate"), "everylayer"),
    ],
)
def test_what_no_weights_can_do_is_refused(one: Intervention, reason: str) -> None:
    assert reason in str(why_not(one, N_LAYERS))


@pytest.mark.parametrize(
    ("architecture", "one", "reason"),
    [
        ("gemma3", Intervention(1, unit(1), 2.0), "no matrix with a bias"),
        ("qwen3", Intervention(1, unit(1), 2.0), "no matrix with a bias"),
        ("qwen3_moe", EVERYWHERE, "still is along the direction"),
    ],
)
def test_an_architecture_without_a_place_for_it_is_refused(architecture: str, one: Intervention, reason: str) -> None:
    bare = tiny_model(architecture)
    copied = SteerableModel(copy.deepcopy(bare.model), bare.tokenizer, bare.identity)
    with pytest.raises(UsageError, match=reason):
        bake(copied, one, PROMPTS)


def test_a_norm_after_the_matrix_is_seen() -> None:
    bare = tiny_model("gemma2")
    copied = SteerableModel(copy.deepcopy(bare.model), bare.tokenizer, bare.identity)
    with torch.no_grad():
        copied.blocks[2].get_parameter("post_feedforward_layernorm.weight").uniform_(-0.5, 0.5)
    with pytest.raises(UsageError, match="norm, scale or mix"):
        bake(copied, EVERYWHERE, PROMPTS)
