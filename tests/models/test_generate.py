"""Steered generation: the same tokens however rows are batched, shared, recorded or cut by memory."""

import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from massact.domain import Generation
from massact.errors import ModelError
from massact.models.blocks import steer
from massact.models.cache import measure_memory
from massact.models.generate import Generator, Intervention, NotFiniteError, Row, generate
from massact.models.load import SteerableModel
from massact.models.operators import Edit
from massact.models.recorded_steps import padded_rows
from tests.support.tiny import CONFIGS, D_MODEL, END_TOKEN, N_LAYERS, VOCABULARY, tiny_model

ARCHITECTURES = sorted(CONFIGS)
N_NEW = 12
GREEDY = Generation(N_NEW)
SAMPLED = Generation(N_NEW, temperature=1.3, seed=5)


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """A prompt of `length` tokens."""
    generator = torch.Generator().manual_seed(100 * length + seed)
    return (2, *torch.randint(3, VOCABULARY, (length - 1,), generator=generator).tolist())


def addition(layer: int, coefficient: float, seed: int = 0) -> Intervention:
    """An addition along a random unit vector."""
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return Intervention(layer, vector / vector.norm(), coefficient)


def grid() -> list[Row]:
    """Prompts of several lengths with every layer steered, and each of them unsteered."""
    prompts = [prompt(3), prompt(11), prompt(3, 1), prompt(20)]
    additions = [None, *(addition(layer, 3.0 + layer, seed) for layer in range(N_LAYERS) for seed in range(2))]
    return [Row(one, steered, i) for steered in additions for i, one in enumerate(prompts)]


def by_transformers(model: SteerableModel, row: Row) -> tuple[int, ...]:
    """The row alone through `model.generate`, steered by a hook."""
    additions = {} if row.intervention is None else {row.intervention.layer: Edit(row.intervention.values[None, None])}
    with steer(model.blocks, additions):
        tokens = model.model.generate(
            torch.tensor([row.prompt]),
            attention_mask=torch.ones(1, len(row.prompt), dtype=torch.long),
            max_new_tokens=N_NEW,
            do_sample=False,
        )[0, len(row.prompt) :].tolist()
    return tuple(tokens[: tokens.index(END_TOKEN)] if END_TOKEN in tokens else tokens)


@contextmanager
def seen_rows(model: SteerableModel) -> Iterator[list[tuple[int, int, int]]]:
    """Collect (layer, rows, tokens) of every call of a decoder block."""
    seen: list[tuple[int, int, int]] = []

    def hook(layer: int) -> object:
        def note(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
            stream = args[0] if args else kwargs["hidden_states"]
            seen.append((layer, stream.shape[0], stream.shape[1]))

        return note

    handles = [
        block.register_forward_pre_hook(hook(layer), with_kwargs=True)  # type: ignore[arg-type]
        for layer, block in enumerate(model.blocks)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_grid_gives_what_transformers_gives_row_by_row(architecture: str) -> None:
    model = tiny_model(architecture)
    found = generate(model, grid(), GREEDY)
    # every prompt, every addition and the unsteered: a row alone is slow
    assert found[::3] == [by_transformers(model, row) for row in grid()[::3]]
    assert len(set(found)) > 2 * len({row.prompt for row in grid()})  # steering does change what is said


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_steps_made_to_be_recorded_give_the_same_tokens(architecture: str, how: Generation) -> None:
    model = tiny_model(architecture)
    generator = Generator(model, recorded=True)
    expected = generate(model, grid(), how)
    assert generator.generate(grid(), how) == expected
    # buffers and cache are used again, also by a batch of fewer and shorter rows
    some = grid()[5:20:3]
    assert generator.generate(some, how) == generate(model, some, how)
    assert generator.generate(grid(), how) == expected


@pytest.mark.slow
def test_places_without_a_row_never_count_beyond_the_last_position() -> None:
    plain, config = tiny_model("gpt2"), deepcopy(CONFIGS["gpt2"])  # it looks positions up in a table
    config.n_positions = 256
    network = AutoModelForCausalLM.from_config(config).float().eval()
    model = SteerableModel(network, plain.tokenizer, plain.identity)
    generator, long = Generator(model, recorded=True), Generation(200, temperature=3.0)
    n_steps = 0
    while n_steps < 2 * model.model.config.n_positions:
        found = generator.generate([Row(prompt(3, n_steps), draw=i) for i in range(3)], long)
        n_steps += 1 + max(map(len, found))


@pytest.mark.parametrize("recorded", [False, True])
def test_the_same_batches_give_the_same_tokens_in_bfloat16(recorded: bool) -> None:
    plain = tiny_model("gemma3")
    half = SteerableModel(deepcopy(plain.model).bfloat16(), plain.tokenizer, plain.identity)
    first = Generator(half, recorded=recorded).generate(grid(), GREEDY)
    again = Generator(half, recorded=recorded)
    assert again.generate(grid(), GREEDY) == first
    assert again.generate(grid(), GREEDY) == first  # in buffers that held another batch


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [False, True])
def test_rows_that_end_early_change_nothing_for_the_others(recorded: bool) -> None:
    found = Generator(tiny_model("gemma3"), recorded=recorded).generate(_long_rows(), LONG)
    assert len({len(tokens) for tokens in found}) > 10
    assert min(map(len, found)) < 10
    assert found == _each_long_row_alone()


LONG = Generation(60, temperature=1.5, seed=1)


def _long_rows() -> list[Row]:
    return [Row(prompt(4, i % 7), addition(i % N_LAYERS, 2.0, i), draw=i) for i in range(24)]


@cache
def _each_long_row_alone() -> list[tuple[int, ...]]:
    return [generate(tiny_model("gemma3"), [row], LONG)[0] for row in _long_rows()]


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(2, 9), st.integers(-1, N_LAYERS - 1), st.sampled_from([-4.0, 0.0, 5.0])),
        min_size=1,
        max_size=14,
    ),
    st.integers(1, 6),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_no_batching_of_any_rows_changes_a_token(
    rows: list[tuple[int, int, float]], batch_rows: int, recorded: bool
) -> None:
    model = tiny_model("qwen3")
    found = Generator(model, batch_rows=batch_rows, recorded=recorded).generate([_row(*row) for row in rows], GREEDY)
    assert found == [_row_alone(*row) for row in rows]


def _row(length: int, layer: int, coefficient: float) -> Row:
    return Row(prompt(length), None if layer < 0 else addition(layer, coefficient))


@cache
def _row_alone(length: int, layer: int, coefficient: float) -> tuple[int, ...]:
    return generate(tiny_model("qwen3"), [_row(length, layer, coefficient)], GREEDY)[0]


def test_a_prompt_is_read_once_below_the_layers_that_are_steered() -> None:
    model = tiny_model("gemma3")
    rows = [Row(prompt(9, i), addition(layer, 4.0, seed)) for i in range(3) for layer in (1, 2) for seed in range(5)]
    with seen_rows(model) as seen:
        generate(model, rows, Generation(1))
    # 3 prompts; 15 rows branch off after layer 1, the other 15 after layer 2, when no trunk is needed any more
    assert seen == [(0, 3, 9), (1, 3, 9), (2, 3 + 15, 9), (3, 30, 9)]


def test_rows_that_cannot_differ_are_generated_once() -> None:
    model = tiny_model("llama")
    one, other = Row(prompt(5), addition(1, 30.0), draw=0), Row(prompt(5), addition(1, 30.0), draw=1)
    rows = [one, other, Row(prompt(5), addition(2, 0.0)), Row(prompt(5)), Row(prompt(5), addition(2, 30.0, 3))]
    done: list[int] = []
    with seen_rows(model) as seen:
        found = generate(model, rows, Generation(2), progress=done.append)
    assert max(n_rows for _, n_rows, _ in seen) == 3
    assert sum(done) == len(rows)
    assert found[0] == found[1] != found[4]
    assert found[2] == found[3]
    with seen_rows(model) as seen:
        generate(model, [one, other], Generation(2, temperature=1.0))
    assert max(n_rows for _, n_rows, _ in seen) == 2  # sampled with draws of their own


def test_rows_of_one_length_share_a_batch() -> None:
    model = tiny_model("llama")
    rows = [Row(prompt(length, i)) for i in range(4) for length in (4, 25)]
    with seen_rows(model) as seen:
        generate(model, rows, Generation(1), batch_rows=4)
    assert [one for one in seen if one[0] == 0] == [(0, 4, 4), (0, 4, 25)]


def test_the_memory_of_a_batch_is_given_back_before_a_larger_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, alive = Generator(tiny_model("llama")), list[bool]()
    room: Any = generator._room
    held = weakref.ref(room(2, 8))
    monkeypatch.setattr("massact.models.generate.return_freed", lambda: alive.append(held() is not None))
    room(4, 8)
    assert alive == [False]


def test_a_memory_budget_cuts_batches_and_not_results() -> None:
    model, rows = tiny_model("llama"), grid()
    expected = generate(model, rows, GREEDY)
    row_bytes = measure_memory(model, 1).of_row(20, N_NEW)
    with seen_rows(model) as seen:
        found = Generator(model, memory=5 * row_bytes).generate(rows, GREEDY)
    assert found == expected
    longest = [n_rows for layer, n_rows, n_tokens in seen if layer == N_LAYERS - 1 and n_tokens == 20]
    assert max(longest) <= 5
    assert max(n_rows for _, n_rows, _ in seen) > 5  # shorter prompts leave room for more
    # a budget below one row still generates, one row at a time
    assert Generator(model, memory=1).generate(rows[:3], GREEDY) == expected[:3]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()])
def test_memory_that_runs_out_halves_the_batch(error: Exception) -> None:
    model, rows = tiny_model("mistral"), grid()
    expected = generate(model, rows, GREEDY)
    with running_out(model, 7, error):
        generator = Generator(model)
        assert generator.generate(rows, GREEDY) == expected
        assert 1 <= generator.batch_rows <= 7
        assert generator.generate(rows, GREEDY) == expected


def test_one_row_that_does_not_fit_is_a_clear_error() -> None:
    model = tiny_model("mistral")
    with (
        running_out(model, 0, torch.OutOfMemoryError("CUDA out of memory. Tried 8 GiB")),
        pytest.raises(ModelError, match=r"response of 20 \+ 12 tokens does not fit.*CUDA out of memory"),
    ):
        generate(model, [Row(prompt(20))] * 4, GREEDY)


def test_an_error_that_is_not_about_memory_is_raised_as_it_is() -> None:
    model = tiny_model("mistral")
    with (
        running_out(model, 0, RuntimeError("probability tensor contains inf")),
        pytest.raises(RuntimeError, match="contains inf"),
    ):
        generate(model, grid(), GREEDY)


@contextmanager
def running_out(model: SteerableModel, n_rows: int, error: Exception) -> Iterator[None]:
    """Raise in the third block where it is called with more than `n_rows` rows."""

    def check(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        if len(args[0] if args else kwargs["hidden_states"]) > n_rows:
            raise error

    handle = model.blocks[2].register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _said(code: str) -> str:
    """What some code prints that looks at, or limits, the memory of a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


_PEAK = """
import resource, sys, torch
from transformers import AutoModelForCausalLM, Qwen3Config
from massact.domain import Generation, ModelIdentity
from massact.models.generate import Generator, Row
from massact.models.load import SteerableModel
from massact.models.cache import measure_memory
from tests.support.tiny import FakeTokenizer
torch.set_num_threads(1)
config = Qwen3Config(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=4, head_dim=32,
                     num_attention_heads=8, num_key_value_heads=8, eos_token_id=1, bos_token_id=2)
model = SteerableModel(AutoModelForCausalLM.from_config(config).float().eval(), FakeTokenizer(),
                       ModelIdentity("peak", "0", "float32"))
rows = [Row((2, *(3 + (i * 7 + k) % 60 for k in range(63))) , draw=i) for i in range(2400)]
budget = 60 << 20
needed = sum(measure_memory(model, 1).of_row(64, 8) for _ in rows)
assert needed > 10 * budget, needed / budget
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
Generator(model, memory=budget // 10).generate(rows[:40], Generation(2))
before = peak()
found = Generator(model, memory=budget).generate(rows, Generation(8))
print(len(found), (peak() - before) / budget)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory as Linux gives it")
def test_a_grid_ten_times_the_budget_runs_within_it() -> None:
    n_found, share = _said(_PEAK).split()
    assert int(n_found) == 2400
    assert float(share) < 1.0


_LIMITED = """
import resource, torch
from massact.domain import Generation
from massact.models.generate import Generator, Row
from tests.support.tiny import tiny_model
torch.set_num_threads(1)
model = tiny_model("llama")
rows = [Row((2, 3 + i % 60, 3 + i // 60), draw=i) for i in range(3600)]
expected = Generator(model, batch_rows=300).generate(rows, Generation(24, 1.5))
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20),) * 2)
generator = Generator(model, batch_rows=3600, memory=1 << 50)
assert generator.generate(rows, Generation(24, 1.5)) == expected
print(generator.batch_rows)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_a_host_that_refuses_memory_halves_the_batch() -> None:
    assert 1 <= int(_said(_LIMITED)) < 3600


def test_a_graph_has_a_place_for_every_row_and_few_for_none() -> None:
    for n_rows in range(1, 2000):
        places = padded_rows(n_rows)
        assert n_rows <= places <= max(8, n_rows * 1.15 + 8)
    assert len({padded_rows(n) for n in range(1, 1025)}) < 60


def lengths(found: Sequence[tuple[int, ...]]) -> list[int]:
    """How many tokens each response has."""
    return [len(tokens) for tokens in found]


def test_one_token_and_no_rows_are_enough() -> None:
    model = tiny_model("gemma2")
    assert generate(model, [], GREEDY) == []
    assert max(lengths(generate(model, grid(), Generation(1)))) == 1


# what overflows


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_that_overflows_is_told_and_the_others_say_what_they_say_without_it(
    recorded: bool, how: Generation
) -> None:
    half = deepcopy(tiny_model("llama"))
    half.model.half()
    model = SteerableModel(half.model, half.tokenizer, replace(half.identity, dtype="float16"))
    fine = [Row(prompt(3), addition(1, 4.0)), Row(prompt(9)), Row(prompt(4), addition(2, -3.0), 1)]
    rows = [fine[0], Row(prompt(5), addition(2, 1e6)), *fine[1:]]
    expected = Generator(model, recorded=recorded).generate(fine, how)
    with pytest.raises(
        NotFiniteError, match=r"not finite in float16 at layer 2, coefficient 1e\+06: its logits"
    ) as error:
        Generator(model, recorded=recorded).generate(rows, how)
    assert error.value.said == [expected[0], None, *expected[1:]]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_stop_being_finite_later_fail_their_row_and_none_that_has_ended(
    recorded: bool, value: float
) -> None:
    model = deepcopy(tiny_model("llama"))
    rows = [Row(prompt(length)) for length in (3, 5, 7, 9)]
    said = generate(model, rows, GREEDY)
    at = len(rows[1].prompt) + 2  # the third token that this row says is read there

    def spoil(_module: object, _args: object, kwargs: dict[str, torch.Tensor], output: Any) -> Any:
        where = (kwargs["position_ids"] == at).expand(output.logits.shape[0], -1)[:, -1]
        output.logits[where, -1] = value
        return output

    model.model.register_forward_hook(spoil, with_kwargs=True)
    # a row is spoiled in the step that reads its token at that place, unless it has ended before
    fails = [len(row.prompt) <= at + 1 <= len(row.prompt) + len(tokens) for row, tokens in zip(rows, said, strict=True)]
    assert True in fails
    assert False in fails
    with pytest.raises(NotFiniteError, match="not finite in float32 unsteered") as error:
        Generator(model, recorded=recorded).generate(rows, GREEDY)
    assert error.value.said == [None if fail else tokens for fail, tokens in zip(fails, said, strict=True)]
