"""The export: what counts in the run store, written as trait-interp's layout of files.

Imported lines come out as they went in; measured results with their whole row in a `massact` object, their vectors
beside them, a tensor for each layer, as trait-interp loads them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TypeVar

from massact._lazy import np
from massact.addresses import write_folder
from massact.domain import COMPONENT, Response
from massact.errors import DataError, StoreError, UsageError
from massact.interop.export_index import ExportIndex, PlannedFile, StoredResult, folder_name, imported_line, slug_of
from massact.interop.figures import calibration_file
from massact.interop.lines import OWN, parse_document, parse_result_line
from massact.interop.names import BASELINE_RESPONSES, RESPONSES, responses_name
from massact.interop.responses import responses_json
from massact.interop.rows import IMPORTED_FILE, iso_time, own_line
from massact.json_text import parse_json, parse_object
from massact.keys import digest
from massact.store.read import StoredStage, open_store, stored_runs, stored_stages
from massact.store.read.base import RawRun
from massact.store.responses import read_responses
from massact.store.schema import Artifact, Kind, MlflowTag, Scores, Tag, decode_evaluation
from massact.store.schema.names import ROW_TAGS
from massact.store.schema.rows import decode_scores
from massact.store.tensors import read_tensor, torch_file
from massact.store.write.artifacts import fetch_from
from massact.words import counted

T = TypeVar("T")
_STAYING = {
    Kind.CONFIRMATION: ("confirmation stays", "confirmations stay"),
    Kind.CONTROL: ("control stays", "controls stay"),
    Kind.SIDE_EFFECT: ("side effect stays", "side effects stay"),
    Kind.SCREENING: ("cell that was given up early stays", "cells that were given up early stay"),
}
_REMEDY = "Choose an --output that can be written"
_TAGS = (*ROW_TAGS, Tag.SCORES, Tag.IMPORTED, MlflowTag.TABLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    responses: bool = True
    vectors: bool = True
    superseded: bool = False  # also results that a newer one of the same cell has replaced
    overwrite: bool = False


@dataclass(slots=True)
class ExportReport:
    files: dict[Path, str] = field(default_factory=dict)  # what was written, and what it holds in words
    notes: list[str] = field(default_factory=list)


class Exporter:
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
        self._datasets = datasets
        self._report = ExportReport()

    def run(self, output: Path) -> ExportReport:
        """Write all files below a folder."""
        options, report = self._options, self._report
        newest = {
            (stage.row.model, stage.row.trait, stage.row.position): stage
            for stage in stored_stages(self._tracking_uri, self._experiment, Kind.EXTRACTION)
        }
        extractions = sorted(newest.values(), key=lambda stage: (stage.run.times[1], stage.run.run_id), reverse=True)
        index = ExportIndex({(stage.row.model, stage.row.trait): stage.row.model_id for stage in reversed(extractions)})
        for trait, dataset in self._datasets.items():
            index.name_trait(trait, PurePath(dataset))
        n_unreadable = self._collect(index)
        calibrations = self._calibrations()
        vectors = _vector_folders(extractions, index.trait_folders) if options.vectors else {}
        results = list(index.by_place.values())
        if not results and not calibrations and not vectors:
            raise UsageError(f"the run store holds no result of the experiment {self._experiment!r}: nothing to export")
        if not options.overwrite:
            for path in (*(file.path for file in results), *calibrations, *vectors):
                if (output / path).exists():
                    raise UsageError(
                        f"{output / path} is there already: pass --overwrite to replace it, or another --output"
                    )
        for file in results:
            self._write_results(output / file.path, file.family.header, file)
        for path, stage in calibrations.items():
            document = self._read(stage.run, Artifact.CALIBRATION, lambda file: parse_object(file.read_bytes()))
            made = calibration_file(document, stage.row, stage.run.times)
            write_folder((output / path).parent, {path.name: made}, _REMEDY)
            report.files[output / path] = "calibration"
        for path, stage in vectors.items():
            write_folder(output / path, self._vector_files(stage), _REMEDY)
            report.files[output / path] = f"vectors of {counted(len(stage.row.labels), 'label')}"
        if n_unreadable:
            report.notes.append(f"{counted(n_unreadable, 'run')} left out, with a row that cannot be read")
        self._note_what_stays()
        return report

    def _read(self, run: RawRun, name: str, parse: Callable[[Path], T]) -> T:
        try:
            return parse(fetch_from(run.artifact_uri, name, tracking_uri=self._tracking_uri))
        except (StoreError, DataError, OSError, ValueError) as error:
            raise StoreError(f"run {run.run_id}: {name}: {error}") from error

    def _calibrations(self) -> dict[Path, StoredStage]:
        """The calibrations to write, by their path; of a variant one keeps the plain name."""
        every = self._options.superseded
        newest = {
            (stage.row.key, stage.run.run_id if every else ""): stage
            for stage in stored_stages(self._tracking_uri, self._experiment, Kind.CALIBRATION)
        }

        def rank(stage: StoredStage) -> tuple[int, str]:  # an imported file has no time of its own
            return (-1 if stage.row.origin == "imported" else stage.run.times[1], stage.row.key)

        paths: dict[Path, StoredStage] = {}
        for stage in sorted(newest.values(), key=rank, reverse=True):
            folder = Path("inference", folder_name(stage.row.model_variant), "massive_activations")
            path = folder / "calibration.json"
            if path in paths:
                path = folder / f"calibration-{digest({'key': stage.row.key, 'at': rank(stage)[0]})[:8]}.json"
            paths.setdefault(path, stage)  # one run twice, under the same time, is one file
        return paths

    def _vector_files(self, stage: StoredStage) -> dict[str, bytes]:
        """`{method}/layer{N}.pt` and `{method}/metadata.json`."""
        files = {}
        for label in stage.row.labels:
            name = f"{Artifact.VECTORS}/{label}.safetensors"
            try:
                vectors = self._read(stage.run, name, lambda path: read_tensor(path, "vectors", "np").astype("<f4"))
            except StoreError as error:
                self._report.notes.append(f"vectors left out: {error}")
                continue
            for layer, vector in enumerate(vectors):
                files[f"{label}/layer{layer}.pt"] = torch_file(vector.tobytes())
            metadata = {
                "model": stage.row.model_id,
                "trait": stage.row.trait,
                "method": label,
                "component": COMPONENT,
                "position": stage.row.position,
                "layers": {str(layer): {"norm": float(np.linalg.norm(vector))} for layer, vector in enumerate(vectors)},
                "timestamp": iso_time(stage.run.times[1]),
            }
            files[f"{label}/metadata.json"] = json.dumps(metadata, indent=2).encode()
        return files

    def _note_what_stays(self) -> None:
        """The format knows one set of questions, asked whole: read back, these would be results like any other."""
        staying = stored_runs(self._tracking_uri, self._experiment, *_STAYING, tags=(Tag.KIND,))
        counts = Counter(run.tags[Tag.KIND] for run in staying)
        for kind, (singular, several) in _STAYING.items():
            if count := counts[kind]:
                what = counted(count, singular, several)
                self._report.notes.append(f"{what} in the run store: the format has no place for them")

    def _collect(self, index: ExportIndex) -> int:
        """Put what counts into its files. Returns how many runs cannot be read."""
        n_unreadable = 0
        results: dict[str, StoredResult] = {}
        for run in stored_runs(self._tracking_uri, self._experiment, Kind.EVALUATION, Kind.BASELINE, tags=_TAGS):
            try:
                row = decode_evaluation(run.tags.get(Tag.ROW, ""), run.tags.get(Tag.CELL))
            except (ValueError, TypeError):
                n_unreadable += 1
            else:
                results[run.run_id] = StoredResult(run, row, imported_line(self._imported(run)))
        counting = sorted(results.values(), key=lambda result: (result.run.times[1], result.row.key, result.run.run_id))
        if not self._options.superseded:
            newest = {(result.row.kind, result.row.key): result for result in counting}
            counting = [result for result in counting if newest[result.row.kind, result.row.key] is result]
        counting.sort(key=lambda result: result.is_baseline)  # baselines go where evaluations are
        for result in counting:
            index.name_imported(result)
        for result in counting:
            try:
                index.add(result)
            except UsageError as error:
                self._report.notes.append(f"not exported: run {result.run.run_id}: {error}")
        index.name_files()
        return n_unreadable

    def _imported(self, run: RawRun) -> str | None:
        """The text of the tag `massact.imported`, from the artifact where the line is too long for it."""
        tag = run.tags.get(Tag.IMPORTED)
        try:
            if tag is None or IMPORTED_FILE not in tag or "artifact" not in parse_json(tag):
                return tag
        except (ValueError, TypeError):
            return None  # damaged: the row tells all that is known
        try:
            return self._read(run, IMPORTED_FILE, lambda path: path.read_text(encoding="utf-8"))
        except StoreError as error:
            self._report.notes.append(f"exported without the line it was imported from: {error}")
            return None

    def _write_results(self, path: Path, header: str, file: PlannedFile) -> None:
        results, responses = file.in_order(), dict[str, bytes]()
        lines = [self._line(result, responses) for result in results]
        if responses:
            write_folder(path.parent / RESPONSES, responses, _REMEDY)
        write_folder(path.parent, {path.name: "".join(f"{line}\n" for line in (header, *lines)).encode()}, _REMEDY)
        n_baselines = sum(result.is_baseline for result in results)
        self._report.files[path] = (
            f"{counted(len(results) - n_baselines, 'evaluation')}, {counted(n_baselines, 'baseline')}, "
            f"{len(responses)} with responses"
        )
        n_other = _n_other_baseline(results)
        if n_other:
            self._report.notes.append(
                f"{path}: {counted(n_other, 'evaluation')} compared with another baseline than its newest: "
                "imported elsewhere they get another delta"
            )

    def _line(self, result: StoredResult, taken: dict[str, bytes]) -> str:
        """A run as a line of its file; its responses become one more file."""
        responses, name = self._responses(result.run), None
        if result.imported is not None:
            # under the name by which an import finds them again; of baselines, the newest keeps it
            text = result.imported.text
            name = _responses_name(parse_document(text.encode(), allow_nan=True)) if responses else None
            if responses and (name is None or (name in taken and not result.is_baseline)):
                self._report.notes.append(
                    f"responses of run {result.run.run_id} left out: their file's name is taken or cannot be"
                )
                name = None
        else:
            scores, key = self._scores(result.run), result.row.key
            document = own_line(result.row, result.run.times, scores)
            if responses:
                name = _responses_name(document) or f"{result.row.component or 'other'}/other/{key[:16]}.json"
                if name in taken:
                    name = f"{name.removesuffix('.json')}_{key[:8]}_{result.run.times[1]}.json"
                document[OWN]["responses"] = name
            text = json.dumps(document, allow_nan=False)
        if name is not None:
            taken[name] = responses_json(responses)
        return text

    def _responses(self, run: RawRun) -> tuple[Response, ...]:
        if not self._options.responses or MlflowTag.TABLES not in run.tags:
            return ()
        try:
            return self._read(run, Artifact.RESPONSES, read_responses)
        except StoreError as error:
            self._report.notes.append(f"responses left out: {error}")
            return ()

    def _scores(self, run: RawRun) -> Scores | None:
        if Tag.SCORES in run.tags:
            with suppress(ValueError, TypeError, KeyError):  # damaged: the stepped metrics hold them too
                return decode_scores(run.tags[Tag.SCORES])
        # too many for a tag
        with closing(open_store(self._tracking_uri)) as store:
            scores = store.scores([run.run_id]).get(run.run_id)
        has_any = scores is not None and any(score is not None for score in (*scores.trait, *scores.coherence))
        return scores if has_any else None


def _n_other_baseline(results: Iterable[StoredResult]) -> int:
    """Imported evaluations whose baseline is not the newest of their file: it was deleted, or came later."""
    newest: dict[tuple[str, int | None], tuple[str | None, float | None]] = {}
    count = 0
    for row in (result.row for result in results if result.imported is not None):
        if row.kind is Kind.BASELINE:
            newest[row.judge, row.n_questions] = (row.key, row.trait_mean)
        else:
            without_number = newest.get((row.judge, None), (None, None))
            of_judge = newest.get((row.judge, row.n_questions), without_number)
            count += of_judge != (row.baseline_key, row.baseline_trait_mean)
    return count


def _vector_folders(extractions: Iterable[StoredStage], trait_folders: Mapping[str, str]) -> dict[Path, StoredStage]:
    """Where they go within the exported folder; of two models whose variants have one name the newest keeps it."""
    folders: dict[Path, StoredStage] = {}
    for stage in extractions:
        row = stage.row
        if row.trait is None or row.position is None:
            continue
        trait = folder_name(trait_folders.get(row.trait, row.trait))
        for ending in ("", f"-{digest({'model': row.model})[:8]}"):
            variant = folder_name(row.model_variant) + ending
            folder = Path("extraction", trait, variant, "vectors", slug_of(row.position), COMPONENT)
            if folder not in folders:
                folders[folder] = stage
                break
    return folders


def _responses_name(document: Mapping[str, object]) -> str | None:
    if document.get("type") == "baseline":
        return BASELINE_RESPONSES
    return responses_name(parse_result_line(document))
