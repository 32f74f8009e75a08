"""Lines of our own export: in the format like all others, with the whole row in a `massact` object."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

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


@dataclass(frozen=True, slots=True)
class NativeLine:
    """A measured result, as the run store held it."""

    row: EvaluationRow
    scores: Scores | None
    started_at: int
    finished_at: int
    responses: str | None
    """Its responses file within `responses/`."""


def is_native(document: Mapping[str, Any]) -> bool:
    """Whether a line is one of our own export."""
    return OWN in document and document.get("type") != "header"


def parse_native(line: bytes, experiment: str) -> NativeLine:
    """The measured result that a line holds; its experiment becomes the one given.

    Raises:
        LineError: the `massact` object is damaged, or does not say what the line says.
    """
    document = parse_object(line, allow_nan=True)  # once more: a row's 800.0 stays 800.0
    own = _own(document)
    try:
        row = decode_evaluation(json.dumps(own["row"]))
        scores = None if own.get("scores") is None else decode_scores(json.dumps(own["scores"]))
    except (ValueError, TypeError, KeyError) as error:
        raise LineError(f"its `massact` object holds no row of ours: {error}") from error
    is_baseline = document.get("type") == "baseline"
    if row.kind is not (Kind.BASELINE if is_baseline else Kind.EVALUATION):
        raise LineError(f"its `massact` row is of kind {row.kind}")
    _check_agrees(document, row)
    responses = own.get("responses")
    if responses is not None and not _is_inside(responses):
        raise LineError(f"its responses file {responses!r} lies outside `responses/`")
    started_at, finished_at = _times(own)
    return NativeLine(replace(row, experiment=experiment), scores, started_at, finished_at, responses)


def native_document(
    row: EvaluationRow, times: Times, scores: Scores | None, responses: str | None
) -> dict[str, Any]:
    """A measured result as a line; `parse_native` reads it back."""
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
    own = {
        **own_document(row, times),
        "scores": None if scores is None else {"trait": scores.trait, "coherence": scores.coherence},
    }
    if responses is not None:
        own["responses"] = responses
    return {**line, "eval": {"trait_judge": None}, "timestamp": iso_time(times[1]), OWN: own}


def own_document(row: EvaluationRow | StageRow, times: Times) -> dict[str, Any]:
    """What the `massact` object of a line or of a `calibration.json` holds at least."""
    cell = {} if row.cell is None else {"cell": row.cell}
    return {"row": json.loads(encode_row(row)), **cell, "started_at": times[0], "finished_at": times[1]}


def parse_native_stage(document: Mapping[str, Any], experiment: str) -> tuple[StageRow, Times]:
    """The measured calibration in a `calibration.json` of our own export, and when it was made.

    Raises:
        LineError: its `massact` object is damaged.
    """
    own = _own(document)
    try:
        row = decode_stage(json.dumps(own["row"]), own.get("cell"))
    except (ValueError, TypeError, KeyError) as error:
        raise LineError(f"its `massact` object holds no row of ours: {error}") from error
    if row.kind is not Kind.CALIBRATION:
        raise LineError(f"its `massact` row is of kind {row.kind}")
    if not isinstance(row.cell, str) or digest_text(row.cell) != row.key:
        row = replace(row, cell=None)
    return replace(row, experiment=experiment), _times(own)


def iso_time(milliseconds: int) -> str:
    """A time as the format writes it, in UTC and to the millisecond."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(tzinfo=None)
    return f"{moment.isoformat()}.{milliseconds % 1000:03d}"


def _own(document: Mapping[str, Any]) -> Mapping[str, Any]:
    own = document.get(OWN)
    if not isinstance(own, dict):
        raise LineError("its `massact` object is damaged; export again, or remove it")
    return own


def _times(own: Mapping[str, Any]) -> Times:
    finished_at = own.get("finished_at")
    started_at = own.get("started_at", finished_at)
    for at in (started_at, finished_at):
        if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < 2**53:
            raise LineError(f"its `massact` time {at!r} is no count of milliseconds")
    return int(str(started_at)), int(str(finished_at))


def _check_agrees(document: Mapping[str, Any], row: EvaluationRow) -> None:
    """Refuse a line that was edited: its row would say something else than people read in it."""
    result = document.get("result")
    said = {**result} if isinstance(result, dict) else {}
    names = {"trait_mean": row.trait_mean, "coherence_mean": row.coherence_mean}
    for name, value in names.items():
        if said.get(name) != value:
            raise LineError(
                f"{name} is {said.get(name)!r}, in its `massact` row {value!r}: export again, or remove "
                "the `massact` object to import the line as it is written"
            )


def _is_inside(path: object) -> bool:
    parts = path.split("/") if isinstance(path, str) else []
    return 0 < len(parts) <= 4 and all(part not in ("", ".", "..") and "\0" not in part for part in parts)
