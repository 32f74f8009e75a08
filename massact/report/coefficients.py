"""Coefficient patterns: ratios between methods, the shift from cleaning, and relative strength as one measure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from massact.domain import LEAST_EFFECT, RANDOM
from massact.query.groups import is_just_added
from massact.query.questions.best import BestRow
from massact.query.questions.coefficients import CoefficientRatio, tells
from massact.query.rows import AnyPoint
from massact.report import style
from massact.report.evidence import Evidence, Place
from massact.report.section import Section, Table, number, rows_table
from massact.report.trade_off import draw_line, label_lines, some_words, two_rows
from massact.store.schema import StoredPoint
from massact.words import counted


def coefficients_section(evidence: Evidence) -> Section:
    text = (
        "Relative strength is coefficient × ‖v without massive dims‖ / mean ‖h without massive dims‖. How "
        "well it predicts the best coefficient is measured below on the groups with an effect (a delta of "
        f"{LEAST_EFFECT:g} or more) whose best does not lie at the end of its grid: the nearer a factor is to 1, the "
        "better one value would serve all groups."
    )
    ratios, shifts = current_ratios(evidence)
    tables = (
        rows_table(evidence, "Ratio of the best coefficient of mean_diff to that of probe", ratios),
        rows_table(evidence, "Shift of the best coefficient from cleaning the top dim", shifts),
        _spread_table(evidence),
    )
    advice = evidence.coefficients().recommendations or ("cannot say: nothing was evaluated",)
    figures = (RelativeStrength(evidence),)
    return Section("coefficients", "Coefficient patterns", (text,), tables, advice, figures)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the best coefficients of a model and trait scatter, by each of two measures."""

    name: str
    n_groups: int
    strength: float | None  # median relative strength of the bests; `None` where none has one
    by_coefficient: float | None
    """exp of the standard deviation of ln |coefficient|: a factor; `None` for fewer than two groups."""
    by_strength: float | None  # the same of relative strength


def current_ratios(evidence: Evidence) -> tuple[list[CoefficientRatio], list[CoefficientRatio]]:
    """mean_diff over probe, and top dim cleaned over none, each in its place's setting."""
    answer = evidence.coefficients()
    return evidence.in_order(answer.method_ratios), evidence.in_order(answer.cleaning_shifts)


def effective_bests(evidence: Evidence) -> list[BestRow]:
    """Bests that say where coefficients should lie; see `massact.query.questions.coefficients.tells`."""
    rows = evidence.coefficients().rows
    return [row for row in rows if row.label != RANDOM and tells(row)]


def spreads(evidence: Evidence) -> list[Spread]:
    """Per model and trait, as the advice is; and for all together where there are several."""
    by_pair: dict[tuple[str, str], list[BestRow]] = {}
    for row in evidence.in_order(effective_bests(evidence)):
        by_pair.setdefault((row.model, row.trait), []).append(row)
    found = [_spread(f"{model}{evidence.of_trait(trait)}", rows) for (model, trait), rows in by_pair.items()]
    if len(by_pair) < 2:
        return found
    name = "all models" if len({model for model, _ in by_pair}) > 1 else "all traits"
    return [*found, _spread(name, effective_bests(evidence))]


def _spread(name: str, rows: Sequence[BestRow]) -> Spread:
    # both measures over the same groups, so that the two factors can be compared
    known = [
        (abs(row.coefficient), abs(row.relative_strength))
        for row in rows
        if row.coefficient and row.relative_strength and is_just_added(row.label)
    ]
    sizes, strengths = [size for size, _ in known], [strength for _, strength in known]
    median = statistics.median(strengths) if strengths else None
    return Spread(name, len(known), median, _factor(sizes), _factor(strengths))


def _factor(values: Sequence[float]) -> float | None:
    return math.exp(statistics.stdev(map(math.log, values))) if len(values) > 1 else None


def _spread_table(evidence: Evidence) -> Table:
    rows = [
        (
            spread.name,
            str(spread.n_groups),
            *(number(value, ".2f") for value in (spread.strength, spread.by_strength, spread.by_coefficient)),
        )
        for spread in spreads(evidence)
    ]
    headers = ("model", "#groups", "#median relative strength", "#by relative strength", "#by coefficient")
    caption = "Scatter of the best coefficients (one standard deviation of the logarithm, as a factor)"
    return Table.of(caption, headers, rows)


def _strength(point: AnyPoint) -> float | None:
    return None if point.relative_strength is None else abs(point.relative_strength) or None


@dataclass(frozen=True)
class RelativeStrength:
    """Delta and coherence against relative strength, all models on one axis; the bests with an effect stand out."""

    evidence: Evidence
    name = "relative-strength"

    @cached_property
    def data(self) -> list[tuple[Place, str, list[StoredPoint]]]:
        return [
            (place, label, points)
            for place, stratum in sorted(self.evidence.strata.items())
            for label, points in label_lines(stratum, self.evidence.floor, _strength).items()
        ]

    def draw(self) -> style.Drawing:
        evidence = self.evidence
        methods = style.methods_of((label for _, label, _ in self.data), with_random=True)
        with_lines = {place.model for place, _, _ in self.data}
        declared = [model.name for model in evidence.experiment.models if model.name in with_lines]
        models = list(dict.fromkeys([*declared, *sorted(with_lines)]))
        looks: dict[str, style.Look] = {
            model: {"color": style.SERIES[i % len(style.SERIES)], "marker": style.MARKERS[i % len(style.MARKERS)]}
            for i, model in enumerate(models)
        }
        figure, axes = two_rows(methods, evidence.floor)
        for place, label, points in self.data:
            look = {"color": looks[place.model]["color"], "alpha": 0.35, "linewidth": 1.0}
            column = axes[:, methods.index(style.method_of(label))]
            draw_line(column, points, evidence.floor, look=look, x_of=_strength, with_points=False)
        for panel in axes[1]:
            panel.set_xlabel("relative strength")
        style.log_coefficients(axes[1, 0], [_strength(point) or 0.0 for _, _, points in self.data for point in points])
        edge: style.Look = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6, "alpha": 0.85}
        for row in effective_bests(evidence):
            if row.relative_strength is not None and (method := style.method_of(row.label)) in methods:
                column = axes[:, methods.index(method)]
                for panel, height in zip(column, (row.delta, evidence.floor.value_of(row)), strict=True):
                    look = {**looks[row.model], **edge, "linestyle": ""}
                    panel.plot(abs(row.relative_strength), height, **look)
        entries = [(f"{model} (marker: a best)", look) for model, look in looks.items()]
        strength = spreads(evidence)[-1].strength if spreads(evidence) else None
        if strength is not None:  # what one value for every vector would be
            dots: style.Look = {"color": style.INK, "linestyle": (0, (1, 2)), "linewidth": 0.9}
            for panel in axes.flat:
                panel.axvline(strength, zorder=1, **dots)
            entries.append((f"median of the bests, {strength:.2f}", dots))
        style.legend_below(figure, entries, 3)
        return figure

    def caption(self) -> str:
        known = [spread for spread in spreads(self.evidence) if spread.strength is not None]
        median = ""
        if known:
            last = known[-1]
            median = f"Median of the bests over {last.name}: {last.strength:.2f} ({counted(last.n_groups, 'group')})."
        return f"All models on the axis of relative strength, each label at the layer of its best. {median}"

    def alt(self) -> str:
        known = [spread for spread in spreads(self.evidence) if spread.strength is not None]
        words = [f"{spread.name}: {counted(spread.n_groups, 'best')}, median {spread.strength:.2f}" for spread in known]
        return (
            "Delta and coherence against relative strength, all models on one axis. "
            f"{some_words(words) or 'No best with an effect'}."
        )
