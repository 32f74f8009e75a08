"""The MLflow experiment that an experiment file's runs lie in."""

from typing import Any

from massact.errors import StoreError
from massact.schema import MlflowTag
from massact.tracking.connection import without_password
from massact.uris import shown_uri


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
