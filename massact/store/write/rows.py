"""An evaluation as a row of the run store: what its cell tells, the names it is looked for by, and what came of it."""

from dataclasses import dataclass
from typing import Any

from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.keys import cell_json, cell_key, digest_text, setting_digest
from massact.store.schema import EvaluationRow, Kind, Scores, cell_fields


@dataclass(frozen=True, slots=True)
class Place:
    """The names under which people look for a result; none of them is part of a cell's identity."""

    experiment: str
    model: str
    model_variant: str
    n_questions: int
    attention: str | None = None
    """How the model computed attention, such as `eager`; `None` where nothing was computed."""
    unused_settings: str = ""
    """What the model's checkpoint asks of generation that was not obeyed, such as `top_p=0.8`."""
    confirm_share: float | None = None
    """Share of the trait's questions that take no part in choosing winners; `None`: all of them do."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The unsteered result that evaluations are compared with."""

    key: str
    trait_mean: float | None


def baseline_of(evaluation: Evaluation) -> Baseline:
    """A baseline's result as what evaluations are compared with."""
    return Baseline(cell_key(evaluation.cell), _rounded(evaluation.summary.trait_mean))


def evaluation_row(
    place: Place, evaluation: Evaluation, baseline: Baseline | None, *, confirms: str | None = None
) -> EvaluationRow:
    """The row of a finished evaluation, or of a baseline where `baseline` is `None`.

    Args:
        confirms: the key of what it repeats on other questions, which makes it a confirmation.
    """
    summary, timing = evaluation.summary, evaluation.timing
    # rounded as its own row is, or evaluations logged before and after a restart would differ in it
    before = _rounded(baseline.trait_mean) if baseline else None
    delta = None if before is None or summary.trait_mean is None else summary.trait_mean - before
    return _row(
        place,
        evaluation.planned,
        confirms,
        baseline_key=baseline.key if baseline else None,
        baseline_trait_mean=before,
        delta=_rounded(delta),
        trait_mean=_rounded(summary.trait_mean),
        coherence_mean=_rounded(summary.coherence_mean),
        trait_std=_rounded(summary.trait_std),
        coherence_std=_rounded(summary.coherence_std),
        n_scored=summary.n_scored,
        n_unscored=summary.n_unscored,
        tokens_per_second=round(timing.tokens_per_second, 1),
        generation_seconds=round(timing.generation_seconds, 4),
        judge_seconds=round(timing.judge_seconds, 4),
        **_geometry_fields(evaluation.planned),
    )


def taken_row(place: Place, planned: PlannedCell, source: EvaluationRow, likeness: float) -> EvaluationRow:
    """The row of a cell that takes over the result of another, whose vector is as alike as that."""
    return _row(
        place,
        planned,
        None,
        **{name: getattr(source, name) for name in _RESULT},
        **_geometry_fields(planned),
        same_as=source.label,
        same_as_key=source.key,
        same_as_cosine=_rounded(likeness),
    )


def failed_row(place: Place, failed: FailedCell, *, confirms: str | None = None) -> EvaluationRow:
    """The row of a cell that could not be evaluated: its identity and no result."""
    return _row(place, failed.planned, confirms, n_unscored=place.n_questions)


def evaluation_scores(evaluation: Evaluation) -> Scores:
    """Per-question scores, in the question set's order."""
    responses = evaluation.responses
    return Scores(tuple(one.trait for one in responses), tuple(one.coherence for one in responses))


_RESULT = (
    "baseline_key", "baseline_trait_mean", "delta", "trait_mean", "coherence_mean", "trait_std", "coherence_std",
    "n_scored", "n_unscored",
)  # fmt: skip
"""What a row says of responses and their scores."""
_GEOMETRY = ("massive_energy", "cosine_to_uncleaned", "relative_strength")


def _geometry_fields(planned: PlannedCell) -> dict[str, float | None]:
    geometry = planned.geometry
    return {name: _rounded(getattr(geometry, name)) for name in _GEOMETRY} if geometry else {}


def _rounded(value: float | None) -> float | None:
    # no judge and no vector is exact to more; MLflow's table shows every digit that is stored
    return None if value is None else round(value, 6)


def _row(place: Place, planned: PlannedCell, confirms: str | None, **result: Any) -> EvaluationRow:
    cell, text = planned.cell, cell_json(planned.cell)
    kind = Kind.EVALUATION if cell.steering else Kind.BASELINE
    return EvaluationRow(
        kind=kind if confirms is None else Kind.CONFIRMATION,
        experiment=place.experiment,
        key=digest_text(text),
        cell=text,
        setting=setting_digest(cell),
        model=place.model,
        model_variant=place.model_variant,
        n_questions=place.n_questions,
        n_dims_cleaned=planned.n_dims_cleaned,
        confirm_share=place.confirm_share,
        confirms=confirms,
        **cell_fields(cell),
        **result,
    )
