"""Winners on questions that took no part in choosing them: what remains of each delta, and who wins now."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar, Literal, Unpack

from massact._lazy import np
from massact.floors import as_floor
from massact.query.answers import Answers, Confirmed
from massact.query.groups import ComparableGroups, as_point, gain, setting_notes, slices, strata, told_apart
from massact.query.load import About, Needs
from massact.query.question import question
from massact.query.rows import Answer, Column, GroupRow, Point
from massact.query.stats.intervals import NOTHING, Beliefs, Standing
from massact.query.stats.means import pulled_mean
from massact.query.stats.paired import CONFIDENCE, NEGLIGIBLE, QuestionScores
from massact.query.tables import LABEL, PLACE, SETTING, STEERING, interval_column, number_column, text_column
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from massact.words import counted

ConfirmationStatus = Literal["confirmed", "unconfirmed", "unscored", "outdated"]
"""`confirmed`: evaluated once more, on questions that took no part in choosing it; `unconfirmed`: not yet;
`unscored`: it was, and it or its baseline has no score; `outdated`: it was, and neither won nor is tied any more."""


def _both(header: str, selected: str, confirmed: str, spec: str) -> Column:
    def shown(row: Any) -> str:
        both = (getattr(row, selected), getattr(row, confirmed))
        return " / ".join("" if value is None else format(value, spec) for value in both).rstrip(" /")

    return Column(header, shown, is_number=True, is_optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationRow(GroupRow):
    """One cell that won or is tied with the winner, as it was selected and as it was confirmed."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        LABEL,
        text_column("standing"),
        # nothing where all is as it should be
        Column(
            "status",
            lambda row: row.status.removeprefix("confirmed") or ("" if row.holds_floor is not False else "below floor"),
        ),
        *STEERING,
        number_column("selected_delta", "+.1f", "selected"),
        interval_column("selected_low", "selected_high", "95 % of it"),
        number_column("confirmed_delta", "+.1f", "confirmed"),
        interval_column("confirmed_low", "confirmed_high", "95 % of it"),
        number_column("shrinkage", "+.1f"),
        _both("coherence", "selected_coherence", "confirmed_coherence", ".1f"),
        _both("questions", "n_selecting", "n_confirming", "d"),
        *SETTING,
    )

    label: str
    status: ConfirmationStatus
    standing: Standing | None
    """Among the labels of its place: `winner` or `tied`; `None` where it is neither any more."""
    layer: int
    coefficient: float
    selected_delta: float | None
    """On the questions that it was chosen on."""
    selected_low: float | None = None
    selected_high: float | None = None
    """Of the interval that allows for the choosing, as in `best`; `None` where it is not the label's best any more."""
    confirmed_delta: float | None = None
    """On the questions that took no part in choosing."""
    confirmed_low: float | None = None
    confirmed_high: float | None = None
    """Of the interval over those questions that holds the true delta in 95 of 100 experiments, however few or skewed
    the scores; `None` where there is none."""
    confirmed_note: str | None = None
    """Why a confirmed cell has no interval."""
    shrinkage: float | None = None
    """By how many points the selected delta is better than the confirmed one: the selected minus the confirmed, with
    its sign turned where the smaller delta is the better one."""
    selected_coherence: float | None
    """0 to 100."""
    confirmed_coherence: float | None = None
    """0 to 100."""
    holds_floor: bool | None = None
    """Whether the confirmed coherence is at or above the floor too; `None` where there is none."""
    n_selecting: int
    """Questions with a score, of those that it was chosen on."""
    n_confirming: int | None = None
    """The same of those that confirm."""
    selected_rank: int | None = None
    """Among winner and tied of its place, 1 for the winner."""
    confirmed_rank: int | None = None
    """The same by confirmed delta, of those that hold the floor."""
    confirmed_baseline_trait_mean: float | None = None
    """Of the baseline on the questions that confirm, 0 to 100."""
    key: str
    run_id: str
    confirmed_key: str | None = None
    """Of the confirmation, as is the next."""
    confirmed_run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedPlace(GroupRow):
    """One model, trait and position: whether its winner wins on other questions too."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        text_column("winner"),
        Column("confirmed", lambda row: f"{row.n_confirmed} of {row.n_cells}"),
        text_column("confirmed_winner", "confirmed winner"),
        number_column("confirmed_winner_delta", "+.1f", "its delta", is_optional=True),
        interval_column("confirmed_winner_low", "confirmed_winner_high", "95 % of it"),
        text_column("wins_again", "wins again"),
        text_column("order_changed", "order changed"),
        number_column("mean_shrinkage", "+.1f"),
        *SETTING,
    )

    winner: str
    """The label with the best selected delta."""
    n_cells: int
    """The winner and the labels tied with it."""
    n_confirmed: int
    """Those of them that were confirmed."""
    confirmed_winner: str | None = None
    """The label with the best confirmed delta of those that hold the floor; the winner, where it is less than half a
    point behind, which no judge can tell; `None` where none holds the floor."""
    wins_again: bool | None = None
    """Whether that is the winner; `None` where the winner was not confirmed."""
    order_changed: bool | None = None
    """Whether one of those that hold the floor is half a point or more ahead of one that it was chosen behind; `None`
    where fewer than two hold it."""
    mean_shrinkage: float | None = None
    """Of those that were confirmed."""
    confirmed_winner_delta: float | None = None
    """The confirmed delta of the label that wins now, pulled towards the mean of all that it was picked among: the
    largest of several noisy deltas is too good."""
    confirmed_winner_low: float | None = None
    confirmed_winner_high: float | None = None
    """Of the 95 % interval of its true delta, the picking among those that hold the floor allowed for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationsAnswer(Answer[ConfirmationRow]):
    """The answer of `confirmations`."""

    places: tuple[ConfirmedPlace, ...] = ()


@question("confirmations", needs=lambda **_: Needs(confirmations=True))
def ask_confirmations(answers: Answers, floor: float, /, **_about: Unpack[About]) -> ConfirmationsAnswer:
    """Winners on questions that took no part in choosing them, and how much of each delta remains.

    \b
    Example:
      massact confirmations --experiment my-experiment.yaml --position 'response[:5]'
    """
    # Places that were evaluated before questions were kept for confirming are left out: all questions chose there.
    # Labels and layers choose what is shown, not among what a winner won.
    is_split = answers.declared is not None and answers.declared.confirm_share is not None
    asked, scores = answers.filters, answers.choosing_scores or QuestionScores({}, {})
    confirmed = answers.confirmed.only(replace(asked, labels=(), layers=()))
    by_key: dict[str, list[Stored[EvaluationRow]]] = defaultdict(list)
    for answered in confirmed.cells:
        by_key[answered.row.confirms or ""].append(answered)
    by_group = slices(answers.whatever_the_cell)
    places = [_Place(stratum, confirmed, scores, floor, by_key) for stratum in strata(by_group)]
    places = [place for place in places if place.is_asked]
    rows = [row for place in places for row in place.rows]
    known = {key for place in places for key in place.repeated}
    notes = [*setting_notes(by_group), *(note for place in places for note in place.notes)]
    notes += _notes(rows, is_split=is_split, n_lost=len(by_key.keys() - known))
    shown = [r for r in rows if answers.shows(r.label) and (not asked.layers or r.layer in asked.layers)]
    left = {(row.model, row.trait, row.position, row.setting) for row in shown}
    summaries = [place.summary for place in places if place.summary is not None]
    answer = ConfirmationsAnswer(
        question="confirmations",
        floor=floor,
        rows=tuple(shown),
        notes=tuple(notes),
        places=tuple(s for s in summaries if (s.model, s.trait, s.position, s.setting) in left),
    )
    return told_apart(answer, by_group)


def _notes(rows: Sequence[ConfirmationRow], *, is_split: bool, n_lost: int) -> Iterator[str]:
    if not rows and not is_split:
        yield (
            "nothing is confirmed, and no questions are kept for it: declare `questions: {confirm: SHARE}` in the "
            "experiment file, evaluate, and run massact confirm"
        )
    statuses = [row.status for row in rows]
    for n, singular, several, rest in (
        (statuses.count("unconfirmed"), "winner or tied label is", "winners and tied labels are",
         "not confirmed yet: run massact confirm"),
        (statuses.count("outdated"), "confirmed cell is", "confirmed cells are",
         "neither a winner nor tied with one any more"),
        (n_lost, "confirmation is", "confirmations are",
         "of evaluations that are not in the run store any more, left out"),
    ):  # fmt: skip
        if n:
            yield f"{counted(n, singular, several)} {rest}"


class _Place:
    """One model, trait and position in one setting, and what of it was confirmed."""

    def __init__(
        self,
        stratum: ComparableGroups,
        confirmed: Confirmed,
        scores: QuestionScores,
        floor: float,
        by_key: Mapping[str, Sequence[Stored[EvaluationRow]]],
    ) -> None:
        self._stratum, self._confirmed, self._scores, self._floor = stratum, confirmed, scores, floor
        points = [(label, point) for label, part in stratum.slices.items() for point in part.points.with_keys(by_key)]
        self.repeated = {point.key for _, point in points}
        """Keys of the evaluations that were confirmed, on whatever questions."""
        several = [stored for key in self.repeated for stored in by_key[key]]
        newest = max(several, key=lambda stored: (stored.finished_at or -1, stored.run_id), default=None)
        current = [stored for stored in several if newest and stored.row.setting == newest.row.setting]
        self._by_key = {stored.row.confirms: stored for stored in current}
        self._n_older = len(several) - len(current)
        self.is_asked = bool(several) or (stratum.sample is not None and stratum.sample.confirm_share is not None)
        self._beliefs = Beliefs(stratum, floor, scores)
        self._standing = self._beliefs.standings if self.is_asked else {}
        self._chosen = [best for best in stratum.ranked(floor) if self._standing.get(best[0], "behind") != "behind"]
        keys = {best.key for _, best in self._chosen}
        self._past = [point for point in points if point[1].key in self._by_key and point[1].key not in keys]
        self.rows = self._rows()

    @property
    def notes(self) -> Iterator[str]:
        stratum = self._stratum
        if not self._standing and any(stratum.best(label, self._floor) for label in stratum.slices):
            why = "since the run store has no scores of three questions or more"
            yield f"{stratum.place}: no winner can be told, {why}"
        if self._n_older:
            count = counted(self._n_older, "confirmation")
            yield f"{stratum.place}: {count} on other questions than the newest, left out"

    def _rows(self) -> list[ConfirmationRow]:
        rows = [
            replace(self._row(label, best, self._standing[label]), selected_rank=place)
            for place, (label, best) in enumerate(self._chosen, 1)
        ]
        order = {row.key: place for place, row in enumerate(self._ranked(rows), 1)}
        past = (self._row(label, as_point(point), None) for label, point in self._past)
        return [*(replace(row, confirmed_rank=order.get(row.key)) for row in rows), *past]

    def _ranked(self, rows: Sequence[ConfirmationRow]) -> list[ConfirmationRow]:
        """Those that hold the floor, the best confirmed delta first."""
        able = [row for row in rows if row.holds_floor and row.confirmed_delta is not None]
        return sorted(able, key=lambda row: (-self._gain(row), abs(row.coefficient), row.layer, row.label))

    def _gain(self, row: ConfirmationRow) -> float:
        """The confirmed delta, larger is better."""
        return gain(row.confirmed_delta, self._stratum.direction)

    def _row(self, label: str, point: Point, standing: Standing | None) -> ConfirmationRow:
        stored = self._by_key.get(point.key)
        part = self._stratum.slices[label]
        believed = self._beliefs.of(part, point) if standing else NOTHING
        row = ConfirmationRow(
            **{**self._stratum.fields(), "baseline_trait_mean": point.baseline_trait_mean},
            label=label,
            status=_status(stored, standing),
            standing=standing,
            layer=point.spot[0],
            coefficient=point.spot[1],
            selected_delta=point.delta,
            selected_low=believed.delta_low,
            selected_high=believed.delta_high,
            selected_coherence=point.coherence_mean,
            n_selecting=point.n_scored,
            key=point.key,
            run_id=point.run_id,
        )
        return row if stored is None else self._with_confirmation(row, stored)

    def _with_confirmation(self, row: ConfirmationRow, stored: Stored[EvaluationRow]) -> ConfirmationRow:
        delta, coherence = stored.row.delta, stored.row.coherence_mean
        limits = self._confirmed.interval(stored)
        low, high = (None, None) if isinstance(limits, str) else limits
        shrinkage = None if delta is None or row.selected_delta is None else row.selected_delta - delta
        if shrinkage is not None and row.direction == "negative":
            shrinkage = -shrinkage
        return replace(
            row,
            confirmed_delta=delta,
            confirmed_low=low,
            confirmed_high=high,
            confirmed_note=limits if isinstance(limits, str) else None,
            shrinkage=shrinkage,
            confirmed_coherence=coherence,
            holds_floor=None if coherence is None else as_floor(self._floor).is_met(stored.row),
            n_confirming=stored.row.n_scored,
            confirmed_baseline_trait_mean=stored.row.baseline_trait_mean,
            confirmed_key=stored.row.key,
            confirmed_run_id=stored.run_id,
        )

    @property
    def summary(self) -> ConfirmedPlace | None:
        """What its rows come to; `None` where no winner can be told."""
        rows = [row for row in self.rows if row.standing is not None]
        if not rows:
            return None
        ranked, winner = self._ranked(rows), rows[0]
        # in the selected order, larger is better; a lead that no judge can tell is none, as among tied labels
        gains = [self._gain(row) for row in rows if row.confirmed_rank is not None]
        is_behind = bool(ranked) and self._gain(ranked[0]) - self._gain(winner) >= NEGLIGIBLE
        wins_again = winner.confirmed_rank is not None and not is_behind
        shrunk = [row.shrinkage for row in rows if row.shrinkage is not None]
        first = winner if wins_again else ranked[0] if ranked else None
        return ConfirmedPlace(
            **self._stratum.fields(),
            winner=winner.label,
            n_cells=len(rows),
            n_confirmed=sum(row.status == "confirmed" for row in rows),
            confirmed_winner=first.label if first else None,
            wins_again=wins_again if winner.status == "confirmed" else None,
            order_changed=any(b - a >= NEGLIGIBLE for a, b in combinations(gains, 2)) if len(gains) > 1 else None,
            mean_shrinkage=fmean(shrunk) if shrunk else None,
            **(self._picked(first, ranked) if first else {}),
        )

    def _picked(self, first: ConfirmationRow, ranked: Sequence[ConfirmationRow]) -> dict[str, Any]:
        """What is known of the true delta of the label that wins now: it was picked among all that hold the floor. The
        limit that the picking flatters is Bonferroni's for so many cells; the other one needs no correction."""
        cell, is_negative = self._by_key[first.key], self._stratum.direction == "negative"
        usual = self._confirmed.interval(cell)
        strict = self._confirmed.interval(cell, confidence=1 - (1 - CONFIDENCE) / len(ranked))
        if isinstance(usual, str) or isinstance(strict, str):
            return {}
        low, high = (usual[0], strict[1]) if is_negative else (strict[0], usual[1])
        of_all = [self._confirmed.deltas(self._by_key[row.key]) for row in ranked]
        deltas = np.array([[d for d, _ in deltas] for deltas in of_all if not isinstance(deltas, str)], dtype=float)
        pulled = pulled_mean(deltas, ranked.index(first)) if len(deltas) == len(ranked) else None
        delta = None if pulled is None else min(max(pulled, low), high)
        return {"confirmed_winner_delta": delta, "confirmed_winner_low": low, "confirmed_winner_high": high}


def _status(stored: Stored[EvaluationRow] | None, standing: Standing | None) -> ConfirmationStatus:
    if stored is None:
        return "unconfirmed"
    if standing is None:
        return "outdated"
    return "unscored" if stored.row.delta is None else "confirmed"
