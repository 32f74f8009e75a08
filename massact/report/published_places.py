"""Published figures by place: what each source prints for a label, and where the sources disagree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from massact.domain import Direction
from massact.query import Point, PublishedComparison, before_after_pairs
from massact.query.published import match_model
from massact.query.selection import natural_order, recipe_of
from massact.report.contents import Evidence, Place, gain
from massact.schema import PublishedRow

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
    rows = evidence.answers.compare_published(published, evidence.floor, model_names=names).rows
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
