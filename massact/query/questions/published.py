"""Published figures beside ours: what somebody printed, and what we measured at the same place."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import chain, combinations, product
from typing import ClassVar, Unpack

from massact.domain import TRAIT_INTERP_DIFFERS, Group
from massact.errors import UsageError
from massact.query.answers import Answers, Filters
from massact.query.groups import GroupInSetting, one_spelling, recipe_of, slices, told_apart
from massact.query.load import About, Needs, normalised
from massact.query.question import question
from massact.query.questions.compare import before_after_pairs
from massact.query.rows import Answer, Column, GroupRow, Point, Status
from massact.query.tables import LABEL, PLACE, POINT, SETTING, STATUS, number_column, point_column, text_column
from massact.store.schema import PublishedRow
from massact.vectors.positions import parse_position

_VARIANT = re.compile(r"-(?:it|instruct|pt|base)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedComparison(GroupRow):
    """One published figure, and our best of its group. The fields up to `note` are as printed; judge, direction and
    setting are of our side."""

    columns: ClassVar[tuple[Column, ...]] = (
        text_column("source", is_shared=True),
        *PLACE,
        LABEL,
        *POINT,
        point_column("ours", "ours: delta"),
        number_column("difference", "+.1f", "ours - theirs"),
        Column("flags", lambda row: str(len(row.flags) or ""), is_number=True),
        STATUS,
        *SETTING,
    )

    source: str
    label: str
    layer: int | None = None
    coefficient: float | None = None
    trait_mean: float | None = None
    coherence_mean: float | None = None
    delta: float | None = None
    coherence_floor: float | None = None
    """The floor that the figure was picked at, 0 to 100."""
    note: str | None = None
    key: str
    our_model: str | None = None
    """The experiment's name of the model; `None` where it has no such model."""
    status: Status
    """Of our group at the floor that was asked with."""
    ours: Point | None = None
    nearest_miss: Point | None = None
    """Our most coherent evaluation below the floor; only where we have no best."""
    difference: float | None = None
    """Our delta minus the published one."""
    flags: tuple[str, ...] = ()
    """What does not add up in the published figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAnswer(Answer[PublishedComparison]):
    """The answer of `compare --published`."""

    def lines(self) -> list[str]:
        """What does not add up, and of which figure."""
        return [f"{row.source}, {row.place}, {row.label}: {flag}" for row in self.rows for flag in row.flags]


@question(
    "compare_published",
    needs=lambda **_: Needs(published=True),
    command="compare --published",
    is_served=False,
    is_across_settings=True,
)
def ask_compare_published(answers: Answers, floor: float, /, **_about: Unpack[About]) -> PublishedAnswer:
    """Every published figure beside our best of its group, and a flag where its arithmetic does not add up.

    The figures are those that `massact import --published` read.

    \b
    Example:
      massact compare --published --experiment experiments/massive-activations.yaml
    """
    names = {name: name for name in answers.models}
    names |= answers.declared.printed_models if answers.declared else {}
    figures = {figure.key: figure for figure in answers.published}
    groups, only = {key: _our_group(figure, names) for key, figure in figures.items()}, normalised(answers.filters)
    asked = sorted((figure for key, figure in figures.items() if _is_asked(only, figure, groups[key])), key=_order)
    by_group, flags = slices(answers.evaluations), published_flags(asked)
    rule = answers.currency.over(by_group)
    measured = {figure.key: group for figure in asked if (group := groups[figure.key]) and group in by_group}
    current = {key: rule.part(group, by_group[group]) for key, group in measured.items()}
    rows = [_row(figure, groups[figure.key], current.get(figure.key), floor, flags[figure.key]) for figure in asked]
    n_several = sum(len(by_group[group]) > 1 for group in measured.values())
    notes = list(_notes(rows, groups, set(answers.groups), floor))
    if n_several:
        notes.append(
            f"ours were run in several settings or against several baselines beside {n_several} of them: shown is "
            "the current one, massact best shows all"
        )
    if any(by_group[group][0].sample.origin is None for group in measured.values()):
        notes.append(TRAIT_INTERP_DIFFERS)
    answer = PublishedAnswer(question="published", floor=floor, rows=tuple(rows), notes=tuple(notes))
    return told_apart(answer, {group: by_group[group][:1] for group in measured.values()})


def _is_asked(only: Filters, figure: PublishedRow, group: Group | None) -> bool:
    """By our names, and by layer where it has one."""
    group = group or Group(figure.model, figure.trait, figure.position, figure.label)
    return only.admits_group(group) and (not only.layers or figure.layer is None or figure.layer in only.layers)


def match_model(printed: str, model_names: Mapping[str, str]) -> str | None:
    """The experiment's name of a printed model, such as `google/gemma-3-4b`; `None` where it has none. A name matches
    as it is; else by its last path component, whatever the case and without an ending such as `-it` or `-base`, as long
    as only one model of the experiment matches so."""
    if printed in model_names:
        return model_names[printed]
    alike = {ours for name, ours in model_names.items() if _bare(name) == _bare(printed)}
    return alike.pop() if len(alike) == 1 else None


def _bare(name: str) -> str:
    return _VARIANT.sub("", name.strip().rstrip("/").rpartition("/")[2].casefold())


def _our_group(figure: PublishedRow, model_names: Mapping[str, str]) -> Group | None:
    """Where our counterpart lies, in our spelling; `None` where the experiment has no such model."""
    model = match_model(figure.model, model_names)
    if model is None:
        return None
    try:
        position = str(parse_position(figure.position))
    except UsageError:
        position = figure.position
    return Group(model, figure.trait, position, one_spelling(figure.label))


def _row(
    figure: PublishedRow, group: Group | None, part: GroupInSetting | None, floor: float, flags: tuple[str, ...]
) -> PublishedComparison:
    printed = {f.name: getattr(figure, f.name) for f in fields(figure) if f.name not in ("kind", "experiment", "cell")}
    ours = part.best(floor) if part else None
    status: Status = part.status(floor) if part else "missing"
    difference = None
    if ours is not None and ours.delta is not None and figure.delta is not None:
        difference = round(ours.delta - figure.delta, 6)
    return PublishedComparison(
        **printed,
        our_model=group.model if group else None,
        status=status,
        ours=ours,
        nearest_miss=part.nearest_miss(floor) if part and status == "below_floor" else None,
        difference=difference,
        flags=flags,
        judge=part.sample.judge if part else None,
        direction=part.sample.direction if part else None,
        setting=part.setting if part else None,
    )


def _order(figure: PublishedRow) -> tuple[str, str, str, str, str, float, float, str]:
    layer = -1 if figure.layer is None else figure.layer
    coefficient = float("-inf") if figure.coefficient is None else figure.coefficient
    return (figure.source, figure.model, figure.trait, figure.position, figure.label, layer, coefficient, figure.key)


def _notes(
    found: Sequence[PublishedComparison], groups: Mapping[str, Group | None], declared: Collection[Group], floor: float
) -> Iterator[str]:
    if not found:
        yield "the store holds no published figure of this experiment; massact import --published FILE reads them"
        return
    total = f"{len(found)} published figure{'s' if len(found) > 1 else ''}"
    n_flagged = sum(bool(row.flags) for row in found)
    yield f"{n_flagged} of {total} flagged{': what is printed does not add up' if n_flagged else ''}"
    alone = [row for row in found if row.status == "missing"]
    if alone:
        n_declared = sum(groups[row.key] in declared for row in alone)
        of_them = f"; the experiment file declares the groups of {n_declared}" if n_declared else ""
        yield f"{len(alone)} of {total} have no counterpart in the store{of_them}"
    unknown = Counter(row.model for row in found if row.our_model is None)
    for model, count in sorted(unknown.items()):
        yield f"no model of the experiment matches {model} ({count} of {total})"
    others = [row.coherence_floor for row in found if row.coherence_floor not in (None, floor)]
    if others:
        named = ", ".join(f"{other:g}" for other in sorted({other for other in others if other is not None}))
        yield f"{len(others)} of {total} were picked at another coherence floor ({named}) than {floor:g}"


# A figure was rounded when it was printed, so nothing is flagged that rounding explains. A whole number counts as
# rounded to whole: a stored `39.0` does not tell whether a write-up printed 39.

SAME_DIRECTION_POINTS = Decimal("0.1")
"""Published deltas of one direction that lie further apart are two figures for one thing."""
SAME_DIRECTION = "are the same direction by algebra"
_TRAIT_IN_NOTE = re.compile(r"\btrait(?:[ _](?:mean|score))?(?:\s+of\s+|\s*[=:]?\s*)(\d+(?:\.\d+)?)", re.IGNORECASE)


def published_flags(rows: Iterable[PublishedRow]) -> dict[str, tuple[str, ...]]:
    figures = sorted({row.key: row for row in rows}.values(), key=lambda row: row.key)
    flags = {row.key: [*_arithmetic(row), *_ranges(row)] for row in figures}
    for key, flag in chain(_contradictions(figures), _one_direction(figures)):
        flags[key].append(flag)
    return {key: tuple(several) for key, several in flags.items()}


def _arithmetic(row: PublishedRow) -> Iterator[str]:
    """Whether trait less baseline is the delta."""
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
    if abs(trait - baseline - delta) > _rounding(trait, baseline, delta):
        yield f"{told.format(trait, baseline, _signed(trait - baseline))}, printed {_signed(delta)}"


def _ranges(row: PublishedRow) -> Iterator[str]:
    """Whether scores lie within 0 to 100, and coherence at its own floor."""
    for name in ("trait_mean", "coherence_mean", "baseline_trait_mean"):
        value: float | None = getattr(row, name)
        if value is not None and not 0 <= value <= 100:
            yield f"{name} {_exact(value)} is outside 0 to 100"
    if row.delta is not None and row.baseline_trait_mean is not None:
        baseline, delta = _exact(row.baseline_trait_mean), _exact(row.delta)
        trait, slack = baseline + delta, _rounding(baseline, delta)
        if not -slack <= trait <= 100 + slack:
            yield f"the baseline {baseline} and {_signed(delta)} make {trait}, outside 0 to 100"
    elif row.delta is not None and abs(row.delta) > 100:
        yield f"a delta of {_signed(_exact(row.delta))} is more than scores of 0 to 100 allow"
    if row.coherence_mean is not None and row.coherence_floor is not None:
        coherence = _exact(row.coherence_mean)
        if coherence + _rounding(coherence) < _exact(row.coherence_floor):
            yield f"coherence {coherence} is below its own floor of {row.coherence_floor:g}"


_RESULTS = ("delta", "coherence_mean", "trait_mean")


def _contradictions(rows: Sequence[PublishedRow]) -> Iterator[tuple[str, str]]:
    """One source that gives a model and trait more than one baseline, or one cell more than one result: by more than
    roundings of one number. Where layer or coefficient lack, two cells may be meant."""
    models = _grouped((row for row in rows if row.baseline_trait_mean is not None), lambda row: _place(row)[:3])
    whole = (row for row in rows if row.layer is not None and row.coefficient is not None)
    cells = _grouped(whole, lambda row: (*_place(row), row.label, row.layer, row.coefficient))
    for name, groups in (("baseline_trait_mean", models), *((name, cells) for name in _RESULTS)):
        for several in groups:
            values = sorted({_exact(value) for row in several if (value := getattr(row, name)) is not None})
            if not any(b - a > _rounding(a, b) for a, b in combinations(values, 2)):
                continue
            first, shown = several[0], _listed(values, _signed if name == "delta" else str)
            what = f"{first.model}, {first.trait} {len(values)} baselines"
            if name in _RESULTS:
                place = f"{first.label}, {first.position}, layer {first.layer}, coefficient {first.coefficient:g}"
                what = f"one cell ({place}) {len(values)} values of {name}"
            yield from ((row.key, f"{first.source} gives {what}: {shown}") for row in several)


def _one_direction(rows: Iterable[PublishedRow]) -> Iterator[tuple[str, str]]:
    """mean_diff cleaned before and after with the same dims: one direction, so one best."""
    for several in _grouped((row for row in rows if row.delta is not None), _place):
        for labels in before_after_pairs({row.label for row in several}):
            recipe = recipe_of(labels[0])
            if recipe is None or recipe.method != "mean_diff":
                continue
            both = product(*([row for row in several if row.label == label] for label in labels))
            # that may be of one layer; of those with one coefficient on both sides, these alone
            pairs = [(a, b) for a, b in both if None in (a.layer, b.layer) or a.layer == b.layer]
            equal = [(a, b) for a, b in pairs if a.coefficient is not None and a.coefficient == b.coefficient]
            matched = {row.key for pair in equal for row in pair}
            for a, b in equal + [(a, b) for a, b in pairs if not matched & {a.key, b.key}]:
                if flag := _apart(a, b):
                    yield from ((row.key, flag) for row in (a, b))


def _apart(a: PublishedRow, b: PublishedRow) -> str | None:
    first, second = _exact(a.delta or 0.0), _exact(b.delta or 0.0)
    distance = abs(first - second)
    if distance <= SAME_DIRECTION_POINTS:
        return None
    is_told = a.coefficient is not None and b.coefficient is not None and a.coefficient != b.coefficient
    at = f", at coefficients {a.coefficient:g} and {b.coefficient:g}" if is_told else ""
    both = f"{a.label} ({_signed(first)}) and {b.label} ({_signed(second)})"
    return f"{both} {SAME_DIRECTION}, printed {distance} apart{at}"


def _place(row: PublishedRow) -> tuple[object, ...]:
    return (row.source, row.model.casefold(), row.trait, row.position)


def _grouped(
    rows: Iterable[PublishedRow], key: Callable[[PublishedRow], tuple[object, ...]]
) -> list[list[PublishedRow]]:
    found: dict[tuple[object, ...], list[PublishedRow]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return list(found.values())


def _exact(value: float) -> Decimal:
    """The number as it was printed, so that sums of it print as people would write them."""
    return Decimal(repr(float(value)))


def _rounding(*values: Decimal) -> Decimal:
    """Half a unit of the last digit printed of each: the most that rounding can have moved their sum."""
    exponents = (int(value.normalize().as_tuple().exponent) for value in values)
    return sum((Decimal("0.5").scaleb(min(exponent, 0)) for exponent in exponents), Decimal(0))


def _signed(value: Decimal) -> str:
    return f"{value:+f}"


def _listed(values: Sequence[Decimal], shown: Callable[[Decimal], str] = str) -> str:
    *most, last = map(shown, values)
    return f"{', '.join(most)} and {last}"
