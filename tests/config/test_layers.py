"""Layer specifications as the plan writes them; both ends of a range belong to it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.errors import UsageError
from massact.labels import check_layers, parse_layers


@pytest.mark.parametrize(
    ("spec", "n_layers", "layers"),
    [
        ("30%-60%", 34, range(10, 21)),  # 10.2 and 20.4, rounded down
        ("30%-60%", 26, range(7, 16)),  # 7.8 and 15.6
        ("all", 34, range(34)),
        ("15", 34, [15]),
        ("0", 1, [0]),
        ("5-20", 34, range(5, 21)),
        ("5-5", 34, [5]),
        ("5,10", 34, [5, 10]),
        ("10,5,10", 34, [5, 10]),
        ("0-30:5", 34, [0, 5, 10, 15, 20, 25, 30]),
        ("0-33:10", 34, [0, 10, 20, 30]),
        ("3, 5-7 ,10-20:5", 34, [3, 5, 6, 7, 10, 15, 20]),
        ("5-7,6-8", 34, [5, 6, 7, 8]),
        ("50%", 34, [17]),
        ("0%-100%", 34, range(34)),
        ("100%", 34, [33]),
        ("0%-100%:10", 34, [0, 10, 20, 30]),
        ("2,50%-60%", 10, [2, 5, 6]),
        (" all ", 3, [0, 1, 2]),
        ("33", 34, [33]),
    ],
)
def test_a_specification_names_its_layers(spec: str, n_layers: int, layers: range | list[int]) -> None:
    assert parse_layers(spec, n_layers) == tuple(layers)


@settings(deadline=None)
@given(st.integers(1, 80), st.data())
def test_a_range_is_inclusive_at_both_ends(n_layers: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, n_layers - 1))
    end = data.draw(st.integers(start, n_layers - 1))
    step = data.draw(st.integers(1, 9))
    assert parse_layers(f"{start}-{end}", n_layers) == tuple(range(start, end + 1))
    assert parse_layers(f"{start}-{end}:{step}", n_layers) == tuple(range(start, end + 1, step))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 100), st.integers(0, 100))
def test_any_range_of_percentages_names_layers_that_exist(n_layers: int, low: int, high: int) -> None:
    low, high = sorted((low, high))
    layers = parse_layers(f"{low}%-{high}%", n_layers)
    assert layers
    assert layers[0] >= 0
    assert layers[-1] < n_layers
    assert layers == tuple(range(layers[0], layers[-1] + 1))


@pytest.mark.parametrize(("spec", "outside"), [("34", 34), ("5-40", 34), ("3,99", 99), ("0-40:20", 40), ("40-50", 40)])
def test_a_layer_that_the_model_lacks_is_refused(spec: str, outside: int) -> None:
    with pytest.raises(UsageError, match=f"{re.escape(repr(spec))} name layer {outside}, .*34 layers, 0 to 33"):
        parse_layers(spec, 34)


def test_an_absurd_range_is_refused_without_being_built() -> None:
    with pytest.raises(UsageError, match="34 layers, 0 to 33"):
        parse_layers("0-999999999", 34)


@pytest.mark.parametrize("spec", ["20-5", "60%-30%", "3,9-8"])
def test_a_backwards_range_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=f"{re.escape(repr(spec))}.*runs backwards"):
        check_layers(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        " ",
        "-1",
        "5-",
        "-5",
        "5,",
        ",5",
        "5;10",
        "5..10",
        "5 10",
        "1.5",
        "all,5",
        "ALL",
        "middle",
        "30%-60",
        "30-60%",
        "5:2",
        "5-20:0",
        "5-20:-1",
        "%",
        "9" * 5000,
    ],
)
def test_what_is_no_specification_is_refused_with_what_is_allowed(spec: str) -> None:
    with pytest.raises(UsageError, match=re.escape("write all, 15, 5-20, 5,10, 0-30:5 or 30%-60%")) as caught:
        parse_layers(spec, 34)
    assert repr(spec.strip()) in str(caught.value)


@pytest.mark.parametrize("spec", ["101%", "0%-150%"])
def test_a_percentage_above_all_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=f"{re.escape(repr(spec))}.*at most 100%"):
        check_layers(spec)


def test_checking_alone_needs_no_depth() -> None:
    assert check_layers(" 5-900 ") == "5-900"
    with pytest.raises(UsageError, match="900"):
        parse_layers("900", 34)
