"""Attention of one new token is transformers' own, and only models whose attention it is use it."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from massact.models.attention import _attend, attends_here, one_token_attention
from massact.models.cache import RowCache
from tests.support.tiny import CONFIGS, tiny_model

N, KEPT, GROUP, WIDTH, SEQ = 3, 2, 2, 8, 11
OTHERS = {"gpt2", "gpt_neox"}


class _Module:
    num_key_value_groups = GROUP
    training = False


@pytest.mark.parametrize("by_dim", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 4, 64])
def test_it_is_what_eager_attention_gives(window: int | None, softcap: float | None, by_dim: bool) -> None:
    torch.manual_seed(0)
    query = torch.randn(N, KEPT * GROUP, 1, WIDTH)
    key, value = torch.randn(2, N, KEPT, SEQ, WIDTH)
    cache = RowCache(CONFIGS["gemma2"], N, SEQ + 3, by_dim=by_dim)
    cache.update(key[:, :, :-1], value[:, :, :-1], 0)
    key, value = cache.update(key[:, :, -1:], value[:, :, -1:], 0)
    assert (key.stride(-2) == 1) is by_dim
    valid = torch.ones(N, SEQ)
    valid[1, :5] = 0  # padding that reaches into the shorter window
    mask = torch.where(valid.bool(), 0.0, torch.finfo(torch.float32).min)[:, None, None].expand(-1, KEPT, -1, -1)
    within = mask[:, :1].clone()
    if window is not None:
        within[..., : max(0, SEQ - window)] = torch.finfo(torch.float32).min
    module: Any = _Module()
    expected, _ = eager_attention_forward(module, query, key, value, within, scaling=0.3, softcap=softcap)
    found, _ = _attend(module, query, key, value, mask, scaling=0.3, softcap=softcap, sliding_window=window)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_a_model_attends_so_while_it_decodes_and_as_before_afterwards(architecture: str) -> None:
    model = tiny_model(architecture)
    before, valid = model.attention, torch.ones(2, 5, dtype=torch.long)
    assert attends_here(model) is (architecture not in OTHERS)
    with one_token_attention(model) as masks:
        assert (model.attention == before) is (architecture in OTHERS)
        assert (masks(valid) is valid) is (architecture in OTHERS)
    assert model.attention == before


def test_other_numbers_than_float32_are_attended_as_the_model_does() -> None:
    model = deepcopy(tiny_model("llama"))
    model.model.bfloat16()
    assert not attends_here(model)
