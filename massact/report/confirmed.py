"""Winners on questions that took no part in choosing them: both figures, what was lost, and who wins now."""

from collections.abc import Sequence
from statistics import fmean

from massact.query import ConfirmationRow, ConfirmedPlace
from massact.report.evidence import Evidence, counted, place_of
from massact.report.section import MISSING, Cell, Section, Table, number, signed, span

_WHY = (
    "A winner was chosen on the questions that it was scored on, so its delta is too good. Every winner, and every "
    "label tied with it, was evaluated once more, on questions that took no part in choosing. Shrinkage is the "
    "selected delta minus the confirmed one, in the direction that is wanted."
)


def confirmed_section(evidence: Evidence) -> Section | None:
    """Winners on other questions; `None` where none are kept for that and nothing was confirmed."""
    answer = evidence.confirmations()
    rows = answer.rows
    if evidence.experiment.confirm_share is None and not rows:
        return None
    key, title, command = "confirmed", "Confirmed on other questions", evidence.command("confirm")
    done = _confirmed(rows)
    if not done:
        return Section(key, title, (f"Winners were not confirmed on other questions yet: {command} does.",))
    text = [_WHY, f"Mean shrinkage: {mean_shrinkages(done)}."]
    n_open = sum(row.status == "unconfirmed" for row in rows)
    if n_open:
        open_rows = counted(n_open, "winner or tied label is", "winners and tied labels are")
        text.append(f"{open_rows} not confirmed yet: {command}.")
    lines = tuple(
        f"{evidence.name(place_of(place))}: {_verdict(place)}{_picked(place)}." for place in answer.places
    )
    return Section(key, title, tuple(text), (_table(evidence, rows),), lines)


def confirmed_verdicts(evidence: Evidence) -> dict[str, str]:
    """The same in a few words each, for the tags of a run; empty where nothing was confirmed."""
    answer = evidence.confirmations()
    done = _confirmed(answer.rows)
    if not done:
        return {}
    known = [place.wins_again for place in answer.places if place.wins_again is not None]
    return {
        "winners": f"{sum(known)} of {len(known)} win again",
        "mean_shrinkage": mean_shrinkages(done),
    }


def _confirmed(rows: Sequence[ConfirmationRow]) -> list[ConfirmationRow]:
    return [row for row in rows if row.status == "confirmed"]


def mean_shrinkages(done: Sequence[ConfirmationRow]) -> str:
    """Of winners, whom luck favoured most, and of those tied with them: in points, and over how many cells."""
    parts = []
    for standing, name in (("winner", "winners"), ("tied", "labels tied with them")):
        known = [row.shrinkage for row in done if row.standing == standing and row.shrinkage is not None]
        if known:
            parts.append(f"{name} {signed(fmean(known))} ({len(known)})")
    return ", ".join(parts)


def _verdict(place: ConfirmedPlace) -> str:
    """Whether the winner of a place still wins among the tied."""
    winner = f"`{place.winner}`"
    if place.wins_again is None:
        return f"{winner} is not confirmed"
    tied = counted(place.n_cells - 1, "label")
    if place.wins_again:
        among = f", ahead of {tied} tied with it" if place.n_cells > 1 else ", with no label tied with it"
        n_open = place.n_cells - place.n_confirmed
        return f"{winner} wins again{among}" + (f" ({n_open} not confirmed)" if n_open else "")
    if place.confirmed_winner is None:
        return f"{winner} falls below the floor, and so does all that was confirmed"
    return f"{winner} was chosen; `{place.confirmed_winner}`, tied with it, is ahead on these questions"


def _picked(place: ConfirmedPlace) -> str:
    """What is known of the label that wins now, where it was picked among several."""
    if place.confirmed_winner_delta is None or place.n_confirmed < 2:
        return ""
    limits = span(place.confirmed_winner_low, place.confirmed_winner_high)
    corrected = f"{signed(place.confirmed_winner_delta)} ({limits})"
    return f"; corrected for the picking its delta is {corrected}"


def _table(evidence: Evidence, rows: Sequence[ConfirmationRow]) -> Table:
    """Each winner and tied label, as it was selected and as it was confirmed."""
    headers = (
        "place", "label", "standing", "layer, coefficient", "selected", "95 % of it", "confirmed", "95 % of it",
        "#shrinkage", "coherence", "#questions",
    )  # fmt: skip
    caption = "Winners and labels tied with them, as selected and as confirmed on other questions"
    return Table.of(caption, headers, [_row(evidence, row) for row in rows])


def _row(evidence: Evidence, row: ConfirmationRow) -> tuple[Cell | str | None, ...]:
    below = " (below the floor)" if row.holds_floor is False else ""
    confirmed = number(row.confirmed_delta, "+.1f") if row.status != "unconfirmed" else "not confirmed"
    return (
        evidence.name(place_of(row)),
        row.label,
        row.standing or "neither any more",
        f"{row.layer}, {row.coefficient:g}",
        Cell(number(row.selected_delta, "+.1f"), row.run_id),
        span(row.selected_low, row.selected_high),
        Cell(confirmed, row.confirmed_run_id),
        row.confirmed_note or span(row.confirmed_low, row.confirmed_high),
        None if row.shrinkage is None else signed(row.shrinkage),
        f"{number(row.selected_coherence, '.0f')}, then {number(row.confirmed_coherence, '.0f')}{below}",
        f"{row.n_selecting}, then {MISSING if row.n_confirming is None else row.n_confirming}",
    )
