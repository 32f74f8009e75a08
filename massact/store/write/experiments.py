"""The MLflow experiment that an experiment file's runs lie in."""

import json
from pathlib import Path
from typing import Any

from massact.addresses import check_path, is_database, moved_folder, shown_uri
from massact.errors import StoreError, UnusableStoreError
from massact.store.schema import Kind, MlflowTag, Tag
from massact.store.write.client import without_password


def ensure_experiment(client: Any, tracking_uri: str, name: str, description: str) -> str:
    """The id of the MLflow experiment of a name, made where there is none.

    Args:
        client: MLflow's, of the store at `tracking_uri`.
        description: of a new one, for the UI.

    Raises:
        StoreError: the store cannot be reached, or its experiment of that name was deleted.
    """
    from mlflow.exceptions import MlflowException

    try:
        known = client.get_experiment_by_name(name)
        if known is not None and known.lifecycle_stage != "active":
            raise StoreError(
                f"the MLflow experiment {name!r} was deleted: restore it "
                f"(mlflow experiments restore --experiment-id {known.experiment_id}) or give the file another name"
            )
        if known is None and is_database(tracking_uri):
            check_path(Path.cwd(), "the working directory, where artifacts would go,")
        if known is not None:
            _check_in_place(client, tracking_uri, known)
        return _create(client, name, description) if known is None else str(known.experiment_id)
    except MlflowException as error:
        raise StoreError(
            f"tracking store {shown_uri(tracking_uri)}: {without_password(error, tracking_uri)}"
        ) from error


def _create(client: Any, name: str, description: str) -> str:
    note = {MlflowTag.NOTE.value: description} if description else {}
    try:
        return str(client.create_experiment(name, tags=note))
    except Exception:
        # another process that began at the same time may have been faster
        made = client.get_experiment_by_name(name)
        if made is None or made.lifecycle_stage != "active":
            raise
        return str(made.experiment_id)


def _check_in_place(client: Any, tracking_uri: str, experiment: Any) -> None:
    """New artifacts must not go to where the store was before it was moved."""
    place = moved_folder(str(experiment.artifact_location), tracking_uri)
    if place is None:
        return
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    if any((place / run.info.run_id).is_dir() for run in runs):
        raise UnusableStoreError(
            f"the run store was moved: it says that artifacts of {experiment.name!r} are in "
            f"{experiment.artifact_location}, which is not there; they are in {place}. Run `massact doctor "
            f"--experiment {experiment.name} --fix`, which writes the new place into the store, or move it back; "
            "questions about it need neither"
        )


# Shared views of the MLflow UI: without one, its runs table opens on another page and shows no metric.

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
