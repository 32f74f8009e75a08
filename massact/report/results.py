"""Results by group: the gap matrix and what to try next, the best of every group, and the controls beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from massact.query import GapRow
from massact.query.groups import setting_notes, slices
from massact.query.same_vector import taken_over_note
from massact.query.stats.coherent import SURE, coherent_chances
from massact.report.evidence import RANDOM, Evidence, Place, counted, group_at, place_of
from massact.report.section import (
    Cell,
    Row,
    Section,
    Table,
    at_coefficient,
    group_cell,
    interval,
    number,
    taken_from,
)

REAL = ("probe", "mean_diff")
"""What a random direction is compared with."""


def gaps_section(evidence: Evidence) -> Section:
    """What every group of the matrix has, and what to try where it has nothing."""
    groups = evidence.answers.groups
    at = f"at coherence {evidence.floor:g} or more"
    text = f"{evidence.n_gaps} of {counted(len(groups), 'declared group')} remain without a result {at}."
    if groups and not evidence.n_gaps:
        text = f"Every one of the {counted(len(groups), 'declared group')} has a result {at}."
    remaining = [row for row in evidence.gaps() if row.status != "ok" and row.is_current]
    traits = [trait.name for trait in evidence.experiment.traits]
    tables = (*(gap_matrix(evidence, trait) for trait in traits), _next_table(remaining)) if groups else ()
    bests = (evidence.best(place_of(group), group.label) for group in groups)
    notes = (
        *setting_notes(slices(evidence.answers.evaluations)),
        *taken_over_note([best for best in bests if best], "best", "bests"),
    )
    return Section("gaps", "Results by group", (text, *notes), tables)


def gap_matrix(evidence: Evidence, trait: str) -> Table:
    """Labels against places: `delta @ coherence`, or why there is none."""
    declared = [group for group in evidence.answers.groups if group.trait == trait]
    places = tuple(dict.fromkeys(map(place_of, declared)))
    wanted = set(declared)
    rows: list[Row] = [
        (
            label,
            *(
                group_cell(evidence, place, label) if group_at(place, label) in wanted else Cell("")
                for place in places
            ),
        )
        for label in dict.fromkeys(group.label for group in declared)
    ]
    # headers of a matrix are narrow, and most windows are of the response
    headers = ("label", *(f"{place.model} {place.position.removeprefix('response')}" for place in places))
    caption = f"Best delta @ coherence by group{evidence.of_trait(trait)}; floor {evidence.floor:g}"
    return Table.of(caption, headers, rows)


def _next_table(gaps: Sequence[GapRow]) -> Table:
    rows: list[Row] = []
    for row in gaps:
        place = f"{row.model}, {row.position}"
        for bracket in row.brackets:
            tries = ", ".join(f"{value:g}" for value in bracket.try_next) or bracket.reason
            ends = (number(bracket.low, "g"), number(bracket.high, "g"))
            rows.append((place, row.label, str(bracket.layer), *ends, tries))
        if row.status == "failed":
            error = (row.error or "no error text was kept").partition("\n")[0][:120]
            rows.append((place, row.label, None, None, None, f"failed: {error}"))
    headers = ("place", "label", "#layer", "#largest coherent", "#smallest below floor", "try next")
    return Table.of("Gaps that remain, and what to try next", headers, rows)


def best_section(evidence: Evidence) -> Section:
    """Every group of each place, the largest delta first."""
    text = (
        "The interval holds the true delta in 95 of 100 experiments; it allows for the best having been picked among "
        "many noisy evaluations, the winner among those of all labels. The expected delta is what the evaluations that "
        "it was picked among make of it: the one to count on. A label is tied where it cannot be told from the winner "
        "of its place."
    )
    tables = tuple(best_table(evidence, place) for place in evidence.run_places)
    doubts = [line for place in evidence.run_places for line in _doubtful(evidence, place)]
    if doubts:
        text += (
            f" Coherence is a mean over few questions too: {counted(len(doubts), 'best is', 'bests are')} truly at or "
            f"above the floor with a chance below {SURE:g}."
        )
    return Section("best", "Best of every group", (text,), tables, tuple(doubts))


def _doubtful(evidence: Evidence, place: Place) -> Iterator[str]:
    """The bests of a place of which it is not sure that they are coherent, with the chance that they are."""
    scores = evidence.answers.scores
    if scores is None or place not in evidence.whole:
        return
    chances = coherent_chances(evidence.whole[place], evidence.floor, scores)
    for label, best in evidence.bests(place, evidence.labels(place)).items():
        chance = chances.get(best.run_id)
        if chance is not None and chance < SURE:
            where = f"{evidence.name(place)}, `{label}`, layer {best.layer}, {best.coefficient:g}"
            coherence = number(best.coherence_mean, ".1f")
            yield f"{where}: coherence {coherence}, truly coherent with a chance of {chance:.2f}"


def best_table(evidence: Evidence, place: Place) -> Table:
    """The labels of one place."""
    labels = evidence.labels(place)
    bests = evidence.bests(place, labels)

    def rank(label: str) -> tuple[bool, float]:
        return (label not in bests, -evidence.gain(place, bests[label].delta) if label in bests else 0.0)

    standing = evidence.standings(place)
    rows: list[Row] = []
    for label in sorted(labels, key=rank):
        cell, best = group_cell(evidence, place, label), evidence.best(place, label)
        if best is None:
            rows.append((label, cell, *[None] * 7))
            continue
        rows.append(
            (
                label,
                replace(cell, detail=taken_from(best)),
                interval(evidence, place, label),
                number(evidence.believed(place, label).delta_expected, "+.1f"),
                standing.get(label),
                str(best.layer),
                at_coefficient(best),
                number(best.relative_strength, ".2f"),
                f"{best.n_scored} of {best.n_scored + best.n_unscored}",
            )
        )
    headers = ("label", "delta @ coherence", "95 % of delta", "#expected", "standing", "#layer", "#coefficient",
               "#relative strength", "#scored")  # fmt: skip
    return Table.of(evidence.name(place), headers, rows)


def controls_section(evidence: Evidence) -> Section:
    """What a real effect is measured against."""
    baselines = [
        (
            row.model,
            row.trait,
            number(row.trait_mean, ".1f"),
            number(row.coherence_mean, ".1f"),
            f"{row.n_scored} of {row.n_questions}",
            row.judge,
        )
        for row in evidence.baselines
    ]
    random: list[Row] = [
        (evidence.name(place), *(group_cell(evidence, place, label) for label in (RANDOM, *REAL)))
        for place in evidence.places()
        if RANDOM in evidence.labels(place)
    ]
    headers = ("model", "trait", "#trait mean", "#coherence", "#scored", "judge")
    tables = (
        Table.of("Baselines: the same questions, unsteered", headers, baselines),
        Table.of("A random direction against the real vectors", ("place", RANDOM, *REAL), random),
    )
    text = () if baselines or random else ("Neither a baseline nor a random direction was evaluated.",)
    return Section("controls", "Baselines and random directions", text, tables)
