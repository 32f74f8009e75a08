"""Winners on questions that took no part in choosing them: both figures, what was lost, and who wins now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from massact.query import ConfirmationRow, ConfirmedPlace
from massact.query.questions.confirmations import confirmations_of
from massact.report.evidence import Evidence, counted, place_of
from massact.report.table import MISSING, Cell, Table, cells, columns, number


@dataclass(frozen=True, slots=True)
class Confirmations:
    """What the report says of what was confirmed, each place in the setting that it is answered in."""

    is_split: bool
    """Whether the experiment file keeps questions for confirming."""
    rows: tuple[ConfirmationRow, ...]
    places: tuple[ConfirmedPlace, ...]

    @property
    def done(self) -> list[ConfirmationRow]:
        """Winners and tied labels that were confirmed."""
        return [row for row in self.rows if row.status == "confirmed"]


def find_confirmations(evidence: Evidence) -> Confirmations:
    """What was confirmed, and what could be."""
    is_split = evidence.experiment.confirm_share is not None
    answer = confirmations_of(evidence.answers, evidence.floor, is_split=is_split)
    return Confirmations(
        is_split,
        tuple(row for row in answer.rows if evidence.is_current(row)),
        tuple(place for place in answer.places if evidence.is_current(place)),
    )


def confirmed_text(evidence: Evidence, found: Confirmations) -> tuple[str, ...]:
    """What confirming is, how much was lost on the whole, and what to run where something is open."""
    why = (
        "A winner was chosen on the questions that it was scored on, so its delta is too good. Every winner, and "
        "every label tied with it, was evaluated once more, on questions that took no part in choosing. Shrinkage is "
        "the selected delta minus the confirmed one, in the direction that is wanted."
    )
    n_open = sum(row.status == "unconfirmed" for row in found.rows)
    command = evidence.command("confirm")
    if not found.done:
        return (f"Winners were not confirmed on other questions yet: {command} does.",)
    lost = f"Mean shrinkage: {mean_shrinkages(found.done)}."
    open_cells = counted(n_open, "winner or tied label is", "winners and tied labels are")
    rest = (f"{open_cells} not confirmed yet: {command}.",) if n_open else ()
    return (why, lost, *rest)


def mean_shrinkages(done: Sequence[ConfirmationRow]) -> str:
    """Of winners, whom luck favoured most, and of those tied with them: in points, and over how many cells."""
    parts = []
    for standing, name in (("winner", "winners"), ("tied", "labels tied with them")):
        known = [row.shrinkage for row in done if row.standing == standing and row.shrinkage is not None]
        if known:
            parts.append(f"{name} {signed(fmean(known))} ({len(known)})")
    return ", ".join(parts)


def signed(value: float) -> str:
    """Points with their sign, nothing as `+0.0`."""
    return f"{round(value, 1) + 0.0:+.1f}"


def place_lines(evidence: Evidence, places: Sequence[ConfirmedPlace]) -> Iterator[str]:
    """Per place, whether the winner still wins among the tied."""
    for place in places:
        yield f"{evidence.name(place_of(place))}: {_verdict(place)}."


def _verdict(place: ConfirmedPlace) -> str:
    winner = f"`{place.winner}`"
    if place.wins_again is None:
        return f"{winner} is not confirmed"
    tied = counted(place.n_cells - 1, "label")
    if place.wins_again:
        among = f", ahead of {tied} tied with it" if place.n_cells > 1 else ", with no label tied with it"
        open_cells = place.n_cells - place.n_confirmed
        return f"{winner} wins again{among}" + (f" ({open_cells} not confirmed)" if open_cells else "")
    if place.confirmed_winner is None:
        return f"{winner} falls below the floor, and so does all that was confirmed"
    return f"{winner} was chosen; `{place.confirmed_winner}`, tied with it, is ahead on these questions"


def confirmed_table(evidence: Evidence, rows: Sequence[ConfirmationRow]) -> Table:
    """Each winner and tied label, as it was selected and as it was confirmed."""
    headers = (
        "place", "label", "standing", "layer, coefficient", "selected", "95 % of it", "confirmed", "95 % of it",
        "#shrinkage", "coherence", "#questions",
    )  # fmt: skip
    return Table(
        "Winners and labels tied with them, as selected and as confirmed on other questions",
        columns(*headers),
        tuple(_row(evidence, row) for row in rows),
    )


def _row(evidence: Evidence, row: ConfirmationRow) -> tuple[Cell, ...]:
    below = " (below the floor)" if row.holds_floor is False else ""
    confirmed = number(row.confirmed_delta, "+.1f") if row.status != "unconfirmed" else "not confirmed"
    return cells(
        evidence.name(place_of(row)),
        row.label,
        row.standing or "neither any more",
        f"{row.layer}, {row.coefficient:g}",
        Cell(number(row.selected_delta, "+.1f"), row.run_id),
        _interval(row.selected_low, row.selected_high),
        Cell(confirmed, row.confirmed_run_id),
        _interval(row.confirmed_low, row.confirmed_high),
        None if row.shrinkage is None else signed(row.shrinkage),
        f"{number(row.selected_coherence, '.0f')}, then {number(row.confirmed_coherence, '.0f')}{below}",
        f"{row.n_selecting}, then {MISSING if row.n_confirming is None else row.n_confirming}",
    )


def _interval(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{low:+.1f} to {high:+.1f}"
