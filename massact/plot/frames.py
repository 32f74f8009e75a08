"""An answer's DataFrame as the report's evidence: its points, its intervals, its published figures."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from massact.asked import normalised
from massact.domain import DEFAULT_COHERENCE_FLOOR, Direction, Group
from massact.errors import UsageError
from massact.plot.basis import Drawn, Given, admitted, undeclared
from massact.query import Answer, Answers, Evaluations
from massact.query.question_scores import QuestionScores
from massact.query.uncertainty import Believed
from massact.report.contents import Evidence, Place
from massact.report.facts import VectorFact
from massact.schema import EvaluationRow, Kind, Points, PublishedRow, StoredPoint

if TYPE_CHECKING:
    import pandas as pd

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
