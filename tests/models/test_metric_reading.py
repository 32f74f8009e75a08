"""KL and perplexity of responses, held against plain transformers with a hook: one row at a time, no cache."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

from massact.config import LoadConfig
from massact.domain import Generation
from massact.metrics import Reading, kl, perplexity
from massact.models.generate import Generator, Intervention, Row
from massact.models.load import SteerableModel, load_model
from massact.models.neutral import NeutralPrompts
from massact.models.reading import Likelihoods
from massact.models.support import Sharing
from tests.support.tiny import D_MODEL, N_LAYERS, prompts, tiny_model, unit

N_NEW, N_READ = 12, 8
GREEDY = Generation(N_NEW)
FAMILIES = ("llama", "gemma3", "gpt2")


@contextmanager
def hooked(blocks: Any, one: Intervention | None, n_prompt: int) -> Iterator[None]:
    """Add coefficient x vector at each of the layers, at every token or at those of the response."""

    def hook(layer: int) -> Any:
        def change(_module: Any, _inputs: Any, output: Any) -> Any:
            stream = (output[0] if isinstance(output, tuple) else output).clone()
            assert one is not None
            stream[:, n_prompt if one.tokens == "response" else 0 :] += one.coefficient * one.at(layer)
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return change

    with ExitStack() as stack:
        for layer in one.layers if one else ():
            stack.callback(blocks[layer].register_forward_hook(hook(layer)).remove)
        yield


@torch.inference_mode()
def expected(model: SteerableModel, row: Row, said: tuple[int, ...], n: int) -> tuple[float, float]:
    """KL and perplexity of the first tokens of what a row said, in float64."""
    tokens, start = torch.tensor([(*row.prompt, *said)]), len(row.prompt)
    found = []
    for one in (row.intervention, None):
        with hooked(model.blocks, one, start):
            logits = model.model(input_ids=tokens, use_cache=False).logits[0, start - 1 : -1][:n]
        found.append(logits.double().log_softmax(-1))
    p, q = found
    likelihoods = q.gather(-1, torch.tensor(said[:n])[:, None])
    return float((p.exp() * (p - q)).sum(-1).mean()), math.exp(-float(likelihoods.mean()))


def rows_of(d_model: int, n_layers: int, asked: list[tuple[int, ...]], vector: Any = unit) -> list[Row]:
    """Rows of one batch: unsteered, at one layer, at all, and of the response only."""
    band = torch.stack([vector(layer) for layer in range(n_layers)])
    some = (
        None,
        Intervention(1, vector(7), 3.0),
        Intervention(2, vector(8), -9.0),
        Intervention(0, band, 1.5),
        Intervention(1, vector(9), 6.0, tokens="response"),
        Intervention(0, band, 1.5, tokens="response"),
    )
    assert band.shape == (n_layers, d_model)
    return [Row(prompt, one) for one in some for prompt in asked]


def measured(said: tuple[int, ...], read: Likelihoods) -> tuple[float | None, float | None]:
    reading = Reading("", "", said, read.log_probabilities, read.kl)
    return kl(reading), perplexity(reading)


def check(model: SteerableModel, rows: list[Row], said: Any, read: Any, n: int = N_READ) -> None:
    assert len(said) == len(read) == len(rows)
    assert any(sum(one.kl) > 0.1 for one in read)
    for row, tokens, likelihoods in zip(rows, said, read, strict=True):
        if not tokens:
            assert likelihoods == Likelihoods()
            continue
        assert len(likelihoods.kl) == len(likelihoods.log_probabilities) == min(n, len(tokens))
        assert measured(tokens, likelihoods) == pytest.approx(expected(model, row, tokens, n), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_kl_and_perplexity_are_those_of_plain_transformers(architecture: str) -> None:
    model = tiny_model(architecture)
    rows = rows_of(D_MODEL, N_LAYERS, prompts(5))
    said, read = Generator(model).generate_and_read(rows, GREEDY, N_READ)
    check(model, rows, said, read)
    assert said == Generator(model).generate(rows, GREEDY)  # reading changes nothing of what is said
    for row, one in zip(rows, read, strict=True):
        assert row.intervention or one.kl == pytest.approx([0] * len(one.kl), abs=1e-5)


@pytest.mark.parametrize("way", ["recorded", "plain", "small batches"])
def test_every_way_of_generating_reads_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    rows = rows_of(D_MODEL, N_LAYERS, prompts(3))
    monkeypatch.setattr("massact.models.reading._MOST_LOGITS_ELSEWHERE", 1 << 12)
    generator = Generator(model, batch_rows=4 if way == "small batches" else None, recorded=way == "recorded")
    if way == "plain":
        generator._sharing = generator.reader.sharing = Sharing("a test", None)
    check(model, rows, *generator.generate_and_read(rows, GREEDY, N_READ))


def test_all_tokens_are_read_where_that_is_asked() -> None:
    model = tiny_model("llama")
    rows = rows_of(D_MODEL, N_LAYERS, prompts(2))
    check(model, rows, *Generator(model).generate_and_read(rows, GREEDY, 1000), n=N_NEW)


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["toy:gemma-2-instruct", "toy:gemma-3-instruct"])
def test_the_embedded_models_are_read_as_plain_transformers_do(reference: str) -> None:
    model = load_model(reference, options=LoadConfig(dtype="float32"))
    d_model, n_layers = model.shape.d_model, model.shape.n_layers

    def vector(seed: int) -> torch.Tensor:
        drawn = torch.randn(d_model, generator=torch.Generator().manual_seed(seed))
        return 10 * drawn / drawn.norm()

    asked = [tuple(model.tokenizer(text)["input_ids"]) for text in ("How do I bake bread?", "Name a bird.")]
    rows = rows_of(d_model, n_layers, asked, vector)
    check(model, rows, *Generator(model).generate_and_read(rows, GREEDY, N_READ))


@pytest.mark.slow
def test_neutral_prompts_are_read_as_plain_transformers_do() -> None:
    model = load_model("toy:gemma-3-instruct", options=LoadConfig(dtype="float32"))
    drawn = torch.randn(model.shape.d_model, generator=torch.Generator().manual_seed(1))
    one = Intervention(2, drawn / drawn.norm(), 20.0, tokens="response")
    neutral = NeutralPrompts(model)
    found = neutral.kl(Generator(model), [one, None])
    by_hand = [
        expected(model, Row(prompt, one), said, 4)[0]
        for prompt, said in zip(neutral._prompts, neutral._said, strict=True)
        if said
    ]
    assert found[0] == pytest.approx(by_hand, abs=1e-4)
    assert max(by_hand) > 1e-3
    assert found[1] == pytest.approx([0.0] * len(by_hand), abs=1e-5)
