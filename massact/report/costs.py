"""What winners cost: beside a prompt, examples and random directions; and what they move besides their own trait."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from massact.query.questions.costs import CostRow
from massact.query.questions.effects import SideEffectRow
from massact.query.tables import COSTS, STATUS
from massact.report import style
from massact.report.evidence import Evidence, place_of
from massact.report.section import Section, rows_table, signed, span
from massact.words import counted

_LARGEST = 100.0  # points of a delta: the ends of the colours


def costs_section(evidence: Evidence) -> Section | None:
    """The winner of each place beside what it is held against; `None` where there is nothing to hold it against."""
    rows = evidence.current(evidence.facts.costs)
    if all(row.what == "winner" for row in rows):
        return None
    table = rows_table(evidence, "Winners beside what they are held against", rows, (STATUS, COSTS))
    text = (
        "A prompt stands before every question in a vector's place: one that asks for the trait, or examples of it as "
        "turns. Random directions have the winner's norm, layer and tokens; the table has their mean, and where 95 of "
        "100 of their deltas lie. p is the share of directions, the winner counted as one, that do as well as it; it "
        "does not allow for the winner's layer and coefficient having been picked among many."
    )
    if any(row.costs for row in rows):
        text += " On tasks the random direction with the median delta stands for all."
    return Section(
        "costs", "What it costs, and what else would have done", (text,), (table,), tuple(_words(evidence, rows))
    )


def _words(evidence: Evidence, rows: Sequence[CostRow]) -> list[str]:
    """Of each place whether something else does as well as its winner."""
    lines = []
    for winner in (row for row in rows if row.what == "winner"):
        others = _prompted(rows, winner)
        ahead = _ahead(rows, winner)
        said = [
            f"{row.what} moves more and is coherent ({signed(row.delta)} against {signed(winner.delta)})"
            for row in ahead
        ]
        said = said or [f"no prompt moves more than `{winner.label}` ({signed(winner.delta)})"] * bool(others)
        if winner.p_value is not None:
            beaten = (
                "no random direction does as well" if winner.p_value <= _least_p(rows, winner) else "some random do"
            )
            said.append(f"{beaten} (p {winner.p_value:.3f})")
        lines += [f"{evidence.name(place_of(winner))}: {'; '.join(said)}."] if said else []
    return lines


def costs_in_short(evidence: Evidence) -> Iterator[str]:
    """At how many places something else does as well as the winner; nothing where it is held against nothing."""
    rows = evidence.current(evidence.facts.costs)
    winners = [row for row in rows if row.what == "winner"]
    prompted = [winner for winner in winners if _prompted(rows, winner)]
    random = [winner for winner in winners if winner.p_value is not None]
    n_ahead = sum(bool(_ahead(rows, winner)) for winner in prompted)
    n_alone = sum((winner.p_value or 1) <= _least_p(rows, winner) for winner in random)
    said = []
    if prompted:
        said.append(f"at {n_ahead} of {counted(len(prompted), 'place')} a prompt or examples move more, coherently")
    if random:
        said.append(f"at {n_alone} of {counted(len(random), 'place')} no random direction does as well")
    if said:
        yield f"Winners against what else would have done: {'; '.join(said)}."


def _prompted(rows: Sequence[CostRow], winner: CostRow) -> list[CostRow]:
    """The prompt and the examples that a winner is held against."""
    return [row for row in rows if place_of(row) == place_of(winner) and row.what in ("prompt", "few_shot")]


def _ahead(rows: Sequence[CostRow], winner: CostRow) -> list[CostRow]:
    """Those of them that are coherent and move more."""
    sign = -1 if winner.direction == "negative" else 1
    return [
        row
        for row in _prompted(rows, winner)
        if row.status == "ok" and sign * ((row.delta or 0) - (winner.delta or 0)) > 0
    ]


def _least_p(rows: Sequence[CostRow], winner: CostRow) -> float:
    """The p-value of a winner that is better than all random directions at its place."""
    n = next((row.n_random for row in rows if row.what == "random" and place_of(row) == place_of(winner)), None)
    return 1 / (1 + (n or 0)) + 1e-9


def effects_section(evidence: Evidence) -> Section | None:
    """Who moves what, by every trait's judge; `None` where no winner was scored for another trait."""
    rows = evidence.current(evidence.facts.effects)
    others = [row for row in rows if not row.is_own]
    if not others:
        return None
    moved = [row for row in others if row.moves]
    text = (
        "The responses of each winner, scored by the judge of every trait, on the questions of the trait that it is "
        "steered for. A star says that another trait moves by more than noise: its interval leaves out zero, corrected "
        f"for {counted(len(others), 'such figure')}."
    )
    lines = [
        f"{evidence.name(place_of(row))}: `{row.label}` moves {row.scored_for} too, by {signed(row.delta)} "
        f"({span(row.delta_low, row.delta_high)})."
        for row in moved
    ] or ["No winner moves another trait by more than noise."]
    table = rows_table(evidence, "Who moves what", rows)
    return Section("effects", "Side effects", (text,), (table,), tuple(lines), (EffectMatrix(rows),))


@dataclass(frozen=True)
class EffectMatrix:
    """Winners against the traits that their responses were scored for: delta as colour and number."""

    data: tuple[SideEffectRow, ...]
    name = "side-effects"

    @cached_property
    def winners(self) -> list[tuple[str, str, str]]:
        return list(dict.fromkeys((row.model, row.trait, row.position) for row in self.data))

    @cached_property
    def traits(self) -> list[str]:
        return list(dict.fromkeys(row.scored_for for row in sorted(self.data, key=lambda row: not row.is_own)))

    def draw(self) -> style.Drawing:
        from matplotlib import colormaps
        from matplotlib.patches import Rectangle

        shades = colormaps["PuOr_r"]
        figure, axes = style.new_figure((1, 1), (2.6 + 1.1 * len(self.traits), 1.2 + 0.45 * len(self.winners)))
        panel = axes[0][0]
        for row in self.data:
            x, y = self.traits.index(row.scored_for), self.winners.index((row.model, row.trait, row.position))
            colour = shades(0.5 + (row.delta or 0.0) / _LARGEST / 2)
            edge: style.Look = {"edgecolor": style.INK, "linewidth": 1.6 if row.is_own else 0.2}
            panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, **edge))
            text = (
                f"{signed(row.delta, 0)}{'*' if row.moves and not row.is_own else ''}" if row.delta is not None else ""
            )
            panel.text(x, y, text, ha="center", va="center", fontsize=8, color=style.ink_on(colour))
        panel.set_xlim(-0.5, len(self.traits) - 0.5)
        panel.set_ylim(len(self.winners) - 0.5, -0.5)
        panel.set_xticks(range(len(self.traits)), self.traits)
        panel.set_yticks(range(len(self.winners)), [f"{trait}, {model} {at}" for model, trait, at in self.winners])
        panel.set_xlabel("scored for")
        panel.set_ylabel("steered for")
        panel.grid(visible=False)
        panel.tick_params(length=0)
        return figure

    def alt(self) -> str:
        words = (f"{row.trait} steered, {row.scored_for} {signed(row.delta)}" for row in self.data)
        return f"Delta of every trait under each winner: {'; '.join(words)}."

    def caption(self) -> str:
        return "Delta of every trait under each winner; framed: its own trait; *: another moves by more than noise."
