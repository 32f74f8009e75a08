"""What winners cost, and what else would have done: a prompt, examples, random directions of the same norm."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, ClassVar, Literal, Unpack

from massact._lazy import np
from massact.floors import as_floor
from massact.query.answers import Answers
from massact.query.controls import RANDOM_LABEL, controls_of, random_p, random_rows, winner_of
from massact.query.costs import Cost, cost_lines
from massact.query.groups import ComparableGroups, slices, strata, told_apart, usual_notes
from massact.query.load import About, Needs
from massact.query.question import question
from massact.query.rows import Answer, Column, GroupRow, Point, Status
from massact.query.stats.intervals import NOTHING, Beliefs, own_interval
from massact.query.tables import LABEL, PLACE, POINT, SETTING, interval_column, number_column, text_column
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow


def _metric_column(name: str) -> Column:
    def shown(row: Any) -> str:
        value = (row.metrics or {}).get(name)
        return "" if value is None else f"{value:.3g}"

    return Column(name, shown, is_number=True, is_optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow(GroupRow):
    """The winner of a place, or what it is held against."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        text_column("what"),
        LABEL,
        *POINT,
        interval_column("delta_low", "delta_high", "95 % of delta"),
        number_column("n_random", "d", "directions", is_optional=True),
        number_column("p_value", ".3f", "p"),
        *(_metric_column(name) for name in ("kl", "perplexity")),
        *SETTING,
    )

    what: Literal["winner", "prompt", "few_shot", "random"]
    label: str
    status: Status
    """`below_floor`: its text is less coherent than the floor asks for; of random directions by the means over them."""
    layer: int | None
    """`None` of a prompt, which has neither; likewise the coefficient."""
    coefficient: float | None
    delta: float | None
    """Of random directions the mean over them, as is the coherence."""
    delta_low: float | None = None
    delta_high: float | None = None
    """Of the 95 % interval of the true delta: of the winner, the picking allowed for; of random directions where 95 of
    100 of their deltas lie."""
    coherence_mean: float | None
    """0 to 100."""
    n_random: int | None = None
    """How many random directions there are."""
    p_value: float | None = None
    """Of the winner: how often a random direction of the same norm at the same place does as well, the winner counted
    as one of them; `None` where there is none."""
    run_id: str | None
    """Of random directions that of the one with the median delta."""
    metrics: Mapping[str, float] | None = field(default=None, hash=False)
    """Means by name, each a field of the row in JSON, CSV and DataFrames; see `massact.metrics`. Of random directions
    the mean over them."""
    costs: tuple[Cost, ...] = ()
    """What it changes on tasks of lm-evaluation-harness, as far as `massact capability` was run on it; of random
    directions on the one with the median delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsAnswer(Answer[CostRow]):
    """The answer of `costs`."""

    def lines(self) -> list[str]:
        return cost_lines(self.rows)


@question("costs", needs=lambda **_: Needs(scores="coherent", controls=True, costs=True))
def ask_costs(answers: Answers, floor: float, /, **_about: Unpack[About]) -> CostsAnswer:
    """What winners cost beside a prompt, examples and random directions of the same norm.

    \b
    Example:
      massact costs --experiment experiments/costs.yaml
    """
    by_group = slices(answers.side_by_side)
    rows = [row for place in strata(by_group) for row in _rows(answers, place, floor)]
    notes = [*usual_notes(by_group)]
    if rows and not answers.controls:
        notes.append("nothing is held against the winners: name `baselines` in the file and run massact baselines")
    return told_apart(CostsAnswer(question="costs", floor=floor, rows=tuple(rows), notes=tuple(notes)), by_group)


def _rows(answers: Answers, place: ComparableGroups, floor: float) -> Iterator[CostRow]:
    if (winner := winner_of(place, floor)) is None:
        return
    label, best = winner
    random = random_rows(answers, place, floor)
    deltas = [control.row.delta for control in random if control.row.delta is not None]
    believed = Beliefs(place, floor, answers.scores).of(place.slices[label], best) if answers.scores else NOTHING
    p_value = None if best.delta is None else random_p(best.delta, deltas, place.direction)
    row = _row(answers, place, "winner", label, best, "ok")
    yield replace(row, delta_low=believed.delta_low, delta_high=believed.delta_high, p_value=p_value)
    for part in controls_of(answers, place, floor):
        point = part.best(floor) or part.nearest_miss(floor)
        if point is None:
            continue
        row = _row(answers, place, part.group.label, part.group.label, point, part.status(floor))
        low, high = own_interval(answers.scores, part, point)
        if part.group.label == RANDOM_LABEL:
            coherences = [control.row.coherence_mean for control in random if control.row.coherence_mean is not None]
            coherence, metrics = fmean(coherences) if coherences else None, _mean_metrics(random)
            low, high = (float(end) for end in np.quantile(deltas, (0.025, 0.975)))
            row = replace(row, delta=fmean(deltas), coherence_mean=coherence, n_random=len(deltas), metrics=metrics)
            row = replace(row, status="ok" if as_floor(floor).is_met(row) else "below_floor")
        yield replace(row, delta_low=low, delta_high=high)


def _mean_metrics(random: Sequence[Stored[EvaluationRow]]) -> dict[str, float] | None:
    """The mean of each metric that all have."""
    several = [control.row.metrics or {} for control in random]
    names = [name for name in several[0] if all(name in metrics for metrics in several)] if several else []
    return {name: fmean(metrics[name] for metrics in several) for name in names} or None


def _row(answers: Answers, place: ComparableGroups, what: Any, label: str, point: Point, status: Status) -> CostRow:
    names = ("layer", "coefficient", "delta", "coherence_mean", "run_id", "metrics")
    figures = {name: getattr(point, name) for name in names}
    costs = answers.costs.get(point.key, ())
    return CostRow(**place.fields(), what=what, label=label, status=status, costs=costs, **figures)
