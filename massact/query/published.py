"""Published figures beside ours: what somebody printed, and what we measured at the same place."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from massact.domain import TRAIT_INTERP_DIFFERS, Direction, Group
from massact.errors import UsageError
from massact.labels import normalise_label
from massact.query.current import Currency
from massact.query.evaluations import StoredEvaluations
from massact.query.filters import Filters
from massact.query.published_flags import published_flags
from massact.query.rows import Answer, Point, SettingRow, Status
from massact.query.selection import Slice, slices, told_apart
from massact.schema import PublishedRow
from massact.vectors.positions import parse_position

_VARIANT = re.compile(r"-(?:it|instruct|pt|base)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedComparison(SettingRow):
    """One published figure, and our best of its group. The fields up to `note` are as printed."""

    source: str
    model: str
    trait: str
    position: str
    label: str
    layer: int | None = None
    coefficient: float | None = None
    trait_mean: float | None = None
    """0 to 100."""
    coherence_mean: float | None = None
    """0 to 100."""
    delta: float | None = None
    """`trait_mean` minus the baseline's."""
    baseline_trait_mean: float | None = None
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
    judge: str | None = None
    """This and the next two are of our side."""
    direction: Direction | None = None
    setting: str | None = None


def compare_published(
    published: Iterable[PublishedRow],
    rows: StoredEvaluations,
    *,
    floor: float,
    groups: Sequence[Group] = (),
    model_names: Mapping[str, str],
    currency: Currency | None = None,
) -> Answer[PublishedComparison]:
    """Each published figure with our group's best, their difference, and what does not add up.

    A group that was run in several settings, or against several baselines, is answered in the current one, and a note
    says so.

    Args:
        published: figures in any order; each key counts once.
        rows: finished evaluations, in any order.
        floor: least `coherence_mean` that counts for ours, 0 to 100.
        groups: the declared matrix: which of the published figures the experiment sets out to measure.
        model_names: the experiment's name of a model by any name that it may be printed under.
        currency: which setting is current; `None`: the one run last.
    """
    by_group = slices(rows)
    figures = sorted({one.key: one for one in published}.values(), key=_order)
    flags = published_flags(figures)
    groups_of = {one.key: _our_group(one, model_names) for one in figures}
    parts_of = {key: by_group[group] for key, group in groups_of.items() if group and group in by_group}
    rule = (currency or Currency()).over(by_group)
    current = {
        key: rule.part(group, parts_of[key]) for key, group in groups_of.items() if group and key in parts_of
    }
    found = [_row(one, groups_of[one.key], current.get(one.key), floor, flags[one.key]) for one in figures]
    n_several = sum(len(parts) > 1 for parts in parts_of.values())
    notes = (*_notes(found, groups_of, set(groups), floor), *_several_note(n_several))
    measured = [parts[0] for parts in parts_of.values() if parts[0].sample.origin is None]
    if measured:
        notes += (TRAIT_INTERP_DIFFERS,)
    answer = Answer(question="published", floor=floor, rows=tuple(found), notes=notes)
    shown = {group: parts_of[key][:1] for key, group in groups_of.items() if group and key in parts_of}
    return told_apart(answer, shown)


def admits_figure(only: Filters, one: PublishedRow, model_names: Mapping[str, str]) -> bool:
    """Whether a printed figure is asked about: by our names, and by layer where it has one."""
    group = _our_group(one, model_names) or Group(one.model, one.trait, one.position, one.label)
    in_layers = not only.layers or one.layer is None or one.layer in only.layers
    return in_layers and only.admits_group(group)


def match_model(printed: str, model_names: Mapping[str, str]) -> str | None:
    """The experiment's name of a printed model, such as `google/gemma-3-4b`; `None` where it has none.

    A name matches as it is; else by its last path component, whatever the case and without an ending
    such as `-it` or `-base`, as long as only one model of the experiment matches so.
    """
    if printed in model_names:
        return model_names[printed]
    alike = {ours for name, ours in model_names.items() if _bare(name) == _bare(printed)}
    return alike.pop() if len(alike) == 1 else None


def _bare(name: str) -> str:
    return _VARIANT.sub("", name.strip().rstrip("/").rpartition("/")[2].casefold())


def _our_group(one: PublishedRow, model_names: Mapping[str, str]) -> Group | None:
    """Where our counterpart lies, in our spelling; `None` where the experiment has no such model."""
    model = match_model(one.model, model_names)
    if model is None:
        return None
    try:
        position = str(parse_position(one.position))
    except UsageError:
        position = one.position
    try:
        label = normalise_label(one.label)
    except UsageError:
        label = one.label
    return Group(model, one.trait, position, label)


def _row(
    one: PublishedRow, group: Group | None, part: Slice | None, floor: float, flags: tuple[str, ...]
) -> PublishedComparison:
    printed = {field.name: getattr(one, field.name) for field in fields(one)}
    ours = part.best(floor) if part else None
    status: Status = part.status(floor) if part else "missing"
    difference = None
    if ours is not None and ours.delta is not None and one.delta is not None:
        difference = round(ours.delta - one.delta, 6)
    return PublishedComparison(
        **{name: value for name, value in printed.items() if name not in ("kind", "experiment")},
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


def _order(one: PublishedRow) -> tuple[str, str, str, str, str, float, float, str]:
    layer = -1 if one.layer is None else one.layer
    coefficient = float("-inf") if one.coefficient is None else one.coefficient
    return (one.source, one.model, one.trait, one.position, one.label, layer, coefficient, one.key)


def _notes(
    found: Sequence[PublishedComparison],
    groups: Mapping[str, Group | None],
    declared: Collection[Group],
    floor: float,
) -> Iterator[str]:
    """How many figures are flagged, which have nothing beside them, and which were picked at another floor."""
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
        named = ", ".join(f"{one:g}" for one in sorted({one for one in others if one is not None}))
        yield f"{len(others)} of {total} were picked at another coherence floor ({named}) than {floor:g}"


def _several_note(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (
        f"ours were run in several settings or against several baselines beside {count} of them: shown is "
        "the current one, massact best shows all",
    )
