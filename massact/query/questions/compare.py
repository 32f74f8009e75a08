"""Pairs of labels side by side: the best of each, their difference, and whether they are one vector."""

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

from massact._lazy import Numbers, np
from massact.domain import Group
from massact.errors import UsageError
from massact.floors import Floor, as_floor
from massact.labels import format_label, normalise_label
from massact.query.answers import Answers, control_label
from massact.query.controls import with_controls
from massact.query.equal_grids import EqualGrids, on_equal_grids
from massact.query.groups import ComparableGroups, one_spelling, recipe_of, slices, strata, told_apart, usual_notes
from massact.query.load import About, Needs
from massact.query.question import pattern, question
from massact.query.rows import Answer, Column, GroupRow, Point, Status
from massact.query.same_vector import ONCE, Cosines, taken_over_words, why_one
from massact.query.stats.intervals import Beliefs
from massact.query.stats.paired import (
    CONFIDENCE,
    LARGEST,
    Matched,
    at_matched_coherence,
    holm,
    is_more_than_noise,
    least_p,
    mean_interval,
    paired_test,
)
from massact.query.tables import PLACE, SETTING, interval_column, number_column, point_column, text_column

COHERENCE_WARNING_POINTS = 3.0  # bests whose coherence differs by more are not compared at like coherence


_SAME = re.compile("^same (?:vector: |direction )")


def _p_value(row: Any) -> str:
    p = row.p_corrected
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow(GroupRow):
    """Two labels on one model, trait and position in one setting."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        text_column("label_a", "A"),
        text_column("label_b", "B"),
        point_column("best_a", "A: delta", "status_a"),
        point_column("best_b", "B: delta", "status_b"),
        number_column("difference", "+.1f", "A - B"),
        interval_column("difference_low", "difference_high", "95 % of A - B"),
        Column("p", _p_value, is_number=True, is_optional=True),
        number_column("matched_difference", "+.1f", "at like coherence", is_optional=True),
        interval_column("matched_low", "matched_high", "95 % of that"),
        Column("same vector", lambda row: _SAME.sub("", row.same_vector or "").replace(ONCE, "once")),
        Column("warnings", lambda row: "; ".join(row.warnings), is_optional=True),
        *SETTING,
    )

    label_a: str
    label_b: str
    status_a: Status
    status_b: Status
    best_a: Point | None = None
    """Of the cells that both have, where `warnings` do not say otherwise."""
    best_b: Point | None = None
    difference: float | None = None
    """Delta of A minus delta of B; `None` where one has no best, and where no layer lets them be compared."""
    better: str | None = None
    """The label with the better delta, by direction; `None` where equal or one vector, or where one has no best."""
    same_vector: str | None = None
    """Why the two bests are one vector, or one evaluation for both; `None` where they are not known to be."""
    warnings: tuple[str, ...] = ()
    """What was left out so that both are compared over the same cells, and what else makes them unlike."""
    n_questions: int | None = None
    """Questions that both bests were scored on; it and what is tested are `None` without scores by question."""
    difference_expected: float | None = None
    """The difference less what the picking is expected to have added to it, as where one label has more evaluations."""
    difference_low: float | None = None
    difference_high: float | None = None
    """Of the interval that holds the true mean difference of these two evaluations in 95 of 100 experiments, unlike
    numbers to pick from allowed for."""
    p_value: float | None = None
    """Two-sided, of a test that flips the signs of the questions' differences: of `difference`, or of
    `difference_expected` where that is less significant; no less than where the interval would end at zero."""
    p_corrected: float | None = None
    """The same, corrected for the number of comparisons in this answer (Holm)."""
    matched_coherence: float | None = None
    """Coherence of the more coherent best, or what else the floor is of; `None` where the bests' gap in it is no more
    than noise, and where the other was not evaluated at one as high."""
    matched_difference: float | None = None
    """Delta of A minus delta of B where both have that coherence, each read along its curve."""
    matched_low: float | None = None
    matched_high: float | None = None
    """Of the 95 % interval of that difference."""


_LABEL = r"(?:[^:\[\]\u0000]|\[[^\[\]\u0000]*\])+"


def _pair(text: str) -> tuple[str, str]:
    labels = re.split(r":(?![^\[]*\])", text)  # not the colon of probe@response[:5]
    if len(labels) != 2 or not all(labels):
        raise ValueError("is not two labels: write A:B, such as probe_preclean:probe_cleaned")
    return labels[0], labels[1]


@question(
    "compare",
    pattern(
        "pair",
        "two labels to compare; default: each label cleaned before extraction with its counterpart cleaned after, or "
        "the two of --label",
        rf"^{_LABEL}:{_LABEL}$",
        _pair,
        write=":".join,
        is_repeated=True,
        argument="pairs",
        metavar="A:B",
    ),
    needs=lambda **_: Needs(scores="coherent", controls=True),
)
def ask_compare(
    answers: Answers, floor: float, /, *, pairs: Sequence[tuple[str, str]] | None = None, **_about: Unpack[About]
) -> Answer[ComparisonRow]:
    """Two labels side by side: the best of each, and whether they are one vector.

    Differences are tested question by question; that a label with more evaluations has the luckier best is allowed
    for. Where the bests differ in coherence by more than noise, they are read once more where both labels are as
    coherent as the more coherent best.

    \b
    Example:
      massact compare --pair probe_preclean:probe_cleaned --pair mean_diff:probe
    """
    by_group = slices(answers.side_by_side)
    declared, known = set(answers.groups), {group.label for group in by_group}
    controls = {control_label(control.row) for control in answers.controls}
    wanted = before_after_pairs({*answers.labels, *known}) if pairs is None else tuple(pairs)
    kept = [pair for pair in wanted if all(answers.shows(one_spelling(label)) for label in pair)]
    if pairs is None and not kept and len(answers.filters.labels) == 2:
        a, b = answers.filters.labels
        kept = [(a, b)]
    all_pairs = [_labels(pair, known | controls) for pair in kept]
    rows = list[ComparisonRow]()
    for stratum in strata(by_group, answers.groups):
        beliefs = Beliefs(stratum, floor, answers.scores) if answers.scores else None
        whole = with_controls(answers, stratum, floor) if controls else stratum
        for labels in all_pairs:
            here = ((label, Group(stratum.model, stratum.trait, stratum.position, label)) for label in labels)
            if any(label in whole.slices or group in declared for label, group in here):
                grids = on_equal_grids(whole, labels, floor)
                row = _row(grids, labels, floor, answers.cosines)
                rows.append(_tested(row, grids.stratum, whole, answers, beliefs) if beliefs else row)
    corrected = holm([row.p_value for row in rows])
    rows = [replace(row, p_corrected=p) for row, p in zip(rows, corrected, strict=True)]
    notes = (*usual_notes(by_group), *_notes(rows), *_least_p_note(rows))
    if not kept:
        why = (
            "no pair has both its labels among those of --label"
            if wanted
            else "no label here is cleaned before extraction, so there is nothing to compare with its counterpart"
        )
        notes = (*notes, f"{why}: name two labels as a pair")
    return told_apart(Answer(question="compare", floor=floor, rows=tuple(rows), notes=notes), by_group)


def _notes(rows: Iterable[ComparisonRow]) -> Iterator[str]:
    """What a reader of the differences must not miss, in words."""
    for row in rows:
        name = f"{row.place}: {row.label_a} against {row.label_b}"
        yield from (f"{name}: {warning}" for warning in row.warnings)
        if row.same_vector and row.best_a and row.best_b:
            a, b = row.best_a.coefficient, row.best_b.coefficient
            differs = "noise" if a == b else f"the coefficient ({a:g} and {b:g}) and noise"
            once = row.same_vector.startswith(ONCE)
            yield f"{name}: {row.same_vector}; " + (
                "how they differ was not measured: --alike off does that" if once else f"what differs is {differs}"
            )


def _least_p_note(rows: Iterable[ComparisonRow]) -> Iterator[str]:
    """Where so few questions cannot show a difference in so many pairs, however large it is."""
    counts = [row.n_questions for row in rows if row.n_questions is not None and row.p_value is not None]
    if not counts:
        return
    n, level = min(counts), 1 - CONFIDENCE
    most = int(level / least_p(n) + 1e-9)
    if len(counts) > most:
        ask = f"ask about at most {most} pairs at a time, or more questions" if most else "more questions are needed"
        yield (
            f"over {n} questions no p-value is below {least_p(n):.2g}, however large the difference: corrected for "
            f"{len(counts)} pairs none is below {level:.2g}; {ask}"
        )


def before_after_pairs(labels: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Of the labels, those whose dims are cleaned before extraction, each with the same cleaning after it."""
    recipes = {recipe_of(label) for label in labels}
    before = [recipe for recipe in recipes if recipe and recipe.cleaning.when == "before" and recipe.cleaning.scope]
    pairs = (
        (format_label(recipe), format_label(replace(recipe, cleaning=replace(recipe.cleaning, when="after"))))
        for recipe in before
    )
    return tuple(sorted(pairs))


def _labels(pair: tuple[str, str], known: Container[str]) -> tuple[str, str]:
    """Labels in their one spelling; those of imported results, which are none of ours, as they are stored."""
    a, b = (label if label in known else normalise_label(label) for label in pair)
    if a == b:
        raise UsageError(f"{pair[0]!r} and {pair[1]!r} are one label ({a}): name two")
    return a, b


def _row(grids: EqualGrids, labels: tuple[str, str], floor: float, cosines: Cosines) -> ComparisonRow:
    stratum = grids.stratum
    a, b = (stratum.best(label, floor) for label in labels)
    difference = better = same = None
    warnings = (grids.words,) if grids.words else ()
    if a and b and a.delta is not None and b.delta is not None:
        same = why_one(stratum.side(labels[0], a), stratum.side(labels[1], b), cosines)
        if not grids.is_refused:
            difference = round(a.delta - b.delta, 6)
            is_second = (difference < 0) != (stratum.direction == "negative")
            better = labels[is_second] if difference and not same else None
            warnings = (*warnings, *_warnings(labels, a, b, as_floor(floor), is_same=bool(same)))
    return ComparisonRow(
        **stratum.fields(),
        label_a=labels[0],
        label_b=labels[1],
        status_a=stratum.status(labels[0], floor),
        status_b=stratum.status(labels[1], floor),
        best_a=a,
        best_b=b,
        difference=difference,
        better=better,
        same_vector=same,
        warnings=warnings,
    )


def _tested(
    row: ComparisonRow, stratum: ComparableGroups, whole: ComparableGroups, answers: Answers, beliefs: Beliefs
) -> ComparisonRow:
    """The row with what a test by question and a look at like coherence say."""
    best_a, best_b, scores = row.best_a, row.best_b, answers.scores
    # one vector against itself: what differs is noise by nature
    if scores is None or row.same_vector or best_a is None or best_b is None or row.difference is None:
        return row
    a, b = stratum.slices[row.label_a], stratum.slices[row.label_b]
    deltas_a, deltas_b = scores.deltas(a, [best_a.run_id]), scores.deltas(b, [best_b.run_id])
    if deltas_a is None or deltas_b is None:
        return row
    sign = -1 if stratum.direction == "negative" else 1
    luck = sign * (beliefs.luck(a, best_a) - beliefs.luck(b, best_b))
    differences = sign * (deltas_a[0] - deltas_b[0])
    test = paired_test(differences, luck=luck)
    if test is None:
        return row
    row = replace(
        row,
        n_questions=test.n_questions,
        difference_expected=test.expected,
        difference_low=test.low,
        difference_high=test.high,
        p_value=test.p_value,
    )
    gaps = scores.coherences([best_a.run_id, best_b.run_id])
    if gaps is None or not is_more_than_noise(gaps[0] - gaps[1]):
        return row
    baseline = answers.baselines.get(a.sample.baseline_key or "")
    floor = as_floor(scores.floor)
    at_zero = floor.measure_of(baseline.row) if baseline else None
    along = (whole.slices[label].points for label in (row.label_a, row.label_b))
    expected = beliefs.expected(row.label_a) | beliefs.expected(row.label_b)
    matched = at_matched_coherence(
        best_a, next(along), best_b, next(along), at_zero=at_zero, floor=floor, expected=expected
    )
    if matched is None:
        return row
    matched_at = matched.coherence if floor.is_coherence else floor.value_at(matched.coherence)
    told = _matched_fields(matched, differences, gaps[0] - gaps[1])
    return replace(row, **told | {"matched_coherence": matched_at})


def _matched_fields(matched: Matched, differences: Numbers, gaps: Numbers) -> dict[str, Any]:
    """The difference at like coherence, and its interval."""
    difference = matched.delta_a - matched.delta_b
    noise = differences - matched.slope * gaps
    noise = noise[~np.isnan(noise)]
    reach = (matched.noise * (limit - noise.mean()) for limit in mean_interval(noise))
    low, high = (max(-LARGEST, min(LARGEST, difference + limit)) for limit in reach)
    return {"matched_difference": round(difference, 6), "matched_low": float(low), "matched_high": float(high)}


def _warnings(labels: Sequence[str], a: Point, b: Point, floor: Floor, *, is_same: bool) -> Iterator[str]:
    if None not in (a.layer, b.layer) and a.layer != b.layer:
        yield f"the bests lie at different layers: {a.layer} and {b.layer}"
    of_a, of_b = (floor.value_of(point) for point in (a, b))
    if of_a is not None and of_b is not None:
        gap, shown = abs(floor.measure(of_a) - floor.measure(of_b)), "{:.1f}" if floor.is_coherence else "{:.3g}"
        if gap > COHERENCE_WARNING_POINTS:
            points = f" by {gap:.1f} points" if floor.is_coherence else ""
            yield f"{floor.metric} differs{points}: {shown.format(of_a)} and {shown.format(of_b)}"
    for label, best in zip(labels, (a, b), strict=True):
        if best.same_as is not None and not is_same:
            yield f"{label} was not evaluated there itself: the result is that of {taken_over_words(best)}"
