"""Tables of results: the gap matrix, the best of each group, before against after, random directions."""

from collections.abc import Iterable
from dataclasses import replace

from massact.domain import Cleaning, Group, Recipe
from massact.labels import format_label
from massact.query import Point
from massact.report.evidence import Evidence, Place, place_of
from massact.report.table import (
    MISSING,
    Cell,
    Table,
    at_coefficient,
    believed,
    cells,
    columns,
    number,
    result,
)
from massact.store.schema import EvaluationRow

RANDOM = "random_baseline"
REAL = ("probe", "mean_diff")
"""What a random direction is compared with."""


def gap_matrices(evidence: Evidence) -> tuple[Table, ...]:
    """Labels against places, a table per trait: `delta @ coherence`, or why there is none."""
    return tuple(_gap_matrix(evidence, trait.name) for trait in evidence.experiment.traits)


def _gap_matrix(evidence: Evidence, trait: str) -> Table:
    declared = [group for group in evidence.answers.groups if group.trait == trait]
    places = tuple(dict.fromkeys(place_of(group) for group in declared))
    labels = tuple(dict.fromkeys(group.label for group in declared))
    wanted = set(declared)
    of_trait = f", {trait}" if len(evidence.experiment.traits) > 1 else ""
    return Table(
        f"Best delta @ coherence by group{of_trait}; floor {evidence.floor:g}",
        columns("label", *(f"{place.model} {short_position(place.position)}" for place in places)),
        tuple(
            (
                Cell(label),
                *(
                    group_cell(evidence, place, label) if group_at(place, label) in wanted else Cell("")
                    for place in places
                ),
            )
            for label in labels
        ),
    )


def group_cell(evidence: Evidence, place: Place, label: str) -> Cell:
    """What the store says of one group: its best, or its state."""
    best = evidence.best(place, label)
    if best is not None:
        return Cell(result(best), best.run_id, "ok", _small_print(evidence, place, label, best), best.delta)
    status = evidence.status(place, label)
    miss = _nearest_miss(evidence, place, label)
    if miss is not None:
        return Cell(f"below floor ({number(miss.coherence_mean, '.1f')})", miss.run_id, status)
    if status == "missing" and group_at(place, label) in evidence.evaluated:
        return Cell(f"{MISSING} (not in this setting)", state=status)
    return Cell(MISSING if status == "missing" else status, state=status)


def _small_print(evidence: Evidence, place: Place, label: str, best: Point) -> str:
    """The interval of a best, how many questions it rests on, and whose result it is."""
    interval = believed(evidence.belief(place, label))
    taken = f"as {best.same_as}" if best.same_as else ""
    return ", ".join(part for part in (interval, f"n {_scored(best)}", taken) if part)


def _scored(best: Point) -> str:
    """Of how many responses, where some have no score."""
    return f"{best.n_scored}" + (f" of {best.n_scored + best.n_unscored}" if best.n_unscored else "")


def best_tables(evidence: Evidence) -> tuple[Table, ...]:
    """Every group of each place, the largest delta first."""
    return tuple(_best_table(evidence, place) for place in evidence.places() if place in evidence.strata)


def _best_table(evidence: Evidence, place: Place) -> Table:
    ranked = [(label, evidence.best(place, label)) for label in evidence.labels(place)]
    ranked.sort(key=lambda pair: _rank(evidence, place, pair[1]))
    headers = ("label", "delta @ coherence", "95 % of delta", "standing", "#layer", "#coefficient",
               "#relative strength", "#scored")  # fmt: skip
    standing = evidence.standings(place)
    rows = [_best_row(evidence, place, label, best, standing.get(label)) for label, best in ranked]
    return Table(evidence.name(place), columns(*headers), tuple(rows))


def _rank(evidence: Evidence, place: Place, best: Point | None) -> tuple[bool, float]:
    delta = best.delta if best else None
    return (delta is None, 0.0 if delta is None else -evidence.gain(place, delta))


def _best_row(
    evidence: Evidence, place: Place, label: str, best: Point | None, standing: str | None
) -> tuple[Cell, ...]:
    shown = group_cell(evidence, place, label)
    if best is None:
        return cells(label, shown, None, None, None, None, None, None)
    return cells(
        label,
        replace(shown, detail=f"as {best.same_as}" if best.same_as else ""),
        believed(evidence.belief(place, label)),
        standing,
        str(best.layer),
        at_coefficient(best),
        number(best.relative_strength, ".2f"),
        f"{best.n_scored} of {best.n_scored + best.n_unscored}",
    )


def random_table(evidence: Evidence) -> Table:
    """A random direction against the real vectors, where one was declared or run."""
    rows = []
    for place in evidence.places():
        labels = evidence.labels(place)
        if RANDOM in labels:
            shown = (group_cell(evidence, place, label) for label in (RANDOM, *REAL))
            rows.append(cells(evidence.name(place), *shown))
    return Table("A random direction against the real vectors", columns("place", RANDOM, *REAL), tuple(rows))


def baseline_table(evidence: Evidence, baselines: Iterable[EvaluationRow]) -> Table:
    """The unsteered scores that every delta is taken from."""
    rows = [
        cells(
            row.model,
            row.trait,
            number(row.trait_mean, ".1f"),
            number(row.coherence_mean, ".1f"),
            f"{row.n_scored} of {row.n_questions}",
            row.judge,
        )
        for row in baselines_in_use(evidence, baselines)
    ]
    return Table(
        "Baselines: the same questions, unsteered",
        columns("model", "trait", "#trait mean", "#coherence", "#scored", "judge"),
        tuple(rows),
    )


def baselines_in_use(evidence: Evidence, baselines: Iterable[EvaluationRow]) -> list[EvaluationRow]:
    """Per model and trait the baseline that the evidence's deltas are taken from, or else the newest."""
    samples = (stratum.sample for stratum in evidence.strata.values())
    used = {sample.baseline_key for sample in samples if sample is not None}
    found: dict[tuple[str, str], EvaluationRow] = {}
    for row in baselines:
        other = found.get((row.model, row.trait))
        if other is None or row.key in used or other.key not in used:
            found[row.model, row.trait] = row
    return [found[name] for name in sorted(found)]


def top_label(method: str, n_dims: int) -> str:
    """The label of a method with its top dims cleaned after extraction."""
    return format_label(Recipe(method, Cleaning("after", "uniform", n_dims)))


def short_position(position: str) -> str:
    """`[:5]` for `response[:5]`: headers of a matrix are narrow, and most windows are of the response."""
    return position.removeprefix("response")


def _nearest_miss(evidence: Evidence, place: Place, label: str) -> Point | None:
    stratum = evidence.strata.get(place)
    return stratum.nearest_miss(label, evidence.floor) if stratum else None


def group_at(place: Place, label: str) -> Group:
    return Group(place.model, place.trait, place.position, label)
