"""Logging evaluations, baselines and failures: one run each, whole or not at all."""

import json
from collections.abc import Mapping

from massact.domain import Response
from massact.pipeline.evaluate import Evaluation, FailedCell
from massact.schema import (
    COHERENCE_SCORE,
    TRAIT_SCORE,
    Artifact,
    EvaluationRow,
    MlflowTag,
    Scores,
    Tag,
    encode_scores,
    evaluation_metrics,
    evaluation_params,
)
from massact.tracking.rows import Baseline, Place, evaluation_row, evaluation_scores, failed_row, run_name
from massact.tracking.tensors import write_responses, write_tensors
from massact.tracking.tracker import OpenRun, Step, Tracker


def log_evaluation(
    tracker: Tracker,
    parent: OpenRun,
    place: Place,
    evaluation: Evaluation,
    *,
    baseline: Baseline | None,
    keep_responses: bool,
) -> tuple[str, EvaluationRow]:
    """Log an evaluation (a baseline where `baseline` is `None`) as a finished run.

    Returns:
        The run's id and its row.
    """
    row, scores = evaluation_row(place, evaluation, baseline), evaluation_scores(evaluation)
    run = tracker.create(row, run_name(row), parent=parent, tags=_tags(row, scores, keep_responses))
    tracker.log(run, params=evaluation_params(row), metrics=evaluation_metrics(row), steps=_steps(scores))
    _log_artifacts(tracker, run, row, evaluation, evaluation.responses if keep_responses else ())
    tracker.end(run)
    return run.run_id, row


def log_failure(tracker: Tracker, parent: OpenRun, place: Place, failed: FailedCell) -> str:
    """Log a cell that could not be evaluated as a failed run. Returns the run's id."""
    row = failed_row(place, failed)
    run = tracker.create(row, run_name(row), parent=parent, tags=_label_tags(row))
    tracker.log(run, params=evaluation_params(row))
    tracker.end(run, "FAILED", error=failed.error)
    return run.run_id


def _tags(row: EvaluationRow, scores: Scores, keep_responses: bool) -> dict[str, str]:
    tags = dict(_label_tags(row))
    encoded = encode_scores(scores)
    if encoded is not None:
        tags[Tag.SCORES.value] = encoded
    if keep_responses:
        tags[MlflowTag.TABLES.value] = json.dumps([{"path": Artifact.RESPONSES.value, "type": "table"}])
    return tags


def _label_tags(row: EvaluationRow) -> Mapping[str, str]:
    return {Tag.LABEL.value: row.label} if row.label else {}


def _steps(scores: Scores) -> list[Step]:
    named = ((TRAIT_SCORE, scores.trait), (COHERENCE_SCORE, scores.coherence))
    return [
        Step(name, value, i) for name, values in named for i, value in enumerate(values) if value is not None
    ]


def _log_artifacts(
    tracker: Tracker,
    run: OpenRun,
    row: EvaluationRow,
    evaluation: Evaluation,
    responses: tuple[Response, ...],
) -> None:
    vector = evaluation.planned.vector
    if vector is None and not responses:
        return
    with tracker.artifacts(run) as folder:
        if vector is not None:
            write_tensors(folder / Artifact.VECTOR, {"vector": vector}, _vector_provenance(row))
        if responses:
            write_responses(folder / Artifact.RESPONSES, responses)


def _vector_provenance(row: EvaluationRow) -> dict[str, object]:
    names = (
        "model", "model_id", "model_revision", "trait", "position", "label", "method", "cleaning", "scope",
        "n_dims", "layer", "component", "vector_digest",
    )  # fmt: skip
    return {name: getattr(row, name) for name in names}
