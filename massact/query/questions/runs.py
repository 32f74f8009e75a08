"""Every evaluation that counts, one row each, in the order asked for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal, NamedTuple, Unpack, get_args

from massact.errors import UsageError
from massact.floors import as_floor
from massact.query import tables
from massact.query.answers import Answers
from massact.query.groups import ComparableGroups, GroupInSetting, gain, slices, strata, told_apart, usual_notes
from massact.query.load import About
from massact.query.question import choice, question, whole
from massact.query.rows import Answer, Column, GroupRow
from massact.query.same_vector import SAME_AS
from massact.store.schema import StoredPoint, point_of
from massact.words import counted

RunStatus = Literal["ok", "below_floor", "unscored", "failed"]
"""`ok`: at or above the floor, and compared with a baseline; `below_floor`; `unscored`: it lacks a
coherence, is coherent and lacks a delta, or has scores of too few responses, so that no question can rank it;
`failed`: the run failed and the evaluation was not finished since."""

SortBy = Literal["finished", "delta", "coherence", "coefficient", "layer"]
SORTS: tuple[str, ...] = get_args(SortBy)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow(GroupRow):
    """One evaluation: the newest finished run of its key, or the newest failed one."""

    columns: ClassVar[tuple[Column, ...]] = (
        *tables.PLACE,
        tables.LABEL,
        *tables.POINT,
        tables.TRAIT_MEAN,
        tables.scored_column(),
        tables.STATUS,
        tables.text_column("run_id", "run"),
        SAME_AS,
        Column("finished", lambda row: (row.finished_at or "")[:19], is_optional=True),
        tables.ERROR,
        *tables.SETTING,
    )

    label: str
    layer: int
    coefficient: float
    status: RunStatus
    trait_mean: float | None = None
    coherence_mean: float | None = None
    delta: float | None = None
    n_scored: int = 0
    n_unscored: int = 0
    error: str | None = None
    """Of a failed run."""
    finished_at: str | None = None
    """When the run ended: ISO 8601 in UTC, to the millisecond; `None` where the run has no end."""
    key: str
    run_id: str
    same_as: str | None = None
    same_as_cosine: float | None = None
    relative_strength: float | None = None
    """coefficient x |v without massive dims| / mean |h without massive dims|; `None` where the store does not tell."""
    metrics: Mapping[str, float] | None = field(default=None, hash=False)
    """Means by name, each a field of the row in JSON, CSV and DataFrames; see `massact.metrics`."""


@question(
    "runs",
    choice(
        "sort",
        "what comes first: the newest, the best delta, the most coherent, the lowest coefficient or layer",
        SORTS,
    ),
    whole("limit", "rows at most; default: all", 1),
    whole("offset", "rows left out before them", 0, 10_000_000),
    has_pages=True,
)
def ask_runs(
    answers: Answers,
    floor: float,
    /,
    *,
    sort: SortBy = "finished",
    limit: int | None = None,
    offset: int = 0,
    **_about: Unpack[About],
) -> Answer[RunRow]:
    """The evaluations one by one, with their runs.

    Each key counts once: superseded, deleted and unfinished runs are not listed.

    \b
    Example:
      massact runs --label probe --sort delta --limit 10
    """
    if sort not in SORTS:
        raise UsageError(f"cannot sort by {sort!r}; there is {', '.join(SORTS)}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit}: ask for 1 row or more")
    by_group = slices(answers.evaluations, answers.failures)
    found = [listed for stratum in strata(by_group) for listed in _listed(stratum)]
    found.sort(key=lambda listed: tuple(getattr(listed.point, name) for name in _PLACE))
    # Python's sort keeps the order of what is equal, so ties stay in the order of the place
    found.sort(key=_ORDERS[sort])
    shown = found[offset:][:limit]
    notes = usual_notes(by_group)
    if len(shown) < len(found):
        left_out = len(found) - len(shown)
        passed_over = f" and the offset of {offset}" if offset else ""
        notes += (f"{left_out} of {counted(len(found), 'evaluation')} left out by the limit of {limit}{passed_over}",)
    rows_shown = tuple(_row(listed, floor) for listed in shown)
    return told_apart(Answer(question="runs", floor=floor, rows=rows_shown, notes=notes), by_group)


_PLACE = ("model", "trait", "position", "label", "layer", "coefficient", "key", "run_id")


class _Listed(NamedTuple):
    """An evaluation before it is a row: only those within the limit become one."""

    point: StoredPoint
    part: GroupInSetting
    counted: StoredPoint
    """The same without figures that do not count, since too few of its responses have scores."""
    error: str | None = None
    """Of a failed run; empty where the run holds none."""


def _listed(stratum: ComparableGroups) -> Iterator[_Listed]:
    for part in stratum.slices.values():
        both = zip(part.points.told(), part.points, strict=True)
        yield from (_Listed(told, part, counted) for told, counted in both)
        for failure in part.failures:
            point = point_of(failure.row, failure.run_id, failure.finished_at)
            if point is not None:
                yield _Listed(point, part, point, failure.error)


_OF_POINT = tuple(field.name for field in fields(RunRow) if field.name in StoredPoint._fields)


def _row(listed: _Listed, floor: float) -> RunRow:
    point, sample = listed.point, listed.part.sample
    named = {name: getattr(point, name) for name in _OF_POINT} | {"finished_at": _iso(point.finished_at)}
    status = _status(listed.counted, floor) if listed.error is None else "failed"
    told = {"error": listed.error or None, "judge": sample.judge, "direction": sample.direction}
    return RunRow(**named | told, status=status)


def _status(point: StoredPoint, floor: float) -> RunStatus:
    if (is_met := as_floor(floor).is_met(point)) is None:
        return "unscored"
    if not is_met:
        return "below_floor"
    return "unscored" if point.delta is None else "ok"


def _iso(milliseconds: int) -> str | None:
    if milliseconds < 0:
        return None
    try:
        ended = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:  # another writer's seconds or nanoseconds: no date that anybody means
        return None
    return ended.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_ORDERS: dict[str, Callable[[_Listed], tuple[bool, float] | float]] = {
    "finished": lambda listed: -listed.point.finished_at,  # no end is -1, and so last
    "delta": lambda listed: (listed.counted.delta is None, -gain(listed.counted.delta, listed.part.sample.direction)),
    "coherence": lambda listed: (listed.counted.coherence_mean is None, -(listed.counted.coherence_mean or 0.0)),
    "coefficient": lambda listed: listed.point.coefficient,
    "layer": lambda listed: listed.point.layer,
}
