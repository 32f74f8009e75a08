"""Reading activations over windows, and calibrating, on tiny random models."""

import pytest
import torch
from torch import nn

from massact.errors import DataError
from massact.vectors.activations import Continued, calibrate, continue_prompts, window_means
from massact.vectors.positions import parse_position
from tests.support.tiny import D_MODEL, N_LAYERS, prompts, tiny_model


def _texts(n: int) -> list[Continued]:
    return continue_prompts(tiny_model("llama"), prompts(n), 6, what="")


def test_window_means_are_hidden_states_averaged_over_the_window() -> None:
    model, texts = tiny_model("llama"), _texts(5)
    positions = [parse_position(p) for p in ("response[:2]", "response[-1]", "prompt[-1]", "all[:]")]
    means = window_means(model, texts, positions, what="")
    assert means.shape == (4, 5, N_LAYERS, D_MODEL)
    for i, text in enumerate(texts):
        states = model.model(input_ids=torch.tensor([text.tokens]), output_hidden_states=True).hidden_states[
            2
        ][0]
        n = len(text.prompt)
        torch.testing.assert_close(means[0, i, 1], states[n : n + 2].mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(means[1, i, 1], states[-1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(means[2, i, 1], states[n - 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(means[3, i, 1], states.mean(0), atol=1e-5, rtol=1e-4)


def test_a_window_without_a_token_is_nan_and_nothing_else_is() -> None:
    texts = [Continued(prompts(1)[0], ()), Continued(prompts(1)[0], (5, 6))]
    means = window_means(tiny_model("llama"), texts, [parse_position("response[:2]")], what="")
    assert means[0, 0].isnan().all()
    assert means[0, 1].isfinite().all()


def test_an_overflow_is_told_and_not_taken_for_a_missing_window() -> None:
    model, texts = tiny_model("llama"), _texts(1)
    handle = model.blocks[2].register_forward_hook(lambda _m, _i, output: output * float("inf"))
    try:
        with pytest.raises(DataError, match="layer 2 are not finite"):
            window_means(model, texts, [parse_position("all[:]")], what="")
    finally:
        handle.remove()


def test_calibration_finds_a_planted_massive_dim_and_measures_the_rest_without_it() -> None:
    model = tiny_model("llama")
    planted, size = 7, 30_000.0

    def plant(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., planted] = size
        return output

    handles = [block.register_forward_hook(plant) for block in model.blocks]
    try:
        words = [" ".join(f"t{3 + (i * 7 + j) % 50}" for j in range(5)) for i in range(6)]
        found = calibrate(model, words, max_new_tokens=4, n_top=5)
    finally:
        for handle in handles:
            handle.remove()
    assert found.uniform_dims[0] == planted
    for layer in found.layers:
        assert layer.top_dims[0] == planted
        assert layer.ratio_to_median[0] > 1000
        assert layer.norm > size * 0.999
        assert 0 < layer.norm_without_massive < size / 100
        assert layer.mean_alignment > 0.99
