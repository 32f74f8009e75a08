"""The report's first screen: at most five sentences, the results as a matrix, and the trade-off beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from massact.report import style
from massact.report.costs import costs_in_short
from massact.report.evidence import Evidence, Place
from massact.report.published import Published, cannot_be_known, printed_matrix, printed_sentences
from massact.report.results import gap_matrix
from massact.report.section import Figure, Section, result
from massact.report.summary import UNKNOWN, answers_in_short, caveat
from massact.report.trade_off import Lines, coherence_lines, tradeoff_pairs
from massact.words import counted

MOST_SENTENCES = 5
MOST_PLACES = 8  # columns of a matrix; the tables below have the others
_MOST_PANELS = 2


def glance_section(evidence: Evidence) -> Section:
    """What a reader sees before anything is unfolded; of published figures alone, what they print and do not tell."""
    sentences = tuple(_sentences(evidence))[:MOST_SENTENCES]
    matrices = [gap_matrix(evidence, trait, MOST_PLACES) for trait in evidence.traits]
    figures: tuple[Figure, ...] = (AtAGlance(evidence),)
    if not evidence.strata and evidence.facts.published:
        matrices, figures = [printed_matrix(evidence, MOST_PLACES)], (Published(evidence, 2),)
    return Section("glance", "At a glance", sentences, tuple(matrices), figures=figures)


def _sentences(evidence: Evidence) -> Iterator[str]:
    if evidence.strata:
        *others, predictable = (answer.verdict for answer in answers_in_short(evidence))
        held = list(costs_in_short(evidence))  # takes the place of what nothing was evaluated for
        told = [text for text in others if not (held and text.endswith(UNKNOWN))]
        told += held + (list(printed_sentences(evidence))[1:2] or [predictable])
        yield from told[: MOST_SENTENCES - 1]
        yield caveat(evidence)
    elif evidence.facts.published:
        yield from printed_sentences(evidence)
        yield cannot_be_known(evidence)
    else:
        yield f"Nothing was evaluated yet: {evidence.command('main')} does, and nothing can be said before."


@dataclass(frozen=True)
class AtAGlance:
    """Delta against coherence at the place with the best result of a model and trait: every label a curve."""

    evidence: Evidence
    name = "at-a-glance"

    @cached_property
    def data(self) -> dict[Place, Lines]:
        evidence, shown = self.evidence, {}
        for pair in tradeoff_pairs(evidence)[:_MOST_PANELS]:
            places = [place for place in evidence.run_places if (place.model, place.trait) == pair]
            place = max(places, key=evidence.top_gain)
            if lines := coherence_lines(evidence, place, evidence.floor.metric):
                shown[place] = lines
        return shown

    def draw(self) -> style.Drawing:
        figure, axes = style.new_figure((len(self.data), 1), (5.6, 2.75 * len(self.data) + 0.35), sharex=True)
        for panel, (place, lines) in zip(axes[:, 0], self.data.items(), strict=True):
            self._panel(panel, place, lines)
            panel.set_title(self.evidence.name(place))
            panel.set_ylabel("delta (points)")
        floor = self.evidence.floor
        panel.set_xlabel(floor.metric)
        every = [point for lines in self.data.values() for points in lines.values() for point in points]
        style.floor_axis(panel, floor.metric, [floor.value_of(point) or 0.0 for point in every])
        labels = {label for lines in self.data.values() for label in lines}
        entries = [(method, {"color": style.method_colour(method)}) for method in style.methods_of(labels)]
        best: style.Look = {"linestyle": "", "marker": "*", "markersize": 10, "color": style.INK}
        style.legend_below(figure, [*entries, ("the best at the floor", best)], 4)
        return figure

    def _panel(self, panel: style.Axes, place: Place, lines: Lines) -> None:
        evidence = self.evidence
        panel.axhline(0, color=style.QUIET, linewidth=0.8, zorder=1)
        floor, limit = evidence.floor, evidence.floor.limit
        values = [floor.value_of(point) or 0.0 for points in lines.values() for point in points]
        beyond = (limit, max([*values, limit]) * 1.05) if floor.is_most else (-2 if floor.is_coherence else 0, limit)
        panel.axvspan(*beyond, color=style.QUIET, alpha=0.12, linewidth=0)
        style.floor_line(panel, limit, is_upright=True)
        for label, points in lines.items():
            colour = style.method_colour(style.method_of(label).partition("+")[0].partition("@")[0])
            xs, ys = [floor.value_of(p) or 0.0 for p in points], [p.delta or 0.0 for p in points]
            panel.plot(xs, ys, color=colour, linewidth=1.0, alpha=0.75, marker="o", markersize=2.2)
        if bests := evidence.bests(place, lines):
            top = evidence.top(place, bests)
            best = bests[top]
            if (x := floor.value_of(best)) is not None and best.delta is not None:
                at = (x, best.delta)
                panel.plot(*at, "*", markersize=11, color=style.INK, zorder=5)
                below = best.delta > 0
                panel.annotate(top, at, xytext=(6, -4 if below else 4), textcoords="offset points", fontsize=8.5,
                               va="top" if below else "bottom", color=style.INK)  # fmt: skip

    def caption(self) -> str:
        n_left = len(tradeoff_pairs(self.evidence)) - len(self.data)
        rest = f" {counted(n_left, 'other model or trait', 'other models and traits')}: below." if n_left > 0 else ""
        return (
            f"Delta against {self.evidence.floor.metric} as the coefficient rises, from left to right, a curve for "
            "each label at the layer of its best. "
            f"Shaded: below the floor of {self.evidence.floor:g}, where nothing counts.{rest}"
        )

    def alt(self) -> str:
        words = []
        for place, lines in self.data.items():
            bests = self.evidence.bests(place, lines)
            top = self.evidence.top(place, bests) if bests else None
            said = f"best {top} with {result(bests[top])}" if top else "nothing at the floor"
            words.append(f"{self.evidence.name(place)}: {counted(len(lines), 'label')}, {said}")
        return f"Delta against {self.evidence.floor.metric}, floor {self.evidence.floor:g}. {'; '.join(words)}."
