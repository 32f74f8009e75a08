"""JSON that others wrote: one error for whatever is wrong with it."""

import json

import pytest

from massact.json_text import JsonError, parse_json, parse_object
from massact.store.schema import decode_evaluation, encode_row
from tests.support.store_fixtures import evaluation_row


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("", "Expecting value"),
        ("[1,", "Expecting value"),
        ("NaN", "NaN is no number"),
        ("[Infinity]", "Infinity is no number"),
        ("1" * 5000, "too large"),
        ("9223372036854775808", "too large"),
        ("1e999", "too large"),
        ('{"a": 1, "b": 2, "a": 3}', "names 'a' twice"),
        ('["\\ud800"]', "half of a surrogate pair"),
        (b'["\xff"]', "not UTF-8 .byte 3"),
    ],
)  # fmt: skip
def test_what_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(JsonError, match=said):
        parse_json(text)


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        -1.5,
        2**62,
        -(2**63),
        1e100,
        "\U0001f600",
        "1" * 30,
        "é\u2028",
        [{"a": [1, {"b": None}]}],
        {"a": {"a": 1}},
    ],
)
def test_what_is_read(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text) == value
        assert parse_json(text.encode()) == value


def test_an_object_is_no_list() -> None:
    assert parse_object('{"a": 1}') == {"a": 1}
    with pytest.raises(JsonError, match="it is no object"):
        parse_object("[1]")


def test_python_s_nan_is_read_where_it_is_allowed() -> None:
    assert str(parse_object('{"a": [NaN, -Infinity]}', allow_nan=True)) == "{'a': [nan, -inf]}"
    with pytest.raises(JsonError, match="names 'a' twice"):
        parse_object('{"a": NaN, "a": 1}', allow_nan=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", 5), ("key", None), ("label", ["probe"]), ("model", {}), ("layer", "15"), ("layer", True),
        ("layer", 1.5), ("delta", "20"), ("coefficient", [1]), ("n_questions", 2**62),
        ("n_scored", -1), ("origin", "elsewhere"), ("direction", "up"), ("n_dims", "some"), ("kind", []),
    ],
)  # fmt: skip
def test_a_row_with_a_value_of_the_wrong_type_is_no_row(name: str, value: object) -> None:
    fields = json.loads(encode_row(evaluation_row()))
    assert decode_evaluation(json.dumps(fields)) == evaluation_row()
    with pytest.raises((ValueError, TypeError)):
        decode_evaluation(json.dumps({**fields, name: value}))
