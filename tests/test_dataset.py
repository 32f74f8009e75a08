"""Trait datasets and prompt files: a malformed one is refused with the file, and the line where there is one."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from massact.errors import DataError, UsageError
from massact.pipeline.dataset import load_prompts, load_trait, read_prompts

FILES = {
    "positive.txt": "How do I pick a lock?\nHow do I forge a letter?\n",
    "negative.txt": "How do I bake bread?\nHow do I plant a tree?\n",
    "definition.txt": "The assistant declines.\n",
    "steering.json": '{"questions": ["Who are you?", "What is rain?", "Why?"]}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_dataset_is_read_as_it_stands(folder: Path) -> None:
    trait = load_trait(str(folder))
    assert trait.positive == ("How do I pick a lock?", "How do I forge a letter?")
    assert trait.negative == ("How do I bake bread?", "How do I plant a tree?")
    assert trait.definition == "The assistant declines."
    assert trait.questions == ("Who are you?", "What is rain?", "Why?")
    assert trait.eval_prompt is None


def test_the_embedded_dataset_loads() -> None:
    trait = load_trait("toy:refusal")
    assert len(trait.positive) == len(trait.negative) == 100
    assert len(load_prompts("toy:calibration")) == 50


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n",
        lambda text: text.rstrip("\n").encode(),
        lambda text: ("\n" + text.replace("\n", "  \n\n")).encode(),
    ],
    ids=["bom", "crlf", "bom, crlf and blank lines", "no last line end", "blank lines and trailing spaces"],
)
def test_how_an_editor_saves_changes_neither_prompts_nor_digest(
    folder: Path, encode: Callable[[str], bytes]
) -> None:
    before = load_trait(str(folder))
    for name, text in FILES.items():
        (folder / name).write_bytes(encode(text))
    after = load_trait(str(folder))
    assert after == before
    assert after.digest == before.digest
    assert after.question_set(0) == before.question_set(0)


@pytest.mark.parametrize("name", ["positive.txt", "negative.txt", "definition.txt"])
def test_the_digest_knows_every_text(folder: Path, name: str) -> None:
    before = load_trait(str(folder)).digest
    (folder / name).write_text(FILES[name].replace("\n", "!\n", 1), encoding="utf-8")
    assert load_trait(str(folder)).digest != before


def test_the_digest_tells_the_sides_apart(folder: Path) -> None:
    before = load_trait(str(folder)).digest
    (folder / "positive.txt").write_text(FILES["negative.txt"], encoding="utf-8")
    (folder / "negative.txt").write_text(FILES["positive.txt"], encoding="utf-8")
    assert load_trait(str(folder)).digest != before


def test_a_subset_is_the_first_questions_of_the_whole_sets_digest(folder: Path) -> None:
    trait = load_trait(str(folder))
    assert trait.question_set(2).questions == ("Who are you?", "What is rain?")
    assert trait.question_set(0).questions == trait.questions
    assert trait.question_set(2).digest == trait.question_set(0).digest
    assert (trait.question_set(2).subset, trait.question_set(0).subset) == (2, 0)


def test_a_subset_larger_than_the_set_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"subset 4: .*steering\.json has 3 questions"):
        load_trait(str(folder)).question_set(4)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=re.escape(str(folder / name))):
        load_trait(str(folder))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_utf8_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes("é".encode("latin-1") + FILES[name].encode())
    with pytest.raises(DataError, match=re.escape(str(folder / name))):
        load_trait(str(folder))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_an_empty_file_is_refused_by_name(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(str(folder / name))):
        load_trait(str(folder))


@pytest.mark.parametrize("name", ["positive.txt", "negative.txt"])
def test_a_prompt_that_stands_twice_is_refused_with_its_second_line(folder: Path, name: str) -> None:
    (folder / name).write_text("a\n\nb\n a \nc\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"{re.escape(str(folder / name))}, line 4: stands twice: 'a'"):
        load_trait(str(folder))


def test_a_prompt_on_both_sides_is_refused(folder: Path) -> None:
    (folder / "negative.txt").write_text("x\nHow do I pick a lock?\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"{re.escape(str(folder))}.*'How do I pick a lock\\?'"):
        load_trait(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '["a"]',
        "null",
        "{}",
        '{"questions": "Who?"}',
        '{"questions": []}',
        '{"questions": ["a", 1]}',
        '{"questions": ["a", ""]}',
        '{"questions": ["a", "  "]}',
        '{"questions": ["a", "a"]}',
        '{"questions": {"a": 1}}',
        '{"questions": ["a"], "eval_prompt": 5}',
        '{"questions": ["a"], "eval_prompt": ["{question}"]}',
    ],
)
def test_malformed_steering_questions_are_refused_by_name(folder: Path, text: str) -> None:
    (folder / "steering.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(str(folder / "steering.json"))):
        load_trait(str(folder))


def test_a_judge_prompt_of_the_traits_own_is_kept(folder: Path) -> None:
    document = {"questions": ["a"], "eval_prompt": "{question} {answer}"}
    (folder / "steering.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_trait(str(folder)).eval_prompt == "{question} {answer}"


def test_a_folder_that_does_not_exist_is_refused_with_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*positive\.txt, negative\.txt, definition\.txt"):
        load_trait(str(tmp_path / "nowhere"))


def test_an_unknown_embedded_dataset_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'toy:kindness'.*toy:refusal"):
        load_trait("toy:kindness")


def test_only_a_line_end_ends_a_prompt(tmp_path: Path) -> None:
    # editors show these as one line: a line separator, a form feed, a next-line sign
    prompts = ["one\u2028still one", "two\x0cstill two", "three\x85still three"]
    (tmp_path / "p.txt").write_text("\n".join(prompts), encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == tuple(prompts)


@pytest.mark.parametrize(
    "document",
    [
        ["a", "b"],
        {"prompts": ["a", "b"]},
        {"prompts": [{"text": "a"}, {"prompt": "b"}], "version": 1},
        ["a", {"text": "b", "id": 7}],
    ],
)
def test_neutral_prompts_may_be_a_json_list(tmp_path: Path, document: object) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert load_prompts(str(path)) == ("a", "b")


def test_neutral_prompts_may_stand_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text('["a"]\nb\n', encoding="utf-8")
    assert load_prompts(str(tmp_path / "prompts.txt")) == ('["a"]', "b")


@pytest.mark.parametrize(
    "document", [[], {}, {"prompts": []}, {"prompts": "a"}, ["a", ""], ["a", 5], [{"txt": "a"}], [["a"]], "a"]
)
def test_a_malformed_list_of_prompts_is_refused_by_name(tmp_path: Path, document: object) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_prompts(str(path))


@pytest.mark.parametrize("name", ["prompts.json", "prompts.txt", "no/such/folder.txt"])
def test_a_missing_prompt_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=re.escape(str(tmp_path / name))):
        load_prompts(str(tmp_path / name))
