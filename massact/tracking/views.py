"""Shared views of the MLflow UI: without one, its runs table opens on another page and shows no metric."""

import json

from massact.schema import Kind, Tag

UI_ADDRESS = "http://127.0.0.1:5000"
EVALUATIONS, PHASES = "evaluations", "phases"

_COLUMNS = (
    "params.`model`", "params.`position`", "params.`label`", "params.`layer`", "params.`coefficient`",
    "metrics.`delta`", "metrics.`coherence_mean`", "metrics.`trait_mean`", "metrics.`n_scored`",
    "metrics.`relative_strength`",
)  # fmt: skip


def view_tags(floor: float) -> dict[str, str]:
    """Experiment tags that define the views: evaluations by delta above the floor, and phases."""
    above = f"tags.`{Tag.KIND}` = '{Kind.EVALUATION}' and metrics.coherence_mean >= {floor:g}"
    return {
        _tag(EVALUATIONS): _state(above, "metrics.`delta`", ascending=False),
        _tag(PHASES): _state("", "attributes.`Created`", ascending=False),
    }


def view_link(address: str, experiment_id: str, view: str) -> str:
    """A link that opens the runs table in a view."""
    return (
        f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}"
    )


def _tag(view: str) -> str:
    return f"mlflow.sharedViewState.{view}"


def _state(search: str, order: str, *, ascending: bool) -> str:
    return json.dumps(
        {
            "selectedColumns": list(_COLUMNS),
            "searchFilter": search,
            "orderByKey": order,
            "orderByAsc": ascending,
            "viewMaximized": True,
            "runsExpanded": {},
        }
    )
