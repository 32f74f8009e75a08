"""Clean-before against clean-after: which is ahead, or why that cannot be said."""

from typing import Literal

from massact.labels import format_label, parse_label
from massact.query import ComparisonRow
from massact.report.contents import TIE_POINTS, Evidence, Place, counted, place_of
from massact.report.result_tables import group_at, group_cell
from massact.report.table import Cell, Table, cells, columns

Outcome = Literal["same", "a", "b", "tied", "untested", "unknown"]
SIGNIFICANT = 0.05
"""A corrected p above it is chance."""
_LACKS = {
    "below_floor": "is below the floor everywhere",
    "missing": "has no scored evaluation",
    "failed": "failed",
}

_BOTH_LACK = {
    "ok": "a delta is missing",
    "below_floor": "both are below the floor everywhere",
    "missing": "neither has a scored evaluation",
    "failed": "both failed",
}


def comparisons(evidence: Evidence) -> list[ComparisonRow]:
    """Clean-before against clean-after wherever clean-before is declared or was run."""
    return evidence.once("comparisons", lambda: _comparisons(evidence))


def _comparisons(evidence: Evidence) -> list[ComparisonRow]:
    declared = set(evidence.answers.groups)
    order = {place: index for index, place in enumerate(evidence.places())}
    rows = [
        row
        for row in evidence.answers.compare(evidence.floor, cosines=evidence.cosines).rows
        if evidence.is_current(row)
        and (row.status_a != "missing" or group_at(place_of(row), row.label_a) in declared)
    ]
    return sorted(rows, key=lambda row: order[place_of(row)])


def uncleaned_comparisons(evidence: Evidence) -> dict[Place, ComparisonRow]:
    """Probe against mean difference, both uncleaned, where it was evaluated."""
    pairs = (("probe", "mean_diff"),)
    rows = evidence.answers.compare(evidence.floor, pairs=pairs, cosines=evidence.cosines).rows
    return {place_of(row): row for row in rows if evidence.is_current(row)}


def before_after_table(evidence: Evidence) -> Table:
    """Clean-before against clean-after; where the two are one vector it says so and gives no difference."""
    rows = []
    for row in comparisons(evidence):
        place = place_of(row)
        plain = format_label(parse_label(row.label_a).uncleaned)
        rows.append(
            cells(
                evidence.name(place),
                row.label_a,
                group_cell(evidence, place, plain),
                group_cell(evidence, place, row.label_b),
                group_cell(evidence, place, row.label_a),
                comparison_verdict(row),
                Cell("; ".join(row.warnings)),
            )
        )
    headers = ["place", "label", "uncleaned", "clean after", "clean before", "verdict", "beware"]
    if not any(row[-1].text for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return Table("Clean-before against clean-after", columns(*headers), tuple(rows))


def comparison_outcome(row: ComparisonRow) -> Outcome:
    """What a comparison comes to; `a` and `b` are ahead by more than chance gives."""
    if row.same_vector:
        return "same"
    if row.difference is None:
        return "unknown"
    if row.difference_low is None or row.difference_high is None or row.p_corrected is None:
        return "tied" if abs(row.difference) < TIE_POINTS or row.better is None else "untested"
    if row.better is None or row.difference_low <= 0 <= row.difference_high or row.p_corrected > SIGNIFICANT:
        return "tied"
    return "a" if row.better == row.label_a else "b"


def comparison_verdict(row: ComparisonRow, names: tuple[str, str] = ("before", "after")) -> str:
    """What a comparison says: one vector, tied, ahead by how much, or that it cannot say and why.

    Args:
        names: what A and B are called.
    """
    if row.same_vector:
        return row.same_vector
    if row.difference is None:
        return f"cannot say: {_lacking(row)}"
    if abs(row.difference) < TIE_POINTS or row.better is None:
        return "tied"
    ahead = f"{names[row.better != row.label_a]} ahead by {abs(row.difference):.1f}"
    if row.difference_low is None or row.difference_high is None or row.p_corrected is None:
        return f"{ahead} (not tested: no scores by question)"
    sign = 1 if row.difference > 0 else -1
    low, high = sorted((sign * row.difference_low, sign * row.difference_high))
    lead = "cannot be told apart: " if comparison_outcome(row) == "tied" else ""
    n = f", {counted(row.n_questions, 'question')}" if row.n_questions else ""
    return f"{lead}{ahead} (95 %: {low:.1f} to {high:.1f}, p {row.p_corrected:.2g}{n})"


def _lacking(row: ComparisonRow) -> str:
    if row.status_a == row.status_b:
        return _BOTH_LACK[row.status_a]
    pairs = ((row.label_a, row.status_a), (row.label_b, row.status_b))
    return " and ".join(f"{label} {_LACKS[status]}" for label, status in pairs if status != "ok")
