"""Where published versions disagree: their figures side by side, and ours beside them."""

from collections.abc import Iterator, Sequence

from massact.query import PublishedComparison
from massact.query.published_flags import SAME_DIRECTION
from massact.report.contents import Evidence, counted, listed
from massact.report.published_places import (
    PrintedLabel,
    PrintedPlace,
    disagreements,
    printed_places,
    twins,
)
from massact.report.section import Section
from massact.report.table import MISSING, Cell, Table, cells, columns, number, result, signed, where
from massact.schema import PublishedRow

MOST_TABLES = 12
MOST_LINES = 12


def published_section(evidence: Evidence, published: Sequence[PublishedRow]) -> Section | None:
    """The section; `None` where the store holds no published figure."""
    if not published:
        return None
    places = printed_places(evidence, published)
    shown = [one for one in places if one.has_several or any(label.ours for label in one.labels)]
    return Section(
        "published",
        "Where the published versions disagree",
        tuple(_text(evidence, published, places, shown)),
        tuple(_table(evidence, one) for one in shown[:MOST_TABLES]),
        tuple(_bullets(evidence, places, published)),
    )


def _text(
    evidence: Evidence,
    published: Sequence[PublishedRow],
    places: Sequence[PrintedPlace],
    shown: Sequence[PrintedPlace],
) -> Iterator[str]:
    sources = sorted({row.source for row in published})
    several = [one for one in places if one.has_several]
    yield (
        f"{counted(len(published), 'published figure')} of {counted(len(sources), 'source')} ({listed(sources, 6)}). "
        f"{counted(len(several), 'place')} of {len(places)} {'is' if len(several) == 1 else 'are'} printed by two "
        "sources or more. They are shown as printed and never mixed with what was measured here."
    )
    found = disagreements(several)
    n_both = sum(one.spread is not None for place in several for one in place.labels)
    if n_both:
        worst = ""
        if found:
            place, label = found[0]
            worst = f" The widest apart: {label.label} on {place.name}, {told(place, label)}."
        yield (
            f"{counted(n_both, 'label')} {'is' if n_both == 1 else 'are'} printed by two sources at one place; "
            f"{len(found)} of them differ by more than rounding.{worst}"
        )
    alone = len(places) - len(shown)
    if alone:
        lists = f"{evidence.command('compare --published')} lists {'it' if alone == 1 else 'them'}"
        yield f"{counted(alone, 'place')} with one source and nothing of ours beside it: {lists}."
    if len(shown) > MOST_TABLES:
        yield f"The first {MOST_TABLES} of {len(shown)} places have a table here."


def told(place: PrintedPlace, label: PrintedLabel) -> str:
    """What each source prints for a label, and how far apart they are."""
    found = ((source, label.headline(source)) for source in place.sources)
    said = [
        f"{source} {signed(row.delta)}" for source, row in found if row is not None and row.delta is not None
    ]
    return f"{listed(said, 6)}: {number(label.spread, '.1f')} points"


def _bullets(
    evidence: Evidence, places: Sequence[PrintedPlace], published: Sequence[PublishedRow]
) -> Iterator[str]:
    yield from _baseline_lines(published)
    for place in places:
        if place.has_several:
            yield from _winner_lines(place)
    for place in places:
        yield from _twin_lines(place)
    flags = dict.fromkeys(
        f"{row.source}, {row.model}, {row.trait}, {row.position}, {row.label}: {flag}"
        for row in evidence.answers.compare_published(published, evidence.floor, model_names={}).rows
        for flag in row.flags
        if SAME_DIRECTION not in flag
    )
    yield from list(flags)[:MOST_LINES]
    if len(flags) > MOST_LINES:
        names = f"{evidence.command('compare --published')} names each"
        yield f"{len(flags) - MOST_LINES} more figures do not add up: {names}."


def _baseline_lines(published: Sequence[PublishedRow]) -> Iterator[str]:
    """Where sources took their deltas from different baselines, or picked at different floors."""
    bases: dict[tuple[str, str], dict[float, set[str]]] = {}
    floors: dict[float, set[str]] = {}
    spelled = {row.model.casefold(): row.model for row in published}
    for row in published:
        if row.baseline_trait_mean is not None:
            one = bases.setdefault((spelled[row.model.casefold()], row.trait), {})
            one.setdefault(row.baseline_trait_mean, set()).add(row.source)
        if row.coherence_floor is not None:
            floors.setdefault(row.coherence_floor, set()).add(row.source)
    if len(floors) > 1:
        yield f"The figures were picked at different coherence floors: {_by_value(floors)}."
    for (model, trait), found in sorted(bases.items()):
        if len(found) > 1:
            yield f"{model}, {trait}: the unsteered trait mean is printed as {_by_value(found)}."


def _by_value(found: dict[float, set[str]]) -> str:
    return listed([f"{value:g} ({listed(sorted(sources))})" for value, sources in sorted(found.items())], 6)


def _winner_lines(place: PrintedPlace) -> Iterator[str]:
    winners = place.winners()
    if len({label for label, _ in winners.values()}) < 2:
        return
    said = listed([f"{source} {label} ({signed(delta)})" for source, (label, delta) in winners.items()], 6)
    among = place.winners(place.in_common)
    if len(place.in_common) < 2:
        why = " They have fewer than two labels in common, so this may be no more than what each tried."
    elif len({label for label, _ in among.values()}) > 1:
        common = listed([f"{source} {label}" for source, (label, _) in among.items()], 6)
        why = f" Among the {len(place.in_common)} labels that all print it flips too: {common}."
    else:
        label = next(iter(among.values()))[0]
        why = f" Among the {len(place.in_common)} labels that all print it is {label} in each."
    yield f"{place.name}: the winner flips between sources: {said}.{why}"


def _twin_lines(place: PrintedPlace) -> Iterator[str]:
    by_label = {one.label: one for one in place.labels}
    for before, after in twins(place):
        told, deltas = [], []
        for label in (before, after):
            for source, rows in sorted(by_label[label].by_source.items()):
                values = [row.delta for row in rows if row.delta is not None]
                deltas.append(values[0])
                told.append(f"{label} {' and '.join(map(signed, values))} in {source}")
        if max(deltas) - min(deltas) > 0.1:
            yield (
                f"{place.name}: {before} and {after} are one vector by algebra, printed with different numbers: "
                f"{listed(told, 8)}."
            )


def _table(evidence: Evidence, place: PrintedPlace) -> Table:
    rows = []
    for one in place.labels:
        spread = one.spread
        shown = (Cell(_printed(one.by_source.get(source, ()))) for source in place.sources)
        ours = (
            Cell(f"{result(one.ours)} ({where(one.ours)})", one.ours.run_id, "ok")
            if one.ours
            else Cell(MISSING)
        )
        notes = [
            f"{source}: {row.note}"
            for source, some in sorted(one.by_source.items())
            for row in some
            if row.note
        ]
        apart = f"{spread:.1f}" if spread is not None else None
        rows.append(cells(one.label, *shown, apart, ours, Cell("; ".join(dict.fromkeys(notes)))))
    headers = ["label", *(_header(place, source) for source in place.sources), "#apart", "ours", "notes"]
    ours_at = f"; ours at floor {evidence.floor:g}" if any(one.ours for one in place.labels) else ""
    keep = [i for i, _ in enumerate(headers) if i not in _empty_columns(rows, len(headers))]
    return Table(
        f"Delta @ coherence as printed (layer, coefficient), {place.name}{ours_at}",
        columns(*(headers[i] for i in keep)),
        tuple(tuple(row[i] for i in keep) for row in rows),
    )


def _empty_columns(rows: Sequence[Sequence[Cell]], count: int) -> set[int]:
    """Of the last three columns those that say nothing."""
    return {i for i in range(count - 3, count) if all(row[i].text in ("", MISSING) for row in rows)}


def _header(place: PrintedPlace, source: str) -> str:
    rows = [row for one in place.labels for row in one.by_source.get(source, ())]
    floors = sorted({row.coherence_floor for row in rows if row.coherence_floor is not None})
    bases = sorted({row.baseline_trait_mean for row in rows if row.baseline_trait_mean is not None})
    said = [f"floor {'/'.join(f'{one:g}' for one in floors)}"] if floors else ["floor not given"]
    said.append(f"baseline {'/'.join(f'{one:g}' for one in bases)}" if bases else "baseline not given")
    return f"{source}, {', '.join(said)}"


def _printed(rows: Sequence[PublishedComparison]) -> str:
    if not rows:
        return MISSING
    first, *others = map(_figure, rows)
    return f"{first}; also {listed(others, 6)}" if others else first


def _figure(row: PublishedComparison) -> str:
    coherence = f" @ {row.coherence_mean:g}" if row.coherence_mean is not None else ""
    at = [] if row.layer is None else [f"layer {row.layer}"]
    at += [] if row.coefficient is None else [f"{row.coefficient:g}"]
    return f"{signed(row.delta or 0.0)}{coherence}" + (f" ({', '.join(at)})" if at else "")
