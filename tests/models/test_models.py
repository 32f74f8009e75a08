"""Hooks, decoder blocks and generating, on tiny random models of genuine classes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from massact.domain import Generation
from massact.errors import ModelError
from massact.models.blocks import block_output, find_decoder_blocks, record, steer
from massact.models.generate import Intervention, Row, generate
from massact.models.load import SteerableModel
from massact.models.operators import Edit
from tests.support.tiny import D_MODEL, N_LAYERS, prompts, tiny_model, unit

GREEDY = Generation(12)


def _streams(architecture: str, tokens: torch.Tensor) -> dict[int, torch.Tensor]:
    model = tiny_model(architecture)
    seen: dict[int, torch.Tensor] = {}
    with record(model.blocks, lambda layer, stream: seen.update({layer: stream.clone()})):
        model.model(input_ids=tokens)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "llama", "gpt2"])
def test_a_padded_grid_gives_token_for_token_what_single_rows_give(architecture: str) -> None:
    model = tiny_model(architecture)
    rows = [
        Row(prompt, None if coefficient is None else Intervention(layer, unit(vector), coefficient))
        for prompt in prompts(4)
        for layer, vector, coefficient in ((0, 1, None), (1, 1, 2.0), (2, 2, 4.0), (1, 3, 8.0), (3, 2, 0.0))
    ]
    grid = generate(model, rows, GREEDY, batch_rows=len(rows))
    alone = [generate(model, [row], GREEDY, batch_rows=1)[0] for row in rows]
    assert grid == alone
    assert len(set(grid)) > len(prompts(4))  # steering does change what is said


def test_coefficient_zero_is_exactly_the_baseline() -> None:
    model = tiny_model("gemma3")
    plain = generate(model, [Row(p) for p in prompts(6)], GREEDY, batch_rows=6)
    zero = generate(model, [Row(p, Intervention(2, unit(1), 0.0)) for p in prompts(6)], GREEDY, batch_rows=6)
    assert zero == plain


@pytest.mark.parametrize("architecture", ["gemma3", "gpt_neox"])
def test_our_greedy_loop_gives_what_transformers_generates(architecture: str) -> None:
    model = tiny_model(architecture)
    for prompt in prompts(3):
        ours = generate(model, [Row(prompt)], GREEDY, batch_rows=1)[0]
        theirs = model.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )[0, len(prompt) :].tolist()
        ended = theirs.index(1) if 1 in theirs else len(theirs)
        assert ours == tuple(theirs[:ended])


def test_sampling_does_not_depend_on_the_batch_and_depends_on_the_seed() -> None:
    model = tiny_model("llama")
    rows = [Row(prompt, draw=i) for i, prompt in enumerate(prompts(5))]
    sampled = Generation(12, temperature=1.5, seed=3)
    together = generate(model, rows, sampled, batch_rows=5)
    assert together == [generate(model, [row], sampled, batch_rows=1)[0] for row in rows]
    assert together != generate(model, rows, Generation(12, temperature=1.5, seed=4), batch_rows=5)


def test_sampling_draws_each_token_as_often_as_its_probability_says() -> None:
    model, prompt = tiny_model("llama"), prompts(1)[0]
    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = logits.softmax(-1)
    rows = [Row(prompt, draw=i) for i in range(2000)]
    first = generate(model, rows, Generation(1, temperature=1.0), batch_rows=2000)
    counts = torch.zeros(len(expected))
    for tokens in first:
        counts[tokens[0] if tokens else 1] += 1  # an empty response drew the end token
    top = int(expected.argmax())
    assert abs(counts[top] / 2000 - expected[top]) < 4 * (expected[top] * (1 - expected[top]) / 2000) ** 0.5


def test_rows_that_end_leave_the_batch_without_changing_the_others() -> None:
    plain, long = tiny_model("gemma3"), Generation(40, temperature=1.5, seed=1)
    rows = [Row(prompt, Intervention(1, unit(i), 2.0), draw=i) for i, prompt in enumerate(prompts(12))]
    endless = generate(plain, rows, long, batch_rows=12)

    # tokens that some rows reach after a while, so that rows end at different steps
    reached = {tokens[at] for tokens, at in zip(endless, range(0, 24, 2), strict=True) if len(tokens) > at}

    class EndsOften(SteerableModel):
        end_tokens = plain.end_tokens | reached  # type: ignore[assignment]  # a value in the property's place

    model = EndsOften(plain.model, plain.tokenizer, plain.identity)
    responses = generate(model, rows, long, batch_rows=12)
    assert len({len(tokens) for tokens in responses}) > 3
    expected = []
    for tokens in endless:
        end = next((i for i, token in enumerate(tokens) if token in model.end_tokens), len(tokens))
        expected.append(tokens[:end])
    assert responses == expected


def test_hooks_come_off_after_an_error() -> None:
    model, tokens = tiny_model("llama"), torch.tensor([prompts(1)[0]])
    before = _streams("llama", tokens)
    with pytest.raises(RuntimeError, match="stop"), steer(model.blocks, {1: Edit(torch.ones(1, 1, D_MODEL))}):
        raise RuntimeError("stop")
    torch.testing.assert_close(_streams("llama", tokens)[3], before[3], rtol=0, atol=0)


def test_an_unknown_block_output_raises_instead_of_steering_nothing() -> None:
    for output in (None, {"hidden": 1}, (), torch.zeros(2, 3), ("text",)):
        with pytest.raises(ModelError, match="decoder block 7"):
            block_output(output, 7)


def test_blocks_are_found_beside_a_vision_tower_and_refused_when_ambiguous() -> None:
    model = tiny_model("llama").model

    class Wrapper(nn.Module):
        def __init__(self, tower: str) -> None:
            super().__init__()
            self.config = model.config
            self.language = model
            self.add_module(tower, nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)] * N_LAYERS)}))

    assert find_decoder_blocks(Wrapper("vision_tower")) == list(model.model.layers)
    with pytest.raises(ModelError, match=r"2 lists.*language.*other"):
        find_decoder_blocks(Wrapper("other"))
    bare = nn.Linear(2, 2)
    config: Any = SimpleNamespace(get_text_config=lambda **_: SimpleNamespace(num_hidden_layers=9))
    bare.config = config
    with pytest.raises(ModelError, match="no list of 9 decoder blocks"):
        find_decoder_blocks(bare)
