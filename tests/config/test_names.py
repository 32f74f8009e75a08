"""Names: one rule for what may be a name, and file names that are safe on any system."""

import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.errors import UsageError
from massact.names import as_held, check_distinct, check_name, file_name, folded, visible


@pytest.mark.parametrize(
    "name",
    [
        "gemma-3-4b",
        "refusal",
        "harm/refusal",
        "Qwen 2.5 (7B)",
        "é",
        "拒絶",
        "a.b",
        "aux",
        "می\u200cخواهم",
        "👩\u200d🔬",
    ],
)
def test_what_shows_is_a_name(name: str) -> None:
    assert check_name(f" {name} ") == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\0b", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\x1b[31mb", "U+001B"),
        ("a\u202eb", "U+202E"),
        ("a\u2066b", "U+2066"),
        ("a\u200bb", "U+200B"),
        ("a\u200db", "U+200D"),
        ("می\u200c", "U+200C"),
        ("a\u2028b", "U+2028"),
        ("a\ud800", "U+D800"),
        ("..", "leads through a folder"),
        ("../x", "leads through a folder"),
        ("a/../b", "leads through a folder"),
        ("a\\..\\b", "leads through a folder"),
        ("x" * 201, "has 201 characters"),
    ],
)
def test_what_does_not_show_or_leads_elsewhere_is_none(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        check_name(name, "trait")
    assert "the trait" in str(caught.value)
    assert str(caught.value).isprintable()


def test_forms_of_one_name_are_one_name() -> None:
    assert check_name("cafe\u0301") == "caf\u00e9"
    for pair in (("Toy", "toy"), ("straße", "STRASSE"), ("\ufb01x", "fix")):
        with pytest.raises(UsageError, match="differ in upper and lower case alone"):
            check_distinct(pair)
    check_distinct(("toy", "toys"))
    with pytest.raises(UsageError, match="or in characters that do not show"):
        check_distinct(("می\u200cخ", "میخ"))


def test_a_name_is_looked_up_as_it_stands_and_then_in_another_form() -> None:
    composed, parts = "caf\u00e9", "cafe\u0301"
    assert as_held(composed, [parts, "x"]) == parts
    assert as_held(parts, [composed]) == composed
    assert as_held(parts, [composed, parts]) == parts
    assert as_held("cafe", [composed, parts]) == "cafe"


PLAIN = ["massive-activations-toy", "gemma_3.4b", "my study", "é", "x" * 120]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_is_its_own_file_name(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "C:\\x", ".hidden", "..", "con", "NUL.txt", "com1", "x.", "x ", "x" * 200, "a\0"],
)
def test_any_other_name_becomes_a_part_of_it_with_a_digest(name: str) -> None:
    assert re.fullmatch(r"([\w-]+-)?[0-9a-f]{8}", file_name(name))
    assert file_name(name) != file_name(f"{name}-")


def test_names_that_differ_in_case_get_files_of_their_own() -> None:
    assert file_name("Toy", ["toy"]) != "Toy"
    assert file_name("Toy", ["Toy", "other"]) == "Toy"


@given(st.text(st.characters(), max_size=300))
def test_a_file_name_is_one_part_of_a_path_everywhere(name: str) -> None:
    made = file_name(name)
    assert 0 < len(made.encode()) < 200
    for path in (PurePosixPath(made), PureWindowsPath(made)):
        assert (path.parts, path.name) == ((made,), made)
    assert not made.startswith(".")
    assert not made.endswith((".", " "))
    assert file_name(unicodedata.normalize("NFC", name)) == made
    assert folded(made)


@given(st.text(st.characters(), max_size=50))
def test_what_is_printed_is_one_line_that_any_file_takes(text: str) -> None:
    made = visible(text)
    assert len(made.splitlines()) <= 1
    assert made.encode().decode() == made
    assert not {unicodedata.category(c) for c in made} & {"Cc", "Cf", "Cs"}
