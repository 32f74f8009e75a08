"""What an answer says of results that were taken over from another label, whose vector is alike."""

from collections.abc import Iterable
from typing import Protocol

from massact.query.rows import Point

ONCE = "evaluated once"
"""How the reason of two labels that share an evaluation begins."""


class HasMark(Protocol):
    """A row or a point that may have been taken over."""

    @property
    def same_as(self) -> str | None: ...
    @property
    def same_as_cosine(self) -> float | None: ...


def taken_over_words(one: HasMark) -> str:
    """Whose result it is and how alike the vectors are, such as `probe (cosine 0.9843)`; empty where it is its own."""
    if one.same_as is None:
        return ""
    # rounded down, so that nothing is said to be more alike than it is
    cosine = (
        "" if one.same_as_cosine is None else f" (cosine {int(one.same_as_cosine * 10_000) / 10_000:.4f})"
    )
    return f"{one.same_as}{cosine}"


def taken_over_note(rows: Iterable[HasMark], what: str, plural: str) -> tuple[str, ...]:
    """How many of the rows were not evaluated themselves, if any."""
    n = sum(row.same_as is not None for row in rows)
    if not n:
        return ()
    are = f"1 {what} is" if n == 1 else f"{n} {plural} are"
    return (
        f"{are} taken over from another label, whose vector is alike, and not evaluated apart: --alike off does that",
    )


def evaluated_once(labels: tuple[str, str], a: Point, b: Point) -> str | None:
    """Why the bests of two labels are one evaluation; `None` where they are two."""
    if (a.layer, a.coefficient) != (b.layer, b.coefficient):
        return None
    lenders = (a.same_as or labels[0], b.same_as or labels[1])
    if lenders[0] != lenders[1] or (a.same_as is None and b.same_as is None):
        return None
    cosines = [one.same_as_cosine for one in (a, b) if one.same_as_cosine is not None]
    words = " and ".join(f"{int(cosine * 10_000) / 10_000:.4f}" for cosine in cosines)
    return f"{ONCE}, as {lenders[0]}: cosine {words}"
