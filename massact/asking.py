"""The questions as Python functions over a run store: what the commands ask, without the shell.

    import massact

    answer = massact.best("experiments/toy.yaml", only=massact.Filters(labels=("probe",)))
    answer.rows[0].coefficient, answer.to_frame()

Each takes an experiment file (or a bare name, as the commands do), reads the store once, and gives
frozen rows. None loads torch, transformers or mlflow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from massact.asked import EVERYTHING, Asked, Loaded, ask, normalised
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
from massact.query.floor_sensitivity import FLOORS
from massact.query.published import admits_figure


def gaps(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    phase: str | None = None,
) -> GapsAnswer:
    """Which declared groups have no result at or above the floor; see `massact.query.gaps`.

    Raises:
        UsageError: the file, the store or a filter is wrong, or there is no file to declare groups.
    """
    return ask_gaps(Asked(experiment, tracking_uri, only, floor, phase))


def best(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
    intervals: bool = True,
) -> Answer[BestRow]:
    """The best result of each group at or above the floor; see `massact.query.best`.

    Args:
        intervals: whether every best gets its interval and its standing; a large store answers faster without.
    """
    asked = Asked(experiment, tracking_uri, only, floor, with_scores=intervals)
    return ask(asked, lambda it: it.answers.best(it.floor))


def compare(
    experiment: str | Path,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> Answer[ComparisonRow]:
    """Pairs of labels side by side; without pairs, clean-before against clean-after."""
    asked = Asked(experiment, tracking_uri, only, floor, with_scores=True)
    return ask(asked, lambda it: it.answers.compare(it.floor, pairs=pairs))


def compare_published(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> Answer[PublishedComparison]:
    """Published figures beside ours; see `massact.query.compare_published`."""
    return ask_published(Asked(experiment, tracking_uri, only, floor))


def curve(
    experiment: str | Path,
    *,
    method: str = "mean_diff",
    when: When = "after",
    scope: Scope = "uniform",
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> Answer[CurveRow]:
    """The best delta against the number of cleaned dims; see `massact.query.curve`."""
    asked = Asked(experiment, tracking_uri, only, floor)
    return ask(asked, lambda it: it.answers.curve(it.floor, method=method, when=when, scope=scope))


def coefficients(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> CoefficientsAnswer:
    """Where the best coefficients lie and what follows; see `massact.query.coefficients`."""
    return ask(Asked(experiment, tracking_uri, only, floor), lambda it: it.answers.coefficients(it.floor))


def confirmations(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> ConfirmationsAnswer:
    """Winners on questions that took no part in choosing them; see `massact.query.confirmations`."""
    return ask_confirmations(Asked(experiment, tracking_uri, only, floor))


def sensitivity(
    experiment: str | Path,
    *,
    floors: Iterable[float] = FLOORS,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
) -> SensitivityAnswer:
    """The winner at every floor and where it flips; see `massact.query.sensitivity`."""
    asked = Asked(experiment, tracking_uri, only, with_scores=True, needs_all_scores=True)
    return ask(asked, lambda it: it.answers.sensitivity(floors, floor=it.floor))


def judges(
    experiment: str | Path,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> JudgesAnswer:
    """Winners under two judges of the same responses, and where they flip; see `massact.query.judges`."""
    return ask(Asked(experiment, tracking_uri, only, floor), lambda it: it.answers.judges(it.floor))


def runs(
    experiment: str | Path,
    *,
    sort: SortBy = "finished",
    limit: int | None = None,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> Answer[RunRow]:
    """The evaluations one by one; see `massact.query.runs`."""
    asked = Asked(experiment, tracking_uri, only, floor)
    return ask(asked, lambda it: it.answers.runs(it.floor, sort=sort, limit=limit))


def ask_gaps(asked: Asked) -> GapsAnswer:
    """`gaps`, which needs the experiment file: only it declares what should be there."""

    return ask(replace(asked, needs_file=True), lambda it: it.answers.gaps(it.floor))


def ask_confirmations(asked: Asked) -> ConfirmationsAnswer:
    """`confirmations`, with what the experiment file says of its questions, if there is one."""

    def question(loaded: Loaded) -> ConfirmationsAnswer:
        is_split = loaded.file is not None and loaded.file.confirm_share is not None
        return loaded.answers.confirmations(loaded.floor, is_split=is_split)

    return ask(replace(asked, with_confirmations=True), question)


def ask_published(asked: Asked) -> Answer[PublishedComparison]:
    """`compare_published` with the experiment file's names for the printed models."""

    def question(loaded: Loaded) -> Answer[PublishedComparison]:
        models = loaded.file.models if loaded.file else ()
        names = {
            printed: model.name
            for model in models
            for printed in (model.base.reference, model.instruct.reference, model.name)
        }
        names |= {name: name for name in loaded.answers.models if name not in names}
        only = normalised(asked.only)
        figures = [one for one in loaded.published if admits_figure(only, one, names)]
        return loaded.answers.compare_published(figures, loaded.floor, model_names=names)

    return ask(replace(asked, with_published=True), question)
