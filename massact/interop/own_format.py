"""Lines of our own export: in the format like all others, with the whole row in a `massact` object."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from massact.interop.lines import OWN, LineError
from massact.json_text import parse_object
from massact.keys import digest_text
from massact.store.schema import (
    EvaluationRow,
    Kind,
    Scores,
    StageRow,
    decode_evaluation,
    decode_scores,
    decode_stage,
    encode_row,
)

Times = tuple[int, int]
"""When a run started and when it finished, in milliseconds since 1970."""
_RowT = TypeVar("_RowT", EvaluationRow, StageRow)


@dataclass(frozen=True, slots=True)
class OwnLine:
    """A measured result, as the run store held it."""

    row: EvaluationRow
    scores: Scores | None
    times: Times
    responses: str | None
    """Its responses file within `responses/`."""


def measured_identity(key: str, finished_at: int | None) -> str:
    """By what a run that massact measured is known again: one cell finishes once in a millisecond."""
    return f"{key} {finished_at}"


def is_own(document: Mapping[str, Any]) -> bool:
    """Whether a line is one of our own export."""
    return OWN in document and document.get("type") != "header"


def parse_own_line(line: bytes, experiment: str) -> OwnLine:
    """The measured result that a line holds; its experiment becomes the one given.

    Raises:
        LineError: the `massact` object is damaged, or does not say what the line says.
    """
    document = parse_object(line, allow_nan=True)  # once more: a row's 800.0 stays 800.0
    kind = Kind.BASELINE if document.get("type") == "baseline" else Kind.EVALUATION
    row, times = _row(document, experiment, kind, decode_evaluation)
    extra = document[OWN]
    try:
        scores = None if extra.get("scores") is None else decode_scores(json.dumps(extra["scores"]))
    except (ValueError, TypeError, KeyError) as error:
        raise LineError(f"its `massact` object holds no row of ours: {error}") from error
    result = document.get("result")
    for name in ("trait_mean", "coherence_mean"):
        # an edited line: its row would say something else than people read in it
        said, kept = result.get(name) if isinstance(result, dict) else None, getattr(row, name)
        if said != kept:
            raise LineError(
                f"{name} is {said!r}, in its `massact` row {kept!r}: export again, or remove "
                "the `massact` object to import the line as it is written"
            )
    responses = extra.get("responses")
    if responses is not None and not _is_inside(responses):
        raise LineError(f"its responses file {responses!r} lies outside `responses/`")
    return OwnLine(row, scores, times, responses)


def own_line(
    row: EvaluationRow, times: Times, scores: Scores | None, responses: str | None
) -> dict[str, Any]:
    """A measured result as a line; `parse_own_line` reads it back."""
    result = {name: getattr(row, name) for name in ("trait_mean", "trait_std", "coherence_mean")}
    line: dict[str, Any] = {"result": {**result, "n": row.n_scored}}
    if row.kind is Kind.BASELINE:
        line = {"type": "baseline", **line}
    else:
        vector = {
            "layer": row.layer,
            "component": row.component,
            "position": row.position,
            "method": row.label,
            "weight": row.coefficient,
        }
        line["config"] = {"vectors": [vector]}
    extra = {
        **own_document(row, times),
        "scores": None if scores is None else {"trait": scores.trait, "coherence": scores.coherence},
        **({} if responses is None else {"responses": responses}),
    }
    return {**line, "eval": {"trait_judge": None}, "timestamp": iso_time(times[1]), OWN: extra}


def own_document(row: EvaluationRow | StageRow, times: Times) -> dict[str, Any]:
    """What the `massact` object of a line or of a `calibration.json` holds at least."""
    cell = {} if row.cell is None else {"cell": row.cell}
    return {"row": json.loads(encode_row(row)), **cell, "started_at": times[0], "finished_at": times[1]}


def parse_own_stage(document: Mapping[str, Any], experiment: str) -> tuple[StageRow, Times]:
    """The measured calibration in a `calibration.json` of our own export, and when it was made.

    Raises:
        LineError: its `massact` object is damaged.
    """
    return _row(document, experiment, Kind.CALIBRATION, decode_stage)


def iso_time(milliseconds: int) -> str:
    """A time as the format writes it, in UTC and to the millisecond."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(tzinfo=None)
    return f"{moment.isoformat()}.{milliseconds % 1000:03d}"


def _row(
    document: Mapping[str, Any], experiment: str, kind: Kind, decode: Callable[[str, str | None], _RowT]
) -> tuple[_RowT, Times]:
    """The row in a `massact` object, with its experiment replaced, and its times."""
    extra = document.get(OWN)
    if not isinstance(extra, dict):
        raise LineError("its `massact` object is damaged; export again, or remove it")
    try:
        row = decode(json.dumps(extra["row"]), extra.get("cell"))
    except (ValueError, TypeError, KeyError) as error:
        raise LineError(f"its `massact` object holds no row of ours: {error}") from error
    if row.kind is not kind:
        raise LineError(f"its `massact` row is of kind {row.kind}")
    if not isinstance(row.cell, str) or digest_text(row.cell) != row.key:
        row = replace(row, cell=None)
    finished_at = extra.get("finished_at")
    times = _milliseconds(extra.get("started_at", finished_at)), _milliseconds(finished_at)
    return replace(row, experiment=experiment), times


def _milliseconds(at: object) -> int:
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < 2**53:
        raise LineError(f"its `massact` time {at!r} is no count of milliseconds")
    return at


def _is_inside(path: object) -> bool:
    parts = path.split("/") if isinstance(path, str) else []
    return 0 < len(parts) <= 4 and all(part not in ("", ".", "..") and "\0" not in part for part in parts)
