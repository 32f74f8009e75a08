"""The questions, posed: what each needs of the store and how it is asked. Functions, commands and the
query API ask these and nothing else."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from massact.domain import Scope, When, floor_warning
from massact.query import (
    Answer,
    BestRow,
    CoefficientsAnswer,
    ComparisonRow,
    ConfirmationsAnswer,
    CurveRow,
    GapsAnswer,
    JudgesAnswer,
    PublishedComparison,
    RunRow,
    SensitivityAnswer,
    SortBy,
)
from massact.query.load import Asked, Loaded, Posed, normalised
from massact.query.questions.published import admits_figure
from massact.query.questions.sensitivity import FLOORS


def pose_gaps(asked: Asked) -> Posed[GapsAnswer]:
    """See `massact.query.gaps`."""
    return Posed(replace(asked, needs_matrix=True), lambda it: it.answers.gaps(it.floor))


def pose_best(asked: Asked, *, intervals: bool = True) -> Posed[Answer[BestRow]]:
    """See `massact.query.best`."""
    return Posed(replace(asked, with_scores=intervals), lambda it: it.answers.best(it.floor))


def pose_compare(
    asked: Asked, *, pairs: Sequence[tuple[str, str]] | None = None
) -> Posed[Answer[ComparisonRow]]:
    """See `massact.query.compare`; without pairs, clean-before against clean-after."""
    return Posed(replace(asked, with_scores=True), lambda it: it.answers.compare(it.floor, pairs=pairs))


def pose_curve(
    asked: Asked, *, method: str = "mean_diff", when: When = "after", scope: Scope = "uniform"
) -> Posed[Answer[CurveRow]]:
    """See `massact.query.curve`."""
    return Posed(asked, lambda it: it.answers.curve(it.floor, method=method, when=when, scope=scope))


def pose_coefficients(asked: Asked) -> Posed[CoefficientsAnswer]:
    """See `massact.query.coefficients`."""
    return Posed(asked, lambda it: it.answers.coefficients(it.floor))


def pose_sensitivity(asked: Asked, *, floors: Iterable[float] = FLOORS) -> Posed[SensitivityAnswer]:
    """See `massact.query.sensitivity`."""
    wanted, many = replace(asked, with_scores=True, needs_all_scores=True), tuple(floors)

    def question(loaded: Loaded) -> SensitivityAnswer:
        answer = loaded.answers.sensitivity(many, floor=loaded.floor)
        warning = floor_warning(max(many, default=0.0))
        return replace(answer, notes=(warning, *answer.notes)) if warning else answer

    return Posed(wanted, question)


def pose_judges(asked: Asked) -> Posed[JudgesAnswer]:
    """See `massact.query.judges`."""
    return Posed(asked, lambda it: it.answers.judges(it.floor))


def pose_runs(
    asked: Asked, *, sort: SortBy = "finished", limit: int | None = None, offset: int = 0
) -> Posed[Answer[RunRow]]:
    """See `massact.query.runs`."""
    return Posed(asked, lambda it: it.answers.runs(it.floor, sort=sort, limit=limit, offset=offset))


def pose_confirmations(asked: Asked) -> Posed[ConfirmationsAnswer]:
    """See `massact.query.questions.confirmations`; with what the file says of its questions, if that is known."""

    def question(loaded: Loaded) -> ConfirmationsAnswer:
        is_split = loaded.declared is not None and loaded.declared.confirm_share is not None
        return loaded.answers.confirmations(loaded.floor, is_split=is_split)

    return Posed(replace(asked, with_confirmations=True), question)


def pose_compare_published(asked: Asked) -> Posed[Answer[PublishedComparison]]:
    """See `massact.query.compare_published`; with the experiment file's names for the printed models."""

    def question(loaded: Loaded) -> Answer[PublishedComparison]:
        names = dict(loaded.declared.printed_models) if loaded.declared else {}
        names |= {name: name for name in loaded.answers.models if name not in names}
        only = normalised(asked.only)
        figures = [one for one in loaded.published if admits_figure(only, one, names)]
        return loaded.answers.compare_published(figures, loaded.floor, model_names=names)

    return Posed(replace(asked, with_published=True), question)
