"""The plain way, which every decoder can go, gives what the shared way gives where a model can go both."""

import re
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, RwkvConfig, RwkvForCausalLM

from massact.domain import Generation
from massact.errors import ModelError
from massact.models.blocks import steer
from massact.models.decode import branching, plan_branching
from massact.models.generate import Generator, Intervention, NotFiniteError, Row
from massact.models.load import SteerableModel
from massact.models.operators import Edit
from massact.models.support import Sharing, check_config, check_streams, sharing_of
from tests.support.tiny import D_MODEL, END_TOKEN, N_LAYERS, VOCABULARY, tiny_model, unit

GREEDY, SAMPLED = Generation(12), Generation(12, temperature=1.3, seed=5)


def prompt(length: int) -> tuple[int, ...]:
    """A prompt of `length` tokens."""
    generator = torch.Generator().manual_seed(length)
    return (2, *torch.randint(3, VOCABULARY, (length - 1,), generator=generator).tolist())


def grid() -> list[Row]:
    """Prompts of two lengths, plain and steered at every layer."""
    additions = [None, *(Intervention(layer, unit(layer), 4.0) for layer in range(N_LAYERS))]
    return [Row(prompt(n), addition, i) for addition in additions for i, n in enumerate((4, 11))]


def plainly(model: SteerableModel, **options: Any) -> Generator:
    """A generator that goes the plain way with any model."""
    generator = Generator(model, **options)
    generator._sharing = Sharing("a test wants it", None)
    return generator


@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("architecture", ["gemma3", "gpt2"])
def test_both_ways_give_the_same_tokens(architecture: str, how: Generation) -> None:
    model = tiny_model(architecture)
    model = SteerableModel(model.model, model.tokenizer, model.identity)
    model.__dict__["end_tokens"] = frozenset(range(20))  # some end early
    expected = Generator(model).generate(grid(), how)
    assert len({len(tokens) for tokens in expected}) > 1
    assert plainly(model).generate(grid(), how) == expected
    assert plainly(model, batch_rows=3).generate(grid(), how) == expected


def test_a_batch_has_prompts_of_one_length_and_ends_when_all_have() -> None:
    model, seen = tiny_model("llama"), list[tuple[int, ...]]()
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        said = plainly(model).generate(grid(), GREEDY)
    finally:
        handle.remove()
    assert {shape for shape in seen if shape[1] > 1} == {(1 + N_LAYERS, 4), (1 + N_LAYERS, 11)}
    longest = [max(len(said[i]) for i in range(start, len(said), 2)) for start in (0, 1)]
    assert len(seen) == sum(min(12, length + 1) for length in longest)


def test_a_row_that_overflows_is_told_and_the_others_count() -> None:
    half = deepcopy(tiny_model("llama"))
    half.model.half()
    rows = [Row(prompt(4)), Row(prompt(4), Intervention(2, unit(1), 1e6)), Row(prompt(11))]
    expected = plainly(half).generate([rows[0], rows[2]], GREEDY)
    with pytest.raises(NotFiniteError) as error:
        plainly(half).generate(rows, GREEDY)
    assert error.value.said == [expected[0], None, expected[1]]


def test_what_a_checkpoint_asks_for_is_not_obeyed() -> None:
    model = deepcopy(tiny_model("llama"))
    expected = plainly(model).generate(grid(), GREEDY)
    asked = model.model.generation_config
    asked.repetition_penalty, asked.min_new_tokens, asked.suppress_tokens = 5.0, 12, list(range(3, 40))
    assert plainly(model).generate(grid(), GREEDY) == expected
    assert model.model.generation_config is asked


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ({"num_kv_shared_layers": 2, "kv_sharing_modes": [None, None, "reuse", "reuse"]}, "keys of their own"),
        ({"layer_types": ["linear_attention", "full_attention"] * 2}, "LinearAttentionLayer"),
        ({"use_bidirectional_attention": True}, "see those after them"),
        ({"model_type": "brand_new"}, "brand_new"),
    ],
)
def test_the_shared_way_is_only_for_what_was_shown_exact(change: dict[str, Any], obstacle: str) -> None:
    model = deepcopy(tiny_model("gemma3").model)
    assert sharing_of(model) == Sharing(None, None)
    vars(model.config).update(change)
    shared = sharing_of(model)
    assert obstacle in str(shared.obstacle)
    assert not shared.allows(1)
    assert "transformers' own `generate`" in str(shared.note)


def test_rows_that_reach_beyond_what_a_model_was_trained_on_go_the_plain_way() -> None:
    config = deepcopy(tiny_model("llama").model.config)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = deepcopy(tiny_model("llama").model)
    model.config = config
    shared = sharing_of(model)
    assert (shared.obstacle, shared.n_positions) == (None, 256)
    assert shared.allows(255)
    assert not shared.allows(256)


def test_rows_of_a_kind_that_mixes_them_are_generated_one_by_one() -> None:
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=VOCABULARY, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, context_length=64)
    weights = RwkvForCausalLM(config).eval().requires_grad_(False)
    for part in weights.parameters():
        part.add_(0.3 * torch.randn(part.shape))
    rwkv = SteerableModel(weights, tiny_model("llama").tokenizer, tiny_model("llama").identity)
    check_streams(weights, device="cpu", generating=True)
    assert "one at a time" in str(sharing_of(weights).note)
    seen: list[int] = []
    weights.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)
    rows = [Row(prompt(5)), Row(prompt(5)[::-1]), Row(prompt(5), Intervention(1, unit(1), 3.0)), Row(prompt(8))]
    said = Generator(rwkv).generate(rows, GREEDY)
    assert set(seen) == {1}
    assert len(set(said)) > 2
    for row, tokens in zip(rows, said, strict=True):
        ids = torch.tensor([row.prompt])
        additions = {} if row.intervention is None else {1: Edit(row.intervention.values.view(1, 1, -1))}
        with steer(rwkv.blocks, additions):
            own = weights.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=END_TOKEN, pad_token_id=0)
        own = own[0, len(row.prompt) :].tolist()
        assert list(tokens) == (own[: own.index(END_TOKEN)] if END_TOKEN in own else own)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (
            ImportError("\nTower requires the timm library but it was not found. `pip install timm`. Please note"),
            "Tower requires the timm library but it was not found. `pip install timm`. docs/architectures.md",
        ),
        (RuntimeError("sizes do not match"), "Other cannot be run on text: RuntimeError: sizes do not match. docs/"),
        (RuntimeError("Tensor.item() cannot be called on meta tensors"), None),
    ],
)
def test_what_cannot_be_built_or_run_without_weights_is_refused_unless_it_needs_numbers(
    problem: Exception, said: str | None
) -> None:
    class OtherConfig(LlamaConfig):
        model_type = "other"

    class Auto:
        @staticmethod
        def from_config(*_: Any, **__: Any) -> None:
            raise problem

    OtherConfig.__module__ = "transformers.models.other"
    config = OtherConfig(hidden_size=32, num_hidden_layers=1, pad_token_id=len(str(problem)))
    if said is None:
        check_config("here", config, Auto)
    else:
        with pytest.raises(ModelError, match=f"here: {re.escape(said)}"):
            check_config("here", config, Auto)


def test_code_that_is_not_transformers_own_goes_the_plain_way() -> None:
    class Copied(type(tiny_model("llama").model)):  # type: ignore[misc]
        pass

    model = deepcopy(tiny_model("llama").model)
    model.__class__ = Copied
    assert "no class of transformers" in str(sharing_of(model).obstacle)


class _Cross(nn.Module):
    """A block that text does not reach, as with cross-attention to images."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        raise AssertionError


def test_steering_a_block_that_is_not_run_is_an_error() -> None:
    model = tiny_model("llama")
    blocks = [*model.blocks[:2], _Cross(), *model.blocks[3:]]
    ids = torch.tensor([prompt(5)])
    with (
        pytest.raises(ModelError, match=r"without its decoder blocks \[2\]: nothing was added there"),
        steer(blocks, {2: Edit(torch.zeros(1, 1, D_MODEL))}),
    ):
        model.model(input_ids=ids)
    plan = plan_branching([Row(prompt(5)), Row(prompt(5), Intervention(2, unit(1), 3.0))], N_LAYERS, ids.device)
    with pytest.raises(ModelError, match=r"\[2\]: nothing was added"), branching(blocks, plan):
        model.model(input_ids=ids)


def test_what_is_not_known_to_be_by_prompt_is_never_taken_for_it() -> None:
    """Such as a tensor of as many heads as there are prompts."""
    model = deepcopy(tiny_model("llama"))
    for block in model.blocks:
        block.register_forward_pre_hook(
            lambda _module, args, kwargs: (args, {**kwargs, "alibi": torch.zeros(2, 1, 5)}),
            with_kwargs=True,
            prepend=True,
        )
    rows = [
        Row(prompt(5), Intervention(1, unit(1), 3.0)),
        Row(prompt(6), Intervention(1, unit(2), 3.0)),
        Row(prompt(5)),
    ]
    generator = Generator(model)
    assert generator.generate(rows, GREEDY) == plainly(tiny_model("llama")).generate(rows, GREEDY)
    assert "given alibi (2, 1, 5)" in str(generator._sharing.obstacle)
