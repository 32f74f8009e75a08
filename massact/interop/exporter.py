"""The export: what counts in the run store, written as trait-interp's layout of files.

Imported lines come out as they went in. Measured results come out in the same format, each with its whole
row in a `massact` object, so that importing them gives the same rows; their vectors come out beside them. The
activations stay in the store.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType

from massact.domain import COMPONENT
from massact.errors import StoreError, UsageError
from massact.interop.calibrations import calibration_file
from massact.interop.export_results import Kept, LineWriter, Place, Shelf
from massact.interop.files import ArtifactReader, check_free, write_whole
from massact.interop.layout import (
    Family,
    Files,
    ImportedLine,
    folder_name,
    imported_line,
    measured_family,
    slug_of,
)
from massact.interop.own_format import Times, iso_time
from massact.interop.writing import IMPORTED_FILE
from massact.json_text import parse_json, parse_object
from massact.keys import digest
from massact.store.read.base import RawRun
from massact.store.read.contents import stored_runs
from massact.store.schema import (
    ROW_TAGS,
    Artifact,
    EvaluationRow,
    Kind,
    MlflowTag,
    StageRow,
    Tag,
    decode_evaluation,
    decode_stage,
)
from massact.toy import is_toy

# Stored vectors as files: a tensor for each layer, as trait-interp loads them, and beside them what they are of.


@dataclass(frozen=True, slots=True)
class PlannedVectors:
    """The newest extraction of a model, trait and position window."""

    run_id: str
    row: StageRow
    finished_at: int

    @property
    def rank(self) -> tuple[int, str]:
        """The greatest is the newest."""
        return (self.finished_at, self.run_id)

    def write(self, folder: Path, artifacts: ArtifactReader) -> Iterator[str]:
        """Write `{method}/layer{N}.pt` and `{method}/metadata.json`. Gives a note for each label that cannot be had.

        Raises:
            UsageError: a file cannot be written.
        """
        for label in self.row.labels:
            try:
                norms, files = artifacts.read_layers(self.run_id, label)
            except StoreError as error:
                yield f"vectors left out: {error}"
                continue
            for layer, content in enumerate(files):
                write_whole(folder / label / f"layer{layer}.pt", [content])
            metadata = {
                "model": self.row.model_id,
                "trait": self.row.trait,
                "method": label,
                "component": COMPONENT,
                "position": self.row.position,
                "layers": {str(layer): {"norm": norm} for layer, norm in enumerate(norms)},
                "timestamp": iso_time(self.finished_at),
            }
            write_whole(folder / label / "metadata.json", [json.dumps(metadata, indent=2).encode()])


def newest_extractions(tracking_uri: str, experiment: str) -> list[PlannedVectors]:
    """The newest extraction of each model, trait and window, the newest of all first.

    Raises:
        StoreError: the store cannot be read.
    """
    found: dict[tuple[str, str | None, str | None], PlannedVectors] = {}
    for run in stored_runs(tracking_uri, experiment, Kind.EXTRACTION, tags=(Tag.ROW,)):
        try:
            row = decode_stage(run.tags.get(Tag.ROW, ""))
        except (ValueError, TypeError):
            continue
        one = PlannedVectors(run.run_id, row, run.finished_at or 0)
        place = (row.model, row.trait, row.position)
        if place not in found or one.rank > found[place].rank:
            found[place] = one
    return sorted(found.values(), key=lambda one: one.rank, reverse=True)


def vector_folders(
    extractions: list[PlannedVectors], trait_folders: Mapping[str, str]
) -> dict[Path, PlannedVectors]:
    """Where they go within the exported folder; of two models whose variants have one name the newest keeps it.

    Raises:
        UsageError: a name cannot be a folder.
    """
    folders: dict[Path, PlannedVectors] = {}
    for one in extractions:
        if one.row.trait is None or one.row.position is None:
            continue
        trait = folder_name(trait_folders.get(one.row.trait, one.row.trait))
        for ending in ("", f"-{digest({'model': one.row.model})[:8]}"):
            variant = folder_name(one.row.model_variant) + ending
            folder = Path("extraction", trait, variant, "vectors", slug_of(one.row.position), COMPONENT)
            if folder not in folders:
                folders[folder] = one
                break
    return folders


# Stored calibrations as files: one of each variant keeps the plain name.


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
    for run in stored_runs(tracking_uri, experiment, Kind.CALIBRATION, tags=ROW_TAGS):
        try:
            row = decode_stage(run.tags.get(Tag.ROW, ""), run.tags.get(Tag.CELL))
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


_STAYING = {
    Kind.CONFIRMATION: ("confirmation stays", "confirmations stay"),
    Kind.SCREENING: ("cell that was given up early stays", "cells that were given up early stay"),
}
_TAGS = (Tag.ROW, Tag.SCORES, Tag.IMPORTED, MlflowTag.TABLES)


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file that was written."""

    path: Path
    n_baselines: int = 0
    n_evaluations: int = 0
    n_responses: int = 0
    """Responses files beside it."""
    n_labels: int = 0
    """Of a folder of vectors, the methods in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is exported."""

    responses: bool = True
    vectors: bool = True
    superseded: bool = False
    """Also results that a newer one of the same cell has replaced."""
    overwrite: bool = False
    """Replace results files that are there."""


@dataclass(slots=True)
class ExportReport:
    """What an export wrote."""

    files: list[ExportedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Exporter:
    """One export of one experiment."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        options: ExportOptions,
        datasets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`datasets` are the folders of traits by their names, where a file declares them."""
        self._tracking_uri = tracking_uri
        self._experiment = experiment
        self._options = options
        self._artifacts = ArtifactReader(tracking_uri)
        self._files = Files()
        for trait, dataset in datasets.items():
            self._name_trait(trait, PurePath(dataset))
        self._extractions: list[PlannedVectors] = []
        self._files_by_baseline: dict[str, set[int]] = {}
        self._report = ExportReport()

    def run(self, output: Path) -> ExportReport:
        """Write all files below a folder.

        Raises:
            UsageError: there is nothing to export, or a file is there already.
            StoreError: the store cannot be read.
        """
        self._extractions = newest_extractions(self._tracking_uri, self._experiment)
        with closing(Shelf()) as shelf:
            n_unreadable = self._collect(shelf)
            self._place_all(shelf)
            self._files.name_files()
            calibrations = plan_calibrations(
                self._tracking_uri, self._experiment, superseded=self._options.superseded
            )
            vectors = (
                vector_folders(self._extractions, self._files.trait_folders) if self._options.vectors else {}
            )
            if not self._files.planned and not calibrations and not vectors:
                raise UsageError(
                    f"the run store holds no result of the experiment {self._experiment!r}: nothing to export"
                )
            if not self._options.overwrite:
                check_free(output / path for path in (*self._paths(), *calibrations, *vectors))
            for number in range(len(self._files.planned)):
                self._write(shelf, number, output)
            for path, calibration in calibrations.items():
                write_whole(output / path, [calibration.content(self._artifacts)])
                self._report.files.append(ExportedFile(output / path))
            for path, extraction in vectors.items():
                self._report.notes += extraction.write(output / path, self._artifacts)
                self._report.files.append(ExportedFile(output / path, n_labels=len(extraction.row.labels)))
        if n_unreadable:
            self._report.notes.append(f"{n_unreadable} runs hold a row that cannot be read: left out")
        self._note_what_stays()
        return self._report

    def _note_what_stays(self) -> None:
        """The format knows one set of questions, asked whole: read back, these would be results like any other."""
        for kind, (one, several) in _STAYING.items():
            count = sum(1 for _ in stored_runs(self._tracking_uri, self._experiment, kind, tags=()))
            if count:
                what = one if count == 1 else several
                self._report.notes.append(
                    f"{count} {what} in the run store: the format has no place for them"
                )

    def _paths(self) -> Iterator[Path]:
        for file in self._files.planned:
            yield Path(file.path)

    def _collect(self, shelf: Shelf) -> int:
        """Put all runs on the shelf. Returns how many cannot be read."""
        n_unreadable = 0
        for kind in (Kind.EVALUATION, Kind.BASELINE):
            for run in stored_runs(self._tracking_uri, self._experiment, kind, tags=_TAGS):
                try:
                    row = decode_evaluation(run.tags.get(Tag.ROW, ""))
                except (ValueError, TypeError):
                    n_unreadable += 1
                    continue
                shelf.add(self._kept(run, kind, row.key))
        return n_unreadable

    def _kept(self, run: RawRun, kind: Kind, key: str) -> Kept:
        ended = run.finished_at if run.finished_at is not None else 0
        return Kept(
            run_id=run.run_id,
            kind=kind,
            key=key,
            started_at=run.started_at if run.started_at is not None else ended,
            finished_at=ended,
            row=run.tags[Tag.ROW],
            scores=run.tags.get(Tag.SCORES),
            imported=self._imported(run.run_id, run.tags.get(Tag.IMPORTED)),
            has_responses=MlflowTag.TABLES in run.tags,
        )

    def _imported(self, run_id: str, tag: str | None) -> str | None:
        """The text of the tag `massact.imported`, from the artifact where the line is too long for it."""
        try:
            if tag is None or IMPORTED_FILE not in tag or "artifact" not in parse_json(tag):
                return tag
        except (ValueError, TypeError):
            return None  # damaged: the row tells all that is known
        try:
            return self._artifacts.read(run_id, IMPORTED_FILE).decode()
        except StoreError as error:
            self._report.notes.append(f"exported without the line it was imported from: {error}")
            return None

    def _place_all(self, shelf: Shelf) -> None:
        superseded = self._options.superseded
        for kept in shelf.runs(Kind.EVALUATION, superseded=superseded):
            row, line = decode_evaluation(kept.row), imported_line(kept.imported)
            position = row.position if line is None else line.context["position"] or row.position
            family = self._measured(row) if line is None else self._files.add_imported(row, line)
            try:
                slug = slug_of(position)
            except UsageError as error:
                self._report.notes.append(f"not exported: run {kept.run_id}: {error}")
                continue
            number = self._files.find(family, slug)
            if row.baseline_key is not None:
                self._files_by_baseline.setdefault(row.baseline_key, set()).add(number)
            self._place(shelf, kept, line, number)
        for kept in shelf.runs(Kind.BASELINE, superseded=superseded):
            line = imported_line(kept.imported)
            for number in self._files_of_baseline(decode_evaluation(kept.row), line):
                self._place(shelf, kept, line, number)

    def _files_of_baseline(self, row: EvaluationRow, line: ImportedLine | None) -> list[int]:
        if line is None:
            # its setting has no direction, the evaluations' has: the key is what they share
            return sorted(self._files_by_baseline.get(row.key, ())) or self._files.of_family(
                self._measured(row)
            )
        family = self._files.add_imported(row, line)
        if line.context["position"] is not None:
            return [self._files.find(family, slug_of(line.context["position"]))]
        return self._files.of_family(family)

    def _name_trait(self, trait: str, dataset: PurePath) -> None:
        """What the layout calls a trait: its folder below `traits/`, or a relative folder as it is written."""
        if is_toy(str(dataset)):
            return
        parts = dataset.parts
        below = parts[len(parts) - parts[::-1].index("traits") :] if "traits" in parts else ()
        if not below and not dataset.is_absolute():
            below = tuple(part for part in parts if part not in ("..", "~"))
        if below:
            self._files.trait_folders[trait] = "/".join(below)
        self._files.prompt_files[trait] = str(dataset / "steering.json")

    def _measured(self, row: EvaluationRow) -> Family:
        models = (
            one.row.model_id
            for one in self._extractions
            if (one.row.model, one.row.trait) == (row.model, row.trait)
        )
        return measured_family(row, next(models, None))

    def _place(self, shelf: Shelf, kept: Kept, line: ImportedLine | None, number: int) -> None:
        at = kept.finished_at if line is None or line.has_time else -1
        shelf.place(kept, Place(number, kept.kind is Kind.BASELINE, at, kept.key))
        file = self._files.planned[number]
        file.newest = max(file.newest, at)

    def _write(self, shelf: Shelf, number: int, output: Path) -> None:
        planned = self._files.planned[number]
        path = output / planned.path
        writer = LineWriter(path, self._tracking_uri, self._artifacts if self._options.responses else None)

        def lines() -> Iterator[bytes]:
            yield self._files.header(planned.family).encode() + b"\n"
            for kept in shelf.lines(number):
                yield writer.line(kept, imported_line(kept.imported))

        write_whole(path, lines())
        self._report.files.append(
            ExportedFile(path, writer.n_baselines, writer.n_evaluations, writer.n_responses)
        )
        self._report.notes += writer.notes
        if writer.n_other_baseline:
            self._report.notes.append(
                f"{path}: {writer.n_other_baseline} evaluations were compared with another baseline than its "
                "newest: imported elsewhere they get another delta"
            )
