"""The cleaning curve: the best delta against the number of cleaned dims."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from massact.domain import AllDims, Scope, When
from massact.query import CurveRow
from massact.query.selection import recipe_of
from massact.report.contents import Evidence, Place, place_of
from massact.report.result_tables import group_cell
from massact.report.table import Cell, Table, cells, columns, where


@dataclass(frozen=True, slots=True, order=True)
class CurveKind:
    """One line of the cleaning curve."""

    method: str
    when: When
    scope: Scope

    @property
    def name(self) -> str:
        scope = "" if self.scope == "uniform" else ", each layer's own dims"
        return f"{self.method}{', before' if self.when == 'before' else ''}{scope}"


@dataclass(frozen=True, slots=True)
class Curve:
    """The cleaning curve of one place: per kind the points that were declared or run."""

    place: Place
    lines: dict[CurveKind, tuple[CurveRow, ...]]

    @property
    def steps(self) -> tuple[int | AllDims, ...]:
        found = {row.n_dims for rows in self.lines.values() for row in rows}
        numbers = sorted(step for step in found if isinstance(step, int))
        return (*numbers, "all") if "all" in found else tuple(numbers)

    @property
    def has_result(self) -> bool:
        return any(row.best for rows in self.lines.values() for row in rows)


def cleaning_curves(evidence: Evidence) -> list[Curve]:
    """The curves of each place where a method has at least two cleaned steps declared or run."""
    return evidence.once("curves", lambda: _cleaning_curves(evidence))


def _cleaning_curves(evidence: Evidence) -> list[Curve]:
    labels = {place: set(evidence.labels(place)) for place in evidence.places()}
    found: dict[Place, dict[CurveKind, tuple[CurveRow, ...]]] = {place: {} for place in labels}
    for kind in _kinds(label for some in labels.values() for label in some):
        rows: dict[Place, list[CurveRow]] = {place: [] for place in labels}
        answer = evidence.answers.curve(evidence.floor, method=kind.method, when=kind.when, scope=kind.scope)
        for row in answer.rows:
            place = place_of(row)
            if evidence.is_current(row) and row.label in labels.get(place, ()):
                rows[place].append(row)
        for place, some in rows.items():
            if sum(row.n_dims != 0 for row in some) >= 2:
                found[place][kind] = tuple(some)
    return [Curve(place, lines) for place, lines in found.items() if lines]


def _kinds(labels: Iterable[str]) -> list[CurveKind]:
    recipes = (recipe_of(label) for label in labels)
    cleaned = (r for r in recipes if r is not None and r.cleaning.scope is not None)
    kinds = {CurveKind(r.method, r.cleaning.when, r.cleaning.scope) for r in cleaned if r.cleaning.scope}
    return sorted(kinds)


def curve_tables(evidence: Evidence) -> tuple[Table, ...]:
    """Best delta against the number of cleaned dims, a table per place and a column per method."""
    curves = (curve for curve in cleaning_curves(evidence) if curve.place in evidence.strata)
    return tuple(_curve_table(evidence, curve) for curve in curves)


def _curve_table(evidence: Evidence, curve: Curve) -> Table:
    rows = []
    for step in curve.steps:
        by_kind = {kind: _step(rows_, step) for kind, rows_ in curve.lines.items()}
        some = next((row.best for row in by_kind.values() if row and row.best), None)
        zeroed = some.n_dims_cleaned if some else None
        name = f"all ({zeroed})" if step == "all" and zeroed is not None else str(step)
        rows.append(cells(name, *(_curve_cell(evidence, curve.place, row) for row in by_kind.values())))
    return Table(
        f"Cleaning curve, {evidence.name(curve.place)}",
        columns("#dims", *(kind.name for kind in curve.lines)),
        tuple(rows),
    )


def _step(rows: Sequence[CurveRow], step: int | AllDims) -> CurveRow | None:
    return next((row for row in rows if row.n_dims == step), None)


def _curve_cell(evidence: Evidence, place: Place, row: CurveRow | None) -> Cell:
    if row is None:
        return Cell("")
    if row.best is None:
        return group_cell(evidence, place, row.label)
    shown = group_cell(evidence, place, row.label)
    end = "end of grid" if row.best.at_grid_end else ""
    return replace(shown, detail=", ".join(part for part in (where(row.best), shown.detail, end) if part))
