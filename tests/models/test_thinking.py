"""A thought that goes on beyond its budget is ended, and the answer is what the model then says by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from massact.domain import Generation
from massact.models.generate import Generator, Intervention, Row
from massact.models.load import SteerableModel
from massact.models.prompting import encode_chat
from massact.models.thinking import closing_tokens, generate_thinking
from tests.support.thinkers import FAMILIES, thinker
from tests.support.tiny import END_TOKEN, N_LAYERS, unit

BUDGET, LENGTH = 5, 14
GREEDY = Generation(LENGTH)


class _Forcing(LogitsProcessor):
    """Forces the end of a thought after the budget, by the tokens alone."""

    def __init__(self, model: SteerableModel, n_prompt: int) -> None:
        marks = FAMILIES[model.identity.id.removeprefix("tiny-")].marks
        self._model, self._n_prompt, self._forced = model, n_prompt, list[int]()
        self._opens, self._closes = (model.tokenizer.convert_tokens_to_ids(marks[i]) for i in (0, -1))

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        said = ids[0, self._n_prompt :].tolist()
        thinks = self._closes not in said and (self._model.chat.is_open or self._opens in said)
        if len(said) == BUDGET and thinks:
            self._forced = [self._closes]
        if self._forced:
            scores = torch.full_like(scores, -torch.inf)
            scores[0, self._forced.pop(0)] = 0.0
        return scores


@contextmanager
def _hooked(model: SteerableModel, row: Row) -> Iterator[None]:
    if row.intervention is None:
        yield
        return
    added = row.intervention.coefficient * row.intervention.vector

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = model.blocks[row.intervention.layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def alone(model: SteerableModel, row: Row) -> tuple[int, ...]:
    """What a row says in one call of `model.generate` that forces the same tokens."""
    tokens = torch.tensor([row.prompt])
    with _hooked(model, row):
        said = model.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=LENGTH,
            max_length=None,
            do_sample=False,
            logits_processor=LogitsProcessorList([_Forcing(model, len(row.prompt))]),
        )[0, len(row.prompt) :].tolist()
    return tuple(said[: said.index(END_TOKEN)] if END_TOKEN in said else said)


def grid(model: SteerableModel) -> list[Row]:
    """Questions of two lengths, plain and steered at every layer."""
    prompts = [encode_chat(model, question) for question in ("t20 t21 t22", "t23 t24 t25 t26 t27", "t28 t29 t20")]
    additions = [None, *(Intervention(layer, unit(layer), 4.0) for layer in range(N_LAYERS))]
    return [Row(prompt, addition, i) for addition in additions for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5", "r1_distill", "glm", "deepseek_v3.1", "smollm3"])
@pytest.mark.parametrize("batch_rows", [None, 4])
def test_a_thought_is_ended_and_the_answer_is_the_models_own(name: str, batch_rows: int | None) -> None:
    model = thinker(name, str(BUDGET))
    rows = grid(model)
    said = generate_thinking(model, Generator(model, batch_rows=batch_rows), rows, GREEDY)
    assert said == [alone(model, row) for row in rows]
    closes = model.tokenizer.convert_tokens_to_ids(FAMILIES[name].marks[-1])
    ended = [tokens for tokens in said if tokens[BUDGET : BUDGET + 1] == (closes,)]
    assert ended or not model.chat.is_open
    assert len(set(said)) > 3


@pytest.mark.parametrize(
    ("name", "said", "forced"),
    [
        ("qwen3", "<think> t20", "</think>"),
        ("qwen3", "t20 t21", ""),  # it answers
        ("qwen3", "<think> t20 </think> t21", ""),  # it has thought
        ("qwen3", "", "<think> </think>"),
        ("r1_distill", "t20", "</think>"),
        ("r1_distill", "", "</think>"),
        ("gemma4", "<|channel> thought t20", "<channel|>"),
    ],
)
def test_what_is_forced(name: str, said: str, forced: str) -> None:
    model = thinker(name, "5")
    plain = model.tokenizer.decode

    def joined(*args: Any, **options: Any) -> str:
        return str(plain(*args, **options)).replace("<|channel> ", "<|channel>")

    model.tokenizer.decode = joined
    tokens = tuple(model.tokenizer.convert_tokens_to_ids(said.split()))
    assert closing_tokens(model, tokens) == tuple(model.tokenizer.convert_tokens_to_ids(forced.split()))


def test_a_budget_of_nothing_ends_a_thought_at_once() -> None:
    model = thinker("r1_distill", "0")
    rows = grid(model)
    closes = model.tokenizer.convert_tokens_to_ids("</think>")
    said = generate_thinking(model, Generator(model), rows, GREEDY)
    begun = [Row((*row.prompt, closes), row.intervention, row.draw) for row in rows]
    rest = Generator(model).generate(begun, Generation(LENGTH - 1))
    assert said == [(closes, *tokens) for tokens in rest]


def test_sampled_tokens_go_on_with_the_same_draws() -> None:
    """A row whose thought ends by itself says what it says without a budget."""
    how = Generation(LENGTH, temperature=1.3, seed=5)
    model, free = thinker("r1_distill", str(BUDGET)), thinker("r1_distill")
    closes = model.tokenizer.convert_tokens_to_ids("</think>")
    rows = [Row((*row.prompt, 20, closes), row.intervention, row.draw) for row in grid(free)]
    expected = Generator(free).generate(rows, how)
    object.__setattr__(model.chat, "is_open", False)  # its thought has ended
    assert generate_thinking(model, Generator(model), rows, how) == expected
    assert {len(tokens) for tokens in expected} != {LENGTH} or len(set(expected)) > 5


def test_without_a_budget_nothing_is_forced() -> None:
    model = thinker("r1_distill", "on")
    rows = grid(model)
    assert generate_thinking(model, Generator(model), rows, GREEDY) == Generator(model).generate(rows, GREEDY)
