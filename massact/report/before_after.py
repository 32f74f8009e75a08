"""Clean-before against clean-after: which is ahead, or why that cannot be said."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from massact.labels import format_label, format_steering, parse_label
from massact.query.questions.compare import ComparisonRow
from massact.report import style
from massact.report.evidence import TIE_POINTS, Evidence, Place, group_at, once, place_of
from massact.report.section import (
    MOST_PANELS,
    Cell,
    Row,
    Section,
    Table,
    bracketed,
    group_cell,
    key_places,
    number,
    rest_of,
    signed,
)
from massact.report.trade_off import some_words
from massact.words import counted

Outcome = Literal["same", "a", "b", "tied", "untested", "unknown"]
_SIGNIFICANT = 0.05  # a corrected p above it is chance
_LACKS = {"below_floor": "below the floor", "missing": "no scored evaluation"}
_BARS = (("uncleaned", style.QUIET), ("cleaned after", style.ORANGE), ("cleaned before", style.BLUE))


def before_after_section(evidence: Evidence) -> Section:
    text = (
        "Zeroing dims is linear: for mean_diff, before and after give the same direction, so a difference "
        "between the two would be noise and is not shown. A probe's weights depend on what it was trained on."
    )
    table = before_after_table(evidence)
    lack = () if table.rows else ("No clean-before label is declared or was evaluated.",)
    title = "Clean-before against clean-after"
    return Section("before-after", title, (text, *lack), (table,), figures=(BeforeAfter(evidence, MOST_PANELS),))


@once
def comparisons(evidence: Evidence) -> list[ComparisonRow]:
    """Clean-before against clean-after wherever clean-before is declared or was run."""
    declared = set(evidence.answers.groups)
    rows = [
        row
        for row in evidence.compare()
        if row.status_a != "missing" or group_at(place_of(row), row.label_a) in declared
    ]
    return evidence.in_order(rows)


def before_after_table(evidence: Evidence) -> Table:
    """Clean-before against clean-after; where the two are one vector it says so and gives no difference."""
    rows: list[Row] = [
        (
            evidence.name(place_of(row)),
            row.label_a,
            *(group_cell(part, place_of(row), label) for label, part in three_labels(evidence, row)),
            comparison_verdict(row),
            Cell("; ".join(row.warnings)),
        )
        for row in comparisons(evidence)
    ]
    headers = ("place", "label", "uncleaned", "clean after", "clean before", "verdict", "?beware")
    return Table.of("Clean-before against clean-after", headers, rows)


def comparison_outcome(row: ComparisonRow) -> Outcome:
    """What a comparison comes to; `a` and `b` are ahead by more than chance gives."""
    if row.same_vector:
        return "same"
    if row.difference is None:
        return "unknown"
    if row.difference_low is None or row.difference_high is None or row.p_corrected is None:
        return "tied" if abs(row.difference) < TIE_POINTS or row.better is None else "untested"
    if row.better is None or row.difference_low <= 0 <= row.difference_high or row.p_corrected > _SIGNIFICANT:
        return "tied"
    return "a" if row.better == row.label_a else "b"


def comparison_verdict(row: ComparisonRow, names: tuple[str, str] = ("before", "after")) -> str:
    """What a comparison says: one vector, tied, ahead by how much, or that it cannot say and why."""
    if row.same_vector:
        return row.same_vector
    if row.difference is None:
        return f"cannot say: {_lacking(row)}"
    if abs(row.difference) < TIE_POINTS or row.better is None:
        return "tied"
    ahead = f"{names[row.better != row.label_a]} ahead by {abs(row.difference):.1f}"
    if row.difference_low is None or row.difference_high is None or row.p_corrected is None:
        return f"{ahead} (not tested: no scores by question)"
    sign = 1 if row.difference > 0 else -1
    low, high = sorted((sign * row.difference_low, sign * row.difference_high))
    # an interval of one pair may leave out zero where the test, corrected for all pairs, is not significant
    doubt = "cannot be told apart: " if low <= 0 <= high else "not significant among all pairs: "
    lead = doubt if comparison_outcome(row) == "tied" else ""
    n = f", {counted(row.n_questions, 'question')}" if row.n_questions else ""
    return f"{lead}{ahead} (95 %: {low:.1f} to {high:.1f}, p {row.p_corrected:.2g}{n})"


def _lacking(row: ComparisonRow) -> str:
    pairs = ((row.label_a, row.status_a), (row.label_b, row.status_b))
    lacks = [f"{label} ({_LACKS.get(status, status)})" for label, status in pairs if status != "ok"]
    return f"no result of {' and '.join(lacks)}" if lacks else next(iter(row.warnings), "a delta is missing")


def three_labels(evidence: Evidence, row: ComparisonRow) -> tuple[tuple[str, Evidence], ...]:
    """Uncleaned, cleaned after and cleaned before: the labels, each with the evaluations that it is compared by."""
    plain, pair = format_label(parse_label(row.label_a).uncleaned), (row.label_b, row.label_a)
    beside, _ = evidence.on_equal_grids(place_of(row), (plain, *pair))
    part, _ = evidence.on_equal_grids(place_of(row), pair)
    return (plain, beside), *((label, part) for label in pair)


@dataclass(frozen=True)
class BeforeAfter:
    """Best delta uncleaned, cleaned after and cleaned before, a panel per place."""

    evidence: Evidence
    most: int | None = None
    name = "before-after"

    @cached_property
    def data(self) -> dict[Place, list[ComparisonRow]]:
        """The pairs of each place where one of the two has a result."""
        by_place: dict[Place, list[ComparisonRow]] = {}
        for row in comparisons(self.evidence):
            by_place.setdefault(place_of(row), []).append(row)
        return {place: rows for place, rows in by_place.items() if any(r.best_a or r.best_b for r in rows)}

    def draw(self) -> style.Drawing:
        shown = {place: self.data[place] for place in key_places(self.evidence, self.data, self.most)}
        titles = [self.evidence.name(place) for place in shown]
        figure, panels = style.panel_grid(titles, 3.4, "best delta at the floor")
        for axes, rows in zip(panels, shown.values(), strict=True):
            for index, row in enumerate(rows):
                self._bars(axes, row, index)
            axes.set_xticks(range(len(rows)), [_pair_name(row) for row in rows])
            axes.tick_params(axis="x", length=0)
            axes.grid(visible=False, axis="x")
            axes.axhline(0, color=style.INK, linewidth=0.8)
            axes.margins(y=0.18)
        square = {"marker": "s", "markersize": 9, "linestyle": ""}
        drawn = {
            name
            for rows in shown.values()
            for row in rows
            for (name, _), (label, part) in zip(_BARS, three_labels(self.evidence, row), strict=True)
            if part.best(place_of(row), label)
        }
        entries = [(name, {"color": colour, **square}) for name, colour in _BARS if name in drawn]
        style.legend_below(figure, entries, 3)
        return figure

    def _bars(self, axes: style.Axes, row: ComparisonRow, index: int) -> None:
        place, three = place_of(row), three_labels(self.evidence, row)
        for offset, (label, part), (_, colour) in zip((-1, 0, 1), three, _BARS, strict=True):
            x, best = index + offset * 0.27, part.best(place, label)
            if best is None or best.delta is None:
                if label in self.evidence.labels(place):  # else its absence says nothing
                    axes.annotate("no result", (x, 0), xytext=(0, 4), textcoords="offset points", rotation=90,
                                  ha="center", va="bottom", fontsize=8, color=style.INK)  # fmt: skip
                continue
            # two bars of one vector are not there to be compared
            is_twin = row.same_vector is not None and offset >= 0
            axes.bar(x, best.delta, width=0.25, color=colour, alpha=0.45 if is_twin else 1.0)
            interval = part.interval(place, label)
            style.draw_interval(axes, best, interval, x, style.INK)
            is_up = best.delta >= 0
            end = max(best.delta, *interval or (0.0,)) if is_up else min(best.delta, *interval or (0.0,))
            text = f"{signed(best.delta, 0)}\n@ {number(best.coherence_mean, '.0f')}"
            axes.annotate(text, (x, end), xytext=(0, 2 if is_up else -2), textcoords="offset points", ha="center",
                          va="bottom" if is_up else "top", fontsize=7.5, color=style.INK)  # fmt: skip

    def caption(self) -> str:
        return (
            "Best delta and its coherence (@), uncleaned, cleaned after and cleaned before extraction; bars are "
            f"95 % intervals.{rest_of(len(self.data), self.most, 'before_after')}"
        )

    def alt(self) -> str:
        words = []
        for row in comparisons(self.evidence):
            place = place_of(row)
            said = ", ".join(
                f"{label} {signed(best.delta)}{bracketed(part, place, label)} at coherence "
                f"{number(best.coherence_mean, '.0f')}"
                if (best := part.best(place, label)) is not None and best.delta is not None
                else f"{label} no result"
                for label, part in three_labels(self.evidence, row)
            )
            words.append(f"{self.evidence.name(place)}: {said}")
        return f"Best delta uncleaned, cleaned after and cleaned before extraction. {some_words(words)}."


def _pair_name(row: ComparisonRow) -> str:
    recipe = parse_label(row.label_a)
    dims = "all dims" if recipe.cleaning.n_dims == "all" else f"top {recipe.cleaning.n_dims}"
    dims += " kept" if recipe.cleaning.mode else ""
    layers = ", own dims" if recipe.cleaning.scope == "layer" else ""
    same = "\n" + re.split(r":| by | at ", row.same_vector)[0] if row.same_vector else ""
    return f"{recipe.method}{format_steering(recipe)}\n{dims}{layers}{same}"
