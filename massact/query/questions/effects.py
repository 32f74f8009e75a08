"""What winners move besides their own trait: who moves what, by every trait's judge."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

from massact.query import tables
from massact.query.answers import Answers
from massact.query.controls import winner_of
from massact.query.groups import ComparableGroups, slices, strata, told_apart, usual_notes
from massact.query.load import About, Needs
from massact.query.question import question
from massact.query.rows import Answer, Column, GroupRow, Point
from massact.query.stats.intervals import NOTHING, Beliefs
from massact.query.stats.paired import CONFIDENCE, NEGLIGIBLE
from massact.store.schema import EvaluationRow


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEffectRow(GroupRow):
    """A winner's responses, scored for one trait."""

    columns: ClassVar[tuple[Column, ...]] = (
        *tables.PLACE,
        tables.LABEL,
        *tables.STEERING,
        tables.text_column("scored_for", "scored for"),
        tables.number_column("delta", "+.1f"),
        tables.interval_column("delta_low", "delta_high", "95 % of delta"),
        tables.text_column("moves"),
        tables.TRAIT_MEAN,
        *tables.SETTING,
    )

    label: str
    """That won for its own trait."""
    layer: int
    coefficient: float
    scored_for: str
    """The trait that the responses were scored for."""
    is_own: bool
    """Whether that is the trait that it is steered for."""
    delta: float | None
    """Mean score for that trait minus the unsteered one's, on the questions of the trait that it is steered for."""
    delta_low: float | None = None
    delta_high: float | None = None
    """Of the 95 % interval of the true delta; of the own trait the picking is allowed for."""
    moves: bool | None = None
    """Whether the delta is more than noise: half a point or more, with an interval that leaves out zero, corrected for
    the number of other traits and winners in this answer; `None` where that cannot be told."""
    trait_mean: float | None
    run_id: str


@question("effects", needs=lambda **_: Needs(scores="coherent", side_effects=True))
def ask_effects(answers: Answers, floor: float, /, **_about: Unpack[About]) -> Answer[SideEffectRow]:
    """What winners move besides their own trait, by every trait's judge.

    massact rejudge --every-trait scores their responses; nothing is generated for it.

    \b
    Example:
      massact effects --experiment my-experiment.yaml
    """
    by_group = slices(answers.whatever_the_cell)
    rows = [row for place in strata(by_group) for row in _rows(answers, place, floor)]
    others = [row for row in rows if not row.is_own]
    confidence = 1 - (1 - CONFIDENCE) / max(len(others), 1)
    rows = [row if row.is_own else _judged(answers, row, confidence) for row in rows]
    notes = [*usual_notes(by_group)]
    if rows and not others:
        notes.append("no winner was scored for another trait: massact rejudge --every-trait does that")
    return told_apart(Answer(question="effects", floor=floor, rows=tuple(rows), notes=tuple(notes)), by_group)


def _rows(answers: Answers, place: ComparableGroups, floor: float) -> Iterator[SideEffectRow]:
    """The winner of a place for its own trait, then for the others, the newest of each."""
    if (winner := winner_of(place, floor)) is None:
        return
    label, best = winner
    believed = Beliefs(place, floor, answers.scores).of(place.slices[label], best) if answers.scores else NOTHING
    low, high = believed.delta_low, believed.delta_high
    own = SideEffectRow(
        **place.fields(),
        label=label,
        layer=best.spot[0],
        coefficient=best.spot[1],
        scored_for=place.trait,
        is_own=True,
        delta=best.delta,
        delta_low=low,
        delta_high=high,
        moves=None if low is None or high is None else low > 0 or high < 0,
        trait_mean=best.trait_mean,
        run_id=best.run_id,
    )
    yield own
    newest = {
        stored.row.trait: stored for stored in answers.side_effects.cells if _is_of(place, label, best, stored.row)
    }
    newest.pop(place.trait, None)
    for trait, effect in sorted(newest.items()):
        figures = {name: getattr(effect.row, name) for name in ("delta", "trait_mean", "baseline_trait_mean")}
        unknown = dict.fromkeys(("delta_low", "delta_high", "moves"))
        yield replace(own, scored_for=trait, is_own=False, run_id=effect.run_id, **figures | unknown)


_SETTING = (
    "judge", "model", "model_revision", "dtype", "question_set", "subset", "max_new_tokens", "temperature", "seed",
    "chat_template_digest", "thinking", "template_arguments",
)  # fmt: skip


def _is_of(place: ComparableGroups, label: str, best: Point, row: EvaluationRow) -> bool:
    """Whether what was scored for another trait are a winner's responses."""
    of_best = all(getattr(row, name) == getattr(best, name) for name in ("layer", "coefficient", "vector_digest"))
    of_setting = all(getattr(row, name) == getattr(place.sample, name) for name in _SETTING)
    return of_best and of_setting and (row.position, row.label) == (place.position, label)


def _judged(answers: Answers, row: SideEffectRow, confidence: float) -> SideEffectRow:
    """A row of another trait with its interval, and whether that is more than noise at a confidence."""
    (stored,) = (cell for cell in answers.side_effects.cells if cell.run_id == row.run_id)
    usual, strict = answers.side_effects.interval(stored), answers.side_effects.interval(stored, confidence=confidence)
    if isinstance(usual, str) or isinstance(strict, str):
        return row
    is_more = abs(row.delta or 0.0) >= NEGLIGIBLE and not strict[0] <= 0 <= strict[1]
    return replace(row, delta_low=usual[0], delta_high=usual[1], moves=is_more)
