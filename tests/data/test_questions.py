"""Questions of several messages and with system prompts: how they are read, what tells them apart, what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from massact.data.traits import TraitDataset, load_trait
from massact.domain import Conversation
from massact.errors import DataError
from massact.keys import digest_texts

TURNS = [
    {"role": "user", "content": "My head hurts."},
    {"role": "assistant", "content": "Since when?"},
    {"role": "user", "content": "Today."},
]
TEXT = "User: My head hurts.\n\nAssistant: Since when?\n\nUser: Today."


def _trait(folder: Path, questions: Any, **more: Any) -> TraitDataset:
    (folder / "positive.txt").write_text("a\n")
    (folder / "negative.txt").write_text("b\n")
    (folder / "definition.txt").write_text("c\n")
    (folder / "steering.json").write_text(json.dumps({"questions": questions, **more}))
    return load_trait(str(folder))


def test_a_question_may_be_what_was_said_so_far(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    questions = _trait(tmp_path, ["Why?", TURNS, {"messages": [system, *TURNS], "note": 1}]).questions
    assert questions == ("Why?", TEXT, f"System: Be brief.\n\n{TEXT}")
    assert not isinstance(questions[0], Conversation)
    last = questions[2]
    assert isinstance(last, Conversation)
    assert last.messages[:2] == (("system", "Be brief."), ("user", "My head hurts."))


def test_a_system_prompt_of_a_question_comes_before_that_of_the_file(tmp_path: Path) -> None:
    own = {"question": "How?", "system_prompt": "Own."}
    told = [{"role": "system", "content": "Told."}, {"role": "user", "content": "When?"}]
    bare = {"question": "Who?", "system_prompt": ""}
    questions = _trait(tmp_path, ["Why?", own, told, bare], system_prompt="All.").questions
    assert questions == (
        "System: All.\n\nUser: Why?",
        "System: Own.\n\nUser: How?",
        "System: Told.\n\nUser: When?",
        "Who?",
    )


def test_the_digest_of_texts_stays_and_tells_messages_apart(tmp_path: Path) -> None:
    texts = _trait(tmp_path, ["Why?", {"question": "How?"}, [{"role": "user", "content": "When?"}]])
    assert texts.question_set(0).digest == digest_texts(["Why?", "How?", "When?"])
    # as one text they read alike
    assert _trait(tmp_path, [TURNS]).question_set(0).digest != _trait(tmp_path, [TEXT]).question_set(0).digest
    other = [TURNS[0], {**TURNS[1], "content": "Where?"}, TURNS[2]]
    assert _trait(tmp_path, [TURNS]).question_set(0).digest != _trait(tmp_path, [other]).question_set(0).digest


def test_a_conversation_travels_to_other_processes() -> None:
    sent = Conversation([("system", "s"), ("user", "u")])
    got = pickle.loads(pickle.dumps(sent))
    assert (got, got.messages) == (sent, sent.messages)


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ([], "messages are a list of objects with role and content"),
        ({"messages": "Why?"}, "messages are a list of objects with role and content"),
        (["Why?"], "message 1: its role is None; write system, user or assistant"),
        ([{"role": "human", "content": "Why?"}], "message 1: its role is 'human'"),
        ([{"role": "user", "content": " "}], "message 1: its content is no text, or empty"),
        ([{"role": "user", "content": ["Why?"]}], "message 1: its content is no text, or empty"),
        (TURNS[:2], "the last message is not the user's"),
        (TURNS[1:], "message 1: a message of the assistant cannot stand here, only of the system or the user"),
        ([TURNS[0], TURNS[0]], "message 2: a message of the user cannot stand here, only of the assistant"),
        ([TURNS[0], {"role": "system", "content": "s"}], "message 2: a message of the system cannot stand here"),
        ([{"role": "system", "content": "s"}], "the last message is not the user's"),
        ({"question": "Why?", "system_prompt": 3}, '"system_prompt" is not a text'),
        ({"note": "Why?"}, "write a text, or a list of messages with role and content"),
        (3, "write a text, or a list of messages with role and content"),
    ],
)
def test_what_is_no_question_is_refused_with_its_place(question: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"steering.json, question 2.*{problem}"):
        _trait(tmp_path, ["Where?", question])


def test_a_conversation_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds a question twice"):
        _trait(tmp_path, [TURNS, TURNS])
