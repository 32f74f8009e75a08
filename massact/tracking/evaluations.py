"""Logging evaluations, baselines and failures: one run each, whole or not at all."""

from massact.domain import Response
from massact.pipeline.evaluate import Evaluation, FailedCell
from massact.schema import Artifact, EvaluationRow, evaluation_metrics, evaluation_params
from massact.tracking.bulk import evaluation_tags, label_tags, score_steps
from massact.tracking.rows import Baseline, Place, evaluation_row, evaluation_scores, failed_row, run_name
from massact.tracking.tensors import write_responses, write_tensors
from massact.tracking.tracker import OpenRun, Tracker


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
    tags = evaluation_tags(row, scores, keep_responses=keep_responses)
    run = tracker.create(row, run_name(row), parent=parent, tags=tags)
    tracker.log(
        run, params=evaluation_params(row), metrics=evaluation_metrics(row), steps=score_steps(scores)
    )
    _log_artifacts(tracker, run, row, evaluation, evaluation.responses if keep_responses else ())
    tracker.end(run)
    return run.run_id, row


def log_failure(tracker: Tracker, parent: OpenRun, place: Place, failed: FailedCell) -> str:
    """Log a cell that could not be evaluated as a failed run. Returns the run's id."""
    row = failed_row(place, failed)
    run = tracker.create(row, run_name(row), parent=parent, tags=label_tags(row))
    tracker.log(run, params=evaluation_params(row))
    tracker.end(run, "FAILED", error=failed.error)
    return run.run_id


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
