"""The best evaluation of each group at or above the coherence floor."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from typing import Any, ClassVar, Unpack

from massact.domain import RANDOM, AllDims
from massact.query import tables
from massact.query.answers import Answers
from massact.query.controls import controls_of
from massact.query.costs import Cost, cost_lines
from massact.query.groups import (
    Currency,
    GroupInSetting,
    all_parts,
    gain,
    is_at_floor,
    natural_order,
    rank,
    recency,
    recipe_of,
    setting_notes,
    slices,
    strata,
    told_apart,
    unscored_note,
)
from massact.query.load import About, Needs
from massact.query.question import flag, pattern, question
from massact.query.rows import Answer, Column, GroupRow, Point, Status
from massact.query.same_vector import SAME_AS, taken_over_note
from massact.query.stats.coherent import SURE, coherent_chances
from massact.query.stats.intervals import NOTHING, Beliefs, Beside, Standing, beside, hidden_winners, own_interval
from massact.query.stats.paired import QuestionScores
from massact.store.schema import StoredPoint
from massact.words import counted


def _doubt(row: Any) -> str:
    """How sure it is that a best is at or above the floor, where it is not."""
    return f"{row.coherent_chance:.0%}" if row.coherent_chance is not None and row.coherent_chance < SURE else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestRow(GroupRow):
    """One group in one setting; the fields from `layer` to `run_id` are those of its best, if any."""

    columns: ClassVar[tuple[Column, ...]] = (
        *tables.PLACE,
        tables.LABEL,
        tables.STATUS,
        *tables.POINT,
        Column("truly coherent", _doubt, is_number=True, is_optional=True),
        tables.interval_column("delta_low", "delta_high", "95 % of delta"),
        tables.text_column("standing", is_optional=True),
        tables.number_column("delta_expected", "+.1f", "expected", is_optional=True),
        tables.TRAIT_MEAN,
        tables.scored_column(),
        SAME_AS,
        tables.miss_column(),
        *tables.SETTING,
    )

    label: str
    method: str | None
    cleaning: str | None
    scope: str | None
    n_dims: int | AllDims | None
    cleaning_mode: str | None
    """`keep`: all dims but those are zeroed; `winsorise`: activations are cut off at `quantile`."""
    quantile: float | None
    operator: str | None
    n_vectors: int | None
    """Layers that are steered at once, from `layer` on."""
    steered_tokens: str | None
    n_directions: int | None
    """Of `replace`: how many directions its subspace has."""
    depth: str | None
    """How the coefficient lies over depth, such as `everylayer` or `rising`; null: the same at each layer."""
    decay: float | None
    """What is left of the change at each token of the response; null: all."""
    gate: str | None
    """Which gate has to be open to a prompt; null: none."""
    status: Status
    layer: int | None = None
    coefficient: float | None = None
    trait_mean: float | None = None
    coherence_mean: float | None = None
    delta: float | None = None
    n_scored: int | None = None
    n_unscored: int | None = None
    n_dims_cleaned: int | None = None
    relative_strength: float | None = None
    vector_digest: str | None = None
    key: str | None = None
    run_id: str | None = None
    nearest_miss: Point | None = None
    """The most coherent evaluation below the floor; only where there is no best."""
    is_declared: bool = True
    """Whether the experiment file declares the group."""
    is_control: bool = False
    """Whether it is what winners are held against, a prompt, examples or random directions, and none of the grid."""
    delta_low: float | None = None
    delta_high: float | None = None
    """Of the interval that holds the true delta in 95 of 100 experiments, the picking of the best allowed for; `None`
    where the store has no scores by question, as of imported results."""
    delta_unbiased: float | None = None
    """The delta as often too high as too low, which that of a picked best is not; a noisy figure, as `delta_low` is."""
    delta_expected: float | None = None
    """The delta that is expected of it, given those of its label, and of other labels at its layer and coefficient: on
    average half as far off the true one as `delta`, which was picked for being large."""
    standing: Standing | None = None
    """Among the labels of the model, trait and position: `winner`, `tied` with it, or `behind`."""
    same_as: str | None = None
    same_as_cosine: float | None = None
    at_grid_end: bool = False
    """Whether no larger, or no smaller, coefficient was scored at its layer, so that one may be better."""
    metrics: Mapping[str, float] | None = field(default=None, hash=False)
    """Means by name, each a field of the row in JSON, CSV and DataFrames; see `massact.metrics`."""
    is_current: bool = True
    """Whether it is of the current setting, as in `gaps`."""
    coherent_chance: float | None = None
    """Chance that it is truly at or above the floor, 0 to 1, by its scores and by what its neighbours show; `None`
    where the store has no scores by question."""
    costs: tuple[Cost, ...] = ()
    """What it changes on tasks of lm-evaluation-harness, as far as `massact capability` was run on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAnswer(Answer[BestRow]):
    """The answer of `best`."""

    def lines(self) -> list[str]:
        return cost_lines(self.rows)


_COST = r"^[A-Za-z0-9_.|/-]+:[+-]?[0-9]{1,3}([.][0-9]+)?$"


def _limit(text: str) -> tuple[str, float]:
    """A task and the least delta that is taken there, in points."""
    if not re.fullmatch(_COST, text):
        raise ValueError("is no task with points, such as hellaswag:-2")
    task, _, points = text.rpartition(":")
    return task, float(points)


@question(
    "best",
    pattern(
        "cost",
        "only what changes a task by at least so many points of its metric, such as hellaswag:-2; what was never run "
        "on the task does not count",
        _COST,
        _limit,
        write=lambda limit: f"{limit[0]}:{limit[1]:g}",
        is_repeated=True,
        argument="costs",
        metavar="TASK:POINTS",
    ),
    flag("intervals", "whether each best gets its interval and its standing; a large store answers faster without"),
    needs=lambda *, intervals=True, costs=None: Needs(
        scores="coherent" if intervals else "", costs=intervals or bool(costs), controls=True
    ),
)
def ask_best(
    answers: Answers, floor: float, /, *, costs: Sequence[tuple[str, float]] | None = None, intervals: bool = True,
    **_about: Unpack[About],
) -> BestAnswer:  # fmt: skip
    """The best result of each group at or above the coherence floor.

    A group without one says so and shows its nearest miss. The interval allows for the picking of the best
    among many; labels that cannot be told from the winner are called tied. Where it is not sure that a best is truly at
    or above the floor, its chance is shown.

    \b
    Example:
      massact best --experiment experiments/toy.yaml --label probe --label mean_diff --format json
    """
    answers, cost_notes = _affordable(answers, costs or (), floor)
    by_group = slices(answers.evaluations, answers.failures)
    currency, scores = answers.currency.over(by_group), answers.scores if intervals else None
    is_part = bool(answers.filters.labels or answers.filters.layers)
    places = strata(slices(answers.whatever_the_cell) if is_part else by_group) if scores else []
    beliefs: dict[Beside, Beliefs] = {}
    chances: dict[str, float] = {}
    if scores:
        for place in places:
            beliefs[beside(place)] = Beliefs(place, floor, scores)
            chances |= coherent_chances(place, floor, scores)
    declared = dict.fromkeys(answers.groups)
    others = (group for group in by_group if group not in declared)
    order = [*declared, *sorted(others, key=lambda group: natural_order(*astuple(group)))]
    found = []
    for group in order:
        is_declared = group in declared or not declared
        parts = by_group.get(group, [])
        if not parts:
            found.append(BestRow(**asdict(group), **_recipe_fields(group.label), status="missing"))
        now = currency.part(group, parts)
        for part in parts:
            row = best_row(part, floor, is_declared=is_declared, beliefs=beliefs.get(beside(part)))
            chance = chances.get(row.run_id or "")
            row = replace(row, coherent_chance=chance, is_current=part is now)
            row = replace(row, costs=answers.costs.get(row.key or "", ()))
            if costs and row.nearest_miss and is_at_floor(row.nearest_miss, floor):
                row = replace(row, status="missing", nearest_miss=None)  # it is coherent, and costs too much
            found.append(row)
    notes = [*cost_notes, *setting_notes(by_group), *currency.notes, *unscored_note(all_parts(by_group))]
    n_others = len(order) - len(declared)
    if declared and n_others:
        notes.append(
            f"{counted(n_others, 'group is', 'groups are')} in the store that the experiment file does not declare"
        )
    notes += taken_over_note(found, "best", "bests")
    notes += _unsure(found, is_scored=scores is not None)
    if is_part:
        asked = {beside(part) for part in all_parts(by_group) if part.points.has_best(floor)}
        notes += hidden_winners((beliefs[key] for key in beliefs if key in asked), {row.run_id for row in found})
    rows = (*found, *_controls(answers, floor, scores, currency))
    return told_apart(BestAnswer(question="best", floor=floor, rows=rows, notes=tuple(notes)), by_group)


def _controls(answers: Answers, floor: float, scores: QuestionScores | None, currency: Currency) -> Iterator[BestRow]:
    """What winners are held against, each with an interval of its own: none was picked among others."""
    sides = strata(slices(answers.side_by_side)) if answers.controls else []
    held = [part for place in sides for part in controls_of(answers, place, floor)]
    newest = sorted(held, key=recency)
    for part in held:
        row, point = best_row(part, floor), part.best(floor)
        low, high = own_interval(scores, part, point) if point else (None, None)
        is_current = part is currency.part(
            part.group, (candidate for candidate in newest if candidate.group == part.group)
        )
        row = replace(row, delta_low=low, delta_high=high, is_current=is_current)
        yield replace(row, costs=answers.costs.get(row.key or "", ()))


def _affordable(answers: Answers, limits: Sequence[tuple[str, float]], floor: float) -> tuple[Answers, tuple[str, ...]]:
    """The same where only that counts whose cost is known and within all limits; and what that leaves out, in words."""
    if not limits:
        return answers, ()
    known = {key: {cost.task: cost.delta for cost in costs} for key, costs in answers.costs.items()}
    tried = {key for key, deltas in known.items() if all(task in deltas for task, _ in limits)}
    kept = {key for key in tried if all(known[key][task] >= points for task, points in limits)}
    everything = answers.evaluations if answers.everything is None else answers.everything
    every = (
        pair for points in everything.by_place.values() for pair in zip(points.run_ids(), points.keys(), strict=True)
    )
    left = {run_id for run_id, key in every if key not in kept}
    never, n_dear = list[tuple[float, str, StoredPoint]](), 0
    for place, points in answers.evaluations.by_place.items():
        coherent = points.coherent(floor)
        n_dear += sum(point.key in tried - kept for point in coherent)
        direction = answers.evaluations.samples[place[0]].direction
        never += [(gain(point.delta, direction), point.key, point) for point in coherent if point.key not in tried]
    tasks = ",".join(dict.fromkeys(task for task, _ in limits))
    notes = [f"{counted(n_dear, 'coherent evaluation costs', 'coherent evaluations cost')} more"] if n_dear else []
    if never:
        *_, best = max(never)
        notes.append(
            f"{counted(len(never), 'coherent evaluation')} never run on {tasks}, not counted; the best of them is "
            f"{best.label}, layer {best.layer}, {best.coefficient:g}: massact capability --run {best.run_id} --tasks "
            f"{tasks}"
        )
    whole = answers.everything and answers.everything.doubting(left)
    controls = tuple(control for control in answers.controls if control.row.key in kept)
    evaluations = answers.evaluations.doubting(left)
    return replace(answers, evaluations=evaluations, everything=whole, controls=controls), tuple(notes)


def _unsure(rows: Sequence[BestRow], *, is_scored: bool) -> Iterator[str]:
    chances = [row.coherent_chance for row in rows if row.coherent_chance is not None and row.coherent_chance < SURE]
    if chances:
        yield (
            f"{counted(len(chances), 'best is', 'bests are')} truly at or above the floor with a chance below {SURE:g} "
            f"(the least is {min(chances):.2g}): --floor-confidence {SURE:g} asks for surer ones"
        )
    n = sum(row.status == "ok" and row.delta_low is None for row in rows) if is_scored else 0
    if n:
        have, whose = counted(n, "best has", "bests have"), "it" if n == 1 else "them"
        yield f"{have} no interval: the store holds no scores by question of {whose}, or of fewer than 3 questions"


def winners(rows: Iterable[BestRow]) -> dict[tuple[str, str, str, str | None], BestRow]:
    """The best of each model, trait, position and setting, random directions and controls left out."""
    found: dict[tuple[str, str, str, str | None], BestRow] = {}
    for row in rows:
        place = (row.model, row.trait, row.position, row.setting)
        if row.is_control:
            continue
        if row.status == "ok" and row.method != RANDOM and (place not in found or ranked(row) < ranked(found[place])):
            found[place] = row
    return found


def ranked(row: Any) -> tuple[Any, ...]:
    """What sorts the winner among rows of bests first."""
    return rank((row.label, row), row.direction)


def best_row(
    part: GroupInSetting, floor: float, *, is_declared: bool = True, beliefs: Beliefs | None = None
) -> BestRow:
    """The best of one group in one setting; `beliefs` are those of its place, `None` where they are not asked."""
    point = part.best(floor)
    status: Status = "ok" if point else part.status(floor)
    sample = part.sample
    believed = beliefs.of(part, point) if point and beliefs else NOTHING
    standing = beliefs.standing(part.group.label, point.run_id) if point and beliefs else None
    found = {field.name: getattr(point, field.name) for field in fields(Point)} if point else {}
    return BestRow(
        **asdict(part.group),
        **_recipe_fields(part.group.label),
        status=status,
        **{**found, "baseline_trait_mean": part.baseline_trait_mean},
        nearest_miss=part.nearest_miss(floor) if status == "below_floor" else None,
        judge=sample.judge,
        direction=sample.direction,
        setting=part.setting,
        is_declared=is_declared,
        is_control=part.is_control,
        standing=standing,
        **asdict(believed),
    )


def _recipe_fields(label: str) -> dict[str, Any]:
    """What a label stands for; of one that is none of ours, as an imported file may have, itself."""
    recipe = recipe_of(label)
    cleaning = recipe.cleaning if recipe else None
    return {
        "method": recipe.method if recipe else label,
        "operator": recipe.operator if recipe else None,
        "steered_tokens": recipe.tokens if recipe else None,
        "n_vectors": recipe.n_layers if recipe else None,
        **{name: getattr(recipe, name, None) for name in ("n_directions", "depth", "decay", "gate")},
        "cleaning": cleaning.when if cleaning else None,
        "scope": cleaning.scope if cleaning else None,
        "n_dims": cleaning.n_dims if cleaning else None,
        "cleaning_mode": cleaning.mode if cleaning else None,
        "quantile": cleaning.quantile if cleaning else None,
    }
