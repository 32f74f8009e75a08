"""The columns of the printed tables, question by question; JSON and CSV hold every field instead."""

from collections.abc import Callable

from massact.query.cleaning_curve import CurveRow
from massact.query.column import GRID_END, Column
from massact.query.column import interval as _interval
from massact.query.column import number as _number
from massact.query.column import point as _point
from massact.query.column import text as _text
from massact.query.comparison import ComparisonRow
from massact.query.confirmation_rows import ConfirmationRow
from massact.query.floor_sensitivity import SensitivityRow
from massact.query.gap_analysis import GapRow
from massact.query.listing import RunRow
from massact.query.recommendations import CoefficientRatio
from massact.query.same_vector import ONCE, taken_over_words
from massact.query.winners import BestRow

_SAME_AS = Column("same as", lambda row: taken_over_words(row).replace("cosine ", ""))


def _p_value(row: ComparisonRow) -> str:
    p = row.p_corrected
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _miss(row: GapRow | BestRow | CurveRow | SensitivityRow) -> str:
    point = row.nearest_miss
    if point is None:
        return ""
    return f"{point.coherence_mean:.1f} (layer {point.layer}, {point.coefficient:g})"


def _try_next(row: GapRow) -> str:
    """What to try at the layer of the nearest miss, or of a best at the end of its grid, and at how many others."""
    brackets = [bracket for bracket in row.brackets if bracket.try_next]
    near = row.nearest_miss or row.best
    if near is None:
        return ""
    if not brackets:
        return next((bracket.reason for bracket in row.brackets if bracket.reason), "")
    layer = near.layer
    first = next((bracket for bracket in brackets if bracket.layer == layer), brackets[0])
    n_others = len(brackets) - 1
    more = f" (+{n_others} more)" if n_others else ""
    return f"layer {first.layer}: {' '.join(f'{value:g}' for value in first.try_next)}{more}"


def _error(row: GapRow | RunRow) -> str:
    return (row.error or "").partition("\n")[0][:60]


def _status(row: GapRow) -> str:
    return row.status if row.is_current else f"{row.status} (old setting)"


def _same_vector(row: ComparisonRow) -> str:
    words = (row.same_vector or "").removeprefix("same vector: ").removeprefix("same direction ")
    return words.replace(ONCE, "once")


def _setting(row: GapRow | BestRow | CurveRow | ComparisonRow) -> str:
    return (row.setting or "")[:8]


def _coherences(row: ConfirmationRow) -> str:
    found = (row.selected_coherence, row.confirmed_coherence)
    return " / ".join("" if one is None else f"{one:.1f}" for one in found).rstrip(" /")


def _confirmation_status(row: ConfirmationRow) -> str:
    """Nothing where all is as it should be."""
    if row.status == "confirmed":
        return "below floor" if row.holds_floor is False else ""
    return row.status


def _question_counts(row: ConfirmationRow) -> str:
    return f"{row.n_selecting}" + ("" if row.n_confirming is None else f" / {row.n_confirming}")


def _yes_or_no(name: str) -> Callable[[object], str]:
    """A field that may be unknown."""

    def shown(row: object) -> str:
        value = getattr(row, name)
        return "" if value is None else "yes" if value else "no"

    return shown


def _coefficient(row: object) -> str:
    """With a mark where it lies at the end of its grid."""
    value = getattr(row, "coefficient", None)
    return "" if value is None else f"{value:g}{GRID_END if getattr(row, 'at_grid_end', False) else ''}"


def _scored(row: BestRow | RunRow) -> str:
    """Of how many responses, where some have no score."""
    if row.n_scored is None:
        return ""
    return f"{row.n_scored}" + (f" of {row.n_scored + row.n_unscored}" if row.n_unscored else "")


def _ratio(row: CoefficientRatio) -> str:
    return f"{row.label} / {row.reference}"


_PLACE = (
    Column("model", _text("model"), is_shared=True),
    Column("trait", _text("trait"), is_shared=True),
    Column("position", _text("position"), is_shared=True),
)
_SETTING = (
    Column("judge", _text("judge"), is_shared=True, is_optional=True),
    Column("setting", _setting, is_shared=True, is_optional=True),
)
_MISS = Column("miss: coherence", _miss)
_POINT_COLUMNS = (
    Column("layer", _number("layer", "d"), is_number=True),
    Column("coefficient", _coefficient, is_number=True),
    Column("delta", _number("delta", "+.1f"), is_number=True),
    Column("coherence", _number("coherence_mean", ".1f"), is_number=True),
)
_LABEL, _STATUS = Column("label", _text("label")), Column("status", _text("status"))
COLUMNS: dict[str, tuple[Column, ...]] = {
    "gaps": (
        *_PLACE,
        _LABEL,
        Column("status", _status),
        Column("best: delta", _point("best"), is_optional=True),
        _MISS,
        Column("try next", _try_next),
        Column("error", _error, is_optional=True),
        *_SETTING,
    ),
    "best": (
        *_PLACE,
        _LABEL,
        _STATUS,
        *_POINT_COLUMNS,
        Column("95 % of delta", _interval("delta_low", "delta_high"), is_optional=True),
        Column("standing", _text("standing"), is_optional=True),
        Column("trait mean", _number("trait_mean", ".1f"), is_number=True, is_optional=True),
        Column("scored", _scored, is_number=True, is_optional=True),
        _SAME_AS,
        _MISS,
        *_SETTING,
    ),
    "compare": (
        *_PLACE,
        Column("A", _text("label_a")),
        Column("B", _text("label_b")),
        Column("A: delta", _point("best_a", "status_a")),
        Column("B: delta", _point("best_b", "status_b")),
        Column("A - B", _number("difference", "+.1f"), is_number=True),
        Column("95 % of A - B", _interval("difference_low", "difference_high"), is_optional=True),
        Column("p", _p_value, is_number=True, is_optional=True),
        Column("at like coherence", _number("matched_difference", "+.1f"), is_number=True, is_optional=True),
        Column("same vector", _same_vector),
        Column("warnings", lambda row: "; ".join(row.warnings), is_optional=True),
        *_SETTING,
    ),
    "curve": (
        *_PLACE,
        Column("dims", _text("n_dims"), is_number=True),
        Column("zeroed", _number("n_dims_cleaned", "d", within="best"), is_number=True),
        _LABEL,
        _STATUS,
        Column("best: delta", _point("best")),
        Column("coherence", _number("coherence_mean", ".1f", within="best"), is_number=True),
        _MISS,
        *_SETTING,
    ),
    "sensitivity": (
        *_PLACE,
        Column("floor from", _number("floor_from", "g"), is_number=True),
        Column("to", _number("floor_to", "g"), is_number=True),
        _LABEL,
        *_POINT_COLUMNS,
        Column("flips", lambda row: "yes" if row.flips else ""),
        _STATUS,
        Column("miss: coherence", _miss, is_optional=True),
        *_SETTING,
    ),
    "judge-check": (
        Column("judge", _text("judge"), is_shared=True),
        Column("trait", _text("trait"), is_shared=True),
        Column("model", _text("model"), is_shared=True),
        Column("canary", _text("canary")),
        Column("trait score", _number("trait_mean", ".1f"), is_number=True),
        Column("std", _number("trait_std", ".2f"), is_number=True),
        Column("coherence", _number("coherence_mean", ".1f"), is_number=True),
        Column("std", _number("coherence_std", ".2f"), is_number=True),
        Column("unscored", lambda row: str(row.n_unscored or ""), is_number=True, is_optional=True),
        Column("expected", _text("expected"), is_optional=True),
        _STATUS,
        Column("failure", _text("failure"), is_optional=True),
    ),
    "judges": (
        *_PLACE,
        Column("judge A", _text("judge_a"), is_shared=True),
        Column("judge B", _text("judge_b"), is_shared=True),
        _LABEL,
        Column("shared", _number("n_shared", "d"), is_number=True),
        Column("A: best delta", _point("best_a", "status_a")),
        Column("B: best delta", _point("best_b", "status_b")),
        Column("flips", lambda row: "yes" if row.flips else ""),
        Column("loss", _number("loss", ".1f"), is_number=True),
        Column("trait B - A", _number("trait_shift", "+.1f"), is_number=True, is_optional=True),
        Column("coherence B - A", _number("coherence_shift", "+.1f"), is_number=True, is_optional=True),
        Column("rank corr.", _number("rank_correlation", ".2f"), is_number=True, is_optional=True),
    ),
    "runs": (
        *_PLACE,
        _LABEL,
        *_POINT_COLUMNS,
        Column("trait mean", _number("trait_mean", ".1f"), is_number=True, is_optional=True),
        Column("scored", _scored, is_number=True, is_optional=True),
        _STATUS,
        Column("run", _text("run_id")),
        _SAME_AS,
        Column("finished", lambda row: (row.finished_at or "")[:19], is_optional=True),
        Column("error", _error, is_optional=True),
        *_SETTING,
    ),
    "published": (
        Column("source", _text("source"), is_shared=True),
        *_PLACE,
        _LABEL,
        *_POINT_COLUMNS,
        Column("ours: delta", _point("ours")),
        Column("ours - theirs", _number("difference", "+.1f"), is_number=True),
        Column("flags", lambda row: str(len(row.flags) or ""), is_number=True),
        _STATUS,
        *_SETTING,
    ),
    "confirmations": (
        *_PLACE,
        _LABEL,
        Column("standing", _text("standing")),
        Column("status", _confirmation_status),
        *_POINT_COLUMNS[:2],
        Column("selected", _number("selected_delta", "+.1f"), is_number=True),
        Column("95 % of it", _interval("selected_low", "selected_high"), is_optional=True),
        Column("confirmed", _number("confirmed_delta", "+.1f"), is_number=True),
        Column("95 % of it", _interval("confirmed_low", "confirmed_high"), is_optional=True),
        Column("shrinkage", _number("shrinkage", "+.1f"), is_number=True),
        Column("coherence", _coherences, is_number=True, is_optional=True),
        Column("questions", _question_counts, is_number=True, is_optional=True),
        *_SETTING,
    ),
    "coefficients": (
        *_PLACE,
        _LABEL,
        *_POINT_COLUMNS,
        Column("relative strength", _number("relative_strength", ".2f"), is_number=True),
        *_SETTING,
    ),
}
HALVES_COLUMNS = (
    *_PLACE,
    Column("halves agree", _number("agreement", ".0%"), is_number=True),
    Column("most often best", _text("winner")),
    Column("of halves", _number("share", ".0%"), is_number=True),
    Column("then", _text("runner_up")),
    Column("of halves", _number("runner_up_share", ".0%"), is_number=True),
    Column("floor", _number("floor", "g"), is_number=True, is_shared=True),
    Column("splits", _number("n_splits", "d"), is_number=True, is_optional=True),
    *_SETTING,
)
WINNER_COLUMNS = (
    *_PLACE,
    Column("judge A", _text("judge_a"), is_shared=True),
    Column("judge B", _text("judge_b"), is_shared=True),
    Column("A: winner", _text("label_a")),
    Column("B: winner", _text("label_b")),
    Column("A: delta", _point("best_a")),
    Column("B: delta", _point("best_b")),
    Column("flips", lambda row: "yes" if row.flips else ""),
)
CONFIRMED_COLUMNS = (
    *_PLACE,
    Column("winner", _text("winner")),
    Column("confirmed", lambda row: f"{row.n_confirmed} of {row.n_cells}"),
    Column("confirmed winner", _text("confirmed_winner")),
    Column("wins again", _yes_or_no("wins_again")),
    Column("order changed", _yes_or_no("order_changed")),
    Column("mean shrinkage", _number("mean_shrinkage", "+.1f"), is_number=True),
    *_SETTING,
)
RATIO_COLUMNS = (
    *_PLACE,
    Column("of", _ratio),
    Column("coefficients", lambda row: f"{row.coefficient:g} / {row.reference_coefficient:g}"),
    Column("ratio", _number("ratio", ".2f"), is_number=True),
    Column("layers", lambda row: f"{row.layer} / {row.reference_layer}"),
    *_SETTING,
)
