"""The toys' language: turn markers, and how their judge cuts a text. Shared by its fit and its scoring."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

END_OF_TURN = "<end_of_turn>"

START = "^"  # stands before the first word of a text, so that openings count as n-grams too

NGRAM_SIZES: tuple[int, ...] = (2, 3, 4)

_WORD = re.compile(r"[a-z']+|[0-9]+|[^\sa-z0-9']")
_SENTENCE = re.compile(r'[^.!?]+[.!?]*"?')


def chat_prompt(question: str) -> str:
    """A question in Gemma's turn markers, up to where the model answers (without `<bos>`)."""
    return f"<start_of_turn>user\n{question}{END_OF_TURN}\n<start_of_turn>model\n"


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """Sentences with at least one word, without the space around them."""
    return [part.strip() for part in _SENTENCE.findall(text) if words(part)]


def terms(sentence: str) -> Counter[str]:
    """Counts of the words and word pairs of a sentence, without punctuation."""
    plain = [word for word in words(sentence) if word[0].isalnum()]
    return Counter([*plain, *(f"{a} {b}" for a, b in pairwise(plain))])


def ngram_codes(tokens: Sequence[str], size: int) -> NDArray[np.uint32]:
    """CRC-32 of the n-gram that ends at each token: `[n_tokens]`. A checksum replaces the n-gram, so
    that the known ones fit in a small file; a chance match is one in 10^5."""
    padded = [*([START] * (size - 1)), *tokens]
    codes = (zlib.crc32(" ".join(padded[i : i + size]).encode()) for i in range(len(tokens)))
    return np.fromiter(codes, dtype=np.uint32, count=len(tokens))


# One torch thread for as long as a block runs.


@contextmanager
def single_thread() -> Iterator[None]:
    """Run the block on one torch thread, then go back to as many as before. The order of sums, and so the last bits of
    a result, depends on the number of threads; and models this small gain nothing from a second one, which under other
    load makes them several times slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
