"""Whether a model thinks, what its template is told, and what is thought and what answer: by family."""

import pytest

from massact.config import ChatConfig
from massact.errors import ModelError
from massact.models.chat import Chat, find_marks, read_chat
from massact.models.prompting import encode_chat, read_response
from tests.support.thinkers import FAMILIES, TURNS, Family, thinker, tokenizer_of

OFF: dict[str, dict[str, object]] = {
    "qwen3": {"enable_thinking": False},
    "qwen3_5": {"enable_thinking": False},
    "glm": {"enable_thinking": False},
    "smollm3": {"enable_thinking": False},
    "seed_oss": {"thinking_budget": 0},
    "mistral": {"reasoning_effort": "none"},
}
"""Families that think unless told not to, and how they are told."""


def _ending(name: str, thinking: str | None, arguments: str | None = None) -> str:
    """What stands after the question."""
    model = thinker(name, thinking, arguments)
    text: str = model.tokenizer.decode(encode_chat(model, "t20 t21"))
    return text.partition("t21 ")[2]


@pytest.mark.parametrize("name", FAMILIES)
def test_thinking_is_off_where_the_template_has_a_switch_and_a_line_says_so(name: str) -> None:
    chat = thinker(name).chat
    if name in OFF:
        assert (chat.thinking, chat.arguments) == ("off", OFF[name])
        assert next(iter(OFF[name])) in str(chat.note)
        assert "thinking: on" in str(chat.note)
        assert thinker(name, "off").chat.note is None  # whoever says it knows it
    elif name in ("r1_distill", "gpt_oss"):
        assert (chat.thinking, chat.arguments) == ("always", {})
        assert "no switch" in str(chat.note)
    else:  # they do not think unless told to, and so are what they were
        assert (chat.key, chat.arguments, chat.note) == ({}, {}, None)
    assert chat.marks is not None
    if chat.thinking == "always":
        with pytest.raises(ModelError, match=f"tiny-{name}: its chat template has no switch .* `thinking: 0`"):
            _ = thinker(name, "off").chat
    else:
        assert thinker(name, "off").chat == chat


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("qwen3", "<assistant> <think> </think>", "<assistant>"),
        ("qwen3_5", "<assistant> <think> </think>", "<assistant> <think>"),
        ("glm", "<assistant> /nothink <think> </think>", "<assistant>"),
        ("smollm3", "<assistant> <think> </think>", "<assistant>"),
        ("deepseek_v3.1", "<assistant> </think>", "<assistant> <think>"),
        ("gemma4", "<assistant> <|channel>thought <channel|>", "<assistant>"),
        ("seed_oss", "<assistant> <seed:think> </seed:think>", "<assistant>"),
        ("mistral", "<assistant> [THINK] [/THINK]", "<assistant>"),
    ],
)
def test_the_prompt_says_whether_to_think(name: str, off: str, on: str) -> None:
    assert _ending(name, None).split() == _ending(name, "off").split()
    assert "".join(_ending(name, "off").split()) == "".join(off.split())
    for thinking in ("on", "16"):
        assert _ending(name, thinking).split() == on.split()
        chat = thinker(name, thinking).chat
        assert chat.thinking == thinking
        assert chat.is_open == on.endswith("<think>")
        assert chat.budget == (16 if thinking == "16" else None)


def test_a_model_that_always_thinks_has_one_key_whether_it_is_asked_to_or_not() -> None:
    assert thinker("r1_distill", "on").chat == thinker("r1_distill").chat
    assert thinker("r1_distill").chat.is_open
    assert thinker("r1_distill", "16").chat.key == {"thinking": "16"}


def test_arguments_of_a_template_are_handed_to_it() -> None:
    assert _ending("gpt_oss", None) == "<assistant> medium"
    low = '{"reasoning_effort":"low"}'
    assert _ending("gpt_oss", None, low) == "<assistant> low"
    assert thinker("gpt_oss", None, low).chat.key == {"thinking": "always", "template_arguments": low}
    # they may be the switch, and then say it alone
    for switch, thinking in (("false", "off"), ("true", "on")):
        chat = thinker("qwen3", None, f'{{"enable_thinking":{switch}}}').chat
        assert (chat.thinking, chat.arguments) == (thinking, {"enable_thinking": switch == "true"})
        assert chat.note is None
    with pytest.raises(ModelError, match=r"template_arguments.enable_thinking and `thinking` both say"):
        _ = thinker("qwen3", "on", '{"enable_thinking":true}').chat


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('{"reasoning_effrot":"low"}', "reasoning_effrot: its chat template has nothing of that name"),
        ('{"tokenize":true}', "tokenize: massact says this itself"),
        ('{"messages":[]}', "messages: massact says this itself"),
    ],
)
def test_an_argument_that_would_do_nothing_is_refused(arguments: str, problem: str) -> None:
    with pytest.raises(ModelError, match=f"tiny-gpt_oss: template_arguments.{problem}"):
        _ = thinker("gpt_oss", None, arguments).chat


def test_a_template_without_thoughts_is_left_as_it_is() -> None:
    tokenizer = tokenizer_of(Family("llama", ""))
    for thinking in (None, "off"):
        chat = read_chat(tokenizer, ChatConfig(thinking), "m")
        assert (chat.key, chat.arguments, chat.marks, chat.note) == ({}, {}, None, None)
    with pytest.raises(ModelError, match="m: `thinking: on`: its chat template has no mark of a thought"):
        read_chat(tokenizer, ChatConfig("on"), "m")
    tokenizer.chat_template = None
    assert read_chat(tokenizer, ChatConfig(), "m") == Chat()
    with pytest.raises(ModelError, match="m: it has no chat template"):
        read_chat(tokenizer, ChatConfig("on"), "m")


def test_a_name_in_a_template_that_changes_nothing_is_no_switch() -> None:
    """Such as a namespace's attribute (Nemotron 2), or a message's field (gpt-oss)."""
    ending = "{% set ns = namespace(enable_thinking=true) %}{% if ns.enable_thinking %}<think> {% endif %}"
    chat = read_chat(tokenizer_of(Family("llama", ending)), ChatConfig(), "m")
    assert (chat.thinking, chat.is_open) == ("always", True)


def test_a_template_that_cannot_be_rendered_is_told_where_a_prompt_is_made() -> None:
    tokenizer = tokenizer_of(Family("llama", "<think> {{ raise_exception('tools only') }}"))
    assert read_chat(tokenizer, ChatConfig(), "m") == Chat()
    with pytest.raises(ModelError, match="m: its chat template cannot be rendered: tools only"):
        read_chat(tokenizer, ChatConfig("on"), "m")


SAID = {
    "qwen3": "<think> t20 t21 </think> t30 t31",
    "qwen3_5": "t20 t21 </think> t30 t31",
    "glm": "<think> t20 t21 </think> t30 t31",
    "smollm3": "<think> t20 t21 </think> t30 t31",
    "r1_distill": "t20 t21 </think> t30 t31",
    "deepseek_v3.1": "t20 t21 </think> t30 t31",
    "gpt_oss": "<|channel|> analysis <|message|> t20 t21 <|end|> <|start|> <assistant> <|channel|> final <|message|> "
    "t30 t31",
    "gemma4": "<|channel> thought t20 t21 <channel|> t30 t31",
    "seed_oss": "<seed:think> t20 t21 </seed:think> t30 t31",
    "mistral": "[THINK] t20 t21 [/THINK] t30 t31",
}
"""What each family says when it thinks."""


@pytest.mark.parametrize("name", FAMILIES)
def test_thought_and_answer_are_told_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = thinker(name, "on")
    _join_words(model, monkeypatch)
    tokens = tuple(model.tokenizer.convert_tokens_to_ids(SAID[name].split()))
    assert 0 not in tokens
    assert read_response(model, tokens) == ("t20 t21", "t30 t31")
    n_thought = tokens.index(model.tokenizer.convert_tokens_to_ids("t21"))
    assert read_response(model, tokens[:n_thought]) == ("t20", None)
    if not model.chat.is_open:  # it need not think
        assert read_response(model, tokens[-2:]) == (None, "t30 t31")


def _join_words(model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real tokenizers write nothing between a mark and its neighbors; words need a blank."""
    tokenizer = model.tokenizer  # type: ignore[attr-defined]
    plain = tokenizer.decode

    def decode(*args: object, **options: object) -> str:
        text = str(plain(*args, **options)).replace("<assistant>", "assistant")
        for mark in ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "analysis", "<|channel>"):
            text = text.replace(f"{mark} ", mark)
        for mark in ("<|channel|>", "<|message|>"):
            text = text.replace(f" {mark}", mark)
        return text

    monkeypatch.setattr(tokenizer, "decode", decode)


@pytest.mark.parametrize(
    ("text", "is_open", "parts"),
    [
        ("a", False, (None, "a")),
        ("a", True, ("a", None)),
        ("<think>a", False, ("a", None)),
        ("b<think>a", False, ("ba", None)),
        ("<think>\na\n</think>\n\nb", False, ("a", "\n\nb")),
        ("a</think>b", False, ("a", "b")),  # the mark that opens it stood in the prompt
        ("<think>a</think>b<think>c</think>d", False, ("a", "bd")),
        ("<think>a</think>b<think>c", False, ("a", None)),
        ("<think>a</think>b</think>c", False, ("a", "bc")),
        ("<think></think>", False, ("", "")),
    ],
)
def test_no_mark_and_no_thought_is_left_in_an_answer(
    text: str, is_open: bool, parts: tuple[str | None, str | None]
) -> None:
    marks = find_marks("{{ '</think>' }}")
    assert marks is not None
    assert marks.split(text, is_open=is_open) == parts


@pytest.mark.parametrize(
    ("template", "closes"),
    [
        ("<think>", "</think>"),
        ("</thought>", "</thought>"),
        ("{% if m.thinking %}x", None),
        ("<mm:think>", "</mm:think>"),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        (TURNS, None),
    ],
)
def test_the_marks_of_families(template: str, closes: str | None) -> None:
    marks = find_marks(template)
    assert (marks and marks.closes) == closes
