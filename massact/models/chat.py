"""A model's chat template: what is handed to it, whether the model thinks, and how thoughts are told from answers.

Which switch a template has is seen by rendering it with the switch on and off, not by the model's name.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from massact.config import ChatConfig
from massact.errors import ModelError
from massact.json_text import parse_object

Messages = Sequence[Mapping[str, str]]  # each with `role` and `content`

_Switch = tuple[str, Any, Any]  # a variable of a template, and its values that have a model not think and think
_SWITCHES: tuple[_Switch, ...] = (
    ("enable_thinking", False, True),  # Qwen 3, GLM, SmolLM3, Gemma 4, Nemotron 3, EXAONE 4, Hunyuan
    ("thinking", False, True),  # DeepSeek V3.1, Granite, Kimi
    ("thinking_budget", 0, -1),  # Seed-OSS
    ("reasoning", False, True),  # Command A
    ("reasoning_effort", "none", "high"),  # Mistral
    ("reasoning_effort", "no_think", "high"),  # Hy3
)
_DAY = (("%d", "26"), ("%m", "07"), ("%b", "Jul"), ("%B", "July"), ("%Y", "2024"), ("%y", "24"), ("%A", "Friday"))
"""What templates that write today's date are told, so that a prompt is the same tomorrow: the day that Llama's
templates fall back on."""
_CLOCK = "strftime_now"
_PROBE = "hello"


@dataclass(frozen=True, slots=True)
class Marks:
    """How a family of models writes its thoughts."""

    opens: str
    closes: str  # what stands between a thought and the answer
    begins: str = ""  # what a thought has after `opens`
    before: str = ""  # what it has before `closes`
    after: str = ""  # what an answer has before it

    def split(self, text: str, *, is_open: bool = False) -> tuple[str | None, str | None]:
        """Thought and answer of a response; `None`: it has none. A thought that does not end has no answer. `is_open`:
        whether the prompt ends within a thought."""
        thought, closes, answer = text.partition(self.closes)
        if not closes:
            if is_open or self.opens in text:
                return self._bare(text), None
            return None, text
        # further thoughts of a model that has lost its way are none of its answer either
        answer = re.sub(f"{re.escape(self.opens)}.*?{re.escape(self.closes)}", "", answer, flags=re.DOTALL)
        is_whole = self.opens not in answer
        return self._bare(thought), self._bare(answer) if is_whole else None

    def _bare(self, text: str) -> str:
        for mark in (self.closes, self.opens + self.begins, self.opens):
            text = text.replace(mark, "")
        return text.removesuffix(self.before)


_MARKS = (
    Marks("<|channel|>", "<|channel|>final<|message|>", "analysis<|message|>", "<|end|><|start|>assistant"),
    Marks("<|channel>thought", "<channel|>"),  # Gemma 4
    Marks("[THINK]", "[/THINK]"),  # Mistral
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Marks("◁think▷", "◁/think▷"),  # Kimi-VL
)
_TAG = re.compile(r"</?((?:\w+:)?think(?:ing)?(?::\w+)?|thought)>")
"""`<think>`, `<seed:think>`, `<thought>`: what most families have."""


def find_marks(template: str) -> Marks | None:
    """The marks of thoughts that a template knows."""
    for marks in _MARKS:
        if marks.opens in template or marks.closes in template:
            return marks
    tag = _TAG.search(template)
    return tag and Marks(f"<{tag[1]}>", f"</{tag[1]}>", "\n", "\n", "\n\n")


@dataclass(frozen=True, slots=True)
class Chat:
    """How a model is asked through its chat template."""

    thinking: str | None = None
    """`off`, `on`, a number of tokens, or `always` (no switch); `None`: the template has it not think anyway."""
    template_arguments: str | None = None  # those of the experiment file, as canonical JSON
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # all that is handed to the template
    marks: Marks | None = None
    is_open: bool = False  # whether a prompt ends within a thought
    note: str | None = field(default=None, compare=False)  # what a user should know of it

    @property
    def key(self) -> dict[str, str]:
        """What of it is part of a key: nothing where the template alone says how a model is asked."""
        both = {"thinking": self.thinking, "template_arguments": self.template_arguments}
        return {name: value for name, value in both.items() if value is not None}

    @property
    def budget(self) -> int | None:
        """Tokens after which a thought is ended; `None`: never."""
        return int(self.thinking) if self.thinking and self.thinking.isdigit() else None


def read_chat(tokenizer: Any, options: ChatConfig, name: str) -> Chat:
    """How a model is asked, from its template and the options in the experiment file. `name`: the model's, for
    messages. Raises ModelError: the template cannot do what is asked."""
    given = parse_object(options.template_arguments.encode()) if options.template_arguments else {}
    if tokenizer.chat_template is None:
        if options != ChatConfig():
            raise ModelError(f"{name}: it has no chat template; leave out `thinking` and `template_arguments`")
        return Chat()
    template = str(tokenizer.chat_template)
    _check_arguments(tokenizer, template, given, name)
    reading = _Reading(tokenizer, template, given, name)
    try:
        thinking, switched = reading.resolve(options.thinking)
        arguments = {**switched, **given}
        tail = reading.tail(arguments)
    except RenderError:
        if options != ChatConfig():
            raise
        return Chat()  # it is told where a prompt cannot be rendered
    marks = reading.marks
    return Chat(
        thinking,
        options.template_arguments,
        arguments,
        marks,
        is_open=marks is not None and tail.rfind(marks.opens) > tail.rfind(marks.closes),
        note=None if options.thinking else _note(thinking, switched),
    )


def _check_arguments(tokenizer: Any, template: str, given: Mapping[str, Any], name: str) -> None:
    own = inspect.signature(tokenizer.apply_chat_template).parameters.keys() - {"tools", "documents"}
    for argument in given:
        if argument in own or argument == "messages":
            raise ModelError(f"{name}: template_arguments.{argument}: massact says this itself; leave it out")
        if not re.search(rf"\b{re.escape(argument)}\b", template):
            raise ModelError(
                f"{name}: template_arguments.{argument}: its chat template has nothing of that name, so that it would "
                "do nothing; leave it out"
            )


def _note(thinking: str | None, switched: Mapping[str, Any]) -> str | None:
    if thinking == "always":
        return (
            "it thinks before it answers and its chat template has no switch for that: judges read the answer alone, "
            "and `thinking: 256` beside its layers ends a thought after as many tokens"
        )
    if not switched:
        return None
    told = ", ".join(f"{name}={value}" for name, value in switched.items())
    return f"it is told not to think ({told}); `thinking: on`, or a number of tokens, beside its layers lets it"


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one template does."""

    tokenizer: Any
    template: str
    given: Mapping[str, Any]
    name: str

    @property
    def marks(self) -> Marks | None:
        return find_marks(self.template)

    def tail(self, arguments: Mapping[str, Any]) -> str:
        """What it writes before an answer."""
        return self._rendered(arguments).rpartition(_PROBE)[2]

    def _rendered(self, arguments: Mapping[str, Any]) -> str:
        return render(self.tokenizer, [{"role": "user", "content": _PROBE}], arguments, self.name)

    def resolve(self, asked: str | None) -> tuple[str | None, dict[str, Any]]:
        """Whether the model thinks (`Chat.thinking`), and what its template is told for it. Raises ModelError: the
        template cannot do what is asked."""
        switch = self._switch()
        if switch and switch[0] in self.given:
            if asked is not None:
                raise ModelError(
                    f"{self.name}: template_arguments.{switch[0]} and `thinking` both say whether it thinks; write one"
                )
            return "off" if self.given[switch[0]] == switch[1] else "on", {}
        return self._off(asked, switch) if asked in (None, "off") else self._on(asked, switch)

    def _off(self, asked: str | None, switch: _Switch | None) -> tuple[str | None, dict[str, Any]]:
        if switch:
            off = {switch[0]: switch[1]}
            is_off = self._rendered({**off, **self.given}) == self._rendered(self.given)
            return (None, {}) if is_off else ("off", off)
        if asked and self._thinks():
            raise ModelError(
                f"{self.name}: its chat template has no switch that stops it from thinking; `thinking: 0` ends each "
                "thought at once"
            )
        return "always" if self._thinks() else None, {}

    def _on(self, asked: str, switch: _Switch | None) -> tuple[str | None, dict[str, Any]]:
        if self.marks is None:
            raise ModelError(
                f"{self.name}: `thinking: {asked}`: its chat template has no mark of a thought that is known; leave "
                "`thinking` out"
            )
        if switch:
            return asked, {switch[0]: switch[2]}
        return "always" if asked == "on" and self._thinks() else asked, {}

    def _switch(self) -> _Switch | None:
        """The first variable that changes what the template writes."""
        for name, off, on in _SWITCHES:
            is_named = re.search(rf"\b{name}\b", self.template)
            is_value = not isinstance(off, str) or re.search(rf"['\"]{off}['\"]", self.template)
            if is_named and is_value:
                rest = {key: value for key, value in self.given.items() if key != name}
                if self._rendered({**rest, name: off}) != self._rendered({**rest, name: on}):
                    return name, off, on
        return None

    def _thinks(self) -> bool:
        """Whether a prompt says so without a switch: it opens a thought, speaks of one, or has channels."""
        marks, text = self.marks, self._rendered(self.given)
        return marks is not None and (marks.opens in text or marks is _MARKS[0])


# Rendering a template.


class RenderError(ModelError):
    """A chat template cannot be rendered, or leaves out what is said."""


def render(tokenizer: Any, messages: Messages, arguments: Mapping[str, Any], name: str) -> str:
    """The rendered chat with all that is said in it, which templates of models that see may take in parts alone. It
    ends where the model is to answer; where the last message is an answer, with that. Raises RenderError: it cannot be
    rendered, or leaves out what somebody says."""
    in_parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
    problem = RenderError(
        f"{name}: its chat template leaves out what the user says. Check chat_template in its tokenizer"
    )
    for form in (messages, in_parts):
        try:
            text = _rendered(tokenizer, form, arguments, name)
        except RenderError as error:
            problem = error if form is messages else problem
            continue
        if all(message["content"].strip() in text for message in messages if message["role"] != "system"):
            return text
    raise problem


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, object]], arguments: Mapping[str, Any], name: str) -> str:
    from jinja2 import TemplateError

    dated = _CLOCK in str(tokenizer.chat_template)
    template = _stopped_clock() + tokenizer.get_chat_template() if dated else None
    is_answered = messages[-1]["role"] == "assistant"
    ends = {"add_generation_prompt": not is_answered, "continue_final_message": is_answered}
    try:
        text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **ends, **arguments)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RenderError(
            f"{name}: its chat template cannot be rendered: {reason} Check chat_template in its tokenizer"
        ) from error
    return str(text)


def _stopped_clock() -> str:
    """A template's beginning that puts one day in the place of today."""
    filters = "".join(f" | replace('{directive}', '{text}')" for directive, text in _DAY)
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{- format{filters} -}}}}{{%- endmacro -%}}"
