"""Where published versions disagree: their figures side by side, and ours beside them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from massact.domain import Direction
from massact.query import Point, PublishedComparison, before_after_pairs
from massact.query.groups import natural_order, recipe_of
from massact.query.questions.published import SAME_DIRECTION, compare_published, match_model
from massact.report.evidence import Evidence, Place, counted, gain, listed
from massact.report.figure_style import INK, MARKERS, QUIET, SERIES, WIDTH, legend_below, style
from massact.report.table import (
    MISSING,
    Cell,
    Section,
    Table,
    cells,
    columns,
    number,
    result,
    signed,
    where,
)
from massact.store.schema import PublishedRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Published figures by place: what each source prints for a label, and where the sources disagree.

LEAST_SPREAD = 0.5
"""Points of delta: sources that differ by less agree, since many print whole numbers."""


@dataclass(frozen=True, slots=True)
class PrintedLabel:
    """One label at one place, as the sources print it."""

    label: str
    by_source: Mapping[str, tuple[PublishedComparison, ...]]
    """Per source its figures with a delta, the best first."""
    ours: Point | None

    def headline(self, source: str) -> PublishedComparison | None:
        """The best that a source prints."""
        rows = self.by_source.get(source)
        return rows[0] if rows else None

    @property
    def spread(self) -> float | None:
        """Points between the least and the largest best of the sources; `None` where fewer than two print it."""
        deltas = [rows[0].delta or 0.0 for rows in self.by_source.values() if rows]
        return round(max(deltas) - min(deltas), 6) if len(deltas) > 1 else None


@dataclass(frozen=True, slots=True)
class PrintedPlace:
    """One model, trait and position, as the sources print it."""

    model: str
    trait: str
    position: str
    direction: Direction
    sources: tuple[str, ...]
    labels: tuple[PrintedLabel, ...]
    our_place: Place | None
    """`None` where the experiment has no such model."""

    @property
    def name(self) -> str:
        return f"{self.model}, {self.trait}, {self.position}"

    @property
    def has_several(self) -> bool:
        """Whether two sources or more print a figure here."""
        return len(self.sources) > 1

    def winners(self, among: Iterable[str] | None = None) -> dict[str, tuple[str, float]]:
        """Per source the label with its best delta, of all that it prints or of some."""
        wanted = None if among is None else set(among)
        found: dict[str, tuple[str, float]] = {}
        for source in self.sources:
            bests = [
                (one.label, row.delta)
                for one in self.labels
                if (row := one.headline(source)) is not None
                and row.delta is not None
                and (wanted is None or one.label in wanted)
            ]
            if bests:
                found[source] = max(bests, key=lambda pair: gain(pair[1], self.direction))
        return found

    @property
    def in_common(self) -> tuple[str, ...]:
        """Labels that every source prints here."""
        return tuple(one.label for one in self.labels if set(one.by_source) == set(self.sources))


def printed_places(evidence: Evidence, published: Sequence[PublishedRow]) -> list[PrintedPlace]:
    """Every place that somebody printed a delta of, those with several sources first."""
    names = printed_names(evidence)
    rows = compare_published(evidence.answers, published, evidence.floor, model_names=names).rows
    spelled = {row.model.casefold(): row.model for row in reversed(rows)}
    by_place: dict[tuple[str, str, str], list[PublishedComparison]] = {}
    for row in rows:
        if row.delta is not None:
            by_place.setdefault((spelled[row.model.casefold()], row.trait, row.position), []).append(row)
    found = [_place(evidence, key, some, match_model(key[0], names)) for key, some in by_place.items()]
    return sorted(
        found,
        key=lambda one: (
            not one.has_several,
            *(natural_order(n) for n in (one.model, one.trait, one.position)),
        ),
    )


def printed_names(evidence: Evidence) -> dict[str, str]:
    """The experiment's name of a model by each name that it may be printed under."""
    names = {name: name for name in evidence.answers.models}
    for model in evidence.experiment.models:
        names |= dict.fromkeys((model.base.reference, model.instruct.reference, model.name), model.name)
    return names


def _place(
    evidence: Evidence, key: tuple[str, str, str], rows: Sequence[PublishedComparison], our_model: str | None
) -> PrintedPlace:
    model, trait, position = key
    ours = None if our_model is None else Place(our_model, trait, position)
    direction = evidence.direction(ours) if ours else _direction(evidence, trait)
    labels: dict[str, dict[str, list[PublishedComparison]]] = {}
    for row in rows:
        labels.setdefault(row.label, {}).setdefault(row.source, []).append(row)
    printed = [
        PrintedLabel(
            label,
            {
                source: tuple(sorted(some, key=lambda row: -gain(row.delta or 0.0, direction)))
                for source, some in by_source.items()
            },
            evidence.best(ours, label) if ours else None,
        )
        for label, by_source in labels.items()
    ]
    printed.sort(key=lambda one: _label_order(one.label))
    sources = tuple(sorted({row.source for row in rows}))
    return PrintedPlace(model, trait, position, direction, sources, tuple(printed), ours)


def _direction(evidence: Evidence, trait: str) -> Direction:
    return next((one.direction for one in evidence.experiment.traits if one.name == trait), "positive")


def _label_order(label: str) -> tuple[str, tuple[int, bool, bool, int], str]:
    from massact.report.figure_style import legend_order, method_of

    return (method_of(label), legend_order(label), label)


def twins(place: PrintedPlace) -> list[tuple[str, str]]:
    """Pairs of printed labels that are one direction by algebra: mean_diff cleaned before and after alike."""
    labels = {one.label for one in place.labels}
    pairs = [pair for pair in before_after_pairs(labels) if labels.issuperset(pair)]
    recipes = ((pair, recipe_of(pair[0])) for pair in pairs)
    return [pair for pair, recipe in recipes if recipe is not None and recipe.method == "mean_diff"]


def disagreements(places: Iterable[PrintedPlace]) -> list[tuple[PrintedPlace, PrintedLabel]]:
    """Labels whose sources differ by more than rounding explains, the widest apart first."""
    found = [
        (place, one)
        for place in places
        for one in place.labels
        if one.spread is not None and one.spread > LEAST_SPREAD
    ]
    return sorted(found, key=lambda pair: -(pair[1].spread or 0.0))


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
        for row in compare_published(evidence.answers, published, evidence.floor, model_names={}).rows
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


# Published versions as a figure: a dot per source and label.

MOST_PANELS = 8


def published_figure(evidence: Evidence, published: Sequence[PublishedRow]) -> "Figure | None":
    """A dot per source, a line per label, a panel per place that several sources print."""
    places = _drawn_places(evidence, published)
    if not places:
        return None
    sources = sorted({source for place in places for source in place.sources})
    n_columns = min(2, len(places))
    n_rows = math.ceil(len(places) / n_columns)
    tallest = [
        max(len(place.labels) for place in places[row * n_columns : (row + 1) * n_columns])
        for row in range(n_rows)
    ]
    with style():
        from matplotlib.figure import Figure

        heights = [0.75 + 0.26 * count for count in tallest]
        width = WIDTH if n_columns > 1 else WIDTH * 0.7
        figure = Figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
        axes = figure.subplots(
            n_rows, n_columns, squeeze=False, gridspec_kw={"height_ratios": heights}, sharex=True
        )
        flat = list(axes.flat)
        for panel, place in zip(flat, places, strict=False):
            _draw(panel, place, sources)
        for panel in flat[max(0, len(places) - n_columns) : len(places)]:
            panel.set_xlabel("delta (trait, points)")
            panel.tick_params(labelbottom=True)
        for empty in flat[len(places) :]:
            empty.set_axis_off()
        has_ours = any(one.ours for place in places for one in place.labels)
        legend_below(figure, _handles(sources, has_ours=has_ours), len(sources) + 2)
    return figure


def _drawn_places(evidence: Evidence, published: Sequence[PublishedRow]) -> list[PrintedPlace]:
    """Those with several sources; the ones with the most labels first, so that panels of a row are alike."""
    several = [one for one in printed_places(evidence, published) if one.has_several]
    return sorted(several, key=lambda one: -len(one.labels))[:MOST_PANELS]


def _draw(panel: "Axes", place: PrintedPlace, sources: Sequence[str]) -> None:
    for y, one in enumerate(place.labels):
        bests = [rows[0].delta for rows in one.by_source.values() if rows[0].delta is not None]
        if len(bests) > 1:
            panel.plot([min(bests), max(bests)], [y, y], color=QUIET, linewidth=1.4, zorder=1)
        for source, rows in one.by_source.items():
            look = _look(sources.index(source))
            for index, row in enumerate(rows):
                # a source's further figures for the label are hollow: they were not its best
                face = "none" if index else look["color"]
                panel.plot(row.delta or 0.0, y, markerfacecolor=face, zorder=3, **look)
        if one.ours is not None and one.ours.delta is not None:
            panel.plot(one.ours.delta, y, marker="*", markersize=8, color=INK, linestyle="", zorder=4)
    panel.axvline(0, color=INK, linewidth=0.8, zorder=1)
    panel.set_yticks(range(len(place.labels)), [one.label for one in place.labels])
    panel.set_ylim(len(place.labels) - 0.4, -0.6)
    panel.set_title(f"{place.model.rpartition('/')[2]}, {place.trait}, {place.position}")


def _look(index: int) -> dict[str, Any]:
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKERS[index % len(MARKERS)],
        # what lies beneath another shows around it
        "markersize": max(4.0, 7.5 - 1.5 * index),
        "linestyle": "",
    }


def _handles(sources: Sequence[str], *, has_ours: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=source, **_look(index)) for index, source in enumerate(sources)]
    if has_ours:
        handles.append(Line2D([], [], label="ours", marker="*", markersize=8, color=INK, linestyle=""))
    hollow: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "color": QUIET, "linestyle": ""}
    return [*handles, Line2D([], [], label="printed too, not the best", **hollow)]


def published_alt(evidence: Evidence, published: Sequence[PublishedRow]) -> str:
    """The figure in words."""
    places = _drawn_places(evidence, published)
    words = []
    for place in places:
        apart = [one for one in place.labels if one.spread is not None]
        apart.sort(key=lambda one: -(one.spread or 0.0))
        said = [f"{one.label}: {told(place, one)}" for one in apart]
        words.append(f"{place.name}: {'; '.join(said[:4]) or 'no label in common'}")
    return f"Published deltas, a dot per source. {'. '.join(words)}."
