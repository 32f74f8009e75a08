"""Where published versions disagree: their figures side by side, and ours beside them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from massact.domain import Direction
from massact.query import Point
from massact.query.groups import gain, natural_order
from massact.query.questions.compare import before_after_pairs
from massact.query.questions.published import SAME_DIRECTION, PublishedComparison
from massact.report import style
from massact.report.evidence import Evidence, Place, listed, once
from massact.report.section import MISSING, Cell, Section, Table, number, result, signed, where
from massact.words import counted

LEAST_SPREAD = 0.5  # points of delta: sources that differ by less agree, since many print whole numbers
_MOST_TABLES = 12
_MOST_LINES = 12
_MOST_PANELS = 8
_STAR: style.Look = {"marker": "*", "markersize": 8, "color": style.INK, "linestyle": ""}


def published_section(evidence: Evidence) -> Section | None:
    """The section; `None` where the store holds no published figure."""
    if not evidence.facts.published:
        return None
    places = printed_places(evidence)
    shown = [place for place in places if place.has_several or any(label.ours for label in place.labels)]
    return Section(
        "published",
        "Where the published versions disagree",
        tuple(_text(evidence, places, shown)),
        tuple(_table(evidence, place) for place in shown[:_MOST_TABLES]),
        tuple(_bullets(evidence, places)),
        (Published(evidence),),
    )


@dataclass(frozen=True, slots=True)
class PrintedLabel:
    """One label at one place, as the sources print it."""

    label: str
    by_source: Mapping[str, tuple[PublishedComparison, ...]]  # per source its figures with a delta, the best first
    ours: Point | None

    @property
    def headlines(self) -> dict[str, float]:
        return {source: rows[0].delta or 0.0 for source, rows in self.by_source.items()}

    @property
    def spread(self) -> float | None:
        """Points between the least and the largest best of the sources; `None` where fewer than two print it."""
        deltas = self.headlines.values()
        return round(max(deltas) - min(deltas), 6) if len(deltas) > 1 else None

    @property
    def words(self) -> str:
        said = listed((f"{source} {signed(delta)}" for source, delta in self.headlines.items()), 6)
        return f"{said}: {number(self.spread, '.1f')} points"


@dataclass(frozen=True, slots=True)
class PrintedPlace:
    """One model, trait and position, as the sources print it."""

    model: str
    trait: str
    position: str
    direction: Direction
    sources: tuple[str, ...]
    labels: tuple[PrintedLabel, ...]
    our_place: Place | None  # `None` where the experiment has no such model

    @property
    def name(self) -> str:
        return f"{self.model}, {self.trait}, {self.position}"

    @property
    def has_several(self) -> bool:
        return len(self.sources) > 1

    def winners(self, labels: Iterable[PrintedLabel]) -> dict[str, tuple[str, float]]:
        """Per source which of the labels has its best delta, and that."""
        bests: dict[str, list[tuple[str, float]]] = {source: [] for source in self.sources}
        for label in labels:
            for source, delta in label.headlines.items():
                bests[source].append((label.label, delta))
        direction = self.direction
        return {s: max(some, key=lambda entry: gain(entry[1], direction)) for s, some in bests.items() if some}


@once
def printed_places(evidence: Evidence) -> list[PrintedPlace]:
    """Every place that somebody printed a delta of, those with several sources first."""
    rows = evidence.compare_published()
    spelled = {row.model.casefold(): row.model for row in reversed(rows)}
    by_place: dict[tuple[str, str, str], list[PublishedComparison]] = defaultdict(list)
    for row in rows:
        if row.delta is not None:
            by_place[spelled[row.model.casefold()], row.trait, row.position].append(row)
    places = []
    for (model, trait, position), some in by_place.items():
        our_model = next((row.our_model for row in some if row.our_model), None)
        place = None if our_model is None else Place(our_model, trait, position)
        direction = evidence.direction(place) if place else evidence.declared_direction(trait)
        labels = _labels(evidence, some, place, direction)
        sources = tuple(sorted({row.source for row in some}))
        places.append(PrintedPlace(model, trait, position, direction, sources, labels, place))
    return sorted(places, key=lambda p: (not p.has_several, *map(natural_order, (p.model, p.trait, p.position))))


def _labels(
    evidence: Evidence, rows: Sequence[PublishedComparison], ours: Place | None, direction: Direction
) -> tuple[PrintedLabel, ...]:
    by_label: dict[str, dict[str, list[PublishedComparison]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: -gain(row.delta, direction)):
        by_label[row.label][row.source].append(row)
    return tuple(
        PrintedLabel(
            label,
            {source: tuple(some) for source, some in sorted(by_label[label].items())},
            evidence.best(ours, label) if ours else None,
        )
        for label in sorted(by_label, key=lambda label: (style.method_of(label), style.legend_order(label), label))
    )


def printed_sentences(evidence: Evidence) -> Iterator[str]:
    """What published figures there are, and how far those of one label and place are apart."""
    published, places = evidence.facts.published, printed_places(evidence)
    if not published:
        return
    sources = sorted({row.source for row in published})
    several = [place for place in places if place.has_several]
    yield (
        f"{counted(len(published), 'published figure')} of {counted(len(sources), 'source')} ({listed(sources, 6)}). "
        f"{counted(len(several), 'place')} of {len(places)} {'is' if len(several) == 1 else 'are'} printed by two "
        "sources or more. They are shown as printed and never mixed with what was measured here."
    )
    spreads = [(label.spread, place, label) for place in several for label in place.labels if label.spread is not None]
    apart = [entry for entry in spreads if entry[0] > LEAST_SPREAD]
    if spreads:
        worst = ""
        if apart:
            _, place, label = max(apart, key=lambda entry: entry[0])
            worst = f" The widest apart: {label.label} on {place.name}, {label.words}."
        yield (
            f"{counted(len(spreads), 'label')} {'is' if len(spreads) == 1 else 'are'} printed by two sources at one "
            f"place; {len(apart)} of them differ by more than rounding.{worst}"
        )


def cannot_be_known(evidence: Evidence) -> str:
    """What figures that were printed without their scores leave open."""
    lacking = sum(row.coherence_mean is None for row in evidence.facts.published)
    coherence = f", and of {lacking} not even the coherence" if lacking else ""
    return (
        "What cannot be known: these are means as printed, without scores by question or responses, so that no "
        f"interval, tie or test can be told of any of them{coherence}."
    )


def printed_matrix(evidence: Evidence, most: int) -> Table:
    """Labels against places: the range of the deltas that the sources print, and how many sources do."""
    places = printed_places(evidence)
    shown = places[:most]
    every = [delta for place in shown for label in place.labels for delta in label.headlines.values()]
    low, width = min([0.0, *every]), (max([0.0, *every]) - min([0.0, *every])) or 1.0

    def cell(label: PrintedLabel | None) -> Cell:
        if label is None or not label.headlines:
            return Cell(MISSING, state="missing" if label else "")
        ends = (min(label.headlines.values()), max(label.headlines.values()))
        text = " to ".join(dict.fromkeys(map(signed, ends)))
        bar = ((ends[0] - low) / width, (ends[1] - low) / width, (ends[1] - low) / width)
        return Cell(text, state="ok", detail=counted(len(label.headlines), "source"), value=ends[1], bar=bar)

    names = dict.fromkeys(label.label for place in shown for label in place.labels)
    by_place = [{label.label: label for label in place.labels} for place in shown]
    headers = ("label", *(place.name for place in shown))
    rest = f" (the first {most} of {len(places)} places)" if len(places) > most else ""
    caption = f"Deltas as printed{rest}; from the least to the largest of the sources"
    return Table.of(caption, headers, [(name, *(cell(some.get(name)) for some in by_place)) for name in names])


def _text(evidence: Evidence, places: Sequence[PrintedPlace], shown: Sequence[PrintedPlace]) -> Iterator[str]:
    yield from printed_sentences(evidence)
    alone = len(places) - len(shown)
    if alone:
        lists = f"{evidence.command('compare --published')} lists {'it' if alone == 1 else 'them'}"
        yield f"{counted(alone, 'place')} with one source and nothing of ours beside it: {lists}."
    if len(shown) > _MOST_TABLES:
        yield f"The first {_MOST_TABLES} of {len(shown)} places have a table here."


def _bullets(evidence: Evidence, places: Sequence[PrintedPlace]) -> Iterator[str]:
    yield from _baseline_lines(evidence)
    for place in places:
        yield from _winner_lines(place)
    for place in places:
        yield from _twin_lines(place)
    flags = {
        f"{row.source}, {row.place}{'' if SAME_DIRECTION in flag else f', {row.label}'}: {flag}": None
        for row in evidence.compare_published()
        for flag in row.flags
    }
    yield from list(flags)[:_MOST_LINES]
    if len(flags) > _MOST_LINES:
        names = f"{evidence.command('compare --published')} names each"
        yield f"{len(flags) - _MOST_LINES} more figures do not add up: {names}."


def _baseline_lines(evidence: Evidence) -> Iterator[str]:
    """Where sources took their deltas from different baselines, or picked at different floors."""
    published = evidence.facts.published
    bases: dict[tuple[str, str], dict[float, set[str]]] = defaultdict(lambda: defaultdict(set))
    floors: dict[float, set[str]] = defaultdict(set)
    spelled = {row.model.casefold(): row.model for row in published}
    for row in published:
        if row.baseline_trait_mean is not None:
            bases[spelled[row.model.casefold()], row.trait][row.baseline_trait_mean].add(row.source)
        if row.coherence_floor is not None:
            floors[row.coherence_floor].add(row.source)
    if len(floors) > 1:
        yield f"The figures were picked at different coherence floors: {_by_value(floors)}."
    for (model, trait), values in sorted(bases.items()):
        if len(values) > 1:
            yield f"{model}, {trait}: the unsteered trait mean is printed as {_by_value(values)}."


def _by_value(sources: Mapping[float, set[str]]) -> str:
    return listed([f"{value:g} ({listed(sorted(some))})" for value, some in sorted(sources.items())], 6)


def _winner_lines(place: PrintedPlace) -> Iterator[str]:
    """Where the sources name different winners, and whether the labels that all of them print tell why."""
    winners = place.winners(place.labels)
    if not place.has_several or len({label for label, _ in winners.values()}) < 2:
        return
    common = [label for label in place.labels if set(label.by_source) == set(place.sources)]
    among = place.winners(common)
    if len(common) < 2:
        why = " They have fewer than two labels in common, so this may be no more than what each tried."
    elif len({label for label, _ in among.values()}) > 1:
        flips = listed([f"{source} {label}" for source, (label, _) in among.items()], 6)
        why = f" Among the {len(common)} labels that all print it flips too: {flips}."
    else:
        why = f" Among the {len(common)} labels that all print it is {next(iter(among.values()))[0]} in each."
    said = listed([f"{source} {label} ({signed(delta)})" for source, (label, delta) in winners.items()], 6)
    yield f"{place.name}: the winner flips between sources: {said}.{why}"


def _twin_lines(place: PrintedPlace) -> Iterator[str]:
    """Labels that are one direction by algebra, mean_diff cleaned before and after alike, which sources print with
    different numbers; of one that prints both the flags tell."""
    by_label = {label.label: label for label in place.labels}
    for pair in before_after_pairs(by_label):
        first, second = (by_label.get(label) for label in pair)
        if (
            not first
            or not second
            or style.method_of(pair[0]) != "mean_diff"
            or first.by_source.keys() & second.by_source
        ):
            continue
        printed = [(label, source, d) for label in (first, second) for source, d in sorted(label.headlines.items())]
        deltas = [delta for *_, delta in printed]
        if max(deltas, default=0.0) - min(deltas, default=0.0) > LEAST_SPREAD:
            said = (f"{label.label} {signed(delta)} in {source}" for label, source, delta in printed)
            one_vector = f"{pair[0]} and {pair[1]} are one vector by algebra, printed with different numbers"
            yield f"{place.name}: {one_vector}: {listed(list(said), 8)}."


def _table(evidence: Evidence, place: PrintedPlace) -> Table:
    rows = []
    for label in place.labels:
        ours = Cell(f"{result(label.ours)} ({where(label.ours)})", label.ours.run_id, "ok") if label.ours else None
        notes = (
            f"{source}: {row.note}" for source, some in sorted(label.by_source.items()) for row in some if row.note
        )
        printed = (_printed(label.by_source.get(source, ())) for source in place.sources)
        apart = None if label.spread is None else f"{label.spread:.1f}"
        rows.append((label.label, *printed, apart, ours, Cell("; ".join(dict.fromkeys(notes)))))
    headers = ("label", *(_header(place, source) for source in place.sources), "?#apart", "?ours", "?notes")
    ours_at = f"; ours at floor {evidence.floor:g}" if any(label.ours for label in place.labels) else ""
    return Table.of(f"Delta @ coherence as printed (layer, coefficient), {place.name}{ours_at}", headers, rows)


def _header(place: PrintedPlace, source: str) -> str:
    rows = [row for label in place.labels for row in label.by_source.get(source, ())]
    parts = [source]
    for name, values in (
        ("floor", {row.coherence_floor for row in rows if row.coherence_floor is not None}),
        ("baseline", {row.baseline_trait_mean for row in rows if row.baseline_trait_mean is not None}),
    ):
        parts.append(f"{name} {'/'.join(f'{value:g}' for value in sorted(values)) or 'not given'}")
    return ", ".join(parts)


def _printed(rows: Sequence[PublishedComparison]) -> str:
    """A source's best, and what else it prints for the label."""
    shown = []
    for row in rows:
        coherence = f" @ {row.coherence_mean:g}" if row.coherence_mean is not None else ""
        at = [] if row.layer is None else [f"layer {row.layer}"]
        at += [] if row.coefficient is None else [f"{row.coefficient:g}"]
        shown.append(f"{signed(row.delta)}{coherence}" + (f" ({', '.join(at)})" if at else ""))
    return "; also ".join(filter(None, (*shown[:1], listed(shown[1:], 6)))) or MISSING


@dataclass(frozen=True)
class Published:
    """A dot per source, a line per label, a panel per place that several sources print."""

    evidence: Evidence
    most: int = _MOST_PANELS

    @property
    def name(self) -> str:
        return "published" if self.most == _MOST_PANELS else f"published-{self.most}"

    @cached_property
    def data(self) -> list[PrintedPlace]:
        """The places with the most labels first, so that panels of a row are alike."""
        several = [place for place in printed_places(self.evidence) if place.has_several]
        return sorted(several, key=lambda place: -len(place.labels))[: self.most]

    def draw(self) -> style.Drawing:
        sources = sorted({source for place in self.data for source in place.sources})
        n_columns = min(2, len(self.data))
        n_rows = math.ceil(len(self.data) / n_columns)
        # of places in the order of their number of labels the first of a row has the most
        heights = [0.75 + 0.26 * len(place.labels) for place in self.data[::n_columns]]
        size = (style.WIDTH if n_columns > 1 else style.WIDTH * 0.7, sum(heights) + 0.5)
        figure, axes = style.new_figure((n_rows, n_columns), size, height_ratios=heights, sharex=True)
        panels = style.filled(axes, len(self.data))
        for panel, place in zip(panels, self.data, strict=True):
            _draw(panel, place, sources)
        for panel in panels[-n_columns:]:
            panel.set_xlabel("delta (trait, points)")
            panel.tick_params(labelbottom=True)
        entries = [(source, _look(index)) for index, source in enumerate(sources)]
        if any(label.ours for place in self.data for label in place.labels):
            entries.append(("ours", _STAR))
        hollow: style.Look = {"marker": "o", "markerfacecolor": "none", "color": style.QUIET, "linestyle": ""}
        style.legend_below(figure, [*entries, ("printed too, not the best", hollow)], len(sources) + 2)
        return figure

    def caption(self) -> str:
        return "Deltas as printed, a marker per source; a line joins the best that each source prints for a label."

    def alt(self) -> str:
        words = []
        for place in self.data:
            apart = [label for label in place.labels if label.spread is not None]
            apart.sort(key=lambda label: -(label.spread or 0.0))
            said = "; ".join(f"{label.label}: {label.words}" for label in apart[:4])
            words.append(f"{place.name}: {said or 'no label in common'}")
        return f"Published deltas, a dot per source. {'. '.join(words)}."


def _draw(panel: style.Axes, place: PrintedPlace, sources: Sequence[str]) -> None:
    for y, label in enumerate(place.labels):
        if label.spread is not None:
            deltas = label.headlines.values()
            panel.plot([min(deltas), max(deltas)], [y, y], color=style.QUIET, linewidth=1.4, zorder=1)
        for source, rows in label.by_source.items():
            look = _look(sources.index(source))
            for index, row in enumerate(rows):
                # a source's further figures for the label are hollow: they were not its best
                face = "none" if index else look["color"]
                panel.plot(row.delta or 0.0, y, markerfacecolor=face, zorder=3, **look)
        if label.ours is not None and label.ours.delta is not None:
            panel.plot(label.ours.delta, y, zorder=4, **_STAR)
    panel.axvline(0, color=style.INK, linewidth=0.8, zorder=1)
    panel.set_yticks(range(len(place.labels)), [label.label for label in place.labels])
    panel.set_ylim(len(place.labels) - 0.4, -0.6)
    panel.set_title(f"{place.model.rpartition('/')[2]}, {place.trait}, {place.position}")


def _look(index: int) -> style.Look:
    """Of a source; what lies beneath another shows around it."""
    size = max(4.0, 7.5 - 1.5 * index)
    colour, marker = style.SERIES[index % len(style.SERIES)], style.MARKERS[index % len(style.MARKERS)]
    return {"color": colour, "marker": marker, "markersize": size, "linestyle": ""}
