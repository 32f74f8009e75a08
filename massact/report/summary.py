"""The answers in short: sentences made from the statistics, which say "tied" and "cannot say" where it is so."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from massact.labels import format_label, parse_label
from massact.query import ComparisonRow, Point
from massact.report.checks import top2_shape
from massact.report.coefficient_tables import current_ratios, spreads
from massact.report.comparisons import (
    Curve,
    CurveKind,
    Outcome,
    cleaning_curves,
    comparison_outcome,
    comparison_verdict,
    comparisons,
    uncleaned_comparisons,
)
from massact.report.evidence import Evidence, Place, counted, listed, place_of
from massact.report.result_tables import RANDOM
from massact.report.table import believed, result, where

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
    """The plan's questions, each answered or "cannot say"."""
    return (
        _which_label(evidence),
        _before_or_after(evidence),
        _drop_off(evidence),
        _predictable(evidence),
    )


def caveat(evidence: Evidence) -> str:
    """What every number of the report suffers from, with this store's own counts."""
    rows = evidence.answers.evaluations.samples.values()
    questions = _span([row.n_questions for row in rows if row.n_questions is not None])
    cells = _span([len(p.points) for stratum in evidence.strata.values() for p in stratum.slices.values()])
    picked = (
        f"Each best was picked from {cells} evaluations of {questions} questions each"
        if questions and cells
        else "A best is the largest of several noisy results"
    )
    if not evidence.has_intervals:
        return (
            f"{picked}, so it is biased upward, and nothing here carries an interval: a lead of a few points "
            "is no finding."
        )
    return (
        f"{picked}; the 95 % intervals allow for the picking, the deltas themselves are biased upward. They tell what "
        "other questions of the same kind would give, and nothing of another judge, prompt or model."
    )


def _span(values: Sequence[int]) -> str:
    if not values:
        return ""
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _which_label(evidence: Evidence) -> ShortAnswer:
    uncleaned = uncleaned_comparisons(evidence)
    found = [_winner(evidence, place, uncleaned.get(place)) for place in evidence.places()]
    counts = Counter(kind for kind, _ in found)
    parts = []
    if counts["alone"]:
        parts.append(f"At {_places(counts['alone'], len(found))} one label is ahead of all others.")
    if counts["tied"]:
        parts.append(
            f"At {_places(counts['tied'], len(found))} several labels are tied: no single best can be named there."
        )
    if counts["only"]:
        parts.append(f"At {_places(counts['only'], len(found))} only one label has a result.")
    if counts["untold"]:
        parts.append(
            f"At {_places(counts['untold'], len(found))} the largest delta is known, but not what is tied with it."
        )
    if counts["none"]:
        parts.append(f"At {_places(counts['none'], len(found))} it cannot be said.")
    lines = tuple(line for _, line in found)
    return ShortAnswer(
        "Which label moves the trait most at the floor?", " ".join(parts) or _NOT_EVALUATED, lines
    )


def _places(count: int, total: int) -> str:
    return f"{count} of {counted(total, 'place')}"


def _winner(evidence: Evidence, place: Place, plain: ComparisonRow | None) -> tuple[str, str]:
    """What kind of answer there is at a place, and the answer."""
    name = evidence.name(place)
    found = {label: evidence.best(place, label) for label in evidence.labels(place) if label != RANDOM}
    bests = {label: best for label, best in found.items() if best is not None and best.delta is not None}
    if not bests:
        is_run = any(evidence.status(place, label) != "missing" for label in found)
        why = f"nothing reaches coherence {evidence.floor:g}" if is_run else "nothing was evaluated"
        return "none", f"{name}: cannot say, {why}."
    first = max(bests, key=lambda label: evidence.gain(place, bests[label].delta or 0.0))
    standing = evidence.standings(place)
    kind = "untold" if len(bests) > 1 else "only"
    rest = f"; {_UNTOLD}" if len(bests) > 1 else ""
    if standing and len(bests) > 1:
        first = next(label for label, one in standing.items() if one == "winner")
        tied, behind = (
            [label for label, one in standing.items() if one == wanted] for wanted in ("tied", "behind")
        )
        kind = "tied" if tied else "alone"
        # that a random direction is behind goes without saying
        told = [label for label in behind if label != RANDOM]
        but = f" but `{RANDOM}`" if RANDOM in behind else ""
        everyone = (
            f"all {counted(len(tied), 'other label')}{but}" if len(tied) > 9 and not told else _code(tied)
        )
        rest = f"; tied with it: {everyone}" if tied else ", ahead of every other label"
        rest += f"; behind: {_code(told)}" if tied and told else ""
    n_missing = len(found) - len(bests)
    lack = f" {counted(n_missing, 'label')} without a result." if n_missing else ""
    uncleaned = ""
    if plain is not None and plain.best_a and plain.best_b:  # the plan's own comparison
        said = comparison_verdict(plain, ("probe", "mean_diff"))
        uncleaned = f" Uncleaned, probe against mean_diff: {said}."
    best = evidence.whole[place].best(first, evidence.floor) or bests[first]
    end = (
        " That best lies at the end of its grid: a better one may lie beyond it." if best.at_grid_end else ""
    )
    return kind, f"{name}: {_told(evidence, place, first, best)}{rest}.{end}{uncleaned}{lack}"


def _told(evidence: Evidence, place: Place, label: str, best: Point) -> str:
    """`label`, +93.1 @ 97 (layer 2, 10; 95 %: +90.2 to +95.0; 10 questions)."""
    interval = believed(evidence.belief(place, label))
    facts = [where(best), f"95 %: {interval}" if interval else "no interval"]
    facts.append(counted(best.n_scored, "question"))
    return f"`{label}`, {result(best)} ({'; '.join(facts)})"


def _before_or_after(evidence: Evidence) -> ShortAnswer:
    rows = comparisons(evidence)
    counts = Counter(comparison_outcome(row) for row in rows)
    words: dict[Outcome, str] = {
        "same": "one vector before and after, nothing to compare",
        "a": "ahead when cleaned before",
        "b": "ahead when cleaned after",
        "tied": "that cannot be told apart",
        "untested": "with a difference that could not be tested",
        "unknown": "not comparable yet",
    }
    parts = [f"{counts[kind]} {said}" for kind, said in words.items() if counts[kind]]
    verdict = f"Of {counted(len(rows), 'pair')}: {'; '.join(parts)}." if rows else _NOT_EVALUATED
    lines = []
    for row in rows:
        is_unlike = row.warnings and comparison_outcome(row) != "same"
        warned = f" Unlike: {'; '.join(row.warnings)}." if is_unlike else ""
        place = evidence.name(place_of(row))
        said = comparison_verdict(row)
        lines.append(f"`{row.label_a}` against `{row.label_b}` on {place}: {said}.{warned}")
    return ShortAnswer("Does cleaning before extraction differ from after?", verdict, tuple(lines))


def _drop_off(evidence: Evidence) -> ShortAnswer:
    part = evidence.of_phase("phase3") if evidence.declares("phase3") else evidence
    found = [_shape(part, curve, kind) for curve in cleaning_curves(part) for kind in curve.lines]
    counts = Counter(kind for kind, _ in found)
    parts = []
    if counts["helps"]:
        parts.append(
            f"On {counts['helps']} of {counted(len(found), 'curve')} cleaning is ahead of not cleaning."
        )
    if counts["no gain"]:
        parts.append(
            f"On {counts['no gain']} of {counted(len(found), 'curve')} the uncleaned vector has the largest delta or "
            "is tied with it: cleaning buys nothing that can be told from noise there."
        )
    if counts["cannot say"]:
        parts.append(f"On {counts['cannot say']} of {counted(len(found), 'curve')} it cannot be said.")
    lines = tuple(line for _, line in found)
    question = "Where does the benefit of cleaning drop off?"
    return ShortAnswer(question, " ".join(parts) or _NOT_EVALUATED, lines)


def _shape(evidence: Evidence, curve: Curve, kind: CurveKind) -> tuple[str, str]:
    """Whether cleaning helps on one line of a curve, and which steps can be told from its best."""
    place, rows = curve.place, curve.lines[kind]
    bests = {row.label: row.best for row in rows if row.best and row.best.delta is not None}
    steps = {row.label: str(row.n_dims) for row in rows}
    lacking = [row.label for row in rows if row.label not in bests]
    head = f"{kind.name} on {evidence.name(place)}"
    if len(bests) < 2:
        return "cannot say", f"{head}: cannot say, {_code(lacking)} without a result at the floor."
    missing = f" No result: {_code(lacking)}." if lacking else ""
    is_plain = kind.when == "after" and kind.scope == "uniform"
    shape = top2_shape(evidence, place, kind.method) if is_plain else None
    said_of_top2 = f"; {shape}" if shape else ""
    standing = evidence.standings(place, bests)
    first = max(bests, key=lambda label: evidence.gain(place, bests[label].delta or 0.0))
    if not standing:
        most = _told(evidence, place, first, bests[first])
        return "cannot say", f"{head}: most with {most}; {_UNTOLD}{said_of_top2}.{missing}"
    first = next(label for label, one in standing.items() if one == "winner")
    most = _told(evidence, place, first, bests[first])
    level = [label for label in bests if standing[label] != "behind"]
    behind = [label for label in bests if standing[label] == "behind"]
    tied = [steps[label] for label in level if label != first]
    said = f"; tied with it: {listed(tied, limit=9)} dims" if tied else ", ahead of every other step"
    said += f"; behind: {listed([steps[label] for label in behind], limit=9)} dims" if tied and behind else ""
    plain = format_label(parse_label(first).uncleaned)
    if plain not in bests:
        return (
            "cannot say",
            f"{head}: most with {most}{said}; `{plain}` lacks a result to compare with{said_of_top2}.{missing}",
        )
    kind_of = "helps" if plain in behind else "no gain"
    return kind_of, f"{head}: most with {most}{said}{said_of_top2}.{missing}"


def _predictable(evidence: Evidence) -> ShortAnswer:
    lines = tuple(_coefficients(evidence))
    every = [s for s in spreads(evidence) if s.by_strength is not None and s.by_coefficient is not None]
    question = "Can the best coefficient be predicted?"
    if not every:
        verdict = (
            f"Cannot say: {'too few groups have an effect.' if evidence.strata else 'nothing was evaluated.'}"
        )
        return ShortAnswer(question, verdict, lines)
    last = every[-1]
    verdict = (
        f"Starting every label of {last.model} at one relative strength ({last.strength or 0:.2f}) is off by a factor "
        f"of {last.by_strength:.2f}, at one coefficient by {last.by_coefficient:.2f} (one standard deviation, "
        f"{counted(last.n_groups, 'group')} with an effect). This is a fit to these bests, not a test on others: "
        f"{evidence.command('predict')} tests it on models and traits that were left out."
    )
    return ShortAnswer(question, verdict, lines)


def _coefficients(evidence: Evidence) -> Iterator[str]:
    ratios, _ = current_ratios(evidence)
    for model in evidence.experiment.models:
        here = [row.ratio for row in ratios if row.model == model.name]
        if here:
            span = f"{min(here):.2f} to {max(here):.2f}, " if len(here) > 1 else ""
            yield (
                f"{model.name}: mean_diff takes {statistics.median(here):.2f} times probe's coefficient "
                f"({span}{counted(len(here), 'place')})."
            )
        elif evidence.strata:
            yield f"{model.name}: cannot say how mean_diff's coefficient relates to probe's."
    for spread in spreads(evidence):
        if spread.by_strength is not None and spread.by_coefficient is not None:
            yield (
                f"{spread.model}: over {counted(spread.n_groups, 'group')} with an effect, the best "
                f"coefficients scatter by a factor of {spread.by_coefficient:.2f}, their "
                f"relative strengths by {spread.by_strength:.2f} around {spread.strength:.2f}."
            )


def _code(labels: Sequence[str]) -> str:
    return listed([f"`{label}`" for label in labels], limit=9)
