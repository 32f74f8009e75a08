"""The calibrations that a figure of massive dims is drawn from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from massact.addresses import resolve_tracking_uri
from massact.asked import named_file
from massact.config import load_experiment
from massact.errors import DataError, UsageError
from massact.json_text import parse_json
from massact.names import as_held
from massact.schema import Artifact, Kind
from massact.store import open_store
from massact.store.contents import stored_runs
from massact.vectors.massive import Calibration, parse_calibration


def calibrations_of(
    source: str | Path | Mapping[str, str | Path], tracking_uri: str | None
) -> dict[str, Calibration]:
    """Calibrations by the model's name.

    Raises:
        UsageError: neither an experiment nor files.
        DataError: a file cannot be read, or is no calibration.
        StoreError: the store, or an artifact in it, cannot be read.
    """
    if isinstance(source, Mapping):
        return {str(name): _read(Path(path)) for name, path in source.items()}
    if not isinstance(source, str | Path):
        raise UsageError("give an experiment, a calibration.json, or several by the model's name")
    if Path(source).suffix == ".json":
        document = _document(Path(source))
        return {str(document.get("model") or Path(source).stem): _parsed(document, Path(source))}
    return _of_store(source, tracking_uri)


def _of_store(source: str | Path, tracking_uri: str | None) -> dict[str, Calibration]:
    from massact.tracking.fetching import fetch_from

    path = named_file(source)
    name = load_experiment(path).name if path else str(source)
    uri = resolve_tracking_uri(tracking_uri)
    store = open_store(uri)
    try:
        name = as_held(name, store.experiments())
        runs = {one.row.model: one.run_id for one in store.stages(Kind.CALIBRATION, name)}
    finally:
        store.close()
    places = {run.run_id: run.artifact_uri for run in stored_runs(uri, name, Kind.CALIBRATION, tags=())}
    return {
        model: _read(fetch_from(places[run_id], Artifact.CALIBRATION, tracking_uri=uri))
        for model, run_id in runs.items()
    }


def _read(path: Path) -> Calibration:
    return _parsed(_document(path), path)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no calibration can be read from it ({error})") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: not a calibration, which is a JSON object")
    return document


def _parsed(document: Mapping[str, Any], path: Path) -> Calibration:
    try:
        return parse_calibration(document)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
