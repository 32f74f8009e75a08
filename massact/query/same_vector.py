"""Whether two labels are one vector, which every answer tells by the same rule, and whose result was taken over.

What was measured comes first (equal digests, a cosine above `DEFAULT_ALIKE`), then the algebra: zeroing dims is linear,
so of a difference of means it may come before or after.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from massact.domain import DEFAULT_ALIKE, Recipe
from massact.labels import format_steering
from massact.query.groups import Side, recipe_of
from massact.query.rows import Column, Point
from massact.words import counted

Cosines = Mapping[tuple[str, str], float]  # cosine of two vectors by their digests, in either order

ONCE = "evaluated once"  # how the reason of two labels that share an evaluation begins


def taken_over_words(row: Any) -> str:
    """Whose result it is and how alike the vectors are, such as `probe (cosine 0.9843)`; empty where it is its own."""
    if row.same_as is None:
        return ""
    # rounded down, so that nothing is said to be more alike than it is
    cosine = "" if row.same_as_cosine is None else f" (cosine {int(row.same_as_cosine * 10_000) / 10_000:.4f})"
    return f"{row.same_as}{cosine}"


SAME_AS = Column("same as", lambda row: taken_over_words(row).replace("cosine ", ""))  # of rows of evaluations


def taken_over_note(rows: Iterable[Any], what: str, plural: str) -> tuple[str, ...]:
    """How many of the rows were not evaluated themselves, if any."""
    n = sum(row.same_as is not None for row in rows)
    if not n:
        return ()
    are = counted(n, f"{what} is", f"{plural} are")
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
    cosines = [side.same_as_cosine for side in (a, b) if side.same_as_cosine is not None]
    words = " and ".join(f"{int(cosine * 10_000) / 10_000:.4f}" for cosine in cosines)
    return f"{ONCE}, as {lenders[0]}: cosine {words}"


def same_vector(a: Side, b: Side, cosines: Cosines | None = None) -> str | None:
    """Why the vectors of two labels are one, at the layers of their bests; `None` where they are not known to be.
    Labels that steer in two ways are never one, whatever their vectors are."""
    recipes = (recipe_of(a.label), recipe_of(b.label))
    if len({format_steering(recipe) if recipe else "" for recipe in recipes}) > 1:
        return None
    if a.best.layer is None or b.best.layer is None:
        return None
    layers = sorted({a.best.layer, b.best.layer})
    measured = list(_measured(a, b, layers, cosines or {}))
    if any(cosine <= DEFAULT_ALIKE for _, cosine in measured):
        return None  # what was measured outweighs the algebra, which supposes one list of dims
    if len(measured) < len(layers) and _is_algebra(a, b):
        return "same direction by algebra" + (" at every layer" if len(layers) > 1 else "")
    measured = measured if len(measured) == len(layers) else list(_lent(a, b, layers))
    if len(measured) < len(layers):
        return None
    reason, cosine = min(measured, key=lambda pair: pair[1])
    return f"same vector: {reason}" if len(layers) == 1 else f"same vector at both layers: cosine {cosine:.6f}"


def is_one(a: Side, b: Side) -> bool:
    """Whether the bests of two labels are of one vector, so that none of them wins over the other."""
    return a.label == b.label or why_one(a, b) is not None


def why_one(a: Side, b: Side, cosines: Cosines | None = None) -> str | None:
    """Why they are, or are one evaluation; `None` where they are not known to be."""
    return same_vector(a, b, cosines) or evaluated_once((a.label, b.label), a.best, b.best)


def one_direction(recipe: Recipe) -> Recipe:
    """The recipe that stands for all whose vector has the same direction by algebra."""
    if recipe.method != "mean_diff" or recipe.cleaning.when != "before" or not recipe.cleaning.scope:
        return recipe
    return replace(recipe, cleaning=replace(recipe.cleaning, when="after"))


def _measured(a: Side, b: Side, layers: Iterable[int], cosines: Cosines) -> Iterator[tuple[str, float]]:
    """At each layer where it is known how alike the two are: in words, and the cosine."""
    vectors_a, vectors_b = a.points.vectors(), b.points.vectors()
    for layer in layers:
        stored, other = vectors_a.get(layer), vectors_b.get(layer)
        if stored is None or other is None:
            continue
        first = a.best.vector_digest if layer == a.best.layer else stored.digest
        second = b.best.vector_digest if layer == b.best.layer else other.digest
        if first is None or second is None:
            continue
        cosine = cosines.get((first, second), cosines.get((second, first)))
        if first == second:
            yield "equal digest", 1.0
        elif cosine is not None:
            yield f"cosine {cosine:.6f}", cosine


def _lent(a: Side, b: Side, layers: Iterable[int]) -> Iterator[tuple[str, float]]:
    """The same from results that one of the two took over from the other; how alike they were may be the less."""
    for layer in layers:
        pairs = ((a.points.vectors().get(layer), b.label), (b.points.vectors().get(layer), a.label))
        found = [lent.cosine for lent, label in pairs if lent and lent.same_as == label and lent.cosine is not None]
        yield from ((f"cosine {cosine:.6f}", cosine) for cosine in found[:1] if cosine > DEFAULT_ALIKE)


def _is_algebra(a: Side, b: Side) -> bool:
    recipes = (recipe_of(a.label), recipe_of(b.label))
    if recipes[0] is None or recipes[1] is None or {recipe.method for recipe in recipes if recipe} != {"mean_diff"}:
        return False
    first, second = recipes[0].cleaning, recipes[1].cleaning
    if {first.when, second.when} != {"before", "after"} or (first.scope, first.mode) != (second.scope, second.mode):
        return False
    n_dims = (a.best.n_dims_cleaned, b.best.n_dims_cleaned)
    if None not in n_dims and a.best.layer == b.best.layer:
        return n_dims[0] == n_dims[1]
    return one_direction(recipes[0]) == one_direction(recipes[1])
