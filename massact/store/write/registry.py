"""MLflow's model registry: the adopted prior goes there as a model, and is read back from there as JSON alone."""

import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from massact import __version__
from massact.addresses import first_line, shown_uri
from massact.errors import StoreError
from massact.prediction.prior import VectorFacts
from massact.store.schema import Artifact
from massact.store.write.artifacts import fetch_from
from massact.store.write.client import connect, without_password
from massact.store.write.tracker import OpenRun, Tracker

ALIAS = "prior"  # of the version that a search starts from
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""How MLflow says that there is no such model, and that it has no such alias."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a registered prior."""

    name: str
    version: str
    text: str


def prior_name(experiment: str) -> str:
    """What an experiment's prior is called in the registry, which allows neither a slash nor a colon."""
    return f"massact-{experiment.replace('/', '-').replace(':', '-')}-coefficient"


def read_prior(tracking_uri: str, name: str) -> Registered | None:
    """The version that the alias names; `None` where there is none; StoreError where it cannot be read."""
    return _read(_client(tracking_uri), tracking_uri, name)


def register_prior(tracker: Tracker, run: OpenRun, name: str, text: str) -> Registered:
    """Log a prior with a phase's run, register it as the next version and give it the alias. Where the alias names a
    version with the same JSON, that one stays. Raises StoreError: the registry does not take it."""
    from mlflow.exceptions import MlflowException

    client = _client(tracker.tracking_uri)
    try:
        known = _read(client, tracker.tracking_uri, name)
    except StoreError:
        known = None  # a version whose files are gone is what the next one replaces
    if known is not None and known.text == text:
        return known
    with tracker.artifacts(run) as folder:
        _save(folder / Artifact.PRIOR_MODEL, text)
    source = f"{run.artifact_uri.rstrip('/')}/{Artifact.PRIOR_MODEL}"
    try:
        _ensure_model(client, name)
        made = client.create_model_version(name, source, run_id=run.run_id, await_creation_for=None)
        client.set_registered_model_alias(name, ALIAS, made.version)
    except MlflowException as error:
        shown, why = shown_uri(tracker.tracking_uri), without_password(error, tracker.tracking_uri)
        raise StoreError(f"the model registry of {shown} does not take {name}: {why}") from error
    return Registered(name, str(made.version), text)


def _client(tracking_uri: str) -> Any:
    """A client whose registry is the store's own, wherever MLFLOW_REGISTRY_URI points."""
    connect(tracking_uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _read(client: Any, tracking_uri: str, name: str) -> Registered | None:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        why = without_password(error, tracking_uri)
        raise StoreError(f"the model registry of {shown_uri(tracking_uri)} cannot be read: {why}") from error
    place = f"artifacts/{Artifact.PRIOR}"
    try:
        text = fetch_from(found.source, place, tracking_uri=tracking_uri).read_text(encoding="utf-8")
    except (StoreError, OSError, ValueError) as error:
        raise StoreError(
            f"the registered model {name}, version {found.version}, has no {place}: {first_line(error)}. Run "
            f"massact predict again, or take the alias {ALIAS!r} off it"
        ) from error
    return Registered(name, str(found.version), text)


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description="Where massact expects a vector's best coefficient and its coherence cliff."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _save(folder: Path, text: str) -> None:
    """The model's folder: MLmodel with its signature, the file that it is loaded by, and the JSON."""
    import mlflow.pyfunc
    import pandas as pd

    facts = pd.DataFrame(columns=[field.name for field in fields(VectorFacts)], dtype=float)
    expected = pd.DataFrame(columns=["best", "cliff", "spread"], dtype=float)
    beside = folder.parent / Artifact.PRIOR
    beside.write_text(text, encoding="utf-8")
    # it advises an input example and types of arguments, which the signature stands in for; recorded and dropped,
    # since MLflow resets the filters within
    with warnings.catch_warnings(record=True):
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("prior_model.py")),
            artifacts={"prior": str(beside)},
            signature=mlflow.models.infer_signature(facts, expected),
            # said here, since MLflow would run the model in another process to find them out
            pip_requirements=[f"massact=={__version__}"],
        )
