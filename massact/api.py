"""The questions as Python functions over a run store: what the commands ask, without the shell.

    import massact

    answer = massact.best("experiments/toy.yaml", only=massact.Filters(labels=("probe",)))
    answer.rows[0].coefficient, answer.to_frame()

Each takes an experiment file (or a bare name, as the commands do), reads the store once, and gives
frozen rows. `floor` is the least `coherence_mean` that counts, `least_scored` the share of its responses that an
evaluation must have scores of to count; unsaid they are the experiment file's. None loads torch, transformers or
mlflow.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from massact.domain import Scope, When
from massact.query import (
    Answer,
    BestRow,
    CoefficientsAnswer,
    ComparisonRow,
    ConfirmationsAnswer,
    CurveRow,
    Filters,
    GapsAnswer,
    JudgesAnswer,
    PublishedComparison,
    RunRow,
    SensitivityAnswer,
    SortBy,
)
from massact.query.load import EVERYTHING, Asked, ask
from massact.query.questions.sensitivity import FLOORS
from massact.query.registry import (
    pose_best,
    pose_coefficients,
    pose_compare,
    pose_compare_published,
    pose_confirmations,
    pose_curve,
    pose_gaps,
    pose_judges,
    pose_runs,
    pose_sensitivity,
)


def gaps(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
    phase: str | None = None,
) -> GapsAnswer:
    """Which declared groups have no result at or above the floor; see `massact.query.gaps`.

    Raises:
        UsageError: the file, the store or a filter is wrong, or neither a file nor the store declares groups.
    """
    return ask(pose_gaps(Asked(experiment, tracking_uri, only, floor, phase, least_scored)))


def best(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
    intervals: bool = True,
) -> Answer[BestRow]:
    """The best result of each group at or above the floor; see `massact.query.best`.

    Args:
        intervals: whether every best gets its interval and its standing; a large store answers faster without.
    """
    return ask(
        pose_best(
            Asked(experiment, tracking_uri, only, floor, least_scored=least_scored), intervals=intervals
        )
    )


def compare(
    experiment: str | Path,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
) -> Answer[ComparisonRow]:
    """Pairs of labels side by side; without pairs, clean-before against clean-after."""
    return ask(
        pose_compare(Asked(experiment, tracking_uri, only, floor, least_scored=least_scored), pairs=pairs)
    )


def compare_published(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
) -> Answer[PublishedComparison]:
    """Published figures beside ours; see `massact.query.compare_published`."""
    return ask(
        pose_compare_published(Asked(experiment, tracking_uri, only, floor, least_scored=least_scored))
    )


def curve(  # noqa: PLR0913  three of its own beside those that every question has
    experiment: str | Path,
    *,
    method: str = "mean_diff",
    when: When = "after",
    scope: Scope = "uniform",
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
) -> Answer[CurveRow]:
    """The best delta against the number of cleaned dims; see `massact.query.curve`."""
    asked = Asked(experiment, tracking_uri, only, floor, least_scored=least_scored)
    return ask(pose_curve(asked, method=method, when=when, scope=scope))


def coefficients(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
) -> CoefficientsAnswer:
    """Where the best coefficients lie and what follows; see `massact.query.coefficients`."""
    return ask(pose_coefficients(Asked(experiment, tracking_uri, only, floor, least_scored=least_scored)))


def confirmations(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
) -> ConfirmationsAnswer:
    """Winners on questions that took no part in choosing them; see `massact.query.questions.confirmations`."""
    return ask(pose_confirmations(Asked(experiment, tracking_uri, only, floor, least_scored=least_scored)))


def sensitivity(
    experiment: str | Path,
    *,
    floors: Iterable[float] = FLOORS,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    least_scored: float | None = None,
) -> SensitivityAnswer:
    """The winner at every floor and where it flips; see `massact.query.sensitivity`."""
    return ask(
        pose_sensitivity(Asked(experiment, tracking_uri, only, least_scored=least_scored), floors=floors)
    )


def judges(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
) -> JudgesAnswer:
    """Winners under two judges of the same responses, and where they flip; see `massact.query.judges`."""
    return ask(pose_judges(Asked(experiment, tracking_uri, only, floor, least_scored=least_scored)))


def runs(
    experiment: str | Path,
    *,
    sort: SortBy = "finished",
    limit: int | None = None,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    least_scored: float | None = None,
) -> Answer[RunRow]:
    """The evaluations one by one; see `massact.query.runs`."""
    return ask(
        pose_runs(
            Asked(experiment, tracking_uri, only, floor, least_scored=least_scored), sort=sort, limit=limit
        )
    )
