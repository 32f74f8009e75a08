"""Trait datasets and prompt files: a malformed one is refused with the file, and the line where there is one."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from massact.data.prompt_files import Prompt, read_prompt_file
from massact.data.traits import TraitDataset, check_pairs, dataset_warnings, load_prompts, load_trait, read_prompts
from massact.errors import DataError, UsageError
from massact.keys import digest

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
    assert trait.positive == (Prompt("How do I pick a lock?"), Prompt("How do I forge a letter?"))
    assert trait.negative == (Prompt("How do I bake bread?"), Prompt("How do I plant a tree?"))
    assert [prompt.place for prompt in trait.prompts] == ["line 1", "line 2", "line 1", "line 2"]
    assert not trait.has_system_prompts
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
def test_how_an_editor_saves_changes_neither_prompts_nor_digest(folder: Path, encode: Callable[[str], bytes]) -> None:
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
    with pytest.raises(DataError, match=r"nowhere.*positive\.txt and negative\.txt \(or pairs\.json\)"):
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


# system prompts, JSON lines and JSON lists


def _write_sides(folder: Path, ending: str, positive: str, negative: str) -> None:
    for name, text in (("positive", positive), ("negative", negative)):
        (folder / f"{name}.txt").unlink()
        (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")


SAME_PROMPTS = ("What is rain?", "Who are you?")


def _with_systems(folder: Path, positive: str = "Be cruel.", negative: str = "Be kind.") -> TraitDataset:
    sides = (
        "\n".join(json.dumps({"prompt": prompt, "system_prompt": system, "id": 7}) for prompt in SAME_PROMPTS)
        for system in (positive, negative)
    )
    _write_sides(folder, "jsonl", *sides)
    return load_trait(str(folder))


def test_a_prompt_may_stand_on_both_sides_with_system_prompts_that_differ(folder: Path) -> None:
    trait = _with_systems(folder)
    assert trait.positive == tuple(Prompt(text, "Be cruel.") for text in SAME_PROMPTS)
    assert trait.negative == tuple(Prompt(text, "Be kind.") for text in SAME_PROMPTS)
    assert trait.files == ("positive.jsonl", "negative.jsonl")
    assert trait.has_system_prompts
    assert dataset_warnings(trait, "positive")[1:] == ()  # only that they are few


def test_a_prompt_with_one_system_prompt_on_both_sides_is_refused_with_both_places(folder: Path) -> None:
    with pytest.raises(DataError, match=r"positive\.jsonl \(line 1\) and in negative\.jsonl \(line 1\): 'What"):
        _with_systems(folder, "Be kind.", "Be kind.")


def test_the_digest_knows_system_prompts(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    one = _with_systems(folder).digest
    other = tmp_path_factory.mktemp("other")
    for name, text in FILES.items():
        (other / name).write_text(text, encoding="utf-8")
    assert _with_systems(other, "Be very cruel.").digest != one


@pytest.mark.parametrize("system", [None, "", "  "])
def test_without_a_system_prompt_the_format_of_the_file_does_not_show_in_the_digest(
    folder: Path, system: str | None
) -> None:
    before = load_trait(str(folder))
    assert before.digest == digest(
        {
            "positive": ["How do I pick a lock?", "How do I forge a letter?"],
            "negative": ["How do I bake bread?", "How do I plant a tree?"],
            "definition": "The assistant declines.",
        }
    )  # as every version has made it
    _write_sides(
        folder,
        "jsonl",
        *(
            "\r\n\r\n".join(json.dumps({"prompt": p.text, "system_prompt": system}) for p in side)
            for side in (before.positive, before.negative)
        ),
    )
    after = load_trait(str(folder))
    assert after.digest == before.digest
    assert not after.has_system_prompts


@pytest.mark.parametrize("wrap", [lambda items: items, lambda items: {"prompts": items}])
def test_a_side_may_be_a_json_list(folder: Path, wrap: Callable[[list[object]], object]) -> None:
    items: list[object] = ["one", {"text": "two"}, {"prompt": " three ", "system_prompt": "s"}]
    _write_sides(folder, "json", json.dumps(wrap(items)), '["four", "five"]')
    assert load_trait(str(folder)).positive == (Prompt("one"), Prompt("two"), Prompt(" three ", "s"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ('["a"]', "line 2: not an object"),
        ('"a"', "line 2: not an object"),
        ('{"text_": "a"}', 'line 2: "prompt" is missing'),
        ('{"prompt": ""}', 'line 2: "prompt" is missing, empty'),
        ('{"prompt": 5}', 'line 2: "prompt" is missing, empty or not a text'),
        ('{"prompt": "a", "system_prompt": 5}', 'line 2: "system_prompt" is not a text'),
        ('{"prompt": "\\ud800"}', "line 2: not JSON (it holds half of a surrogate pair"),
        ('{"prompt": "x"}', "line 2: stands twice: 'x'"),
        ('{"prompt": "a", "prompt": "b"}', "line 2: not JSON (it names 'prompt' twice)"),
        ('{"prompt": "a", "score": NaN}', "line 2: not JSON (NaN is no number"),
        ("[" * 100_000, "line 2: not JSON"),
    ],
    ids=lambda value: value[:40],
)
def test_a_malformed_line_is_refused_with_its_number(folder: Path, line: str, said: str) -> None:
    _write_sides(folder, "jsonl", f'{{"prompt": "x"}}\n{line}\n', '{"prompt": "y"}')
    with pytest.raises(DataError, match=re.escape(f"{folder / 'positive.jsonl'}, {said}")):
        load_trait(str(folder))


def test_two_files_for_one_side_are_refused(folder: Path) -> None:
    (folder / "positive.jsonl").write_text('{"prompt": "a"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"positive\.txt and positive\.jsonl both hold"):
        load_trait(str(folder))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\nb\ncafé".encode("latin-1"), "line 3: not UTF-8"),
        ("a\r\ncafé".encode("latin-1"), "line 2: not UTF-8"),
        ("a\nb".encode("utf-16"), "line 1: not UTF-8"),
        ("a\nb".encode("utf-16-le"), "line 1: holds a zero byte"),
    ],
)
def test_a_wrong_encoding_is_told_with_the_line(folder: Path, content: bytes, said: str) -> None:
    (folder / "positive.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(folder / 'positive.txt'))}, {said}.*save .* as UTF-8"):
        load_trait(str(folder))


def test_a_question_may_be_an_object_with_notes(folder: Path) -> None:
    document = {"questions": [{"question": "Why?", "high_trait": "h", "low_trait": "l"}, "How?"]}
    (folder / "steering.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_trait(str(folder)).questions == ("Why?", "How?")


# what is doubtful


def _warnings(folder: Path, positive: list[str], negative: list[str], **steering: object) -> str:
    (folder / "positive.txt").write_text("\n".join(positive), encoding="utf-8")
    (folder / "negative.txt").write_text("\n".join(negative), encoding="utf-8")
    document = {"questions": ["Why?"], **steering}
    (folder / "steering.json").write_text(json.dumps(document), encoding="utf-8")
    return "\n".join(dataset_warnings(load_trait(str(folder)), "positive"))


TEN, OTHER_TEN = [f"ask {i}" for i in range(10)], [f"tell {i}" for i in range(10)]


def test_a_sound_dataset_raises_no_doubt(folder: Path) -> None:
    assert _warnings(folder, TEN, OTHER_TEN, direction="positive", adversarial_prefix="x") == ""


def test_the_embedded_dataset_raises_no_doubt() -> None:
    assert dataset_warnings(load_trait("toy:refusal"), "positive") == ()


@pytest.mark.parametrize(
    ("positive", "negative", "steering", "said"),
    [
        (TEN[:9], OTHER_TEN, {}, "9 positive and 10 negative prompts are few"),
        (TEN + [f"more {i}" for i in range(6)], OTHER_TEN, {}, "unequal: 16 positive and 10 negative"),
        ([*TEN, "", "ASK  3"], OTHER_TEN, {}, "case or blanks alone: positive.txt line 4 and positive.txt line 12"),
        (TEN, [*OTHER_TEN, "Ask 3"], {}, "positive.txt line 4 and negative.txt line 11"),
        ([*TEN, "x" * 4001], OTHER_TEN, {}, "positive.txt line 11 (4,001 characters)"),
        (TEN, [*OTHER_TEN, "caf\ufffd"], {}, "stand as \ufffd: negative.txt line 11"),
        (TEN, OTHER_TEN, {"direction": "negative"}, "says direction 'negative', the experiment file 'positive'"),
        (TEN, OTHER_TEN, {"vet_prompt": "x", "coherence_prompt": "y"}, "coherence_prompt and vet_prompt not used"),
    ],
    ids=["few", "unequal", "alike", "alike on both sides", "long", "replaced", "direction", "prompts"],
)
def test_a_doubt_is_told_with_its_numbers(
    folder: Path, positive: list[str], negative: list[str], steering: dict[str, object], said: str
) -> None:
    warnings = _warnings(folder, positive, negative, **steering)
    assert said in warnings
    assert warnings.count("\n") == 0  # and nothing else


def test_a_long_list_of_places_is_cut_and_counted(folder: Path) -> None:
    assert "; and 7 more" in _warnings(folder, TEN, [text.upper() for text in TEN])


def test_sides_of_other_lengths_are_no_pairs(folder: Path) -> None:
    _warnings(folder, TEN, [*OTHER_TEN, "one more"])
    with pytest.raises(DataError, match=r"pca pairs, but.*positive\.txt holds 10 prompts and negative\.txt 11"):
        check_pairs(load_trait(str(folder)), "pca pairs")


# properties: how a file is written never shows

PROMPTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).map(str.strip).filter(bool),
    min_size=1,
    max_size=6,
    unique=True,
)
BREAKS = st.lists(st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\n \t\r\n", " \n"]), min_size=7, max_size=7)
WRITTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _joined(parts: list[str], breaks: list[str]) -> str:
    return "".join(end + part for part, end in zip(parts, breaks, strict=False)) + breaks[-1]


@WRITTEN
@given(prompts=PROMPTS, breaks=BREAKS, bom=st.booleans())
def test_plain_prompts_survive_any_line_end(tmp_path: Path, prompts: list[str], breaks: list[str], bom: bool) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + _joined(prompts, breaks).encode())
    assert read_prompts(path) == tuple(prompts)


@WRITTEN
@given(
    prompts=PROMPTS,
    system=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    breaks=BREAKS,
    bom=st.booleans(),
    ascii_only=st.booleans(),
)
def test_json_lines_and_json_lists_hold_the_same(
    tmp_path: Path, prompts: list[str], system: str | None, breaks: list[str], bom: bool, ascii_only: bool
) -> None:
    items = [{"prompt": prompt, "system_prompt": system} for prompt in prompts]
    mark = "\ufeff" if bom else ""
    lines = [json.dumps(item, ensure_ascii=ascii_only) for item in items]
    (tmp_path / "p.jsonl").write_bytes((mark + _joined(lines, breaks)).encode())
    (tmp_path / "p.json").write_bytes((mark + json.dumps(items, ensure_ascii=ascii_only)).encode())
    wanted = tuple(Prompt(prompt, system if system and system.strip() else None) for prompt in prompts)
    assert read_prompt_file(tmp_path / "p.jsonl") == read_prompt_file(tmp_path / "p.json") == wanted


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize("name", FILES)
def test_a_git_lfs_pointer_is_named_as_what_it_is(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(name) + ": a Git LFS pointer .* `git lfs pull`"):
        load_trait(str(folder))


def test_pointers_on_both_sides_are_not_one_prompt(folder: Path) -> None:
    for name in ("positive.txt", "negative.txt"):
        (folder / name).write_text(POINTER, encoding="utf-8")
    with pytest.raises(DataError, match=r"positive\.txt: a Git LFS pointer"):
        load_trait(str(folder))


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl", "prompts.json"])
def test_neutral_prompts_that_git_lfs_holds_are_named_too(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER, encoding="utf-8")
    with pytest.raises(DataError, match="a Git LFS pointer"):
        load_prompts(str(tmp_path / name))


@pytest.mark.parametrize("name", ["prompt", "text", "instruction"])
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_prompt_goes_by_the_names_that_datasets_have(tmp_path: Path, name: str, ending: str) -> None:
    items = [{name: f"Do {i}", "category": "x", "input": ""} for i in range(3)]
    text = json.dumps(items) if ending == "json" else "\n".join(map(json.dumps, items))
    path = tmp_path / f"positive.{ending}"
    path.write_text(text, encoding="utf-8")
    assert [prompt.text for prompt in read_prompt_file(path)] == ["Do 0", "Do 1", "Do 2"]
    assert load_prompts(str(path)) == ("Do 0", "Do 1", "Do 2")


def test_an_instruction_with_an_input_is_no_whole_prompt(tmp_path: Path) -> None:
    path = tmp_path / "positive.jsonl"
    path.write_text('{"instruction": "Translate", "input": "Hello"}', encoding="utf-8")
    with pytest.raises(DataError, match='line 1: an "input" beside the "instruction"'):
        read_prompt_file(path)


def test_a_files_system_prompt_is_that_of_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "positive.json"
    prompts = ["Hello", {"prompt": "Bye", "system_prompt": "Be brief."}]
    path.write_text(json.dumps({"system_prompt": "Be kind.", "prompts": prompts}), encoding="utf-8")
    assert [prompt.system for prompt in read_prompt_file(path)] == ["Be kind.", "Be brief."]
    with pytest.raises(DataError, match="neutral prompts have no system prompt"):
        load_prompts(str(path))


def test_line_separators_within_a_prompt_are_no_line_ends(folder: Path) -> None:
    texts = [f"Prompt {i} says one thing\u2028and\u0085another\u000band\u2029end" for i in range(3)]
    (folder / "positive.txt").unlink()
    lines = (json.dumps({"prompt": text}, ensure_ascii=False) for text in texts)
    (folder / "positive.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "negative.txt").write_text("\n".join(text.replace("P", "N") for text in texts), encoding="utf-8")
    trait = load_trait(str(folder))
    assert [prompt.text for prompt in trait.positive] == texts
    assert [prompt.text for prompt in trait.negative] == [text.replace("P", "N") for text in texts]
