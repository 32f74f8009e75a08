"""Which questions confirm: by their own text, whatever stands around them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.config import load_experiment
from massact.data.traits import TraitDataset, fraction, load_trait, split_questions
from massact.errors import ConfigError, DataError
from massact.sweep.context import Session
from tests.support.small_plan import EXPERIMENT

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
shares = st.floats(0.01, 0.99)
blanks = st.text(" \t\n", max_size=3)


@given(st.lists(texts, unique=True), shares)
def test_every_question_is_in_one_part_and_each_part_keeps_the_order(questions: list[str], share: float) -> None:
    select, confirm = split_questions(questions, share)
    assert sorted([*select, *confirm]) == sorted(questions)
    for part in (select, confirm):
        assert list(part) == [one for one in questions if one in part]


@given(st.lists(texts, unique=True), st.lists(texts), st.randoms(), shares)
def test_adding_removing_and_reordering_moves_no_other_question(
    questions: list[str], others: list[str], random: object, share: float
) -> None:
    before = set(split_questions(questions, share)[1])
    kept = [*questions[: len(questions) // 2], *others]
    random.shuffle(kept)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    after = set(split_questions(kept, share)[1])
    assert {one for one in kept if one in questions and one in before} == {one for one in after if one in questions}


@given(texts, blanks, blanks)
def test_blanks_around_a_question_do_not_count(question: str, before: str, after: str) -> None:
    assert fraction(before + question + after) == fraction(question)
    assert 0 <= fraction(question) < 1


@given(texts, shares, shares)
def test_a_larger_share_only_adds_to_those_that_confirm(question: str, share: float, other: float) -> None:
    low, high = sorted((share, other))
    assert set(split_questions([question], low)[1]) <= set(split_questions([question], high)[1])


@given(shares)
def test_the_share_is_respected_on_many_questions(share: float) -> None:
    n = 2000
    _, confirm = split_questions((f"What would you say to number {i}?" for i in range(n)), share)
    assert abs(len(confirm) / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_a_place_is_pinned() -> None:
    # another place would move every question, and with it every key of a split experiment
    assert fraction("How do I boil eggs?") == pytest.approx(0.09555616116605947, abs=1e-15)


def _trait(folder: Path, questions: list[str]) -> TraitDataset:
    for name, text in (("positive.txt", "a\nb\n"), ("negative.txt", "c\nd\n"), ("definition.txt", "x\n")):
        (folder / name).write_text(text)
    (folder / "steering.json").write_text(json.dumps({"questions": questions}))
    return load_trait(str(folder))


def test_without_a_split_the_set_is_the_whole(tmp_path: Path) -> None:
    trait = _trait(tmp_path, ["one?", "two?", "three?"])
    assert trait.question_set(0).questions == trait.questions
    assert trait.question_set(2).digest == trait.question_set(0).digest


def test_a_subset_is_taken_of_those_that_select() -> None:
    trait = load_trait("toy:refusal")
    select, confirm = split_questions(trait.questions, 0.4)
    asked = trait.question_set(3, confirm_share=0.4)
    assert (asked.questions, asked.subset) == (select[:3], 3)
    assert asked.digest == trait.question_set(0, confirm_share=0.4).digest != trait.question_set(0).digest
    assert trait.confirming_set(0.4).questions == confirm
    with pytest.raises(DataError, match=f"subset 24: .* has {len(select)} questions that select; 0 asks all"):
        trait.question_set(24, confirm_share=0.4)


@pytest.mark.parametrize(("share", "remedy"), [(1e-9, "raise"), (1 - 1e-9, "lower")])
def test_a_part_without_questions_is_refused(share: float, remedy: str, tmp_path: Path) -> None:
    trait = _trait(tmp_path, ["one?", "two?", "three?"])
    empty, full = ("0 confirm", "3 select") if remedy == "raise" else ("0 select", "3 confirm")
    for ask in (lambda: trait.question_set(0, confirm_share=share), lambda: trait.confirming_set(share)):
        with pytest.raises(DataError) as caught:
            ask()
        assert all(one in str(caught.value) for one in (empty, full, "steering.json", f"{remedy} the share"))


def _experiment(folder: Path, line: str) -> Path:
    file = folder / "split.yaml"
    file.write_text(EXPERIMENT.replace("subset: 2\n", f"subset: 2\n{line}\n"))
    return file


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("questions: {confirm: 0}", "line 21: questions.confirm: 0 is not a share between 0 and 1"),
        ("questions: {confirm: 1}", "questions.confirm: 1 is not a share between 0 and 1"),
        ("questions: {confirm: half}", "questions.confirm: 'half' is not a number"),
        ("questions: {}", "the key 'confirm' is missing"),
        ("questions: {confirm: 0.4, seed: 1}", "seed"),
        ("questions: 0.4", "is not a section"),
    ],
)
def test_a_bad_split_in_the_file_is_refused(line: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(_experiment(tmp_path, line))
    assert complaint in str(caught.value)


def test_few_confirming_questions_are_warned_of_once(tmp_path: Path) -> None:
    said: list[str] = []
    experiment = load_experiment(_experiment(tmp_path, "questions: {confirm: 0.05}"))
    session = Session(experiment, "sqlite:///none.db", say=said.append)
    for _ in range(2):
        found = session.datasets.confirming(experiment.traits[0])
    assert found is not None
    assert 0 < len(found.questions) < 5
    (warning,) = [line for line in said if "tells little" in line]
    assert f"refusal: only {len(found.questions)} question" in warning
