"""The answers in short: sentences made from the statistics, which say "tied" and "cannot say" where it is so."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from massact.domain import RANDOM
from massact.labels import format_label, parse_label
from massact.query import Point
from massact.query.questions.compare import ComparisonRow
from massact.report.before_after import Outcome, comparison_outcome, comparison_verdict, comparisons
from massact.report.checks import top2_shape
from massact.report.coefficients import current_ratios, spreads
from massact.report.curve import Curve, CurveKind, cleaning_curves
from massact.report.evidence import Evidence, Place, counted, listed, place_of
from massact.report.section import interval, result, where

_NOT_EVALUATED = "Cannot say: nothing was evaluated that could tell."
_UNTOLD = "which labels are tied with it cannot be said, the store lacks their scores by question"


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """One question of the plan and what the store says to it."""

    question: str
    verdict: str
    """The answer in a sentence or two."""
    lines: tuple[str, ...] = ()
    """What it rests on, place by place."""


def answers_in_short(evidence: Evidence) -> tuple[ShortAnswer, ...]:
    return (_which_label(evidence), _before_or_after(evidence), _drop_off(evidence), _predictable(evidence))


def caveat(evidence: Evidence) -> str:
    """What every number of the report suffers from, with this store's own counts."""
    rows = evidence.answers.evaluations.samples.values()
    questions = _range([row.n_questions for row in rows if row.n_questions is not None])
    cells = _range([len(p.points) for stratum in evidence.strata.values() for p in stratum.slices.values()])
    picked = "A best is the largest of several noisy results"
    if questions and cells:
        picked = f"Each best was picked from {cells} evaluations of {questions} questions each"
    if not evidence.has_intervals:
        return (
            f"{picked}, so it is biased upward, and nothing here carries an interval: a lead of a few points "
            "is no finding."
        )
    return (
        f"{picked}; the 95 % intervals allow for the picking, the deltas themselves are biased upward. They tell what "
        "other questions of the same kind would give, and nothing of another judge, prompt or model."
    )


def _range(values: Sequence[int]) -> str:
    return " to ".join(map(str, dict.fromkeys((min(values), max(values))))) if values else ""


def _counted_words(entries: Sequence[tuple[str, str]], noun: str, words: Mapping[str, str]) -> str:
    """How many of the entries are of each kind, a sentence a kind.

    Args:
        words: the sentence by kind, `{}` for `3 of 6 places`.
    """
    counts = Counter(kind for kind, _ in entries)
    total = counted(len(entries), noun)
    parts = (text.format(f"{counts[kind]} of {total}") for kind, text in words.items() if counts[kind])
    return " ".join(parts) or _NOT_EVALUATED


def _which_label(evidence: Evidence) -> ShortAnswer:
    """Which label is ahead at each place; with the plan's own comparison, of the uncleaned probe and mean_diff."""
    uncleaned = {place_of(row): row for row in evidence.compare(pairs=(("probe", "mean_diff"),))}
    entries = [_winner(evidence, place, uncleaned.get(place)) for place in evidence.places()]
    words = {
        "alone": "At {} one label is ahead of all others.",
        "tied": "At {} several labels are tied: no single best can be named there.",
        "only": "At {} only one label has a result.",
        "untold": "At {} the largest delta is known, but not what is tied with it.",
        "none": "At {} it cannot be said.",
    }
    verdict = _counted_words(entries, "place", words)
    question = "Which label moves the trait most at the floor?"
    return ShortAnswer(question, verdict, tuple(line for _, line in entries))


def _winner(evidence: Evidence, place: Place, plain: ComparisonRow | None) -> tuple[str, str]:
    """What kind of answer there is at a place, and the answer."""
    name = evidence.name(place)
    labels = [label for label in evidence.labels(place) if label != RANDOM]
    bests = evidence.bests(place)
    if not bests:
        is_run = any(evidence.status(place, label) != "missing" for label in labels)
        why = f"nothing reaches coherence {evidence.floor:g}" if is_run else "nothing was evaluated"
        return "none", f"{name}: cannot say, {why}."
    kind, first, rest = _standing_words(evidence, place, bests)
    n_missing = len(labels) - len(bests)
    lack = f" {counted(n_missing, 'label')} without a result." if n_missing else ""
    uncleaned = ""
    if plain is not None and plain.best_a and plain.best_b:
        said = comparison_verdict(plain, ("probe", "mean_diff"))
        uncleaned = f" Uncleaned, probe against mean_diff: {said}."
    best = evidence.whole[place].best(first, evidence.floor) or bests[first]
    beyond = " That best lies at the end of its grid: a better one may lie beyond it."
    end = beyond if best.at_grid_end else ""
    return kind, f"{name}: {_told(evidence, place, first, best)}{rest}.{end}{uncleaned}{lack}"


def _standing_words(evidence: Evidence, place: Place, bests: Mapping[str, Point]) -> tuple[str, str, str]:
    """What kind of answer there is, the label that it names, and how the others stand to it."""
    first = evidence.top(place, bests)
    standing = evidence.standings(place)
    if len(bests) == 1:
        return "only", first, ""
    if not standing:
        return "untold", first, f"; {_UNTOLD}"
    winner = next(label for label, stands in standing.items() if stands == "winner")
    tied = [label for label, stands in standing.items() if stands == "tied"]
    # that a random direction is behind goes without saying
    behind = [label for label, stands in standing.items() if stands == "behind" and label != RANDOM]
    if not tied:
        return "alone", winner, ", ahead of every other label"
    everyone = _code(tied)
    if len(tied) > 9 and not behind:
        but = f" but `{RANDOM}`" if standing.get(RANDOM) == "behind" else ""
        everyone = f"all {counted(len(tied), 'other label')}{but}"
    rest = f"; behind: {_code(behind)}" if behind else ""
    return "tied", winner, f"; tied with it: {everyone}{rest}"


def _told(evidence: Evidence, place: Place, label: str, best: Point) -> str:
    """`label`, +93.1 @ 97 (layer 2, 10; 95 %: +90.2 to +95.0; 10 questions)."""
    span = interval(evidence, place, label)
    facts = (where(best), f"95 %: {span}" if span else "no interval", counted(best.n_scored, "question"))
    return f"`{label}`, {result(best)} ({'; '.join(facts)})"


def _before_or_after(evidence: Evidence) -> ShortAnswer:
    rows = comparisons(evidence)
    outcomes = [comparison_outcome(row) for row in rows]
    words: dict[Outcome, str] = {
        "same": "one vector before and after, nothing to compare",
        "a": "ahead when cleaned before",
        "b": "ahead when cleaned after",
        "tied": "without a significant difference",
        "untested": "with a difference that could not be tested",
        "unknown": "not comparable yet",
    }
    parts = [f"{outcomes.count(kind)} {said}" for kind, said in words.items() if kind in outcomes]
    verdict = f"Of {counted(len(rows), 'pair')}: {'; '.join(parts)}." if rows else _NOT_EVALUATED
    lines = []
    for row, outcome in zip(rows, outcomes, strict=True):
        warned = f" Unlike: {'; '.join(row.warnings)}." if row.warnings and outcome != "same" else ""
        pair = f"`{row.label_a}` against `{row.label_b}` on {evidence.name(place_of(row))}"
        lines.append(f"{pair}: {comparison_verdict(row)}.{warned}")
    return ShortAnswer("Does cleaning before extraction differ from after?", verdict, tuple(lines))


def _drop_off(evidence: Evidence) -> ShortAnswer:
    part = evidence.of_phase("phase3") if evidence.declares("phase3") else evidence
    entries = [_shape(curve, kind) for curve in cleaning_curves(part) for kind in curve.lines]
    words = {
        "helps": "On {} cleaning is ahead of not cleaning.",
        "no gain": "On {} the uncleaned vector has the largest delta or is tied with it: cleaning buys nothing that "
        "can be told from noise there.",
        "cannot say": "On {} it cannot be said.",
    }
    question = "Where does the benefit of cleaning drop off?"
    return ShortAnswer(question, _counted_words(entries, "curve", words), tuple(line for _, line in entries))


def _shape(curve: Curve, kind: CurveKind) -> tuple[str, str]:
    """Whether cleaning helps on one line of a curve, and which steps can be told from its best."""
    (evidence, grids), place, rows = curve.parts[kind], curve.place, curve.lines[kind]
    bests = {row.label: row.best for row in rows if row.best and row.best.delta is not None}
    lacking = [row.label for row in rows if row.label not in bests]
    head = f"{kind.name} on {evidence.name(place)}"
    if len(bests) < 2:
        return "cannot say", f"{head}: cannot say, {_code(lacking)} without a result at the floor."
    if grids.is_refused:
        return "cannot say", f"{head}: cannot say, the steps are {grids.words}."
    missing = f" No result: {_code(lacking)}." if lacking else ""
    is_plain = kind.when == "after" and kind.scope == "uniform"
    shape = top2_shape(evidence, place, kind.method) if is_plain else None
    said_of_top2 = f"; {shape}" if shape else ""
    standing = evidence.standings(place, bests)
    first = next((label for label, stands in standing.items() if stands == "winner"), evidence.top(place, bests))
    most = f"{head}: most with {_told(evidence, place, first, bests[first])}"
    if not standing:
        return "cannot say", f"{most}; {_UNTOLD}{said_of_top2}.{missing}"
    behind = [label for label in bests if standing[label] == "behind"]
    steps = {row.label: str(row.n_dims) for row in rows}
    tied = [steps[label] for label in bests if label not in behind and label != first]
    said = ", ahead of every other step"
    if tied:
        said = f"; tied with it: {listed(tied, limit=9)} dims"
        said += f"; behind: {listed([steps[label] for label in behind], limit=9)} dims" if behind else ""
    plain = format_label(parse_label(first).uncleaned)
    if plain not in bests:
        lacks = f"`{plain}` lacks a result to compare with"
        return "cannot say", f"{most}{said}; {lacks}{said_of_top2}.{missing}"
    return "helps" if plain in behind else "no gain", f"{most}{said}{said_of_top2}.{missing}"


def _predictable(evidence: Evidence) -> ShortAnswer:
    lines = tuple(_coefficients(evidence))
    every = [s for s in spreads(evidence) if s.by_strength is not None and s.by_coefficient is not None]
    question = "Can the best coefficient be predicted?"
    if not every:
        why = "too few groups have an effect." if evidence.strata else "nothing was evaluated."
        return ShortAnswer(question, f"Cannot say: {why}", lines)
    last = every[-1]
    verdict = (
        f"Starting every label of {last.name} at one relative strength ({last.strength or 0:.2f}) is off by a factor "
        f"of {last.by_strength:.2f}, at one coefficient by {last.by_coefficient:.2f} (one standard deviation, "
        f"{counted(last.n_groups, 'group')} with an effect). This is a fit to these bests, not a test on others: "
        f"{evidence.command('predict')} tests it on models and traits that were left out."
    )
    return ShortAnswer(question, verdict, lines)


def _coefficients(evidence: Evidence) -> Iterator[str]:
    ratios, _ = current_ratios(evidence)
    for model, trait in dict.fromkeys((place.model, place.trait) for place in evidence.places()):
        here = [row.ratio for row in ratios if (row.model, row.trait) == (model, trait)]
        name = f"{model}{evidence.of_trait(trait)}"
        if here:
            between = f"{min(here):.2f} to {max(here):.2f}, " if len(here) > 1 else ""
            yield (
                f"{name}: mean_diff takes {statistics.median(here):.2f} times probe's coefficient "
                f"({between}{counted(len(here), 'place')})."
            )
        elif evidence.strata:
            yield f"{name}: cannot say how mean_diff's coefficient relates to probe's."
    for spread in spreads(evidence):
        if spread.by_strength is not None and spread.by_coefficient is not None:
            yield (
                f"{spread.name}: over {counted(spread.n_groups, 'group')} with an effect, the best "
                f"coefficients scatter by a factor of {spread.by_coefficient:.2f}, their "
                f"relative strengths by {spread.by_strength:.2f} around {spread.strength:.2f}."
            )


def _code(labels: Sequence[str]) -> str:
    return listed([f"`{label}`" for label in labels], limit=9)
