"""Turning questions and prompts into tokens. A doubled BOS never happens."""

from massact.models.load import SteerableModel


def encode_question(model: SteerableModel, question: str) -> tuple[int, ...]:
    """Tokens of a question, in the model's chat template where it has one, ready to be answered."""
    if model.tokenizer.chat_template is None:
        return encode_text(model, question)
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    # a template writes BOS itself, so the tokenizer must not add a second one
    return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_text(model: SteerableModel, text: str) -> tuple[int, ...]:
    """Tokens of a text to be continued, with the special tokens that the tokenizer adds."""
    return tuple(model.tokenizer(text)["input_ids"])


def decode(model: SteerableModel, tokens: tuple[int, ...]) -> str:
    """The text of response tokens, without special tokens."""
    text: str = model.tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text.strip()
