"""What a figure is drawn from: a DataFrame of an answer, or an experiment in a store, as the report's evidence."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from massact.addresses import resolve_tracking_uri
from massact.config import CalibrationConfig, Experiment, ExtractionConfig, JudgeConfig, TraitConfig, load_experiment
from massact.domain import DEFAULT_COHERENCE_FLOOR, Direction, Generation
from massact.errors import DataError, UsageError
from massact.floors import Floor
from massact.json_text import parse_object
from massact.names import as_held
from massact.query import Answer, Answers, Evaluations, Filters, Point
from massact.query.load import EVERYTHING, declared_by_data, named_file, normalised
from massact.query.stats.intervals import Believed
from massact.query.stats.paired import QuestionScores
from massact.report.evidence import Evidence, Facts, Place, energies_of
from massact.store.read import open_store, stored_runs
from massact.store.read.base import FINISHED, Stored
from massact.store.schema import Artifact, EvaluationRow, Kind, PublishedRow
from massact.vectors.massive_dims import Calibration, parse_calibration

if TYPE_CHECKING:
    import pandas as pd

Source: TypeAlias = "Answer[Any] | pd.DataFrame | str | Path"
"""An answer, or its DataFrame; or an experiment file, or the name of an experiment that the store holds."""
Record: TypeAlias = Mapping[str, Any]
_FORMS = (("label", ""), ("label", "best_"), ("label", "nearest_miss_"), ("label_a", "best_a_"), ("label_b", "best_b_"))
"""Where a row of an answer's DataFrame has points: the column of the label, and the prefix of the point's columns."""
_OURS = (("label", "ours_"),)
_POINT = ("layer", "coefficient", "delta", "coherence_mean")
_PLACE = ("model", "position")
_ENERGY = (*_PLACE, "label", "layer", "massive_energy")
_WHOLE = ("layer", "n_scored", "n_unscored", "n_dims_cleaned")
_ROW = {field.name for field in fields(EvaluationRow)}


def evidence_of(
    source: Source, tracking_uri: str | None, only: Filters, floor: float | str | None, *, of_energies: bool = False
) -> Evidence:
    """The evidence of a source."""
    floor = None if floor is None else Floor.read(floor)
    if isinstance(source, str | Path):
        return _of_store(source, resolve_tracking_uri(tracking_uri), only, floor, of_energies=of_energies)
    if tracking_uri is not None:
        raise UsageError(
            "an answer and a DataFrame hold their own rows: leave tracking_uri out, or give the experiment's name"
        )
    frame: pd.DataFrame = source.to_frame() if isinstance(source, Answer) else source
    if not hasattr(frame, "columns") or not hasattr(frame, "to_dict"):
        raise UsageError(
            f"cannot draw from {source!r:.40}: give an answer, its DataFrame, an experiment file, or the "
            "name of an experiment"
        )
    floor = DEFAULT_COHERENCE_FLOOR if floor is None else floor
    return _of_frame(frame, only, floor, of_energies=of_energies)


def _of_store(source: str | Path, uri: str, only: Filters, floor: float | None, *, of_energies: bool) -> Evidence:
    path = named_file(source)
    file = load_experiment(path) if path else None
    with closing(open_store(uri)) as store:
        name = as_held(file.name if file else str(source), store.experiments())
        declared = declared_by_data(file) if file else store.declared(name)
        if floor is None:
            floor = declared.floor if declared else DEFAULT_COHERENCE_FLOOR
        answers = Answers.from_store(store, name, declared)
        answers = replace(answers, groups=file.groups() if file else ())
        published = tuple(stored.row for stored in store.published(name))
        if not (answers.evaluations or answers.failures or published):
            raise UsageError(
                f"the run store holds nothing of an experiment {name!r}: give its file, or the name of one that the "
                "store holds"
            )
        answers = _admitted(answers, only).with_scores(store, floor)
        wanted = {point.run_id for point in answers.evaluations} if of_energies else set[str]()
        stored = store.evaluations(name) if wanted else ()
        energies = energies_of(evaluation.row for evaluation in stored if evaluation.run_id in wanted)
        for warning in store.warnings:
            warnings.warn(warning, stacklevel=4)
    samples = answers.evaluations.samples.values()
    experiment = replace(file, coherence_floor=floor) if file else _undeclared(floor, samples)
    evidence = Evidence.of(experiment, answers, facts=Facts(published=published, energies=energies))
    # a filter admits only a part of what the file declares
    return replace(evidence, answers=replace(evidence.answers, groups=answers.groups))


def _admitted(answers: Answers, only: Filters) -> Answers:
    """The part of what was evaluated and declared that the filters admit."""
    if only == EVERYTHING:
        return answers
    only = normalised(only)
    if answers.evaluations or answers.failures:
        return answers.only(only)
    return replace(answers, groups=tuple(group for group in answers.groups if only.admits_group(group)))


def _undeclared(floor: float, rows: Iterable[EvaluationRow]) -> Experiment:
    """The experiment of data without a file: it declares nothing but the floor and which way each trait should go."""
    directions: dict[str, Direction] = {row.trait: row.direction or "positive" for row in rows}
    return Experiment(
        name="",
        description="",
        file=Path(),
        models=(),
        traits=tuple(TraitConfig(name, "", direction) for name, direction in directions.items()),
        calibration=CalibrationConfig(""),
        extraction=ExtractionConfig((), 0),
        generation=Generation(0),
        judge=JudgeConfig(""),
        coherence_floor=floor,
        subset=0,
        phases=(),
    )


def _of_frame(frame: "pd.DataFrame", only: Filters, floor: float, *, of_energies: bool) -> Evidence:
    is_published = "source" in frame.columns
    if is_published and "label" not in frame.columns:
        frame = frame.rename(columns={"method": "label"})
    records = [_known(record) for record in frame.to_dict("records")]
    if of_energies:
        only = normalised(only)
        _check(frame, _ENERGY, "give the experiment, whose store has all")
        rows = [_row(record) for record in records if {"massive_energy", "layer"} <= record.keys()]
        energies = energies_of(row for row in rows if only.admits_row(row))
        answers = Answers(evaluations=Evaluations(), coefficient_ranges={})
        return Evidence.of(_undeclared(floor, rows), answers, facts=Facts(energies=energies))
    published = tuple(_published(frame, records)) if is_published else ()
    # beside a published figure only our own is one of ours
    forms = [
        (label, prefix)
        for label, prefix in (_OURS if is_published else _FORMS)
        if {label, *_PLACE, *(prefix + name for name in _POINT)} <= set(frame.columns)
    ]
    if not forms and not published:
        frames = "massact.runs(…).to_frame() and the frames of the other answers have what figures need"
        _check(frame, ("label", *_PLACE, *_POINT), frames)
    stored = [point for form in forms for record in records if (point := _stored(record, *form))]
    answers = Answers(evaluations=Evaluations.of(stored, least_scored=0.0), coefficient_ranges={})
    beliefs = dict(_beliefs(records))
    if beliefs:  # intervals that were worked out already; there are no scores behind them
        answers = replace(answers, scores=QuestionScores({}, {}))
    experiment = _undeclared(floor, answers.evaluations.samples.values())
    evidence = Evidence.of(experiment, _admitted(answers, only), facts=Facts(published=published))
    return replace(evidence, _beliefs=beliefs)


def _check(frame: "pd.DataFrame", wanted: Iterable[str], remedy: str, what: str = "the DataFrame") -> None:
    lacking = [name for name in wanted if name not in frame.columns]
    if lacking:
        columns = f"the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}"
        raise UsageError(f"{what} lacks {columns}; {remedy}")


def _known(record: Record) -> dict[str, Any]:
    """The values of a record; what pandas made NaN of is missing, and counts are whole again."""
    return {
        name: int(value) if name.endswith(_WHOLE) else value
        for name, value in record.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def _row(record: Record) -> EvaluationRow:
    """What a record tells: its columns are named as the fields of a row are."""
    told = {field.name: record[field.name] for field in fields(EvaluationRow) if field.name in record}
    default = {
        "experiment": "", "key": "", "setting": "frame", "model": "", "model_variant": "", "model_id": "",
        "trait": "", "judge": "", "direction": "positive",
    }  # fmt: skip
    return EvaluationRow(**{**default, **told, "kind": Kind.EVALUATION})


def _stored(record: Record, label: str, prefix: str) -> Stored[EvaluationRow] | None:
    """The point of a record as an evaluation of a store; `None` where it has none."""
    model = record.get("our_model" if prefix == "ours_" else "model")
    if model is None or not {label, f"{prefix}layer", f"{prefix}coefficient"} <= record.keys():
        return None
    point = {field.name: record.get(prefix + field.name) for field in fields(Point) if field.name in _ROW}
    point |= {name: point[name] or 0 for name in ("n_scored", "n_unscored")}
    if record.get("status") == "unscored":  # too few of its responses have scores
        point |= {"coherence_mean": None, "delta": None}
    place = {"model": model, "label": record[label], "baseline_trait_mean": record.get("baseline_trait_mean")}
    row = replace(_row(record), **{**point, **place})
    names = (row.setting, row.model, row.trait, row.position, row.label, row.layer, row.coefficient)
    run_id = str(record.get(f"{prefix}run_id", "/".join(map(str, names))))
    finished_at = -1
    with suppress(ValueError):
        moment = datetime.fromisoformat(str(record.get("finished_at")).replace("Z", "+00:00"))
        finished_at = int(moment.timestamp() * 1000)
    return Stored(run_id, FINISHED, finished_at, replace(row, key=row.key or run_id))


def _beliefs(records: Iterable[Record]) -> Iterator[tuple[tuple[Place, str], Believed]]:
    """The intervals that `massact.best(…)` worked out."""
    for record in records:
        if {"delta_low", "delta_high", "label"} <= record.keys():
            row = _row(record)
            interval = Believed(delta_low=record["delta_low"], delta_high=record["delta_high"])
            yield (Place(row.model, row.trait, row.position or ""), row.label or ""), interval


def _published(frame: "pd.DataFrame", records: Iterable[Record]) -> Iterator[PublishedRow]:
    """The figures of a frame of `massact.compare_published(…)`, or of a CSV file read with pandas."""
    remedy = "massact.compare_published(…).to_frame() has all"
    wanted = ("model", "position", "label", "delta")
    _check(frame, wanted, remedy, "the DataFrame of published figures")
    for index, record in enumerate(records):
        told: dict[str, Any] = {field.name: record.get(field.name) for field in fields(PublishedRow)}
        told |= {"kind": Kind.PUBLISHED, "experiment": "", "key": str(told["key"] or index)}
        yield PublishedRow(**{**told, "trait": told["trait"] or ""})


def calibrations_of(source: str | Path | Mapping[str, str | Path], tracking_uri: str | None) -> dict[str, Calibration]:
    """Calibrations by the model's name."""
    if isinstance(source, Mapping):
        return {str(name): _calibration(Path(path))[1] for name, path in source.items()}
    if not isinstance(source, str | Path):
        raise UsageError("give an experiment, a calibration.json, or several by the model's name")
    if Path(source).suffix == ".json":
        return dict([_calibration(Path(source))])
    return _stored_calibrations(source, resolve_tracking_uri(tracking_uri))


def _stored_calibrations(source: str | Path, uri: str) -> dict[str, Calibration]:
    from massact.store.write.artifacts import fetch_from

    path = named_file(source)
    name = load_experiment(path).name if path else str(source)
    with closing(open_store(uri)) as store:
        name = as_held(name, store.experiments())
        runs = {stored.row.model: stored.run_id for stored in store.stages(Kind.CALIBRATION, name)}
    folders = {run.run_id: run.artifact_uri for run in stored_runs(uri, name, Kind.CALIBRATION, tags=())}
    return {
        model: _calibration(fetch_from(folders[run_id], Artifact.CALIBRATION, tracking_uri=uri))[1]
        for model, run_id in runs.items()
    }


def _calibration(path: Path) -> tuple[str, Calibration]:
    """The name of the model in a `calibration.json`, or of the file, and the calibration."""
    try:
        document = parse_object(path.read_bytes())
        return str(document.get("model") or path.stem), parse_calibration(document)
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path}: no calibration can be read from it ({error})") from error
