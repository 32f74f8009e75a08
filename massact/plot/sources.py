"""What a figure is drawn from: a DataFrame of an answer, or an experiment in a store, as the report's evidence."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massact.addresses import resolve_tracking_uri
from massact.config import (
    CalibrationConfig,
    Experiment,
    ExtractionConfig,
    JudgeConfig,
    TraitConfig,
    load_experiment,
)
from massact.domain import DEFAULT_COHERENCE_FLOOR, Direction, Generation, Group
from massact.errors import DataError, UsageError
from massact.json_text import parse_json
from massact.names import as_held
from massact.query import Answer, Answers, Evaluations, Filters
from massact.query.load import EVERYTHING, named_file, normalised
from massact.query.stats.intervals import Believed
from massact.query.stats.paired import QuestionScores
from massact.report.evidence import Evidence, Place, VectorFact
from massact.store.read import open_store
from massact.store.read.contents import stored_runs
from massact.store.schema import Artifact, EvaluationRow, Kind, Points, PublishedRow, StoredPoint
from massact.vectors.massive_dims import Calibration, parse_calibration

if TYPE_CHECKING:
    import pandas as pd
import warnings
from typing import TYPE_CHECKING, TypeAlias

from massact.domain import DEFAULT_LEAST_SCORED
from massact.query.load import declared_by_data
from massact.store.read import RunStore

# What a figure is drawn from, wherever it came from.


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What every figure's function takes beside its source."""

    tracking_uri: str | None = None
    only: Filters = EVERYTHING
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What figures are drawn from."""

    evidence: Evidence
    published: tuple[PublishedRow, ...] = ()
    rows: tuple[EvaluationRow, ...] = ()
    """Whole rows; only where they were asked for."""


def admitted(answers: Answers, only: Filters) -> Answers:
    """The part of what was evaluated and declared that the filters admit."""
    if only == EVERYTHING:
        return answers
    only = normalised(only)
    if answers.evaluations or answers.failures:
        return answers.only(only)
    return replace(answers, groups=tuple(group for group in answers.groups if only.admits_group(group)))


def undeclared(floor: float, directions: Mapping[str, Direction]) -> Experiment:
    """The experiment of data without a file: it declares nothing but the floor and which way each trait should go."""
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


# The calibrations that a figure of massive dims is drawn from.


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
    return _calibrations_of_store(source, tracking_uri)


def _calibrations_of_store(source: str | Path, tracking_uri: str | None) -> dict[str, Calibration]:
    from massact.store.write.artifacts import fetch_from

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


# An answer's DataFrame as the report's evidence: its points, its intervals, its published figures.

_FORMS = (
    ("label", ""),
    ("label", "best_"),
    ("label", "nearest_miss_"),
    ("label_a", "best_a_"),
    ("label_b", "best_b_"),
)
"""Where a row of an answer's DataFrame has points: the column of the label, and the prefix of the point's columns."""
_OURS = (("label", "ours_"),)
_POINT = ("layer", "coefficient", "delta", "coherence_mean")
_PLACE = ("model", "position")
_SETTING = "frame"


def as_frame(source: object) -> "pd.DataFrame":
    """A DataFrame, or the one of an answer.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(source, Answer):
        return source.to_frame()
    if not hasattr(source, "columns") or not hasattr(source, "to_dict"):
        raise UsageError(
            f"cannot draw from {source!r:.40}: give an answer, its DataFrame, an experiment file, or the "
            "name of an experiment"
        )
    frame: pd.DataFrame = source
    return frame


def facts_from_frame(frame: "pd.DataFrame", given: Given) -> tuple[Drawn, tuple[VectorFact, ...]]:
    """The energies of a DataFrame.

    Raises:
        UsageError: a column is missing.
    """
    wanted = ("model", "position", "label", "layer", "massive_energy")
    lacking = [name for name in wanted if name not in frame.columns]
    if lacking:
        raise UsageError(f"the DataFrame lacks {_columns(lacking)}; give the experiment, whose store has all")
    only = normalised(given.only)
    facts = tuple(
        VectorFact(
            model=str(record["model"]),
            trait=str(_value(record, "trait", "")),
            position=str(record["position"]),
            label=str(record["label"]),
            layer=int(record["layer"]),
            massive_energy=float(record["massive_energy"]),
        )
        for record in frame.to_dict("records")
        if _value(record, "massive_energy") is not None and _value(record, "layer") is not None
    )
    kept = (one for one in facts if only.admits_group(Group(one.model, one.trait, one.position, one.label)))
    traits: dict[str, Direction] = dict.fromkeys((one.trait for one in facts), "positive")
    answers = Answers(evaluations=Evaluations(), coefficient_ranges={})
    floor = DEFAULT_COHERENCE_FLOOR if given.floor is None else given.floor
    found = tuple(one for one in kept if not only.layers or one.layer in only.layers)
    return Drawn(Evidence.of(undeclared(floor, traits), answers)), found


def drawn_from_frame(frame: "pd.DataFrame", given: Given) -> Drawn:
    """The evidence of an answer's DataFrame.

    Raises:
        UsageError: a column is missing, or the filters admit nothing.
    """
    floor = DEFAULT_COHERENCE_FLOOR if given.floor is None else given.floor
    is_published = "source" in frame.columns
    published = tuple(_published(frame)) if is_published else ()
    records = frame.to_dict("records")
    # beside a published figure only our own is one of ours
    known = _OURS if is_published else _FORMS
    forms = [form for form in known if _has(frame, form)]
    if not forms and not published:
        raise UsageError(
            f"the DataFrame lacks {_lacking(frame)}; massact.runs(…).to_frame() and the frames of the other answers "
            "have what figures need"
        )
    found = [one for form in forms for record in records if (one := _point(record, *form)) is not None]
    points = {point.run_id: point for point, _ in found}
    samples = {point.setting: _sample(record, point) for point, record in found}
    directions: dict[str, Direction] = {row.trait: row.direction or "positive" for row in samples.values()}
    evaluations = Evaluations.from_points(Points.of(points.values()).newest(), samples)
    answers = Answers(evaluations=evaluations, coefficient_ranges={})
    beliefs = dict(_beliefs(records))
    if beliefs:  # intervals that were worked out already; there are no scores behind them
        answers = replace(answers, scores=QuestionScores({}, {}))
    evidence = Evidence.of(undeclared(floor, directions), admitted(answers, given.only))
    return Drawn(replace(evidence, _beliefs=beliefs), published)


def _has(frame: "pd.DataFrame", form: tuple[str, str]) -> bool:
    label, prefix = form
    return {label, *_PLACE, *(prefix + name for name in _POINT)} <= set(frame.columns)


def _lacking(frame: "pd.DataFrame") -> str:
    return _columns([name for name in ("label", *_PLACE, *_POINT) if name not in frame.columns])


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _value(record: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """A value; what pandas made NaN of is missing."""
    value = record.get(name, default)
    return default if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _point(
    record: Mapping[str, Any], label: str, prefix: str
) -> tuple[StoredPoint, Mapping[str, Any]] | None:
    layer, coefficient = _value(record, f"{prefix}layer"), _value(record, f"{prefix}coefficient")
    model = _value(record, "our_model") if prefix == "ours_" else _value(record, "model")
    if layer is None or coefficient is None or model is None or _value(record, label) is None:
        return None
    place = (str(_value(record, "setting", _SETTING)), str(model), str(_value(record, "trait", "")),
             str(record["position"]), str(record[label]))  # fmt: skip
    run_id = str(_value(record, f"{prefix}run_id", "/".join(map(str, (*place, layer, coefficient)))))
    numbers = ("trait_mean", "coherence_mean", "delta")
    trait_mean, coherence_mean, delta = (_value(record, prefix + name) for name in numbers)
    if record.get("status") == "unscored":  # too few of its responses have scores
        coherence_mean = delta = None
    return (
        StoredPoint(
            run_id=run_id,
            finished_at=_milliseconds(_value(record, "finished_at")),
            setting=place[0],
            model=place[1],
            trait=place[2],
            position=place[3],
            label=place[4],
            baseline_trait_mean=_value(record, "baseline_trait_mean"),
            layer=int(layer),
            n_dims_cleaned=None,
            vector_digest=_value(record, f"{prefix}vector_digest"),
            key=str(_value(record, f"{prefix}key", run_id)),
            coefficient=float(coefficient),
            trait_mean=trait_mean,
            coherence_mean=coherence_mean,
            delta=delta,
            n_scored=int(_value(record, f"{prefix}n_scored", 0)),
            n_unscored=int(_value(record, f"{prefix}n_unscored", 0)),
            relative_strength=_value(record, f"{prefix}relative_strength"),
            same_as=_value(record, f"{prefix}same_as"),
        ),
        record,
    )


def _milliseconds(text: Any) -> int:
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp() * 1000)
    except ValueError:
        return -1


def _sample(record: Mapping[str, Any], point: StoredPoint) -> EvaluationRow:
    return EvaluationRow(
        kind=Kind.EVALUATION,
        experiment="",
        key=point.key,
        setting=point.setting,
        model=point.model,
        model_variant="",
        model_id="",
        trait=point.trait,
        judge=str(_value(record, "judge", "")),
        direction=_value(record, "direction", "positive"),
    )


def _beliefs(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[Place, str], Believed]]:
    """The intervals that `massact.best(…)` worked out."""
    for record in records:
        low, high = _value(record, "delta_low"), _value(record, "delta_high")
        if low is not None and high is not None and _value(record, "label") is not None:
            place = Place(str(record["model"]), str(_value(record, "trait", "")), str(record["position"]))
            yield (place, str(record["label"])), Believed(delta_low=low, delta_high=high)


def _published(frame: "pd.DataFrame") -> Iterator[PublishedRow]:
    """The figures of a frame of `massact.compare_published(…)`, or of a CSV file read with pandas."""
    renamed = {"method": "label"} if "label" not in frame.columns else {}
    records = frame.rename(columns=renamed).to_dict("records")
    lacking = [name for name in ("model", "position", "label", "delta") if records and name not in records[0]]
    if lacking:
        raise UsageError(
            f"the DataFrame of published figures lacks {_columns(lacking)}; massact.compare_published(…).to_frame() "
            "has all"
        )
    numbers = (
        "coefficient",
        "trait_mean",
        "coherence_mean",
        "delta",
        "baseline_trait_mean",
        "coherence_floor",
    )
    for index, record in enumerate(records):
        layer = _value(record, "layer")
        yield PublishedRow(
            kind=Kind.PUBLISHED,
            experiment="",
            key=str(_value(record, "key", index)),
            source=str(record["source"]),
            model=str(record["model"]),
            trait=str(_value(record, "trait", "")),
            position=str(record["position"]),
            label=str(record["label"]),
            layer=None if layer is None else int(layer),
            note=_value(record, "note"),
            **{name: _value(record, name) for name in numbers},
        )


Source: TypeAlias = "Answer[Any] | pd.DataFrame | str | Path"
"""An answer, or its DataFrame; or an experiment file, or the name of an experiment that the store holds."""


def drawn_from(source: Source, given: Given, *, with_rows: bool = False) -> Drawn:
    """The evidence of a source.

    Args:
        with_rows: whether the whole evaluations are needed too, of a store.

    Raises:
        UsageError: a column is missing, the experiment is unknown, or the filters admit nothing.
    """
    if given.floor is not None and not 0 <= given.floor <= 100:
        raise UsageError(f"coherence floor {given.floor:g}: coherence runs from 0 to 100")
    if isinstance(source, str | Path):
        return _evidence_of_store(source, given, with_rows=with_rows)
    if given.tracking_uri is not None:
        raise UsageError(
            "an answer and a DataFrame hold their own rows: leave tracking_uri out, or give the experiment's name"
        )
    return drawn_from_frame(as_frame(source), given)


def _evidence_of_store(source: str | Path, given: Given, *, with_rows: bool) -> Drawn:
    path = named_file(source)
    file = load_experiment(path) if path else None
    name = file.name if file else str(source)
    store = open_store(resolve_tracking_uri(given.tracking_uri))
    try:
        name = as_held(name, store.experiments())
        declared = declared_by_data(file) if file else store.declared(name)
        told = declared.floor if declared else DEFAULT_COHERENCE_FLOOR
        floor = told if given.floor is None else given.floor
        answers = Answers.from_store(
            store,
            name,
            groups=file.groups() if file else (),
            setting=declared.setting if declared else None,
            least_scored=declared.least_scored if declared else DEFAULT_LEAST_SCORED,
        )
        published = tuple(one.row for one in store.published(name))
        if not (answers.evaluations or answers.failures or published):
            raise UsageError(
                f"the run store holds nothing of an experiment {name!r}: give its file, or the name of one that the "
                "store holds"
            )
        answers = admitted(answers, given.only)
        answers = answers.with_scores(store, floor)
        rows = _rows(store, answers, name) if with_rows else ()
        for warning in store.warnings:
            warnings.warn(warning, stacklevel=2)
    finally:
        store.close()
    experiment = replace(file, coherence_floor=floor) if file else undeclared(floor, _directions(answers))
    evidence = Evidence.of(experiment, answers)
    # a filter admits only a part of what the file declares
    return Drawn(replace(evidence, answers=replace(evidence.answers, groups=answers.groups)), published, rows)


def _rows(store: RunStore, answers: Answers, name: str) -> tuple[EvaluationRow, ...]:
    wanted = {point.run_id for point in answers.evaluations}
    return tuple(one.row for one in store.evaluations(name) if one.run_id in wanted)


def _directions(answers: Answers) -> dict[str, Direction]:
    return {row.trait: row.direction or "positive" for row in answers.evaluations.samples.values()}


def energy_facts(source: Source, given: Given) -> tuple[Drawn, tuple[VectorFact, ...]]:
    """Where the energy of each vector lies.

    Raises:
        UsageError: a column is missing, the experiment is unknown, or the filters admit nothing.
    """
    if isinstance(source, Answer) or not isinstance(source, str | Path):
        return facts_from_frame(as_frame(source), given)
    drawn = drawn_from(source, given, with_rows=True)
    return drawn, tuple(
        VectorFact(
            model=row.model,
            trait=row.trait,
            position=row.position or "",
            label=row.label or "",
            layer=row.layer or 0,
            massive_energy=row.massive_energy,
        )
        for row in drawn.rows
        if row.massive_energy is not None
    )
