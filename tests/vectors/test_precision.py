"""Sums are taken in float32 or better: beside a massive dim of 32,000, where bfloat16 counts in steps of 256."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import nn

from massact.labels import parse_label
from massact.models.load import SteerableModel
from massact.vectors.calibrate import calibrate
from massact.vectors.methods import extract_vector, mean_diff
from massact.vectors.positions import parse_position
from massact.vectors.streams import Continued, window_means
from tests.support.tiny import D_MODEL, N_LAYERS, tiny_model

MASSIVE, SIZE, STEP = 7, 32_768.0, 256.0


def half_model() -> SteerableModel:
    """A model in bfloat16, as those are that have massive dims."""
    plain = tiny_model("gemma3")
    return SteerableModel(deepcopy(plain.model).bfloat16(), plain.tokenizer, plain.identity)


@contextmanager
def planted(model: SteerableModel, values: torch.Tensor) -> Iterator[None]:
    """Make every block return `values[i]` `[d_model]`, in bfloat16, at token i of every text, whatever it computes."""

    def plant(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        n_tokens = output.shape[1]
        return values[:n_tokens].to(torch.bfloat16).expand(output.shape[0], -1, -1)

    handles = [block.register_forward_hook(plant) for block in model.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stream(n_tokens: int) -> torch.Tensor:
    """`[n_tokens, d_model]`, all exact in bfloat16: one massive dim, a step apart from token to token; small others."""
    values = torch.zeros(n_tokens, D_MODEL)
    values[:, MASSIVE] = SIZE + STEP * (torch.arange(n_tokens) % 2)
    values[:, 0] = 1 + torch.arange(n_tokens) / 128
    assert torch.equal(values, values.bfloat16().float())
    return values


def test_what_is_planted_drowns_in_bfloat16() -> None:
    values = stream(10).bfloat16()
    exact = stream(10).double().mean(0)
    rounded = (torch.stack(list(values)).sum(0) / 10).double()  # the sum rounded to bfloat16
    assert abs(rounded[MASSIVE] - exact[MASSIVE]) >= 100
    assert exact[MASSIVE] == SIZE + STEP / 2  # between two numbers of bfloat16


def test_window_means_are_exact_beside_a_massive_dim() -> None:
    model, values = half_model(), stream(12)
    texts = [Continued((2, 3), tuple(range(4, 14))), Continued((2, 3), tuple(range(4, 11)))]
    with planted(model, values):
        means = window_means(model, texts, [parse_position("response[:]"), parse_position("all[:]")])
    assert means.dtype == torch.float32
    for i, text in enumerate(texts):
        n_prompt, n_tokens = len(text.prompt), len(text.tokens)
        for window, (start, stop) in enumerate(((n_prompt, n_tokens), (0, n_tokens))):
            exact = values[start:stop].double().mean(0)
            for layer in range(N_LAYERS):
                error = (means[window, i, layer].double() - exact).abs()
                assert float(error[MASSIVE]) < 0.01  # the last bit of float32 at 32,768 is 0.004
                assert float(error[0]) < 1e-6


def test_a_calibration_is_exact_beside_a_massive_dim() -> None:
    model, values = half_model(), stream(40)
    words = ["t5 t6 t7", "t8 t9 t10", "t11 t12 t13"]
    with planted(model, values):
        found = calibrate(model, words, max_new_tokens=5, n_top=3)
    read = values[4:9].double()  # a BOS and three words go before every response of five tokens
    assert found.n_tokens == 15
    rest = read.clone()
    rest[:, MASSIVE] = 0
    for layer in found.layers:
        assert layer.top_dims[0] == MASSIVE
        assert layer.norm == pytest.approx(float(read.norm(dim=1).mean()), rel=1e-12)
        cleaned = [dim for dim in range(D_MODEL) if dim not in found.uniform_dims]
        assert layer.norm_without_massive == pytest.approx(float(read[:, cleaned].norm(dim=1).mean()), rel=1e-12)
        assert layer.mean_alignment > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_difference_of_one_beside_a_massive_dim_is_found(dtype: torch.dtype) -> None:
    n = 1000
    positive = torch.zeros(n, D_MODEL)
    positive[:, MASSIVE] = SIZE + STEP * (torch.arange(n) % 2)
    positive[:, 3] = 1.0
    negative = positive.clone()
    negative[:, 3] = 0.0
    positive, negative = positive.to(dtype), negative.to(dtype)
    difference = mean_diff(positive, negative)
    assert difference.dtype == torch.float64
    expected = torch.zeros(D_MODEL, dtype=torch.float64)
    expected[3] = 1.0
    assert torch.equal(difference, expected)
    vector = extract_vector(parse_label("mean_diff"), positive, negative, dims=(), seed=0)
    assert vector.dtype == torch.float32
    assert torch.equal(vector, expected.float())


def test_a_massive_dim_that_differs_by_less_than_a_step_of_bfloat16_is_seen() -> None:
    # one token in eight of the positive side is a step higher: 32 on average, an eighth of what bfloat16 can tell
    positive, negative = torch.zeros(800, D_MODEL), torch.zeros(800, D_MODEL)
    for side in (positive, negative):
        side[:, MASSIVE] = SIZE
        side[:, 1] = 0.5
    positive[::8, MASSIVE] += STEP
    difference = mean_diff(positive.bfloat16(), negative.bfloat16())
    assert float(difference[MASSIVE]) == STEP / 8
    assert float(difference.abs().sum()) == STEP / 8
