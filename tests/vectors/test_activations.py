"""Reading activations over windows, and calibrating, on tiny random models."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from massact.errors import DataError, ModelError
from massact.evaluation import Progress, silent
from massact.vectors.calibrate import calibrate
from massact.vectors.massive_dims import calibration_json, parse_calibration
from massact.vectors.positions import parse_position
from massact.vectors.streams import Continued, Reading, continue_and_read, continue_prompts, window_means
from tests.support.tiny import D_MODEL, N_LAYERS, prompts, tiny_model


def _texts(n: int) -> list[Continued]:
    return continue_prompts(tiny_model("llama"), prompts(n), 6, what="")


def test_window_means_are_hidden_states_averaged_over_the_window() -> None:
    model, texts = tiny_model("llama"), _texts(5)
    positions = [parse_position(p) for p in ("response[:2]", "response[-1]", "prompt[-1]", "all[:]")]
    means = window_means(model, texts, positions)
    assert means.shape == (4, 5, N_LAYERS, D_MODEL)
    for i, text in enumerate(texts):
        states = model.model(input_ids=torch.tensor([text.tokens]), output_hidden_states=True).hidden_states[2][0]
        n = len(text.prompt)
        torch.testing.assert_close(means[0, i, 1], states[n : n + 2].mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(means[1, i, 1], states[-1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(means[2, i, 1], states[n - 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(means[3, i, 1], states.mean(0), atol=1e-5, rtol=1e-4)


def test_a_window_without_a_token_is_nan_and_nothing_else_is() -> None:
    texts = [Continued(prompts(1)[0], ()), Continued(prompts(1)[0], (5, 6))]
    means = window_means(tiny_model("llama"), texts, [parse_position("response[:2]")])
    assert means[0, 0].isnan().all()
    assert means[0, 1].isfinite().all()


def test_an_overflow_is_told_and_not_taken_for_a_missing_window() -> None:
    model, texts = tiny_model("llama"), _texts(1)
    handle = model.blocks[2].register_forward_hook(lambda _m, _i, output: output * float("inf"))
    try:
        with pytest.raises(DataError, match="layer 2 are not finite"):
            window_means(model, texts, [parse_position("all[:]")])
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


def test_dims_that_are_massive_at_the_first_token_alone_are_told_apart() -> None:
    model, everywhere, sink = tiny_model("llama"), 7, 11

    def plant(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., everywhere] = 2_000.0
        if output.shape[1] > 1:  # a prompt, or a whole text
            output[:, 0, sink] = -50_000.0
        return output

    handles = [block.register_forward_hook(plant) for block in model.blocks[1:3]]
    try:
        found = calibrate(model, ["t5 t6 t7", "t9 t3 t4 t8 t5"], max_new_tokens=4, n_top=5)
    finally:
        for handle in handles:
            handle.remove()
    assert [layer.sink_dims for layer in found.layers] == [(), (sink,), (sink,), (sink,)]
    for layer in found.layers[1:3]:
        assert layer.top_dims[0] == everywhere
        assert layer.first is not None
        assert (layer.first.dims[:2], layer.first.mean[:2]) == ((sink, everywhere), (50_000.0, 2_000.0))
        assert layer.first.norm == pytest.approx(math.hypot(50_000, 2_000), rel=1e-4)
        assert layer.prompt is not None
        assert layer.prompt.dims[0] == everywhere
        assert layer.response is not None
        assert layer.response.dims == layer.top_dims
        assert layer.response.mean[0] == layer.response.largest[0] == 2_000.0
        assert layer.response.max_to_median == 2_000.0 / layer.response.median
    assert found.sink == "dim 11 at layers 1-3; the norm of the first token is up to 25 times that of response tokens"
    assert parse_calibration(json.loads(json.dumps(calibration_json(found, {})))) == found


# extraction: read while continuing, and kept

RESPONSE = [parse_position(text) for text in ("response[:2]", "response[-1]", "response[:]", "response[4:]")]


def _continue(kept: Path | None = None, n_new: int = 6, progress: Progress = silent) -> tuple[Any, torch.Tensor]:
    # some prompts stand twice, and some texts end before the others
    asked = [*prompts(40), *prompts(3)]
    return continue_and_read(tiny_model("llama"), asked, Reading(RESPONSE, 6, n_new), kept=kept, progress=progress)


@pytest.mark.parametrize("n_new", [6, 9])
def test_what_is_read_while_continuing_is_what_a_second_pass_reads(n_new: int) -> None:
    texts, means = _continue(n_new=n_new)
    assert texts == continue_prompts(tiny_model("llama"), [*prompts(40), *prompts(3)], n_new, what="")
    assert {len(text.response) for text in texts} > {n_new}
    first = [Continued(text.prompt, text.response[:6]) for text in texts]
    again = window_means(tiny_model("llama"), first, RESPONSE)
    torch.testing.assert_close(means, again, atol=1e-4, rtol=1e-3, equal_nan=True)
    assert means[3].isnan().any()


def test_windows_that_hold_prompt_tokens_are_read_afterwards() -> None:
    positions, model = ([*RESPONSE, parse_position("prompt[-1]"), parse_position("all[1:]")], tiny_model("llama"))
    texts, means = continue_and_read(model, prompts(40), Reading(positions, 4, 6))
    first = [Continued(text.prompt, text.response[:4]) for text in texts]
    again = window_means(model, first, positions)
    torch.testing.assert_close(means, again, atol=1e-4, rtol=1e-3, equal_nan=True)
    assert [text.response for text in texts] == [text.response for text in _continue()[0][:40]]


def test_texts_that_all_end_at_once_have_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setitem(model.__dict__, "end_tokens", frozenset(range(64)))
    texts, means = _continue()
    assert [text.response for text in texts] == [()] * 43
    assert means.isnan().all()


def test_an_overflow_while_continuing_is_told() -> None:
    model = tiny_model("llama")
    handle = model.blocks[3].register_forward_hook(
        lambda _m, _i, output: output if output.shape[1] > 1 else output * float("inf")
    )
    try:
        with pytest.raises(ModelError, match="not finite in float32 unsteered"):
            _continue()
    finally:
        handle.remove()


class _KilledError(Exception):
    pass


def test_what_was_continued_before_a_kill_is_not_continued_again(tmp_path: Path) -> None:
    """Of two batches the first is kept; progress comes token by token."""
    told: list[int] = []

    @contextmanager
    def counted(_what: str, total: int) -> Iterator[Callable[[int], None]]:
        told.append(total)
        yield told.append

    @contextmanager
    def killing(_what: str, _total: int) -> Iterator[Callable[[int], None]]:
        def advance(_n: int) -> None:
            if list(tmp_path.glob("*.safetensors")):
                raise _KilledError

        yield advance

    with pytest.raises(_KilledError):
        _continue(tmp_path, progress=killing)
    assert [file.name for file in tmp_path.iterdir()] == ["0-32.safetensors"]
    texts, means = _continue(tmp_path, progress=counted)
    assert told[:2] == [43 * 6, 32 * 6]
    assert told[2:5] == [11, 11, 11]
    assert sum(told[1:]) == told[0]
    whole = _continue()
    assert texts == whole[0]
    assert torch.equal(means.nan_to_num(7.0), whole[1].nan_to_num(7.0))
    # a file that was cut off is no batch
    (tmp_path / "0-32.safetensors").write_bytes(b"cut")
    assert _continue(tmp_path)[0] == whole[0]
