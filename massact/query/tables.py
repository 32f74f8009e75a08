"""Columns that many tables have, and how the values of rows are written in them."""

from typing import Any

from massact.query.rows import MISS, Column, Point, spot

GRID_END = " end"  # stands behind the coefficient of a best at the end of its grid; see `Point.at_grid_end`


def text_column(name: str, header: str = "", **flags: bool) -> Column:
    """A field's value as it is; one that is true or false as yes or no."""

    def shown(row: object) -> str:
        value = getattr(row, name)
        return "" if value is None else ("no", "yes")[value] if isinstance(value, bool) else str(value)

    return Column(header or name, shown, **flags)


def number_column(name: str, spec: str, header: str = "", *, within: str | None = None, **flags: bool) -> Column:
    """A field's value, or that of the point `within` the row, as a format specification says."""

    def shown(row: object) -> str:
        holder = getattr(row, within) if within else row
        value = None if holder is None else getattr(holder, name)
        return "" if value is None else _unsigned_zero(format(value, spec))

    return Column(header or name.replace("_", " "), shown, is_number=True, **flags)


def point_column(name: str, header: str, status: str | None = None, **flags: bool) -> Column:
    """A point in words; where there is none, the status that says why."""

    def shown(row: object) -> str:
        point: Point | None = getattr(row, name)
        if point is None or point.delta is None:
            return str(getattr(row, status)) if status else ""
        return _unsigned_zero(format(point.delta, "+.1f")) + spot(point, GRID_END if point.at_grid_end else "")

    return Column(header, shown, **flags)


def interval_column(low: str, high: str, header: str) -> Column:
    """Two fields as `+1.0 to +2.0`."""

    def shown(row: object) -> str:
        ends = [getattr(row, name) for name in (low, high)]
        return "" if None in ends else " to ".join(_unsigned_zero(format(end, "+.1f")) for end in ends)

    return Column(header, shown, is_optional=True)


def scored_column() -> Column:
    """Of how many responses, where some have no score."""

    def shown(row: Any) -> str:
        if row.n_scored is None:
            return ""
        return f"{row.n_scored}" + (f" of {row.n_scored + row.n_unscored}" if row.n_unscored else "")

    return Column("scored", shown, is_number=True, is_optional=True)


def miss_column(**flags: bool) -> Column:
    """The nearest miss."""

    def shown(row: Any) -> str:
        point: Point | None = row.nearest_miss
        return f"{point.coherence_mean:.1f}{spot(point)}" if point else ""

    return Column(MISS, shown, **flags)


def _unsigned_zero(text: str) -> str:
    return text.replace("-", "+") if text.startswith("-") and not text.strip("-0.") else text


def _coefficient(row: Any) -> str:
    """With a mark where it lies at the end of its grid."""
    value = row.coefficient
    return "" if value is None else f"{value:g}{GRID_END if getattr(row, 'at_grid_end', False) else ''}"


PLACE = tuple(text_column(name, is_shared=True) for name in ("model", "trait", "position"))
SETTING = (
    text_column("judge", is_shared=True, is_optional=True),
    Column("setting", lambda row: (row.setting or "")[:8], is_shared=True, is_optional=True),
)
LABEL, STATUS = text_column("label"), text_column("status")
STEERING = (number_column("layer", "d"), Column("coefficient", _coefficient, is_number=True))
POINT = (*STEERING, number_column("delta", "+.1f"), number_column("coherence_mean", ".1f", "coherence"))
TRAIT_MEAN = number_column("trait_mean", ".1f", is_optional=True)
ERROR = Column("error", lambda row: (row.error or "").partition("\n")[0][:60], is_optional=True)
FLIPS = Column("flips", lambda row: "yes" if row.flips else "")
COSTS = Column("cost in points (95 %)", lambda row: "; ".join(map(str, row.costs)))
