"""What the answer of `confirmations` is made of."""

from dataclasses import dataclass
from typing import Literal

from massact.domain import Direction
from massact.query.rows import Answer, SettingRow
from massact.query.uncertainty import Standing

ConfirmationStatus = Literal["confirmed", "unconfirmed", "unscored", "outdated"]
"""`confirmed`: evaluated once more, on questions that took no part in choosing it; `unconfirmed`: not yet;
`unscored`: it was, and it or its baseline has no score; `outdated`: it was, and neither won nor is tied any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationRow(SettingRow):
    """One cell that won or is tied with the winner, as it was selected and as it was confirmed."""

    model: str
    trait: str
    position: str
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
    """Of Student's 95 % interval over those questions; `None` below three of them."""
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
    baseline_trait_mean: float | None
    confirmed_baseline_trait_mean: float | None = None
    """Of the baseline on the questions that confirm, 0 to 100."""
    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    key: str
    run_id: str
    confirmed_key: str | None = None
    """Of the confirmation, as is the next."""
    confirmed_run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmedPlace(SettingRow):
    """One model, trait and position: whether its winner wins on other questions too."""

    model: str
    trait: str
    position: str
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
    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    baseline_trait_mean: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationsAnswer(Answer[ConfirmationRow]):
    """The answer of `confirmations`."""

    places: tuple[ConfirmedPlace, ...] = ()
