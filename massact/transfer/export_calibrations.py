"""Stored calibrations as files: one of each variant keeps the plain name."""

from dataclasses import dataclass
from pathlib import Path

from massact.errors import StoreError
from massact.json_text import parse_object
from massact.keys import digest
from massact.schema import Artifact, Kind, StageRow, Tag, decode_stage
from massact.store.contents import stored_runs
from massact.transfer.artifacts import ArtifactReader
from massact.transfer.calibrations import calibration_file
from massact.transfer.layout import folder_name
from massact.transfer.native import Times


@dataclass(frozen=True, slots=True)
class PlannedCalibration:
    """A calibration that will be written."""

    run_id: str
    row: StageRow
    times: Times

    @property
    def rank(self) -> tuple[int, str]:
        """The greatest keeps the plain name. An imported file has no time of its own."""
        return (-1 if self.row.origin == "imported" else self.times[1], self.row.key)

    def content(self, artifacts: ArtifactReader) -> bytes:
        """The file.

        Raises:
            StoreError: the run's artifact cannot be had.
        """
        try:
            document = parse_object(artifacts.read(self.run_id, Artifact.CALIBRATION))
        except ValueError as error:
            raise StoreError(f"run {self.run_id}: its {Artifact.CALIBRATION} is not JSON") from error
        return calibration_file(document, self.row, self.times)


def plan_calibrations(
    tracking_uri: str, experiment: str, *, superseded: bool
) -> dict[Path, PlannedCalibration]:
    """The calibrations to write, by their path within the exported folder.

    Raises:
        UsageError: a variant's name cannot be a folder.
        StoreError: the store cannot be read.
    """
    found: dict[tuple[str, str], PlannedCalibration] = {}
    for run in stored_runs(tracking_uri, experiment, Kind.CALIBRATION, tags=(Tag.ROW,)):
        try:
            row = decode_stage(run.tags.get(Tag.ROW, ""))
        except (ValueError, TypeError):
            continue
        ended = run.finished_at if run.finished_at is not None else 0
        one = PlannedCalibration(run.run_id, row, (run.started_at or ended, ended))
        same = (row.key, run.run_id if superseded else "")
        known = found.get(same)
        if known is None or (one.times[1], one.run_id) > (known.times[1], known.run_id):
            found[same] = one
    paths: dict[Path, PlannedCalibration] = {}
    for one in sorted(found.values(), key=lambda one: one.rank, reverse=True):
        folder = Path("inference", folder_name(one.row.model_variant), "massive_activations")
        path = folder / "calibration.json"
        if path in paths:
            suffix = digest({"key": one.row.key, "at": one.rank[0]})[:8]
            path = folder / f"calibration-{suffix}.json"
        paths.setdefault(path, one)  # one run twice, under the same time, is one file
    return paths
