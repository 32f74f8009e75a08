"""What a result looks like as a row of the run store."""

from dataclasses import dataclass

from massact.domain import Cell
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.keys import cell_key, setting_digest
from massact.labels import format_label
from massact.store.schema import EvaluationRow, Kind, Scores


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
    return Baseline(cell_key(evaluation.planned.cell), _rounded(evaluation.summary.trait_mean))


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
    return _identity_row(
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
    result = {name: getattr(source, name) for name in _RESULT}
    return _identity_row(
        place,
        planned,
        None,
        **result,
        **_geometry_fields(planned),
        same_as=source.label,
        same_as_key=source.key,
        same_as_cosine=_rounded(likeness),
    )


def failed_row(place: Place, failed: FailedCell, *, confirms: str | None = None) -> EvaluationRow:
    """The row of a cell that could not be evaluated: its identity and no result."""
    return _identity_row(place, failed.planned, confirms, n_unscored=place.n_questions)


def evaluation_scores(evaluation: Evaluation) -> Scores:
    """Per-question scores, in the question set's order."""
    return Scores(
        tuple(response.trait for response in evaluation.responses),
        tuple(response.coherence for response in evaluation.responses),
    )


def run_name(row: EvaluationRow) -> str:
    """A name that tells a run in the UI's list from its neighbours."""
    again = "confirmation · " if row.kind is Kind.CONFIRMATION else ""
    if row.layer is None:
        return f"{again}baseline · {row.model} · {row.trait}"
    position = (row.position or "").removeprefix("response")
    return f"{again}{row.label} {position} · L{row.layer} · c={row.coefficient:g} · {row.model}"


_RESULT = (
    "baseline_key", "baseline_trait_mean", "delta", "trait_mean", "coherence_mean", "trait_std", "coherence_std",
    "n_scored", "n_unscored",
)  # fmt: skip
"""What a row says of responses and their scores."""


def _geometry_fields(planned: PlannedCell) -> dict[str, float | None]:
    geometry = planned.geometry
    return {
        "massive_energy": _rounded(geometry.massive_energy) if geometry else None,
        "cosine_to_uncleaned": _rounded(geometry.cosine_to_uncleaned) if geometry else None,
        "relative_strength": _rounded(geometry.relative_strength) if geometry else None,
    }


def _rounded(value: float | None) -> float | None:
    # no judge and no vector is exact to more; MLflow's table shows every digit that is stored
    return None if value is None else round(value, 6)


def _identity_row(
    place: Place, planned: PlannedCell, confirms: str | None, **result: float | int | str | None
) -> EvaluationRow:
    cell = planned.cell
    setting = cell.setting
    of_grid = Kind.EVALUATION if cell.steering else Kind.BASELINE
    fields = {
        "kind": of_grid if confirms is None else Kind.CONFIRMATION,
        "experiment": place.experiment,
        "key": cell_key(cell),
        "setting": setting_digest(cell),
        "model": place.model,
        "model_variant": place.model_variant,
        "model_id": setting.model.id,
        "model_revision": setting.model.revision,
        "dtype": setting.model.dtype,
        "trait": setting.trait,
        "judge": setting.judge.id,
        "judge_model": setting.judge.model,
        "judge_prompt": setting.judge.prompt_digest,
        "question_set": setting.questions_digest,
        "subset": setting.subset,
        "n_questions": place.n_questions,
        "trait_digest": setting.trait_digest,
        "chat_template_digest": setting.chat_template_digest,
        "max_new_tokens": setting.generation.max_new_tokens,
        "temperature": setting.generation.temperature,
        "seed": setting.generation.seed,
        "n_dims_cleaned": planned.n_dims_cleaned,
        "confirm_share": place.confirm_share,
        "confirms": confirms,
    }
    return EvaluationRow(**fields, **_steering_fields(cell), **result)  # type: ignore[arg-type]  # names are the fields'


def _steering_fields(cell: Cell) -> dict[str, object]:
    steering = cell.steering
    if steering is None:
        return {}
    cleaning = steering.recipe.cleaning
    return {
        "position": steering.position,
        "label": format_label(steering.recipe),
        "method": steering.recipe.method,
        "cleaning": cleaning.when,
        "scope": cleaning.scope,
        "n_dims": cleaning.n_dims,
        "layer": steering.layer,
        "coefficient": steering.coefficient,
        "component": steering.component,
        "direction": steering.direction,
        "steered_tokens": steering.steered_tokens,
        "vector_digest": steering.vector_digest,
    }
