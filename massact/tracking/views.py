"""Shared views of the MLflow UI: without one, its runs table opens on another page and shows no metric."""

import json

from massact.schema import Kind, Tag

UI_ADDRESS = "http://127.0.0.1:5000"
EVALUATIONS, PHASES = "evaluations", "phases"

_COLUMNS = (
    "metrics.`coefficient`", "metrics.`coherence_mean`", "metrics.`delta`", "metrics.`layer`",
    "params.`label`", "params.`model`", "params.`position`",
)  # fmt: skip
"""Few enough for a laptop's screen. The table puts metrics before params, so layer and coefficient are metrics."""
_BY_START = "attributes.start_time"
"""The order in which the table nests runs under their parents; in any other it lists them flat."""


def view_tags(floor: float) -> dict[str, str]:
    """Experiment tags that define the views: evaluations by delta above the floor, and phases."""
    above = f"tags.`{Tag.KIND}` = '{Kind.EVALUATION}' and metrics.coherence_mean >= {floor:g}"
    return {
        _tag(EVALUATIONS): _state(above, "metrics.`delta`"),
        _tag(PHASES): _state("", _BY_START),
    }


def view_link(address: str, experiment_id: str, view: str) -> str:
    """A link that opens the runs table in a view."""
    return f"{address}/{_place(experiment_id, view)}"


def with_view_links(note: str, experiment_id: str) -> str:
    """An experiment's description with links to the views, once; what people wrote there stays.

    They come first: the UI shows one line of a description unless it is unfolded. They hold no address, so
    that they lead to the server that shows them.
    """
    evaluations, phases = _place(experiment_id, EVALUATIONS), _place(experiment_id, PHASES)
    if f"({evaluations})" in note:
        return note
    links = f"Open [evaluations by delta above the floor]({evaluations}) or [phases]({phases})."
    return f"{links}\n\n{note}" if note.strip() else links


def _place(experiment_id: str, view: str) -> str:
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def _tag(view: str) -> str:
    return f"mlflow.sharedViewState.{view}"


def _state(search: str, order: str) -> str:
    return json.dumps(
        {
            "selectedColumns": list(_COLUMNS),
            "searchFilter": search,
            "orderByKey": order,
            "orderByAsc": False,
            "viewMaximized": True,
        }
    )
