"""Position windows mean what Python's slices mean, and their slugs are trait-interp's."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.errors import UsageError
from massact.vectors.positions import Position, parse_position, parse_position_slug, parse_tokens, steered_tokens

FRAMES = ("prompt", "response", "all")
BOUND = st.one_of(st.none(), st.integers(-12, 12))
SLICES = st.builds(Position, st.sampled_from(FRAMES), BOUND, BOUND)
INDICES = st.builds(Position, st.sampled_from(FRAMES), st.integers(-12, 12), st.none(), st.just(True))
POSITIONS = st.one_of(SLICES, INDICES)


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("response[:5]", "response__5"),
        ("response[:10]", "response__10"),
        ("response[:]", "response_all"),
        ("response[-1]", "response_-1"),
        ("response[0]", "response_0"),
        ("response[2:5]", "response_2_5"),
        ("response[-5:]", "response_-5_"),
        ("response[:-1]", "response__-1"),
        ("prompt[-1]", "prompt_-1"),
        ("prompt[:]", "prompt_all"),
        ("all[:]", "all_all"),
    ],
)
def test_a_window_has_the_slug_of_trait_interp(text: str, slug: str) -> None:
    assert parse_position(text).slug == slug
    assert str(parse_position_slug(slug)) == text


def test_a_window_without_a_frame_is_of_the_response_as_tables_print_it() -> None:
    assert str(parse_position("[:10]")) == "response[:10]"
    assert str(parse_position("[-1]")) == "response[-1]"


@settings(deadline=None)
@given(POSITIONS)
def test_every_window_survives_its_text_and_its_slug(position: Position) -> None:
    if position.is_empty:
        with pytest.raises(UsageError, match=re.escape(f"no text has a token in {position}")):
            parse_position(str(position))
        return
    assert parse_position(str(position)) == position
    assert parse_position_slug(position.slug) == position


@settings(deadline=None, max_examples=150)
@given(SLICES, st.integers(0, 8), st.integers(0, 8))
def test_a_slice_covers_what_python_slices(position: Position, n_prompt: int, n_response: int) -> None:
    assert (
        list(position.tokens(n_prompt, n_prompt + n_response))
        == (_frame(position, n_prompt, n_response)[position.start : position.stop])
    )


@settings(deadline=None, max_examples=150)
@given(INDICES, st.integers(0, 8), st.integers(0, 8))
def test_an_index_covers_what_python_indexes(position: Position, n_prompt: int, n_response: int) -> None:
    assert position.start is not None
    frame = _frame(position, n_prompt, n_response)
    try:
        expected = [frame[position.start]]
    except IndexError:
        expected = []
    assert list(position.tokens(n_prompt, n_prompt + n_response)) == expected


def _frame(position: Position, n_prompt: int, n_response: int) -> list[int]:
    everything = list(range(n_prompt + n_response))
    return {"prompt": everything[:n_prompt], "response": everything[n_prompt:], "all": everything}[position.frame]


def test_windows_by_hand() -> None:
    # 3 prompt tokens 0, 1, 2 and 7 response tokens 3 to 9
    tokens = {text: list(parse_position(text).tokens(3, 10)) for text in ("response[:5]", "prompt[-1]", "all[:2]")}
    assert tokens == {"response[:5]": [3, 4, 5, 6, 7], "prompt[-1]": [2], "all[:2]": [0, 1]}
    assert list(parse_position("response[-1]").tokens(3, 10)) == [9]
    assert list(parse_position("response[20]").tokens(3, 10)) == []


@settings(deadline=None, max_examples=150)
@given(POSITIONS, st.integers(0, 6), st.integers(0, 30))
def test_more_response_tokens_than_needed_change_nothing(position: Position, n_prompt: int, n_more: int) -> None:
    needed = position.n_response_tokens
    if needed is None or (position.start or 0) < 0:
        return  # counted from the end, or open: it moves with the length
    assert position.tokens(n_prompt, n_prompt + needed) == position.tokens(n_prompt, n_prompt + needed + n_more)


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("response[:5]", 5),
        ("response[2:20]", 20),
        ("response[0]", 1),
        ("response[7]", 8),
        ("response[-1]", None),
        ("response[:]", None),
        ("response[3:]", None),
        ("response[:-2]", None),
        ("prompt[-1]", 0),
        ("prompt[:]", 0),
        ("all[:]", None),
        ("all[:5]", None),
    ],
)
def test_a_window_says_how_many_response_tokens_it_reads(text: str, needed: int | None) -> None:
    assert parse_position(text).n_response_tokens == needed


@pytest.mark.parametrize(
    ("text", "holds", "rest"),
    [
        ("all[:]", True, "all[1:]"),
        ("all[0:5]", True, "all[1:5]"),
        ("prompt[:]", True, "prompt[1:]"),
        ("prompt[0]", True, None),
        ("all[:1]", True, None),
        ("all[1:]", False, "all[1:]"),
        ("prompt[-1]", False, None),
        ("prompt[-5:]", False, "prompt[1:]"),
        ("response[:5]", False, "response[1:5]"),
    ],
)
def test_a_window_says_whether_it_holds_the_first_token_and_what_it_is_without(
    text: str, holds: bool, rest: str | None
) -> None:
    position = parse_position(text)
    assert position.holds_first == holds == (0 in position.tokens(20, 30))
    assert (position.without_first and str(position.without_first)) == rest


@pytest.mark.parametrize("text", [" response[ : 5 ] ", "response[:05]", "response[:5]"])
def test_spellings_of_a_window_are_one_window(text: str) -> None:
    assert str(parse_position(text)) == "response[:5]"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "response",
        "response[]",
        "response[5",
        "response[5 5]",
        "response[5-3]",
        "response[::2]",
        "response[1:5:2]",
        "response[a:b]",
        "response[1.5]",
        "response[+5]",
        "Response[:5]",
        "answer[:5]",
        "response(:5)",
        "response[:5] x",
        "response[:" + "9" * 5000 + "]",
    ],
)
def test_what_is_no_window_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(text))) as caught:
        parse_position(text)
    assert "prompt, response, all" in str(caught.value)
    assert "response[:5]" in str(caught.value)


@pytest.mark.parametrize("slug", ["", "response", "response_", "answer__5", "response_a_b", "response_1_2_3", "_all"])
def test_what_is_no_slug_is_refused_by_name(slug: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(slug))):
        parse_position_slug(slug)


@settings(deadline=None)
@given(SLICES | INDICES, st.integers(1, 20), st.integers(0, 20))
def test_the_one_spelling_of_steered_tokens_means_what_was_written(
    window: Position, n_prompt: int, n_response: int
) -> None:
    try:
        tokens = parse_tokens(str(window))
    except UsageError:
        return
    n_total = n_prompt + n_response
    expected = [number in window.tokens(n_prompt, n_total) for number in range(n_total)]
    assert steered_tokens(tokens, n_prompt, n_total) == expected
    assert parse_tokens(tokens) == tokens


def test_a_window_of_the_prompt_and_one_of_the_response_are_joined() -> None:
    assert parse_tokens("response[1:] + prompt[-1]") == "prompt[-1]+response[1:]"
    assert steered_tokens("prompt[-1]+response[1:]", 3, 6) == [False, False, True, False, True, True]
    assert parse_tokens("response+prompt[0:]") == "all"
