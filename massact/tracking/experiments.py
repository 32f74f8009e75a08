"""The MLflow experiment that an experiment file's runs lie in."""

from pathlib import Path
from typing import Any

from massact.addresses import check_path, is_database, moved_folder, shown_uri
from massact.errors import StoreError, UnusableStoreError
from massact.schema import MlflowTag
from massact.tracking.connection import without_password


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
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise StoreError(
                f"the MLflow experiment {name!r} was deleted: restore it "
                f"(mlflow experiments restore --experiment-id {found.experiment_id}) or give the file another name"
            )
        if found is None and is_database(tracking_uri):
            check_path(Path.cwd(), "the working directory, where artifacts would go,")
        if found is not None:
            _check_in_place(client, tracking_uri, found)
        return _create(client, name, description) if found is None else str(found.experiment_id)
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
