"""Turning questions and prompts into tokens. A doubled BOS never happens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from massact.domain import Generation
from massact.errors import ModelError
from massact.models.load import SteerableModel

_DAY = (
    ("%d", "26"),
    ("%m", "07"),
    ("%b", "Jul"),
    ("%B", "July"),
    ("%Y", "2024"),
    ("%y", "24"),
    ("%A", "Friday"),
)
"""What templates that write today's date are told, so that a prompt is the same tomorrow: the day that Llama's
templates fall back on."""
_CLOCK = "strftime_now"


def encode_chat(model: SteerableModel, user: str, system: str | None = None) -> tuple[int, ...]:
    """Tokens of what a user says after an optional system prompt, ready to be answered.

    Where the chat template takes no system role, the system prompt stands before the user's text with a blank
    line between, as Gemma's own template has it; likewise where there is no chat template.

    Raises:
        ModelError: the chat template cannot be rendered.
    """
    folded = user if system is None else f"{system}\n\n{user}"
    if model.tokenizer.chat_template is None:
        return encode_text(model, folded)
    text = None if system is None else _with_system(model, user, system)
    if text is None:
        text = _render(model, [{"role": "user", "content": folded}])
    # a template writes BOS itself where it wants one, so the tokenizer must not add another
    return _one_bos(model, model.tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_text(model: SteerableModel, text: str) -> tuple[int, ...]:
    """Tokens of a text to be continued, with the BOS that the tokenizer adds, and no end of text."""
    ids = list(model.tokenizer(text)["input_ids"])
    end = model.tokenizer.eos_token_id
    if end is not None and ids[-1:] == [end]:
        bare = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if list(bare[-1:]) != [end]:  # some tokenizers close a text, which would be continued after its end
            ids.pop()
    return _one_bos(model, ids)


def decode(model: SteerableModel, tokens: tuple[int, ...]) -> str:
    """The text of response tokens, without special tokens."""
    text: str = model.tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text.strip()


def _with_system(model: SteerableModel, user: str, system: str) -> str | None:
    """The rendered chat with a system role; `None` where the template refuses it or leaves its text out."""
    try:
        text = _render(model, [{"role": "system", "content": system}, {"role": "user", "content": user}])
    except ModelError:
        return None
    return text if system.strip() in text else None


def _render(model: SteerableModel, messages: list[dict[str, str]]) -> str:
    """The rendered chat with what the user says in it, which templates of models that see may take in parts alone."""
    in_parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in messages]
    problem = ModelError(
        f"{model.identity.id}: its chat template leaves out what the user says. Check chat_template in its tokenizer"
    )
    for form in (messages, in_parts):
        try:
            text = _rendered(model, form)
        except ModelError as error:
            problem = error if form is messages else problem
            continue
        if messages[-1]["content"].strip() in text:
            return text
    raise problem


def _rendered(model: SteerableModel, messages: Sequence[Mapping[str, object]]) -> str:
    from jinja2 import TemplateError

    dated = _CLOCK in str(model.tokenizer.chat_template)
    template = _stopped_clock() + model.tokenizer.get_chat_template() if dated else None
    try:
        text = model.tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{model.identity.id}: its chat template cannot be rendered: {reason} Check chat_template in its tokenizer"
        ) from error
    return str(text)


def _stopped_clock() -> str:
    """A template's beginning that puts one day in the place of today."""
    filters = "".join(f" | replace('{directive}', '{text}')" for directive, text in _DAY)
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{- format{filters} -}}}}{{%- endmacro -%}}"


def _one_bos(model: SteerableModel, ids: Any) -> tuple[int, ...]:
    """The tokens with a single BOS at their beginning, where a text or a template wrote another."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    start = 0
    while bos is not None and list(ids[start : start + 2]) == [bos, bos]:
        start += 1
    return tuple(ids[start:])


# What is to be generated: a prompt, and what is added to the residual stream while it is answered.


@dataclass(frozen=True, slots=True)
class Addition:
    """What is added to one row's residual stream at one layer."""

    layer: int
    vector: torch.Tensor
    """Unit vector `[d_model]`, float32."""
    coefficient: float

    @property
    def values(self) -> torch.Tensor:
        """`[d_model]`, float32, on the CPU."""
        return self.coefficient * self.vector.float().cpu()


@dataclass(frozen=True, slots=True)
class Row:
    """One response to be generated."""

    prompt: tuple[int, ...]
    addition: Addition | None = None
    """`None` leaves the model as it is."""
    draw: int = 0
    """Distinguishes the random draws of rows that share a seed; the index of the question."""


def distinct_rows(rows: Sequence[Row], settings: Generation) -> tuple[list[Row], list[int]]:
    """Rows that can differ in their responses, and for each row given the index of its like among them.

    Two rows are alike where prompt and addition are, bit by bit, and the draws too if they are sampled.
    """
    seen: dict[tuple[object, ...], int] = {}
    kept: list[Row] = []
    places = []
    for row in rows:
        like = (row.prompt, _identity(row.addition), row.draw if settings.temperature > 0 else None)
        if like not in seen:
            seen[like] = len(kept)
            kept.append(row)
        places.append(seen[like])
    return kept, places


def _identity(addition: Addition | None) -> tuple[int, bytes] | None:
    if addition is None:
        return None
    values = addition.values
    # nothing added is no addition: the baseline
    return (addition.layer, values.numpy().tobytes()) if bool(values.any()) else None
