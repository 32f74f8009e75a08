"""The answers in short: sentences made from the numbers, which say "tied" and "cannot say" where it is so."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from massact.labels import format_label, parse_label
from massact.query import Point
from massact.report.coefficient_tables import current_ratios, spreads
from massact.report.comparisons import comparison_verdict, comparisons, same_vector
from massact.report.contents import TIE_POINTS, Evidence, Place, counted, listed, place_of
from massact.report.criteria import top2_shape
from massact.report.curves import cleaning_curves
from massact.report.result_tables import RANDOM
from massact.report.table import result, where

NEAR_POINTS = 2.0
"""Labels whose delta lies so close to the largest are named beside it."""


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """One question of the plan and what the store says to it."""

    question: str
    lines: tuple[str, ...]


def answers_in_short(evidence: Evidence) -> tuple[ShortAnswer, ...]:
    """The plan's questions, each answered or "cannot say"."""
    return (
        ShortAnswer("Which label moves the trait most at the floor?", _lines(_winners(evidence))),
        ShortAnswer("Does cleaning before extraction differ from after?", _lines(_before_after(evidence))),
        ShortAnswer("Where does the benefit of cleaning drop off?", _lines(_curves(evidence))),
        ShortAnswer("Can the best coefficient be predicted?", _lines(_coefficients(evidence))),
    )


def caveat(evidence: Evidence) -> str:
    """What every number of the report suffers from, with this store's own counts."""
    rows = evidence.answers.evaluations.samples.values()
    questions = _span([row.n_questions for row in rows if row.n_questions is not None])
    cells = _span([len(p.points) for stratum in evidence.strata.values() for p in stratum.slices.values()])
    basis = (
        f" Here a best is picked from {cells} evaluations of {questions} questions each."
        if questions and cells
        else ""
    )
    return (
        "No difference below carries an interval yet, so a lead of a few points is no finding. A best is the "
        f"largest of several noisy results, so it is biased upward.{basis}"
    )


def _lines(lines: Iterator[str]) -> tuple[str, ...]:
    return tuple(lines) or ("cannot say: nothing was evaluated that could tell.",)


def _span(values: list[int]) -> str:
    if not values:
        return ""
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _winners(evidence: Evidence) -> Iterator[str]:
    for place in evidence.places():
        found = {label: evidence.best(place, label) for label in evidence.labels(place) if label != RANDOM}
        bests = {label: best for label, best in found.items() if best is not None and best.delta is not None}
        if not bests:
            is_run = any(evidence.status(place, label) != "missing" for label in found)
            why = f"nothing reaches coherence {evidence.floor:g}" if is_run else "nothing was evaluated"
            yield f"{evidence.name(place)}: cannot say, {why}."
            continue
        n_missing = len(found) - len(bests)
        lack = f" {counted(n_missing, 'label')} without a result." if n_missing else ""
        uncleaned = _probe_or_mean_diff(evidence, place)
        yield f"{evidence.name(place)}: {_winner(evidence, place, bests)}{uncleaned}{lack}"


def _winner(evidence: Evidence, place: Place, bests: dict[str, Point]) -> str:
    gains = {label: evidence.gain(place, best.delta or 0.0) for label, best in bests.items()}
    most = max(gains.values())
    tied = [label for label in bests if most - gains[label] < TIE_POINTS]
    near = [label for label in bests if TIE_POINTS <= most - gains[label] <= NEAR_POINTS]
    best = bests[tied[0]]
    n_others = len(bests) - len(tied)
    who = f"all {counted(n_others, 'other label')}" if len(near) == n_others > 1 else _code(near)
    close = f"; within {NEAR_POINTS:g} points of it: {who}" if near else ""
    if len(tied) > 1:
        return f"{_code(tied)} are tied at {best.delta:+.1f}{close}."
    return f"`{tied[0]}`, {result(best)} ({where(best)}){close}."


def _probe_or_mean_diff(evidence: Evidence, place: Place) -> str:
    """The plan's own comparison of the uncleaned two, where it is not told by the winner already."""
    probe, mean_diff = evidence.best(place, "probe"), evidence.best(place, "mean_diff")
    if probe is None or mean_diff is None or probe.delta is None or mean_diff.delta is None:
        return ""
    lead = evidence.gain(place, probe.delta) - evidence.gain(place, mean_diff.delta)
    if abs(lead) < TIE_POINTS:
        return f" Uncleaned, probe and mean_diff are tied at {probe.delta:+.1f}."
    close = f", within {NEAR_POINTS:g} points of each other" if abs(lead) <= NEAR_POINTS else ""
    pair = [("probe", probe), ("mean_diff", mean_diff)]
    (first, a), (second, b) = pair if lead > 0 else pair[::-1]
    return f" Uncleaned, {first} has {result(a)} and {second} {result(b)}{close}."


def _before_after(evidence: Evidence) -> Iterator[str]:
    for row in comparisons(evidence):
        warned = (
            f" Unlike: {'; '.join(row.warnings)}." if row.warnings and not same_vector(evidence, row) else ""
        )
        place = evidence.name(place_of(row))
        yield f"`{row.label_a}` against `{row.label_b}` on {place}: {comparison_verdict(evidence, row)}.{warned}"


def _curves(evidence: Evidence) -> Iterator[str]:
    part = evidence.of_phase("phase3") if evidence.declares("phase3") else evidence
    for curve in cleaning_curves(part):
        for kind, rows in curve.lines.items():
            bests = {row.label: row.best for row in rows if row.best and row.best.delta is not None}
            lacking = [row.label for row in rows if row.label not in bests]
            head = f"{kind.name} on {evidence.name(curve.place)}"
            if len(bests) < 2:
                yield f"{head}: cannot say, {_code(lacking)} without a result at the floor."
                continue
            uniform_after = kind.when == "after" and kind.scope == "uniform"
            shape = top2_shape(part, curve.place, kind.method) if uniform_after else None
            missing = f" No result: {_code(lacking)}." if lacking else ""
            yield f"{head}: {_shape(part, curve.place, bests)}{f' {shape}.' if shape else ''}{missing}"


def _shape(evidence: Evidence, place: Place, bests: dict[str, Point]) -> str:
    gains = {label: evidence.gain(place, best.delta or 0.0) for label, best in bests.items()}
    most = max(gains.values())
    tops = [label for label in bests if most - gains[label] < TIE_POINTS]
    top = f"{_code(tops)} tied at" if len(tops) > 1 else f"most with `{tops[0]}`,"
    plain = format_label(parse_label(tops[0]).uncleaned)
    if plain not in bests:
        against = f"; `{plain}` lacks a result to compare with"
    elif plain in tops:
        against = ""
    else:
        against = f", uncleaned {bests[plain].delta:+.1f}"
    return f"{top} {bests[tops[0]].delta:+.1f}{against}."


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


def _code(labels: list[str]) -> str:
    return listed([f"`{label}`" for label in labels], limit=6)
