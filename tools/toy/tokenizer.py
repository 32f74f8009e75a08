"""A byte-pair tokenizer with Gemma's special tokens, turn markers and chat template."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
TURNS = ("<start_of_turn>", "<end_of_turn>")
SPECIAL_TOKENS: tuple[str, ...] = (PAD, EOS, BOS, UNK, *TURNS)
PAD_ID, EOS_ID, BOS_ID, UNK_ID, START_OF_TURN_ID, END_OF_TURN_ID = range(6)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n'"
    " + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair merges over `texts`; unknown characters fall back to bytes.

    `vocab_size` counts the special tokens and the 256 byte tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    # A space starts a token; punctuation and newlines stand alone, so that a word is the same token
    # before a comma and before a full stop.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("▁"), behavior="merged_with_next"),
            pre_tokenizers.Split(Regex(r'[\n.,?!:;"]'), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *byte_tokens], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _with_plain_bytes(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    return tokenizer


def _with_plain_bytes(trained: Tokenizer) -> Tokenizer:
    """The same tokenizer with only the six special tokens special.

    The trainer takes the byte tokens as special ones to give them an id, but decoding with
    `skip_special_tokens` must keep the bytes.
    """
    state: dict[str, Any] = json.loads(trained.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in SPECIAL_TOKENS]
    return Tokenizer.from_str(json.dumps(state))


def wrap_tokenizer(tokenizer: Tokenizer, *, chat: bool) -> PreTrainedTokenizerFast:
    """The transformers tokenizer that is saved beside a model; `chat` adds the template."""
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=list(TURNS),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
