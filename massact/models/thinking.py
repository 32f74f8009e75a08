"""Generating with a budget for thoughts: one that goes on after so many tokens is ended, and the answer follows."""

from collections.abc import Sequence
from dataclasses import replace

from massact.domain import Generation
from massact.models.chat import Chat
from massact.models.generate import Generator, NotFiniteError, Responses, Row
from massact.models.load import SteerableModel
from massact.models.reading import Likelihoods


def closing_tokens(model: SteerableModel, said: tuple[int, ...]) -> tuple[int, ...]:
    """What ends the thought that a response still is after its budget; empty where it is none, or has ended."""
    chat: Chat = model.chat
    marks, text = chat.marks, model.tokenizer.decode(list(said), skip_special_tokens=False)
    if marks is None or marks.closes in text or (text and not chat.is_open and marks.opens not in text):
        return ()
    begin = "" if chat.is_open or text else f"{marks.opens}{marks.begins}"
    end = f"{begin}{marks.before}{marks.closes}{marks.after}"
    return tuple(model.tokenizer(end, add_special_tokens=False)["input_ids"])


def generate_thinking(
    model: SteerableModel, generator: Generator, rows: Sequence[Row], settings: Generation
) -> list[tuple[int, ...]]:
    """Response tokens of every row; see `generate_and_read`."""
    return generate_and_read(model, generator, rows, settings, 0)[0]


def generate_and_read(
    model: SteerableModel, generator: Generator, rows: Sequence[Row], settings: Generation, n_read: int
) -> tuple[list[tuple[int, ...]], list[Likelihoods]]:
    """Response tokens of every row, as `Generator.generate`; what ends a thought is among them. The tokens after it are
    those that a row says by itself where the same tokens are forced upon it. Raises NotFiniteError: the logits of some
    rows were not finite; it has what the others said; ModelError: the memory does not suffice for one row.
    `n_read`: how many of the first tokens are read, as `Generator.generate_and_read` does."""
    budget, longest = model.chat.budget, settings.max_new_tokens
    if budget is None or budget >= longest:
        if not n_read:
            return generator.generate(rows, settings), []
        return generator.generate_and_read(rows, settings, n_read)
    said: Responses = [()] * len(rows)
    if budget:
        said = _said(generator, rows, replace(settings, max_new_tokens=budget))
    for i, tokens in enumerate(said):
        if tokens is not None and len(tokens) == budget:
            said[i] = (*tokens, *closing_tokens(model, tokens))[:longest]
    going = {i: tokens for i, tokens in enumerate(said) if tokens and budget <= len(tokens) < longest}
    if going:
        again = [
            replace(rows[i], prompt=(*rows[i].prompt, *tokens), n_drawn=len(tokens)) for i, tokens in going.items()
        ]
        n_left = longest - min(map(len, going.values()))
        more = _said(generator, again, replace(settings, max_new_tokens=n_left))
        for (i, tokens), rest in zip(going.items(), more, strict=True):
            said[i] = None if rest is None else (*tokens, *rest)[:longest]
    finite = [tokens for tokens in said if tokens is not None]
    read = generator.reader.read(generator.opened(rows), said, n_read) if n_read else []
    if len(finite) < len(said):
        raise NotFiniteError(model, rows, said, read)
    return finite, read


def _said(generator: Generator, rows: Sequence[Row], settings: Generation) -> Responses:
    try:
        return list(generator.generate(rows, settings))
    except NotFiniteError as error:
        return error.said
