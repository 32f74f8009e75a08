"""Turning questions and prompts into tokens. A doubled BOS never happens."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from massact.domain import DEFAULT_OPERATOR, STEERED_TOKENS, Choice, Conversation, Gate, Generation, Message
from massact.errors import ModelError, UsageError
from massact.models.chat import Chat, render
from massact.models.load import SteerableModel
from massact.vectors.positions import steered_tokens

_Messages = Sequence[Message]


def encode_chat(
    model: SteerableModel,
    question: str,
    system: str | None = None,
    *,
    answer: str | None = None,
    chat: Chat | None = None,
) -> tuple[int, ...]:
    """Tokens of what a user says after an optional system prompt, or of a `Conversation`, ready to be answered.
    Where the chat template takes no system role, the system prompt stands before the user's text with a blank line
    between, as Gemma's own template has it; likewise where there is no chat template.
    `answer`: what is answered already, with which the tokens then end; without a chat template it stands after the
    question as in CAA's prompts for base models (`Input: …`, `Response: …`). `chat`: how the model is asked; `None`: as
    the experiment file says.
    Raises ModelError: the chat template cannot be rendered, or a conversation has none."""
    messages = question.messages if isinstance(question, Conversation) else (("user", question),)
    if system is not None:
        messages = (("system", system), *messages)
    folded = messages
    if messages[0][0] == "system":
        folded = (("user", f"{messages[0][1]}\n\n{messages[1][1]}"), *messages[2:])
    if model.tokenizer.chat_template is None:
        if len(folded) > 1:
            raise ModelError(f"{model.identity.id}: it has no chat template, and a question has several turns")
        return encode_text(model, folded[0][1] if answer is None else f"Input: {folded[0][1]}\nResponse: {answer}")
    if answer is not None:
        messages, folded = (*messages, ("assistant", answer)), (*folded, ("assistant", answer))
    arguments = (chat or model.chat).arguments
    text = None if folded == messages else _with_system(model, messages, arguments)
    if text is None:
        text = _rendered(model, folded, arguments)
    # a template writes BOS itself where it wants one, so the tokenizer must not add another
    return _one_bos(model, model.tokenizer(text, add_special_tokens=False)["input_ids"])


def after(before: tuple[Message, ...], question: str) -> str:
    """A question with messages before it; their system prompt stands before its own."""
    if not before:
        return question
    asked = question.messages if isinstance(question, Conversation) else (("user", question),)
    systems = [content for role, content in (*before, *asked) if role == "system"]
    turns = [message for message in (*before, *asked) if message[0] != "system"]
    return Conversation([("system", "\n\n".join(systems)), *turns] if systems else turns)


@dataclass(frozen=True, slots=True)
class AskedChoice:
    """A question whose answer is begun up to where its two answers differ."""

    prompt: tuple[int, ...]
    n_drawn: int  # tokens of the answer at its end
    tokens: tuple[int, int]  # with which the matching answer goes on, and the other


def encode_choice(model: SteerableModel, before: tuple[Message, ...], choice: Choice) -> AskedChoice:
    """Tokens of a question with two answers. Raises ModelError: the answers have no token in which they differ."""
    asked = after(before, str(choice))
    bare = encode_chat(model, asked)
    both = [encode_chat(model, asked, answer=answer) for answer in choice.answers]
    place = next((i for i, pair in enumerate(zip(*both, strict=False)) if len(set(pair)) > 1), None)
    if place is None:
        raise ModelError(f"{model.identity.id}: {choice.answers[0]} and {choice.answers[1]} are the same tokens")
    n_drawn = place - len(bare) if both[0][: len(bare)] == bare else 0
    return AskedChoice(both[0][:place], max(0, n_drawn), (both[0][place], both[1][place]))


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


def read_response(
    model: SteerableModel, tokens: tuple[int, ...], *, is_chat: bool = True
) -> tuple[str | None, str | None]:
    """Thought and answer of response tokens, without special tokens; `None`: there is none. `is_chat`: whether the
    prompt came from the chat template, which may have opened a thought."""
    marks = model.chat.marks
    if marks is None:
        return None, decode(model, tokens)
    # marks may be special tokens
    whole = model.tokenizer.decode(list(tokens), skip_special_tokens=False)
    thought, answer = marks.split(whole, is_open=is_chat and model.chat.is_open)
    if thought is None:
        return None, decode(model, tokens)
    special = [token.content for token in model.tokenizer.added_tokens_decoder.values() if token.special]
    pattern = re.compile("|".join(map(re.escape, special)) or "(?!)")
    bare_thought, bare_answer = (text and pattern.sub("", text).strip() for text in (thought, answer))
    return bare_thought or None, bare_answer


def _with_system(model: SteerableModel, messages: _Messages, arguments: Mapping[str, Any]) -> str | None:
    """The rendered chat with a system role; `None` where the template refuses it or leaves its text out."""
    try:
        text = _rendered(model, messages, arguments)
    except ModelError:
        return None
    return text if messages[0][1].strip() in text else None


def _rendered(model: SteerableModel, messages: _Messages, arguments: Mapping[str, Any]) -> str:
    said = [{"role": role, "content": content} for role, content in messages]
    return render(model.tokenizer, said, arguments, model.identity.id)


def _one_bos(model: SteerableModel, ids: Any) -> tuple[int, ...]:
    """The tokens with a single BOS at their beginning, where a text or a template wrote another."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    start = 0
    while bos is not None and list(ids[start : start + 2]) == [bos, bos]:
        start += 1
    return tuple(ids[start:])


# What is to be generated: a prompt, and what is done to the residual stream while it is answered.


@dataclass(frozen=True, slots=True)
class Intervention:
    """What is done to one row's residual stream."""

    layer: int  # the first layer that is steered
    vector: torch.Tensor = field(repr=False)
    """Unit vector `[d_model]`, float32; or `[n_layers, d_model]`, of this layer and those after it; of `replace`
    `[n_layers, k + 2, d_model]`: of each layer k directions, then what is added once and what the coefficient times."""
    coefficient: float
    operator: str = DEFAULT_OPERATOR  # see `massact.models.operators`
    tokens: str = STEERED_TOKENS  # at which tokens; see `massact.vectors.positions.parse_tokens`
    weights: tuple[float, ...] = ()  # what the coefficient is multiplied by at each layer; empty: 1
    decay: float = 1.0  # what is left of the change at each token of the response, a share of that at the one before
    gate: Gate | None = None  # `None`: it is open to every prompt
    condition: torch.Tensor | None = field(default=None, repr=False)  # the gate's vector, `[d_model]`

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int) or not isinstance(self.coefficient, int | float):
            raise UsageError(f"layer {self.layer!r}, coefficient {self.coefficient!r}: a whole number and a number")

    @property
    def layers(self) -> range:
        """Those that are steered."""
        return range(self.layer, self.layer + (len(self.vector) if self.vector.ndim > 1 else 1))

    def at(self, layer: int) -> torch.Tensor:
        """The vector of one of the layers, `[d_model]`; of `replace` all rows."""
        return self.vector[layer - self.layer] if self.vector.ndim > 1 else self.vector

    @property
    def values(self) -> torch.Tensor:
        """Coefficient x vector, in the vector's shape, float32, on the CPU."""
        return self.coefficient * self.vector.float().cpu()

    def coefficient_at(self, layer: int) -> float:
        """The coefficient of one of the layers."""
        return self.coefficient * (self.weights[layer - self.layer] if self.weights else 1.0)

    @property
    def is_everywhere(self) -> bool:
        """Whether the whole change is made at every token."""
        return self.tokens == STEERED_TOKENS and self.decay == 1


@dataclass(frozen=True, slots=True)
class Row:
    """One response to be generated."""

    prompt: tuple[int, ...]
    intervention: Intervention | None = None  # `None` leaves the model as it is
    draw: int = 0  # distinguishes the random draws of rows that share a seed; the index of the question
    n_drawn: int = 0  # tokens of the response that now stand at the prompt's end; as many draws were taken already

    def steered(self, n_tokens: int) -> list[bool] | list[float]:
        """Of each of so many tokens, prompt and response together, whether it is steered, or what share of the change
        it gets."""
        intervention, n_prompt = self.intervention, len(self.prompt) - self.n_drawn
        if intervention is None or intervention.is_everywhere:
            return [intervention is not None] * n_tokens
        among = steered_tokens(intervention.tokens, n_prompt, n_tokens)
        if intervention.decay == 1:
            return among
        return [intervention.decay ** max(0, i - n_prompt) if steered else 0.0 for i, steered in enumerate(among)]


def distinct_rows(rows: Sequence[Row], settings: Generation) -> tuple[list[Row], list[int]]:
    """Rows that can differ in their responses, and for each row given the index of its like among them. Two rows are
    alike where prompt and intervention are, bit by bit, and the draws too if they are sampled."""
    seen: dict[tuple[object, ...], int] = {}
    kept: list[Row] = []
    places = []
    for row in rows:
        like = (row.prompt, _identity(row), (row.draw, row.n_drawn) if settings.temperature > 0 else None)
        if like not in seen:
            seen[like] = len(kept)
            kept.append(row)
        places.append(seen[like])
    return kept, places


def _identity(row: Row) -> tuple[object, ...] | None:
    intervention = row.intervention
    if intervention is None:
        return None
    tokens = None if intervention.is_everywhere else (intervention.tokens, intervention.decay, row.n_drawn)
    more = (intervention.layer, intervention.weights, tokens)
    if intervention.operator != DEFAULT_OPERATOR:
        return (
            *more,
            intervention.operator,
            intervention.coefficient,
            intervention.vector.float().cpu().numpy().tobytes(),
        )
    values = intervention.values
    # nothing added is no intervention: the baseline
    return (*more, values.numpy().tobytes()) if bool(values.any()) else None
