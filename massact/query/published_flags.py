"""What does not add up in published figures, in words with the numbers.

A figure was rounded when it was printed, so nothing is flagged that rounding explains. A whole
number counts as rounded to whole: a stored `39.0` does not tell whether a write-up printed 39.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import combinations, product

from massact.query.comparison import before_after_pairs
from massact.query.selection import recipe_of
from massact.schema import PublishedRow

SAME_DIRECTION_POINTS = Decimal("0.1")
"""Published deltas of one direction that lie further apart are two figures for one thing."""
SAME_DIRECTION = "are the same direction by algebra"
_TRAIT_IN_NOTE = re.compile(
    r"\btrait(?:[ _](?:mean|score))?(?:\s+of\s+|\s*[=:]?\s*)(\d+(?:\.\d+)?)", re.IGNORECASE
)


def published_flags(rows: Iterable[PublishedRow]) -> dict[str, tuple[str, ...]]:
    """Flags of each figure by its key; an empty tuple where all adds up."""
    figures = sorted({row.key: row for row in rows}.values(), key=lambda row: row.key)
    found = {row.key: list(_own_flags(row)) for row in figures}
    for check in (_two_baselines, _two_figures, _one_direction):
        for key, flag in check(figures):
            found[key].append(flag)
    return {key: tuple(flags) for key, flags in found.items()}


def _own_flags(row: PublishedRow) -> Iterator[str]:
    yield from _arithmetic(row)
    yield from _ranges(row)
    if row.coherence_mean is not None and row.coherence_floor is not None:
        coherence, floor = _exact(row.coherence_mean), _exact(row.coherence_floor)
        if coherence + _rounding(coherence) < floor:
            yield f"coherence {coherence} is below its own floor of {row.coherence_floor:g}"


def _arithmetic(row: PublishedRow) -> Iterator[str]:
    in_note = _TRAIT_IN_NOTE.search(row.note or "")
    if row.delta is None or row.baseline_trait_mean is None:
        return
    if row.trait_mean is not None:
        trait, told = _exact(row.trait_mean), "trait {} less the baseline {} is {}"
    elif in_note:
        trait, told = Decimal(in_note[1]), "the note gives trait {}; less the baseline {} that is {}"
    else:
        return
    baseline, delta = _exact(row.baseline_trait_mean), _exact(row.delta)
    if abs(trait - baseline - delta) > sum(map(_rounding, (trait, baseline, delta))):
        yield f"{told.format(trait, baseline, _signed(trait - baseline))}, printed {_signed(delta)}"


def _ranges(row: PublishedRow) -> Iterator[str]:
    for name in ("trait_mean", "coherence_mean", "baseline_trait_mean"):
        value: float | None = getattr(row, name)
        if value is not None and not 0 <= value <= 100:
            yield f"{name} {_exact(value)} is outside 0 to 100"
    if row.delta is None:
        return
    delta = _exact(row.delta)
    if row.baseline_trait_mean is None:
        if abs(delta) > 100:
            yield f"a delta of {_signed(delta)} is more than scores of 0 to 100 allow"
        return
    baseline = _exact(row.baseline_trait_mean)
    trait, slack = baseline + delta, _rounding(baseline) + _rounding(delta)
    if not -slack <= trait <= 100 + slack:
        yield f"the baseline {baseline} and {_signed(delta)} make {trait}, outside 0 to 100"


def _two_baselines(rows: Iterable[PublishedRow]) -> Iterator[tuple[str, str]]:
    """One source that gives a model and trait more than one baseline."""
    with_one = [row for row in rows if row.baseline_trait_mean is not None]
    for several in _grouped(with_one, lambda row: (row.source, row.model.casefold(), row.trait)):
        baselines = _distinct(row.baseline_trait_mean for row in several)
        if not _differ(baselines):
            continue
        first = several[0]
        for row in several:
            yield (
                row.key,
                (
                    f"{first.source} gives {first.model}, {first.trait} {len(baselines)} baselines: "
                    f"{_listed(baselines)}"
                ),
            )


def _two_figures(rows: Iterable[PublishedRow]) -> Iterator[tuple[str, str]]:
    """One source that gives one cell more than one result. Where layer or coefficient lack, two may be meant."""
    cells = [row for row in rows if row.layer is not None and row.coefficient is not None]
    for several in _grouped(cells, _cell):
        first = several[0]
        place = f"{first.label}, {first.position}, layer {first.layer}, coefficient {first.coefficient:g}"
        for name in ("delta", "coherence_mean", "trait_mean"):
            values = _distinct(getattr(row, name) for row in several)
            if _differ(values):
                shown = _listed(values, _signed if name == "delta" else str)
                flag = f"{first.source} gives one cell ({place}) {len(values)} values of {name}: {shown}"
                yield from ((row.key, flag) for row in several)


def _one_direction(rows: Iterable[PublishedRow]) -> Iterator[tuple[str, str]]:
    """mean_diff cleaned before and after with the same dims: one direction, so one best."""
    for several in _grouped(rows, lambda row: (row.source, row.model.casefold(), row.trait, row.position)):
        for labels in before_after_pairs({row.label for row in several}):
            recipe = recipe_of(labels[0])
            if recipe is None or recipe.method != "mean_diff":
                continue
            before, after = ([row for row in several if row.label == label] for label in labels)
            for a, b in _counterparts(before, after):
                flag = _apart(a, b)
                if flag:
                    yield from ((row.key, flag) for row in (a, b))


def _counterparts(
    before: Sequence[PublishedRow], after: Sequence[PublishedRow]
) -> Iterator[tuple[PublishedRow, PublishedRow]]:
    """Pairs that may be of one layer; of those with one coefficient on both sides, these alone."""
    pairs = [(a, b) for a, b in product(before, after) if None in (a.layer, b.layer) or a.layer == b.layer]
    equal = [(a, b) for a, b in pairs if a.coefficient is not None and a.coefficient == b.coefficient]
    matched = {row.key for pair in equal for row in pair}
    yield from equal
    yield from ((a, b) for a, b in pairs if a.key not in matched and b.key not in matched)


def _apart(a: PublishedRow, b: PublishedRow) -> str | None:
    if a.delta is None or b.delta is None:
        return None
    deltas = _exact(a.delta), _exact(b.delta)
    distance = abs(deltas[0] - deltas[1])
    if distance <= SAME_DIRECTION_POINTS:
        return None
    at = ""
    if a.coefficient is not None and b.coefficient is not None and a.coefficient != b.coefficient:
        at = f", at coefficients {a.coefficient:g} and {b.coefficient:g}"
    return (
        f"{a.label} ({_signed(deltas[0])}) and {b.label} ({_signed(deltas[1])}) {SAME_DIRECTION}, "
        f"printed {distance} apart{at}"
    )


def _cell(row: PublishedRow) -> tuple[object, ...]:
    place = (row.source, row.model.casefold(), row.trait, row.position)
    return (*place, row.label, row.layer, row.coefficient)


def _grouped(
    rows: Iterable[PublishedRow], key: Callable[[PublishedRow], tuple[object, ...]]
) -> list[list[PublishedRow]]:
    found: dict[tuple[object, ...], list[PublishedRow]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return [several for several in found.values() if len(several) > 1]


def _distinct(values: Iterable[float | None]) -> list[Decimal]:
    return sorted({_exact(value) for value in values if value is not None})


def _differ(values: Sequence[Decimal]) -> bool:
    """Whether some two of them are more than two roundings of one number."""
    return any(b - a > _rounding(a) + _rounding(b) for a, b in combinations(values, 2))


def _exact(value: float) -> Decimal:
    """The number as it was printed, so that sums of it print as people would write them."""
    return Decimal(repr(float(value)))


def _rounding(value: Decimal) -> Decimal:
    """Half a unit of the last digit printed: the most that rounding can have moved it."""
    exponent = value.normalize().as_tuple().exponent
    return Decimal("0.5").scaleb(min(int(exponent), 0))


def _signed(value: Decimal) -> str:
    return f"{value:+f}"


def _listed(values: Sequence[Decimal], shown: Callable[[Decimal], str] = str) -> str:
    *most, last = map(shown, values)
    return f"{', '.join(most)} and {last}"
