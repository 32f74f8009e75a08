"""Prompts: chat templates as they are, system prompts where a template has no place for them, and one BOS."""

from functools import cache

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from massact.domain import Conversation, ModelIdentity
from massact.errors import ModelError
from massact.models.load import SteerableModel
from massact.models.prompting import encode_chat, encode_text

BOS, EOS = "<s>", "</s>"
WORDS = (
    BOS,
    EOS,
    "<unk>",
    "[I]",
    "[/I]",
    "[S]",
    "hello",
    "be",
    "kind",
    "there",
    "2024",
    "26",
    "Jul",
    "2026",
    "07",
    ":",
)
LLAMA = (
    "{{ bos_token }} {% for m in messages %}{{ '[S]' if m['role'] == 'system' else '[I]' }} {{ m['content'] }} "
    "{% endfor %}"
)
NO_BOS = LLAMA.replace("{{ bos_token }} ", "")
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + LLAMA
)
DROPS_SYSTEM = "{{ bos_token }} {% for m in messages if m['role'] == 'user' %}[I] {{ m['content'] }} {% endfor %}"
PARTS = LLAMA.replace("{{ m['content'] }}", "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}")
PARTS_ONLY = PARTS.replace("m['content']", "m['content'].parts()")
SAYS_NOTHING = LLAMA.replace("m['content']", "m['role']")
GENERATES = LLAMA + "{% if add_generation_prompt %}[/I]{% endif %}"


@cache
def _tokenizer(ends: bool = False) -> PreTrainedTokenizerFast:
    """Words; a post-processor writes BOS before every text, as Llama's does, and EOS after it where it `ends`."""
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(
        single=f"{BOS} $A {EOS}" if ends else f"{BOS} $A", special_tokens=[(BOS, 0), (EOS, 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=EOS, unk_token="<unk>")


def _model(template: str | None = None, *, ends: bool = False) -> SteerableModel:
    tokenizer = _tokenizer(ends)
    tokenizer.chat_template = template
    return SteerableModel(None, tokenizer, ModelIdentity("words", "0", "float32"))


def _said(tokens: tuple[int, ...]) -> str:
    return " ".join(WORDS[token] for token in tokens)


@pytest.mark.parametrize("text", ["hello there", f"{BOS} hello there", f"{BOS} {BOS} hello there"])
def test_a_text_begins_with_one_bos(text: str) -> None:
    assert _said(encode_text(_model(), text)) == "<s> hello there"


def test_a_text_to_be_continued_is_not_closed() -> None:
    closing = _model(ends=True)
    assert closing.tokenizer("hello")["input_ids"] == [0, 6, 1]
    assert _said(encode_text(closing, "hello there")) == "<s> hello there"
    # what the text itself says is left alone
    assert _said(encode_text(closing, f"hello {EOS}")).startswith(f"<s> hello {EOS}")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "<s> hello"),
        (LLAMA, "<s> [I] hello"),
        (NO_BOS, "[I] hello"),  # a template is the whole truth: transformers adds nothing to it either
        (GENERATES, "<s> [I] hello [/I]"),
        ("{{ bos_token }} {{ bos_token }} {{ messages[0]['content'] }}", "<s> hello"),
    ],
)
@pytest.mark.parametrize("ends", [False, True])
def test_a_question_is_what_the_template_says(template: str | None, said: str, ends: bool) -> None:
    model = _model(template, ends=ends)
    assert _said(encode_chat(model, "hello")) == said
    if template and "bos_token }} {{ bos_token" not in template:
        own = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": "hello"}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert encode_chat(model, "hello") == tuple(own)


def test_a_question_that_begins_with_the_bos_text_does_not_double_it() -> None:
    bare = "{{ bos_token }} {{ messages[0]['content'] }}"
    assert _said(encode_chat(_model(bare), f"{BOS} hello")) == "<s> hello"
    assert _said(encode_chat(_model(), f"{BOS} hello")) == "<s> hello"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LLAMA, "<s> [S] be kind [I] hello"),
        (NO_SYSTEM, "<s> [I] be kind hello"),
        (DROPS_SYSTEM, "<s> [I] be kind hello"),
        (None, "<s> be kind hello"),
    ],
)
def test_a_system_prompt_is_never_lost(template: str | None, said: str) -> None:
    model = _model(template)
    assert _said(encode_chat(model, "hello", "be kind")) == said
    assert encode_chat(model, "hello", "be kind") == encode_chat(model, "hello", "be kind")
    assert encode_chat(model, "hello") == encode_chat(model, "hello")


def test_a_folded_system_prompt_stands_a_blank_line_before_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    # as the template of Gemma 3 itself has it
    model = _model(NO_SYSTEM)
    assert model.chat.arguments == {}
    seen: list[str] = []
    plain = model.tokenizer.apply_chat_template

    def watched(messages: list[dict[str, str]], **options: object) -> str:
        seen.append(messages[-1]["content"])
        return str(plain(messages, **options))

    monkeypatch.setattr(model.tokenizer, "apply_chat_template", watched)
    encode_chat(model, "hello", "be kind")
    assert [one for one in seen if isinstance(one, str)] == ["hello", "be kind\n\nhello"]


def test_a_template_that_cannot_be_rendered_says_why() -> None:
    for template, match in (
        ("{{ raise_exception('Only tools here') }}", "words: its chat template cannot be rendered: Only tools here"),
        ("{% for m in messages %}", "cannot be rendered: Unexpected end of template"),
    ):
        with pytest.raises(ModelError, match=match):
            encode_chat(_model(template), "hello")


def test_a_template_that_writes_the_date_says_the_same_tomorrow() -> None:
    # as Llama 3's templates do: the day is no part of a cell's key
    dated = (
        "{{ bos_token }} {% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% else %}"
        "{% set day = 'hello' %}{% endif %}{{ day }} {{ strftime_now('%m : %Y') }} {{ messages[0]['content'] }}"
    )
    assert _said(encode_chat(_model(dated), "there")) == "<s> 26 Jul 2024 07 : 2024 there"


def test_a_template_that_takes_content_in_parts_gets_it_so() -> None:
    assert _said(encode_chat(_model(PARTS), "hello there")) == "<s> [I] hello there"
    assert _said(encode_chat(_model(PARTS), "hello there", "be kind")) == "<s> [S] be kind [I] hello there"


def test_a_template_without_the_users_text_is_refused() -> None:
    with pytest.raises(ModelError, match="words: its chat template leaves out what the user says"):
        encode_chat(_model(SAYS_NOTHING), "hello there", "be kind")
    with pytest.raises(ModelError, match="words: its chat template cannot be rendered"):
        encode_chat(_model(PARTS_ONLY), "hello there")


TALK = Conversation([("system", "be kind"), ("user", "hello"), ("assistant", "there"), ("user", "2024")])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LLAMA, "<s> [S] be kind [I] hello [I] there [I] 2024"),
        (PARTS, "<s> [S] be kind [I] hello [I] there [I] 2024"),
        (NO_SYSTEM, "<s> [I] be kind hello [I] there [I] 2024"),
    ],
)
def test_a_conversation_is_put_to_the_template_message_by_message(template: str, said: str) -> None:
    assert _said(encode_chat(_model(template), TALK)) == said
    one = Conversation(TALK.messages[:2])
    assert encode_chat(_model(template), one) == encode_chat(_model(template), "hello", "be kind")


def test_a_conversation_that_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(ModelError, match="words: it has no chat template, and a question has several turns"):
        encode_chat(_model(None), TALK)
    assert _said(encode_chat(_model(None), Conversation(TALK.messages[:2]))) == "<s> be kind hello"
    with pytest.raises(ModelError, match="words: its chat template leaves out"):  # what the assistant said
        encode_chat(_model(DROPS_SYSTEM), TALK)
    one_turn = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + LLAMA
    with pytest.raises(ModelError, match="cannot be rendered: one turn only"):
        encode_chat(_model(one_turn), TALK)
