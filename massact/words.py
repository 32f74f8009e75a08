"""Counts in words, as messages, notes and reports say them."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 group`, `2 groups`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
