"""The answers in short: sentences made from the statistics, which say "tied" and "cannot say" where it is so."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from massact.domain import RANDOM
from massact.labels import format_label, parse_label
from massact.query import Point
from massact.query.questions.compare import ComparisonRow
from massact.query.rows import TABLE_WIDTH
from massact.report.before_after import Outcome, comparison_outcome, comparison_verdict, comparisons
from massact.report.checks import Criterion, top2_shape
from massact.report.coefficients import spreads
from massact.report.curve import Curve, CurveKind, cleaning_curves
from massact.report.evidence import TOY_BANNER, Evidence, Place, listed, once, place_of
from massact.report.section import interval, result, where
from massact.words import counted

UNKNOWN = "cannot say, nothing was evaluated that could tell."
_UNTOLD = "which labels are tied with it cannot be said, the store lacks their scores by question"


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """One question of the plan and what the store says to it."""

    question: str
    verdict: str  # the answer in a sentence
    lines: tuple[str, ...] = ()  # what it rests on, place by place


MOST_LINES = 8  # of an answer in a terminal


def brief(report_of: Evidence, answers: Sequence[ShortAnswer], checks: Sequence[Criterion]) -> str:
    """What was found, for a screen of a terminal: what leads where, an answer a line, and which checks hold."""
    held = [check for check in checks if check.ok]
    lines = [
        f"{report_of.experiment.name}, {report_of.floor.name}",
        *([TOY_BANNER] if report_of.facts.toy else []),
        *(limited(list(leads(report_of)), "massact best") or [answers[0].verdict]),
        *(answer.verdict for answer in answers[1:]),
        f"Criteria and sanity checks: {len(held)} of {len(checks)} hold.",
        *limited([f"{check.verdict}: {check.text}: {check.reason}" for check in checks if not check.ok], "-v"),
    ]
    return wrapped(lines)


def limited(lines: Sequence[str], rest: str) -> list[str]:
    """As many as a screen has room for, and what shows the others."""
    n_left = len(lines) - MOST_LINES
    return [f"- {line}" for line in lines[:MOST_LINES]] + ([f"- {n_left} more: {rest}"] if n_left > 0 else [])


def wrapped(lines: Iterable[str]) -> str:
    """Lines for a terminal: without the marks of code, and no wider than a table."""
    plain = (line.replace("`", "") for line in lines)
    return "\n".join(fill(line, TABLE_WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in plain)


@once
def answers_in_short(evidence: Evidence) -> tuple[ShortAnswer, ...]:
    return (which_label(evidence), before_or_after(evidence), drop_off(evidence), predictable(evidence))


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
            f"{picked}, so it is biased upward; without scores by question, as of imported means, no interval, tie or "
            "test can be known: a lead of a few points is no finding."
        )
    return (
        f"{picked}: deltas are biased upward, the 95 % intervals allow for the picking, and neither tells anything of "
        "another judge, prompt or model."
    )


def _range(values: Sequence[int]) -> str:
    return " to ".join(map(str, dict.fromkeys((min(values), max(values))))) if values else ""


def _counted_words(entries: Sequence[tuple[str, str]], noun: str, words: Mapping[str, str]) -> str:
    """How many of the entries are of each kind, in a sentence. `words`: by kind, `{}` for `3 of 6 places`."""
    counts = Counter(kind for kind, _ in entries)
    total = counted(len(entries), noun)
    said = "; ".join(text.format(f"{counts[kind]} of {total}") for kind, text in words.items() if counts[kind])
    return f"{said[0].upper()}{said[1:]}." if said else f"{noun.capitalize()}s: {UNKNOWN}"


def which_label(evidence: Evidence) -> ShortAnswer:
    """Which label is ahead at each place; with the plan's own comparison, of the uncleaned probe and mean_diff."""
    uncleaned = {place_of(row): row for row in evidence.compare(pairs=(("probe", "mean_diff"),))}
    entries = [_winner(evidence, place, uncleaned.get(place)) for place in evidence.places()]
    words = {
        "alone": "at {} one label is ahead of all others",
        "tied": "at {} several labels are tied, and no single best can be named",
        "only": "at {} only one label has a result",
        "untold": "at {} the largest delta is known, but not what is tied with it",
        "none": "at {} it cannot be said what moves the trait most",
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
        why = f"nothing reaches {evidence.floor.reach}" if is_run else "nothing was evaluated"
        return "none", f"{name}: cannot say, {why}."
    kind, first, tied, behind = _standing(evidence, place, bests)
    rest = _RESTS[kind]
    if tied:
        is_random_behind = evidence.standings(place).get(RANDOM) == "behind"
        but = f" but `{RANDOM}`" if is_random_behind else ""
        every = f"all {counted(len(tied), 'other label')}{but}" if len(tied) > 9 and not behind else _code(tied)
        rest = f"; tied with it: {every}{f'; behind: {_code(behind)}' if behind else ''}"
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


_RESTS = {"alone": ", ahead of every other label", "tied": "", "only": "", "untold": f"; {_UNTOLD}"}


def leads(evidence: Evidence) -> Iterator[str]:
    """What leads at each place that was answered, a line each."""
    for place in evidence.run_places:
        bests = evidence.bests(place)
        if not bests:
            yield f"{evidence.name(place)}: nothing reaches {evidence.floor.reach}"
            continue
        kind, first, tied, behind = _standing(evidence, place, bests)
        best = evidence.whole[place].best(first, evidence.floor) or bests[first]
        n_others = counted(len(tied) + len(behind), "other label")
        how = {
            "alone": f"is ahead of {n_others}",
            "tied": f"leads, tied with {f'{len(tied)} of ' if behind else 'all ' if len(tied) > 1 else ''}{n_others}",
            "only": "is the only label with a result",
            "untold": "has the largest delta; no scores by question, so that ties are unknown",
        }[kind]
        yield f"{evidence.name(place)}: {first} {how}, {result(best)} ({where(best)})"


def _standing(
    evidence: Evidence, place: Place, bests: Mapping[str, Point]
) -> tuple[str, str, Sequence[str], Sequence[str]]:
    """What kind of answer there is, the label that it names, and those that are tied with it and behind it."""
    first = evidence.top(place, bests)
    standing = evidence.standings(place)
    if len(bests) == 1 or not standing:
        return "only" if len(bests) == 1 else "untold", first, (), ()
    winner = next(label for label, stands in standing.items() if stands == "winner")
    tied = [label for label, stands in standing.items() if stands == "tied"]
    # that a random direction is behind goes without saying
    behind = [label for label, stands in standing.items() if stands == "behind" and label != RANDOM]
    return "tied" if tied else "alone", winner, tied, behind


def _told(evidence: Evidence, place: Place, label: str, best: Point) -> str:
    """`label`, +93.1 @ 97 (layer 2, 10; 95 %: +90.2 to +95.0; 10 questions)."""
    span = interval(evidence, place, label)
    facts = (where(best), f"95 %: {span}" if span else "no interval", counted(best.n_scored, "question"))
    return f"`{label}`, {result(best)} ({'; '.join(facts)})"


def before_or_after(evidence: Evidence) -> ShortAnswer:
    rows = comparisons(evidence)
    outcomes = [comparison_outcome(row) for row in rows]
    words: dict[Outcome, str] = {
        "same": "one vector either way",
        "a": "ahead when cleaned before",
        "b": "ahead when cleaned after",
        "tied": "without a significant difference",
        "untested": "with a difference that could not be tested",
        "unknown": "not comparable yet",
    }
    parts = [f"{outcomes.count(kind)} {said}" for kind, said in words.items() if kind in outcomes]
    pairs = f"Of {counted(len(rows), 'pair')} cleaned before and after"
    verdict = f"{pairs}: {', '.join(parts)}." if rows else f"Cleaning before against after: {UNKNOWN}"
    lines = []
    for row, outcome in zip(rows, outcomes, strict=True):
        warned = f" Unlike: {'; '.join(row.warnings)}." if row.warnings and outcome != "same" else ""
        pair = f"`{row.label_a}` against `{row.label_b}` on {evidence.name(place_of(row))}"
        lines.append(f"{pair}: {comparison_verdict(row)}.{warned}")
    return ShortAnswer("Does cleaning before extraction differ from after?", verdict, tuple(lines))


def drop_off(evidence: Evidence) -> ShortAnswer:
    part = evidence.of_phase("phase3") if evidence.declares("phase3") else evidence
    entries = [_shape(curve, kind) for curve in cleaning_curves(part) for kind in curve.lines]
    words = {
        "helps": "on {} cleaning is ahead of not cleaning",
        "no gain": "on {} cleaning gains nothing that can be told from noise",
        "cannot say": "on {} it cannot be said whether cleaning helps",
    }
    question = "Where does the benefit of cleaning drop off?"
    return ShortAnswer(question, _counted_words(entries, "cleaning curve", words), tuple(line for _, line in entries))


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


def predictable(evidence: Evidence) -> ShortAnswer:
    every = [s for s in spreads(evidence) if s.by_strength is not None and s.by_coefficient is not None]
    question = "Can the best coefficient be predicted?"
    if not every:
        why = "too few groups have an effect." if evidence.strata else "nothing was evaluated."
        return ShortAnswer(question, f"Whether the best coefficient can be predicted: cannot say, {why}")
    last = every[-1]
    lines = (
        f"{spread.name}: over {counted(spread.n_groups, 'group')} with an effect, the best coefficients scatter by a "
        f"factor of {spread.by_coefficient:.2f}, their relative strengths by {spread.by_strength:.2f} around "
        f"{spread.strength:.2f}."
        for spread in every
    )
    verdict = (
        f"One relative strength ({last.strength or 0:.2f}) for every label of {last.name} misses the best coefficient "
        f"by a factor of {last.by_strength:.2f}, one coefficient by {last.by_coefficient:.2f}, as fitted to "
        f"{counted(last.n_groups, 'group')}; `massact predict` tests it on others."
    )
    return ShortAnswer(question, verdict, tuple(lines))


def _code(labels: Sequence[str]) -> str:
    return listed([f"`{label}`" for label in labels], limit=9)
