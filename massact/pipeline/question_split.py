"""Which questions select and which confirm: decided by each question's own text and nothing else.

A winner is chosen on the questions that it was scored on, so its figure is too good. Questions that took no part in the
choice tell how much (sample splitting: Cox, Biometrika 62, 1975; docs/statistics.md). A question's place follows from
its digest, so that adding, removing or reordering questions never moves another one.
"""

import hashlib
from collections.abc import Iterable

_BITS = 53
"""Of the digest: as many as a float holds exactly, so that a fraction is never rounded up to 1."""
_WHOLE = float(2**_BITS)


def fraction(question: str) -> float:
    """A question's place in [0, 1): the first bits of the SHA-256 of its text, blanks around it left out."""
    digest = hashlib.sha256(question.strip().encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / _WHOLE


def split_questions(questions: Iterable[str], share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The questions that select and those that confirm, each in the order given.

    Args:
        questions: all questions of a trait.
        share: of the questions that confirm, on average, between 0 and 1.
    """
    select: list[str] = []
    confirm: list[str] = []
    for question in questions:
        (confirm if fraction(question) < share else select).append(question)
    return tuple(select), tuple(confirm)
