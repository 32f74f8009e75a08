"""Operators, tokens and bands of layers: what each is by algebra, and the same tokens as one row with a hook."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from massact.domain import Gate, Generation
from massact.models.generate import Generator, Intervention, Row
from massact.models.load import SteerableModel
from massact.models.operators import Edit, find_operator
from massact.models.support import Sharing
from tests.support.tiny import D_MODEL, END_TOKEN, N_LAYERS, VOCABULARY, tiny_model, unit

N_NEW = 10
GREEDY = Generation(N_NEW)
COEFFICIENTS = {"add": 15.0, "ablate": 2.0, "clamp": -15.0, "rotate": 80.0, "replace": 3.0}
TOKENS = {
    "all": lambda i, n: True,
    "prompt": lambda i, n: i < n,
    "response": lambda i, n: i >= n,
    "prompt[-1]": lambda i, n: i == n - 1,
    "response[:3]": lambda i, n: n <= i < n + 3,
    "response[2:]": lambda i, n: i >= n + 2,
    "prompt[-1]+response": lambda i, n: i >= n - 1,
}
"""Whether token `i` is steered after a prompt of `n`, by hand."""


def prompt(length: int) -> tuple[int, ...]:
    """A prompt of `length` tokens."""
    generator = torch.Generator().manual_seed(length)
    return (2, *torch.randint(3, VOCABULARY, (length - 1,), generator=generator).tolist())


def band(n_layers: int) -> torch.Tensor:
    """A unit vector for each of some layers."""
    return torch.stack([unit(10 + layer) for layer in range(n_layers)])


def plane(seed: int, n_directions: int) -> torch.Tensor:
    """What `replace` takes at a layer, of random directions and means: `[n_directions + 2, d_model]`."""
    drawn = torch.randn(D_MODEL, n_directions + 2, generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(drawn[:, :n_directions]).Q.T
    return torch.cat([basis, 3 * drawn[:, n_directions:].T @ basis.T @ basis])


def steered(operator: str, h: torch.Tensor, v: torch.Tensor, c: float) -> torch.Tensor:
    """A token's stream `[d_model]` as the operator makes it, in float64 and by matrices.

    Args:
        v: the unit vector `[d_model]`; of `replace` what it takes, `[k + 2, d_model]`.
    """
    if operator == "replace":
        *basis, low, step = v
        for one in basis:
            h = h - torch.outer(one, one) @ h + (low @ one + c * (step @ one)) * one
        return h
    along = torch.outer(v, v)
    if operator == "add":
        return h + c * v
    if operator == "ablate":
        return (torch.eye(len(v)).double() - c * along) @ h
    if operator == "clamp":
        return h - along @ h + c * v
    rest = h - along @ h
    u, angle = rest / rest.norm(), math.radians(c)
    turn = torch.outer(v, v) + torch.outer(u, u)
    turned = math.cos(angle) * turn + math.sin(angle) * (torch.outer(v, u) - torch.outer(u, v))
    return h - turn @ h + turned @ h


@contextmanager
def hooks(blocks: Sequence[nn.Module], row: Row) -> Iterator[None]:
    """Steer one row token by token, knowing nothing of the engine."""
    one, n_prompt = row.intervention, len(row.prompt) - row.n_drawn
    handles = []
    if one is not None:
        vectors = one.vector.double()
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        weights = one.weights or [1.0] * len(vectors)
        for layer, (v, weight) in enumerate(zip(vectors, weights, strict=True), one.layer):
            handles.append(blocks[layer].register_forward_hook(_hook(one, v, weight, n_prompt)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(one: Intervention, v: torch.Tensor, weight: float, n_prompt: int) -> Callable[..., object]:
    seen = 0

    def hook(_module: nn.Module, _args: object, output: Any) -> object:
        nonlocal seen
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        for i in range(stream.shape[1]):
            if TOKENS[one.tokens](seen + i, n_prompt):
                before, left = stream[0, i].double(), one.decay ** max(0, seen + i - n_prompt)
                change = steered(one.operator, before, v, weight * one.coefficient) - before
                stream[0, i] = (before + left * change).float()
        seen += stream.shape[1]
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    return hook


def alone(model: SteerableModel, row: Row, n_new: int = N_NEW) -> tuple[int, ...]:
    """The row through `model.generate`, with those hooks."""
    with hooks(model.blocks, row), torch.inference_mode():
        tokens = model.model.generate(
            torch.tensor([row.prompt]),
            attention_mask=torch.ones(1, len(row.prompt), dtype=torch.long),
            max_new_tokens=n_new,
            do_sample=False,
        )[0, len(row.prompt) :].tolist()
    return tuple(tokens[: tokens.index(END_TOKEN)] if END_TOKEN in tokens else tokens)


def mixed() -> list[Row]:
    """Every operator at every choice of tokens, at one layer and at several, beside unsteered rows."""
    rows = [Row(prompt(4)), Row(prompt(9))]
    for i, (operator, tokens) in enumerate(product(COEFFICIENTS, TOKENS)):
        for n_layers in (1, 3):
            layer, vectors = i % (N_LAYERS - n_layers + 1), band(n_layers)
            vector = vectors[0] if n_layers == 1 else vectors
            if operator == "replace":
                vector = torch.stack([plane(layer, i % 3 + 1) for layer in range(n_layers)])
            decay, weights = (1.0, 0.8)[i % 2], (0.5, 1.0, 0.75) if n_layers == 3 and i % 4 < 2 else ()
            one = Intervention(layer, vector, COEFFICIENTS[operator], operator, tokens, weights, decay)
            rows.append(Row(prompt((4, 9)[i % 2]), one))
    everywhere = unit(10).expand(N_LAYERS, D_MODEL)
    return [*rows, *(Row(prompt(9), Intervention(0, everywhere, 1.0, "ablate", tokens)) for tokens in TOKENS)]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "qwen3_moe"])
def test_mixed_rows_say_what_each_says_alone_under_a_hook_of_its_own(architecture: str) -> None:
    model, rows = tiny_model(architecture), mixed()
    expected = [alone(model, row) for row in rows]
    assert len(set(expected)) > len(rows) / 3  # steering does change what is said
    assert Generator(model).generate(rows, GREEDY) == expected
    assert Generator(model, recorded=True).generate(rows, GREEDY) == expected
    plain = Generator(model)
    plain._sharing = Sharing("a test wants it", None)
    assert plain.generate(rows, GREEDY) == expected


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [False, True])
def test_rows_keep_their_operators_and_tokens_when_others_leave(recorded: bool) -> None:
    plain = tiny_model("llama")
    model = SteerableModel(plain.model, plain.tokenizer, plain.identity)
    model.__dict__["end_tokens"] = frozenset(range(16))  # some end early
    rows, long = mixed(), Generation(40)
    found = Generator(model, recorded=recorded).generate(rows, long)
    assert len({len(tokens) for tokens in found}) > 5
    assert found == [Generator(model).generate([row], long)[0] for row in rows]


def test_a_response_that_goes_on_is_steered_at_the_same_tokens() -> None:
    model = tiny_model("qwen3")
    for tokens, decay in product(TOKENS, (1.0, 0.7)):
        row = Row(prompt(6), Intervention(1, unit(10), 4.0, "add", tokens, decay=decay))
        whole = Generator(model).generate([row], GREEDY)[0]
        begun = replace(row, prompt=(*row.prompt, *whole[:4]), n_drawn=4)
        rest = Generator(model).generate([begun], Generation(N_NEW - 4))[0]
        assert (*whole[:4], *rest) == whole, (tokens, decay)


def test_where_no_token_of_a_prompt_is_steered_it_is_read_once() -> None:
    model, seen = tiny_model("llama"), list[int]()
    rows = [
        Row(
            prompt(5),
            Intervention(1, plane(i, 2)[None] if operator == "replace" else unit(i), 3.0, operator, "response"),
        )
        for i in range(3)
        for operator in COEFFICIENTS
    ]
    block = model.blocks[-1]
    handle = block.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    try:
        Generator(model).generate(rows, Generation(2))
    finally:
        handle.remove()
    assert seen == [1, 15]


def test_rows_that_are_added_to_are_the_same_to_the_last_bit_beside_other_operators() -> None:
    h, added = torch.randn(3, 2, D_MODEL), torch.zeros(3, 1, D_MODEL)
    added[0] = 2.5 * unit(1)
    vectors, which = torch.zeros(3, 1, D_MODEL), torch.tensor([0, 1, 0]).view(3, 1, 1)
    vectors[1] = unit(2)
    edit = Edit(added, (find_operator("rotate"),), which, vectors, torch.full((3, 1, 1), 40.0))
    moved = edit(h)
    assert moved[0].equal(h[0] + added[0])
    assert moved[2].equal(h[2])
    assert not moved[1].allclose(h[1])


# The algebra of each operator.


def operated(name: str, h: torch.Tensor, v: torch.Tensor, c: float) -> torch.Tensor:
    """A stream `[seq, d_model]` after an operator."""
    if name == "replace":
        basis = v[None, None, :-2]
        return Edit((v[-2] + c * v[-1])[None, None], basis=basis)(h[None])[0]
    one, which = torch.full((1, 1, 1), c), torch.ones(1, 1, 1, dtype=torch.long)
    added = torch.zeros(1, 1, h.shape[-1])
    return Edit(added, (find_operator(name),), which, v[None, None], one)(h[None])[0]


seeds = st.integers(0, 10_000)
close = {"rtol": 1e-4, "atol": 1e-4}


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some streams and a unit vector."""
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(4, D_MODEL, generator=generator), unit(seed + 1)


@pytest.mark.parametrize("name", COEFFICIENTS)
@settings(deadline=None)
@given(seeds, st.floats(-3, 3))
def test_an_operator_is_what_matrices_make_of_it(name: str, seed: int, c: float) -> None:
    h, v = drawn(seed)
    v = plane(seed, 3) if name == "replace" else v
    c *= 30 if name == "rotate" else 1
    expected = torch.stack([steered(name, one.double(), v.double(), c) for one in h])
    torch.testing.assert_close(operated(name, h, v, c), expected.float(), **close)


@settings(deadline=None)
@given(seeds, st.floats(0, 2))
def test_ablating_never_lengthens_and_wholly_is_idempotent(seed: int, c: float) -> None:
    h, v = drawn(seed)
    assert (operated("ablate", h, v, c).norm(dim=-1) <= h.norm(dim=-1) * (1 + 1e-6)).all()
    whole = operated("ablate", h, v, 1.0)
    torch.testing.assert_close(whole @ v, torch.zeros(len(h)), **close)
    torch.testing.assert_close(operated("ablate", whole, v, 1.0), whole, **close)
    assert operated("ablate", h, v, 0.0).equal(h)


@settings(deadline=None)
@given(seeds, st.floats(-50, 50))
def test_clamping_fixes_the_projection_and_nothing_else(seed: int, c: float) -> None:
    h, v = drawn(seed)
    clamped = operated("clamp", h, v, c)
    torch.testing.assert_close(clamped @ v, torch.full((len(h),), c), **close)
    torch.testing.assert_close(operated("ablate", clamped, v, 1.0), operated("ablate", h, v, 1.0), **close)


@settings(deadline=None)
@given(seeds, st.floats(-180, 180))
def test_rotating_keeps_the_norm_and_turns_by_the_angle(seed: int, c: float) -> None:
    h, v = drawn(seed)
    turned = operated("rotate", h, v, c)
    torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1), **close)
    cosine = nn.functional.cosine_similarity(h, turned)
    torch.testing.assert_close(cosine, torch.full((len(h),), math.cos(math.radians(c))), **close)
    assert operated("rotate", h, v, 0.0).equal(h)
    along = torch.stack([3 * v, -v])  # no plane to turn in
    torch.testing.assert_close(operated("rotate", along, v, c), along)


@settings(deadline=None)
@given(seeds, st.floats(-2, 2), st.integers(1, 4))
def test_replacing_sets_the_coordinates_and_leaves_what_is_orthogonal(seed: int, c: float, k: int) -> None:
    h, rows = drawn(seed)[0], plane(seed, k)
    basis, (low, step) = rows[:k], rows[k:]
    replaced = operated("replace", h, rows, c)
    wanted = (basis @ (low + c * step)).expand(len(h), k)
    torch.testing.assert_close(replaced @ basis.T, wanted, **close)
    torch.testing.assert_close(operated("replace", replaced, rows, c), replaced, **close)
    rest = torch.eye(D_MODEL) - basis.T @ basis
    torch.testing.assert_close(replaced @ rest, h @ rest, **close)


@settings(deadline=None)
@given(seeds, st.floats(-20, 20), st.floats(0.0, 1.0))
def test_of_a_share_of_the_change_a_share_is_made(seed: int, c: float, share: float) -> None:
    h, v = drawn(seed)
    edit = Edit((c * v)[None, None])
    found = edit(h[None], torch.full((1, len(h)), share))[0]
    torch.testing.assert_close(found, h + share * c * v, **close)
    assert edit(h[None], torch.ones(1, len(h))).equal(edit(h[None]))
    assert edit(h[None], torch.zeros(1, len(h)))[0].equal(h)


# Gates.


def gated(row: Row, gate: Gate, condition: torch.Tensor) -> Row:
    """The row behind a gate."""
    assert row.intervention is not None
    return replace(row, intervention=replace(row.intervention, gate=gate, condition=condition))


def on_prompt(model: SteerableModel, tokens: tuple[int, ...], layer: int) -> torch.Tensor:
    """The unsteered stream of a prompt at a layer, `[n_tokens, d_model]`, from transformers itself."""
    with torch.inference_mode():
        states = model.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    found: torch.Tensor = states[layer + 1][0]
    return found


@pytest.mark.parametrize("way", ["shared", "plain", "recorded"])
def test_a_closed_gate_is_the_baseline_and_an_open_one_is_none(way: str) -> None:
    model, condition = tiny_model("qwen3"), unit(3)
    generator = Generator(model, recorded=way == "recorded")
    if way == "plain":
        generator._sharing = Sharing("a test wants it", None)
    wide = on_prompt(model, prompt(9), 1)
    values = {
        ("prompt[:]", "projection"): float(wide.mean(0) @ condition),
        ("prompt[-1]", "projection"): float(wide[-1] @ condition),
        ("prompt[2:5]", "cosine"): float(nn.functional.cosine_similarity(wide[2:5].mean(0), condition, dim=0)),
    }
    seen = set()
    for (window, measure), value in values.items():
        rows = [Row(prompt(9)), Row(prompt(9), Intervention(2, unit(10), 15.0, "add"))]
        for opens, off in product(("above", "below"), (-1e-3, 1e-3)):
            rows.append(gated(rows[1], Gate(1, window, value + off, measure, opens), condition))  # type: ignore[arg-type]
        baseline, steered, *found = generator.generate(rows, GREEDY)
        assert found == [steered, baseline, baseline, steered]
        seen |= {baseline, steered}
    assert len(seen) == 2


def test_a_gate_reads_the_prompt_alone_where_a_response_goes_on() -> None:
    model, condition = tiny_model("qwen3"), unit(3)
    value = float(on_prompt(model, prompt(10), 0)[-1] @ condition)
    for off in (-1e-3, 1e-3):
        one = Intervention(1, unit(10), 15.0, gate=Gate(0, "prompt[-1]", value + off), condition=condition)
        whole = Generator(model).generate([Row(prompt(10), one)], GREEDY)[0]
        assert len(whole) > 4
        begun = Row((*prompt(10), *whole[:4]), one, n_drawn=4)
        assert (*whole[:4], *Generator(model).generate([begun], Generation(N_NEW - 4))[0]) == whole
