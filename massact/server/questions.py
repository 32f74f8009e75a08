"""The questions that the server answers: one table. A new one is posed in `massact.query.registry` and named here."""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from massact.domain import DEFAULT_LEAST_SCORED, METHODS
from massact.errors import UsageError
from massact.query import Answer, ComparisonRow, Filters, SensitivityAnswer, SortBy
from massact.query.load import Asked, Posed
from massact.query.registry import (
    pose_best,
    pose_coefficients,
    pose_compare,
    pose_confirmations,
    pose_curve,
    pose_gaps,
    pose_judges,
    pose_runs,
    pose_sensitivity,
)
from massact.server.parameters import Parameter, choice, flag, number, pattern, text, whole
from massact.server.problems import MAX_ROWS

ROWS = 1000
"""Rows of `runs` where no limit is given."""

EXPERIMENT = text("experiment", "the experiment's name, as its file declares it", is_required=True)
FILTERS = (
    text("model", "only this model", is_repeated=True, argument="models"),
    text("trait", "only this trait", is_repeated=True, argument="traits"),
    text(
        "position", "only this position window, such as response[:5]", is_repeated=True, argument="positions"
    ),
    text("label", "only this method label, such as mean_diff_top1", is_repeated=True, argument="labels"),
    whole("layer", "only this layer, from 0", 0, 100_000, is_repeated=True, argument="layers"),
    text("judge", "only what this judge scored", is_repeated=True, argument="judges"),
)
FLOOR = number("floor", "least mean coherence that counts; unsaid: the experiment file's, else 68", 0, 100)
LEAST_SCORED = number(
    "least_scored",
    "share of its responses that an evaluation must have scores of to count; unsaid: the experiment file's, else "
    f"{DEFAULT_LEAST_SCORED:g}",
    0,
    1,
)
PHASE = text("phase", "only the groups that this phase declares")


def _pair(value: str) -> tuple[str, str]:
    a, colon, b = value.partition(":")
    if not (a and colon and b) or ":" in b:
        raise ValueError("is not two labels as A:B")
    return a, b


def _floors(value: str) -> tuple[int, int]:
    first, dash, last = value.partition("-")
    if not dash or not all(one.isascii() and one.isdigit() and len(one) <= 3 for one in (first, last)):
        raise ValueError("is not FIRST-LAST, such as 60-80")
    return int(first), int(last)


@dataclass(frozen=True, slots=True)
class Served:
    """A question that can be asked."""

    name: str
    summary: str
    pose: Callable[..., Posed[Any]]
    """From what is asked about, and its own parameters by keyword."""
    own: tuple[Parameter, ...] = ()
    has_floor: bool = True
    has_pages: bool = False
    """Whether `limit` and `offset` are its rows'."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All that may be given."""
        return (EXPERIMENT, *FILTERS, *((FLOOR,) if self.has_floor else ()), LEAST_SCORED, *self.own)

    @property
    def answer(self) -> type[Any]:
        """The type of its answer."""
        (given,) = get_args(typing.get_type_hints(self.pose)["return"])
        return typing.cast(type[Any], typing.get_origin(given) or given)

    @property
    def row(self) -> type[Any]:
        """The type of its answer's rows."""
        (given,) = get_args(typing.get_type_hints(self.pose)["return"])
        (row,) = get_args(given if typing.get_origin(given) is Answer else given.__orig_bases__[0])
        return typing.cast(type[Any], row)

    def posed(self, given: Mapping[str, Any]) -> Posed[Any]:
        """The question about what was given, values by what each parameter is called here.

        Raises:
            UsageError: a label or floor is none.
        """
        own = {one.key for one in self.own} - {"phase"}
        filters = Filters(**{one.key: tuple(given.get(one.key, ())) for one in FILTERS})
        floor, phase = given.get("floor"), given.get("phase")
        least_scored = given.get("least_scored")
        asked = Asked(given["experiment"], only=filters, floor=floor, phase=phase, least_scored=least_scored)
        return self.pose(asked, **{key: given[key] for key in own if key in given})


def _compare(asked: Asked, *, pairs: Sequence[Sequence[str]] | None = None) -> Posed[Answer[ComparisonRow]]:
    wanted = [(a, b) for a, b in pairs] if pairs else None
    return pose_compare(asked, pairs=wanted)


def _sensitivity(asked: Asked, *, floors: Sequence[int] = (60, 80)) -> Posed[SensitivityAnswer]:
    first, last = floors
    if not first <= last <= 100:
        raise UsageError(f"floors {first}-{last}: two whole numbers of 0 to 100, the lower first")
    return pose_sensitivity(asked, floors=[float(floor) for floor in range(first, last + 1)])


QUESTIONS: dict[str, Served] = {
    one.name: one
    for one in (
        Served("gaps", "Which declared groups have no result at or above the floor", pose_gaps, (PHASE,)),
        Served(
            "best",
            "The best result of each group at or above the floor",
            pose_best,
            (flag("intervals", "whether bests get intervals and standings", default=True),),
        ),
        Served(
            "compare",
            "Two labels side by side",
            _compare,
            (
                pattern(
                    "pair", "two labels as A:B; unsaid: clean-before against clean-after",
                    r"^[^:\u0000]+:[^:\u0000]+$", _pair, is_repeated=True, argument="pairs",
                ),
            ),
        ),
        Served(
            "curve",
            "The best delta against the number of cleaned dims",
            pose_curve,
            (
                choice("method", "vector method", METHODS, "mean_diff"),
                choice("when", "dims zeroed in the vector, or before extraction", ("after", "before"), "after"),
                choice("scope", "one list of dims, or each layer's own", ("uniform", "layer"), "uniform"),
            ),
        ),
        Served("coefficients", "Where the best coefficients lie, and what follows", pose_coefficients),
        Served(
            "sensitivity",
            "The winners at every floor, and where they flip",
            _sensitivity,
            (pattern("floors", "the floors, as FIRST-LAST; unsaid: 60-80", "^[0-9]{1,3}-[0-9]{1,3}$", _floors),),
            has_floor=False,
        ),
        Served("judges", "The winners under two judges of the same responses", pose_judges),
        Served("confirmations", "Winners on questions that took no part in choosing them", pose_confirmations),
        Served(
            "runs",
            "The evaluations one by one",
            pose_runs,
            (
                choice("sort", "what comes first", get_args(SortBy), "finished"),
                whole("limit", "rows at most", 1, MAX_ROWS, ROWS),
                whole("offset", "rows left out before them", 0, 10_000_000, 0),
            ),
            has_pages=True,
        ),
    )
}  # fmt: skip
